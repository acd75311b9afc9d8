package configs

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/model"
)

func load(t *testing.T, file string, environ ...string) config.Config {
	t.Helper()
	c, warnings, err := config.Load(config.LoadOptions{File: file, Environ: append([]string{"HOME=/h"}, environ...)})
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%s: %v %v", file, warnings, err)
	}
	return c
}

// TestEveryExample loads every file and places the embedded model's experts by it.
func TestEveryExample(t *testing.T) {
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("%v %v", files, err)
	}
	shape, err := model.ReadConfig(coretest.PimoeTiny(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		c := load(t, f, "PIMOE_API_KEY=Vq9xT2mLw8Rz4Kp7")
		plans, notes, err := c.Experts.Groups(shape.SparseLayers(), shape.Experts)
		if err != nil || len(notes) > 0 {
			t.Errorf("%s: %v %v", f, notes, err)
		}
		units := 0
		for _, p := range plans {
			units += len(p.Units)
		}
		if units != len(shape.SparseLayers())*shape.Experts {
			t.Errorf("%s places %d units", f, units)
		}
	}
}

// TestDefaultIsDefault: default.yaml says what the defaults are.
func TestDefaultIsDefault(t *testing.T) {
	if d := cmp.Diff(load(t, ""), load(t, "default.yaml")); d != "" {
		t.Error(d)
	}
}

func TestMixedBackends(t *testing.T) {
	plans, _, err := load(t, "mixed-backends.yaml").Experts.Groups([]int{0, 1}, 8)
	if err != nil || len(plans) != 8 {
		t.Fatal(plans, err)
	}
	for i, p := range plans {
		if want := map[bool]string{true: "ref", false: "cpu"}[i >= 6]; p.Backend != want {
			t.Errorf("%s is on %s", p.Name, p.Backend)
		}
	}
}

func TestAPIServerNeedsKey(t *testing.T) {
	_, _, err := config.Load(config.LoadOptions{File: "api-server.yaml", Environ: []string{}})
	var problems config.Problems
	if !errors.As(err, &problems) || !strings.Contains(err.Error(), "PIMOE_API_KEY") {
		t.Errorf("%v", err)
	}
}
