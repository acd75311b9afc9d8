package progress

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestBar(t *testing.T) {
	var out bytes.Buffer
	b := New(&out, true, "import x")
	now := time.Unix(0, 0)
	b.now = func() time.Time { now = now.Add(40 * time.Millisecond); return now }
	for i := int64(0); i <= 10; i++ {
		b.Bytes(i<<20, 10<<20)
	}
	lines := strings.Split(out.String(), "\r")[1:]
	if len(lines) != 5 { // 0, then every third call, then the last whenever it comes
		t.Errorf("%d lines drawn: %q", len(lines), lines)
	}
	if want := "import x [" + strings.Repeat("=", 24) + "] 10.0 MiB of 10.0 MiB\x1b[K"; lines[len(lines)-1] != want {
		t.Errorf("last line %q, want %q", lines[len(lines)-1], want)
	}
	b.Done()
	if !strings.HasSuffix(out.String(), "\r\x1b[K") {
		t.Error("the line is not wiped")
	}
}

func TestSilentWithoutTerminal(t *testing.T) {
	var out bytes.Buffer
	b := New(&out, false, "x")
	b.Bytes(1, 2)
	b.Steps(2, 2)
	b.Done()
	if out.Len() > 0 {
		t.Errorf("wrote %q", out.String())
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 5 << 30: "5.0 GiB", 1 << 50: "1024.0 TiB"} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %s, want %s", n, got, want)
		}
	}
}
