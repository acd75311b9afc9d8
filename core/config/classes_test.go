package config

import (
	"strings"
	"testing"
)

// TestClasses: a backend of the project is refused with a class in which it does not compute, by key and cause; what a
// plugin computes in is its own affair.
func TestClasses(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*Config)
		want string // "" = accepted
	}{
		{"defaults", func(*Config) {}, ""},
		{"int8", func(c *Config) { c.Experts.Backend, c.Trunk.Backend = "int8", "int8" }, ""},
		{"int8 by name", func(c *Config) { c.Experts.Backend, c.Experts.Precision = "int8", "int8g32" }, ""},
		{"bf16 experts", func(c *Config) { c.Experts.Precision = "bf16" }, ""},
		{"a plugin's class", func(c *Config) { c.Experts.Backend, c.Experts.Precision = "mine", "q3-odd" }, ""},
		{"experts", func(c *Config) { c.Experts.Precision = "int8g32" },
			`experts.precision: "int8g32" is wrong: want one of auto, f32, bf16w-f32, f16w-f32, bf16: backend cpu computes in no other class`},
		{"trunk", func(c *Config) { c.Trunk = Trunk{Backend: "int8", Precision: "bf16"} },
			`trunk.precision: "bf16" is wrong: want one of auto, int8g32: backend int8 computes in no other class`},
		{"trunk backend", func(c *Config) { c.Trunk.Backend = "cuda" }, `trunk.backend: "cuda" is wrong: want one of cpu, int8, ref`},
		{"trunk class", func(c *Config) { c.Trunk.Precision = "q4" }, `trunk.precision: "q4" is wrong`},
		{"override's precision", func(c *Config) {
			c.Experts.Overrides = []Override{{Layers: "all", Experts: 0, Backend: "int8", Precision: "f32"}}
		}, `experts.overrides[0].precision: "f32" is wrong`},
		{"override's backend", func(c *Config) {
			c.Experts.Precision = "f32"
			c.Experts.Overrides = []Override{{Layers: "all", Experts: 0, Backend: "int8"}}
		}, `set a precision in the override`},
		{"override's plugin", func(c *Config) {
			c.Experts.Overrides = []Override{{Layers: "all", Experts: 0, Plugin: "/opt/mine", Precision: "q3"}}
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := Default()
			cfg.Home, cfg.Plugins.Dir = t.TempDir(), t.TempDir()
			c.set(&cfg)
			err := cfg.Validate()
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v\nwant %s", err, c.want)
			}
		})
	}
}
