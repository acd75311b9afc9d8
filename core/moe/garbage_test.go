//go:build !race

// Under the race detector sync.Pool drops what it is given at random.

package moe

import (
	"testing"

	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// TestNoGarbage: a Forward allocates nothing once its memory is there, foreseen or not, rightly or not.
func TestNoGarbage(t *testing.T) {
	s := &still{}
	for name, c := range map[string]struct {
		router router.Router
		wrong  bool
	}{"not foreseen": {struct{ router.Router }{s}, false}, "right": {s, false}, "wrong": {s, true}} {
		s.wrong = c.wrong
		l := New(c.router, 2, 2, Placement{0: {0, 1}}, []Group{s, s}, 4, team.Team{})
		in, y, ctx := stillInput(8), tensor.NewMatrix(8, 4), t.Context()
		forward := func() {
			if err := l.Forward(ctx, in, y); err != nil {
				t.Fatal(err)
			}
		}
		forward()
		if n := testing.AllocsPerRun(50, forward); n >= 1 {
			t.Errorf("%s: %g allocations, want none", name, n)
		}
	}
}
