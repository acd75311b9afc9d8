// Command pimoe is the host and the tools around it: it serves a Mixture-of-Experts model with every expert in its own
// process (serve), runs one without a server (generate, chat, eval, bench), hurts one (chaos), prepares models (import, models,
// tokenize), makes API keys (keys) and shows what is there (plugins, experts, config, doctor, version).
//
// Operators and scripts use it; its flags and JSON keys are a contract. It is the one place that links the built-in
// plugins, for --isolation inproc and the stand-in router. Logic that is not about flags lives in the packages below
// internal; the command refuses to hold any.
//
// Exit codes: 0 success, 1 failure, 2 wrong usage, input or configuration, 3 something named does not exist,
// 4 something is not ready or not reachable, 130 interrupted.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/mattn/go-isatty"

	"github.com/pimoe/pimoe/sdk"
)

// The exit codes.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitUnavailable = 4
	exitInterrupted = 130 // 128 + SIGINT, as shells have it
)

// version is set by the linker (see the Makefile); without that it is the module's own.
var version = "unknown"

func main() {
	if info, ok := debug.ReadBuildInfo(); ok && version == "unknown" && info.Main.Version != "" {
		version = info.Main.Version
	}
	a := &app{
		in: os.Stdin, out: os.Stdout, err: os.Stderr, environ: os.Environ(),
		errTTY: isatty.IsTerminal(os.Stderr.Fd()),
	}
	ctx, stop := interruptible(context.Background())
	code := a.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// interruptible is cancelled by the first SIGINT or SIGTERM, which asks for an orderly end; the second ends the
// process at once, and the kernel ends its children with it.
func interruptible(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		for n := 0; ; n++ {
			select {
			case s := <-signals:
				if n > 0 {
					os.Exit(exitInterrupted)
				}
				cancel(errSignal{s})
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel(nil)
	}
}

// errSignal is why a context ended.
type errSignal struct{ os.Signal }

func (e errSignal) Error() string { return "stopped by " + e.String() }

// run executes one command line and returns its exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	code := exitCode(ctx, err)
	if code == exitInterrupted {
		err = context.Cause(ctx)
	}
	if !errors.Is(err, errSilent) {
		fmt.Fprintln(a.err, "pimoe: "+oneLine(err.Error()))
	}
	return code
}

// errSilent is an outcome that has been shown already.
var errSilent = errors.New("shown already")

// usageError is a wrong command line.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func exitCode(ctx context.Context, err error) int {
	var usage usageError
	var sig errSignal
	switch {
	case errors.As(context.Cause(ctx), &sig): // whatever failed, it failed because it was told to stop
		return exitInterrupted
	case errors.As(err, &usage), errors.Is(err, sdk.ErrInvalid), errors.Is(err, sdk.ErrUnsupported):
		return exitUsage
	case errors.Is(err, sdk.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return exitNotFound
	case errors.Is(err, sdk.ErrUnavailable), errors.Is(err, sdk.ErrOverloaded), errors.Is(err, sdk.ErrDeadline):
		return exitUnavailable
	}
	return exitFailure
}

// oneLine joins the lines of joined errors.
func oneLine(s string) string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' })
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "; ")
}
