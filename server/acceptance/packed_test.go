package acceptance

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
)

// TestPackedOrNot: where the weights lie and who packed them never changes an answer: mapped from the store's packed
// variant, given row by row to a plugin that takes no packed ones, or packed in memory because the store can't be written.
func TestPackedOrNot(t *testing.T) {
	want, ids := answer{}, []int32(nil)
	for _, c := range []struct {
		name  string
		set   func(store string, c *config.Config)
		noted bool // start-up tells the operator
	}{
		{"packed", func(string, *config.Config) {}, false},
		{"packed, in process", func(_ string, c *config.Config) { c.Experts.Isolation = "inproc" }, false},
		{"a plugin that takes no packed weights", func(_ string, c *config.Config) {
			c.Experts.Overrides = []config.Override{{Layers: "all", Experts: []any{1, "3-4"}, Plugin: filepath.Join(coretest.Binaries(t), "pimoe-expert-ref")}}
		}, false},
		{"no packed weights", func(_ string, c *config.Config) { c.Experts.Backend, c.Trunk.Backend = "ref", "ref" }, false},
		{"a store without room", func(store string, _ *config.Config) {
			if err := os.RemoveAll(filepath.Join(store, "models", "pimoe-tiny", "packed")); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(store, "models", "pimoe-tiny", "packed"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := home(t)
			if c.noted { // there is a model that has been packed
				open(t, func(c *config.Config) { c.Home = store })
			}
			i := open(t, func(cfg *config.Config) { cfg.Home = store; c.set(store, cfg) })
			if ids == nil {
				ids = story(i, "a fox and a lamp")
			}
			got := run(t.Context(), i, greedy(ids, 24))
			if got.err != nil {
				t.Fatal(got.err)
			}
			if want.ids == nil {
				want = got
			}
			if !slices.Equal(got.ids, want.ids) {
				t.Errorf("tokens %v, want %v", got.ids, want.ids)
			}
			notes := strings.Join(i.Notes, "\n")
			if c.noted != strings.Contains(notes, "packed in memory instead") {
				t.Errorf("notes: %q", notes)
			}
		})
	}
}
