package isa_test

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/pimoe/pimoe/backends/isa"
	"github.com/pimoe/pimoe/sdk"
)

func TestAvailable(t *testing.T) {
	all := isa.Available()
	if len(all) == 0 || all[0] != isa.Generic {
		t.Fatalf("Available() = %v", all)
	}
	t.Logf("this machine has %v", all)
	for _, l := range all {
		if p, err := isa.Parse(l.String()); p != l || err != nil {
			t.Errorf("Parse(%v) = %v, %v", l, p, err)
		}
	}
	if _, err := isa.Parse("mmx"); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("Parse(mmx): %v", err)
	}
}

// TestForced runs this test binary once for each value of the variable.
func TestForced(t *testing.T) {
	if want := os.Getenv("ISA_TEST_WANT"); want != "" {
		got := isa.Active().String()
		if isa.Err() != nil {
			got = "error"
		}
		if got != want {
			t.Fatalf("Active() = %v, Err() = %v, want %s", isa.Active(), isa.Err(), want)
		}
		return
	}
	all := isa.Available()
	best := all[len(all)-1]
	for _, name := range []string{"generic", "avx2", "avx512", "vnni", "amx", "sse9"} {
		want := name
		if l, err := isa.Parse(name); err != nil || l > best {
			want = "error"
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestForced$")
		cmd.Env = append(os.Environ(), isa.Env+"="+name, "ISA_TEST_WANT="+want)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s=%s: %v\n%s", isa.Env, name, err, out)
		}
	}
}
