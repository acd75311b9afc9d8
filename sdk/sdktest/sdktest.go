// Package sdktest is the conformance suite of PiMoE's plugins: what package expert and package router promise, as checks
// that an author can run.
//
// Authors call TestExpert or TestRouter from their own tests, with a constructor; each check runs on the value itself
// and again behind the two halves of the process boundary in one process. Binary runs the same checks on an executable,
// over shared memory and over gRPC, and adds what only a process can get wrong; `pimoe plugins test PATH` is that. The
// package refuses to measure speed or quality.
package sdktest

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
)

// patience bounds each check: far above what the small shapes here need, so that only a hang exceeds it.
const patience = 60 * time.Second

// TestExpert runs the suite on an expert. The constructor is called many times and gives a fresh value each time.
func TestExpert(t *testing.T, make func() expert.Expert) {
	t.Helper()
	s := &expertSuite{subject: inProcess{make}}
	t.Run("direct", func(t *testing.T) { runAll(t, s.checks()) })
	s = &expertSuite{subject: loopback{make}, other: s.answer}
	t.Run("loopback", func(t *testing.T) { runAll(t, s.checks()) })
}

// TestRouter runs the suite on a router. The constructor is called many times and gives a fresh value each time.
func TestRouter(t *testing.T, make func() router.Router) {
	t.Helper()
	s := &routerSuite{subject: inProcessRouter{make}}
	t.Run("direct", func(t *testing.T) { runAll(t, s.checks()) })
	s = &routerSuite{subject: loopbackRouter{make}, other: s.answer}
	t.Run("loopback", func(t *testing.T) { runAll(t, s.checks()) })
}

func runAll(t *testing.T, checks []check) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			note, err := c.within(t.Context())
			if err != nil {
				t.Error(err)
			}
			if note != "" {
				t.Log(note)
			}
		})
	}
}

// check is one promise. Its note says what was left out, and why.
type check struct {
	name string
	run  func(ctx context.Context) (note string, err error)
}

// within runs a check and gives up on it when patience is over.
func (c check) within(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	type result struct {
		note string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		note, err := c.run(ctx)
		done <- result{note, err}
	}()
	select {
	case r := <-done:
		return r.note, r.err
	case <-ctx.Done():
		// The check gets a moment to see its own context end and to say where.
		select {
		case r := <-done:
			return r.note, r.err
		case <-time.After(2 * time.Second):
			return "", fmt.Errorf("hangs: no end within %v", patience)
		}
	}
}

// report writes a line for each check and returns how many failed.
func report(ctx context.Context, out io.Writer, label string, checks []check) (failed int) {
	for _, c := range checks {
		note, err := c.within(ctx)
		switch {
		case err != nil:
			failed++
			fmt.Fprintf(out, "FAIL  %-4s  %s: %v\n", label, c.name, err)
		case note != "":
			fmt.Fprintf(out, "ok    %-4s  %s (%s)\n", label, c.name, note)
		default:
			fmt.Fprintf(out, "ok    %-4s  %s\n", label, c.name)
		}
	}
	return failed
}
