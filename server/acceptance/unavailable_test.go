package acceptance

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/instance"
)

// texts are answers to some stories, each of which must have a status: "fallback" takes what the other backend computes.
func texts(t *testing.T, i *instance.Instance, status string) (out []string) {
	t.Helper()
	for _, about := range []string{"a fox and a lamp", "the sea", "a bridge"} {
		r := greedy(story(i, about), 32)
		if status == engine.StatusFallback {
			r.Accept = moe.AcceptRepeatable
		}
		a := run(t.Context(), i, r)
		if a.err != nil {
			t.Fatal(a.err)
		}
		if got := a.tokens[len(a.tokens)-1].Quality.Status(); got != status {
			t.Errorf("status %q, want %q", got, status)
		}
		out = append(out, a.text)
	}
	return out
}

// TestUnavailableBackend asks for a backend that can't compute here: the CUDA one, built without CUDA. Under policy strict the start
// is refused with the plugin's own reason; under policy fallback the server starts, another backend computes, and answers say so.
func TestUnavailableBackend(t *testing.T) {
	some := func(c *config.Config) {
		c.Experts.Overrides = []config.Override{{Layers: "all", Experts: []any{0, 1, 2, 3}, Backend: "cuda"}}
	}
	i, err := tryOpen(t, some)
	if err == nil || !errors.Is(err, sdk.ErrUnavailable) || !strings.Contains(err.Error(), "backend can't compute on this machine") ||
		!strings.Contains(err.Error(), "backend cuda is unavailable: ") {
		t.Errorf("strict: %v, %v", i, err)
	}
	want := texts(t, open(t), engine.StatusExact)
	i = open(t, some, func(c *config.Config) {
		c.Experts.Overrides[0].Policy, c.Experts.Overrides[0].Fallback = "fallback", config.Alternative{Backend: "cpu"}
	})
	if got := texts(t, i, engine.StatusFallback); !slices.Equal(got, want) {
		t.Errorf("texts\n%q, want\n%q", got, want)
	}
	if a := run(t.Context(), i, greedy(story(i, "the sea"), 8)); a.err == nil || !strings.Contains(a.err.Error(), "its backend can't compute on this machine") {
		t.Errorf("a request that wants the exact answer alone: text %q, error %v", a.text, a.err)
	}
}
