package team_test

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/pimoe/pimoe/backends/team"
)

// collecting tells the test program that it is the child of TestCollections.
const collecting = "TEAM_TEST_COLLECTING"

// interruptible is a task with calls in it, at which the runtime can stop it.
type interruptible struct{ left [2]int }

func (i *interruptible) Run(worker, _ int) {
	for n := range 2000 {
		i.spend(worker, n)
	}
}

//go:noinline
func (i *interruptible) spend(worker, n int) { i.left[worker] = more(n) }

//go:noinline
func more(n int) int { return n + 1 }

// A garbage collection may stop a worker in the middle of its task. The caller, who waits for that worker, must then let
// itself be stopped too. Without signals, which the runtime sends only where they help by luck, this hangs at once if it
// does not.
func TestCollections(t *testing.T) {
	if os.Getenv(collecting) != "" {
		p := team.NewPool(2, team.Options{})
		defer p.Close()
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			for range 300 {
				runtime.GC()
			}
		}()
		for {
			select {
			case <-stop:
				return
			default:
				p.Team().Do(2, &interruptible{})
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestCollections$")
	child.Env = append(os.Environ(), collecting+"=1", "GODEBUG=asyncpreemptoff=1")
	if out, err := child.CombinedOutput(); err != nil {
		t.Errorf("%v (context: %v)\n%s", err, ctx.Err(), out)
	}
}
