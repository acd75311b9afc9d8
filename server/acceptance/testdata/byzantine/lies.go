//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"syscall"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
)

// lies are all that can be ordered, by name. What each must come to is in the test that orders them.
var lies = map[string]func(context.Context, *liar, *expert.Call) error{
	// Values that can't be right.
	"nan":            each(func(int, float32) float32 { return nan }),
	"nan-quiet-last": one(true, quiet),
	"nan-loud":       one(false, loud),
	"inf":            one(false, inf),
	"inf-minus-last": one(true, -inf),
	"row-forgotten":  forget(1),
	"half-written":   forget(2),
	"not-written":    forget(0),
	"test-nan":       one(false, nan),
	"test-wrong":     each(func(_ int, v float32) float32 { return -v }),

	// Errors for calls that are valid.
	"error-no-class":    fails(errors.New("no class at all")),
	"error-invalid":     fails(refused("your prompt is too silly", sdk.ErrInvalid)),
	"error-unsupported": fails(refused("not today", sdk.ErrUnsupported)),
	"error-not-found":   fails(refused("no such unit", sdk.ErrNotFound)),
	"error-overloaded":  fails(refused("too much", sdk.ErrOverloaded)),
	"error-deadline":    fails(refused("too late", sdk.ErrDeadline)),
	"error-cancelled":   fails(context.Canceled),
	"error-confessed":   fails(refused("I have no idea", sdk.ErrInvalidOutput)),
	"error-huge":        fails(refused(huge, sdk.ErrInvalid)),
	"error-controls":    fails(refused(controls, sdk.ErrInvalid)),
	"error-unavailable": fails(refused("gone", sdk.ErrUnavailable)),

	// Headers that can't be right.
	"status-unknown":     headed(func(h header) { h.set(statusAt, 4_000_000_000) }),
	"message-huge":       headed(func(h header) { h.set(statusAt, 2); h.set(messageAt, math.MaxUint32) }),
	"rows-fewer":         headed(func(h header) { h.add(rowsAt, -1) }),
	"rows-more":          headed(func(h header) { h.add(rowsAt, 1) }),
	"rows-huge":          headed(func(h header) { h.set(rowsAt, math.MaxUint32) }),
	"columns-fewer":      headed(func(h header) { h.add(colsAt, -1) }),
	"columns-more":       headed(func(h header) { h.add(colsAt, 1<<20) }),
	"columns-none":       headed(func(h header) { h.set(colsAt, 0) }),
	"generation-zero":    headed(func(h header) { h.set(genAt, 0) }),
	"generation-before":  headed(func(h header) { h.add(genAt, -1) }),
	"generation-future":  headed(func(h header) { h.add(genAt, 1) }),
	"generation-twisted": headed(func(h header) { h.set(genAt+4, 1) }), // the low half is right
	"done-ahead":         done(func(gen uint32) uint32 { return gen + 1 }),
	"done-behind":        done(func(gen uint32) uint32 { return gen - 2 }),
	"done-far":           done(func(gen uint32) uint32 { return gen ^ 1<<31 }),
	"done-early":         early,

	// Races with the host's reading.
	"flicker-values":     flickerValues(nan),
	"flicker-rows":       flicker(func(h header, on bool) { h.flick(rowsAt, on) }),
	"flicker-generation": flicker(func(h header, on bool) { h.flick(genAt, on) }),
	"flicker-status":     flicker(func(h header, on bool) { h.flick(statusAt, on) }),
	"scribble-others":    scribble,

	// Processes that end, hang or are slow.
	"exit":         func(context.Context, *liar, *expert.Call) error { os.Exit(3); return nil },
	"exit-halfway": halfway,
	"killed":       func(context.Context, *liar, *expert.Call) error { return signal(syscall.SIGKILL) },
	"stopped":      func(context.Context, *liar, *expert.Call) error { return signal(syscall.SIGSTOP) },
	"panic":        func(context.Context, *liar, *expert.Call) error { panic("a bug") },
	"hang":         hang,
	"hang-all":     hang,
	"slow":         slow,
	"late":         late,
	"answer-twice": headed(func(header) {}),

	// Plausible numbers.
	"zero":          each(func(int, float32) float32 { return 0 }),
	"constant":      each(func(int, float32) float32 { return 1 }),
	"subnormal":     each(func(_ int, v float32) float32 { return math.Float32frombits(math.Float32bits(v)&1<<31 | 1) }),
	"huge":          each(func(_ int, v float32) float32 { return float32(math.Copysign(1e30, float64(v))) }),
	"largest":       each(func(_ int, v float32) float32 { return math.MaxFloat32 }),
	"sign":          each(func(_ int, v float32) float32 { return -v }),
	"scaled":        each(func(_ int, v float32) float32 { return v * (1 + 1./(1<<20)) }),
	"bit-of-each":   each(func(_ int, v float32) float32 { return flip(v, 0) }),
	"one-bit":       each(func(at int, v float32) float32 { return flipWhen(at == 7, v) }),
	"bit-in-10000":  each(func(_ int, v float32) float32 { return flipWhen(chance(10000), v) }),
	"float16":       each(func(_ int, v float32) float32 { return math.Float32frombits(math.Float32bits(v) &^ (1<<13 - 1)) }),
	"float23":       each(func(_ int, v float32) float32 { return math.Float32frombits(math.Float32bits(v) &^ 1) }),
	"last-value":    one(true, 0),
	"stale":         stale,
	"echo":          echo,
	"rows-swapped":  permuted(func(r, n int) int { return n - 1 - r }),
	"rows-shifted":  permuted(func(r, n int) int { return (r + 1) % n }),
	"rows-all-same": permuted(func(int, int) int { return 0 }),
	"other-layer":   elsewhere,
	"other-weights": func(ctx context.Context, l *liar, call *expert.Call) error { return l.other.Forward(ctx, call) },
	"many-rows": when(func(_ *liar, c *expert.Call) bool { return c.X.Rows > 1 },
		each(func(_ int, v float32) float32 { return -v })),
	"one-layer": when(func(_ *liar, c *expert.Call) bool { return c.Layer == 1 },
		each(func(_ int, v float32) float32 { return -v })),
	"seldom": when(func(l *liar, _ *expert.Call) bool { return l.count()%20 == 0 },
		each(func(_ int, v float32) float32 { return -v })),
	"after-done": flickerValues(1),
}

// forget computes and leaves rows as they were found: the last one, the second half or all.
func forget(what int) func(context.Context, *liar, *expert.Call) error {
	return func(ctx context.Context, l *liar, call *expert.Call) error {
		before := l.keep(call)
		if err := l.compute(ctx, call); err != nil {
			return err
		}
		from := map[int]int{0: 0, 1: call.Y.Rows - 1, 2: call.Y.Rows / 2}[what]
		for r := from; r < call.Y.Rows; r++ {
			copy(call.Y.Row(r), before[r*call.Y.Cols:])
		}
		return nil
	}
}

// keep copies what Y holds.
func (l *liar) keep(call *expert.Call) []float32 {
	var y []float32
	for r := range call.Y.Rows {
		y = append(y, call.Y.Row(r)...)
	}
	return y
}

func halfway(_ context.Context, _ *liar, call *expert.Call) error {
	clear(call.Y.Row(0))
	fmt.Fprintln(os.Stderr, "in the middle of it")
	os.Exit(4)
	return nil
}

func signal(s syscall.Signal) error {
	err := syscall.Kill(os.Getpid(), s)
	time.Sleep(time.Second)
	return err
}

func hang(context.Context, *liar, *expert.Call) error {
	time.Sleep(time.Hour)
	return nil
}

func slow(ctx context.Context, l *liar, call *expert.Call) error {
	time.Sleep(100 * time.Millisecond)
	return l.compute(ctx, call)
}

// late waits until nobody wants the answer any more, and gives a wrong one then.
func late(ctx context.Context, l *liar, call *expert.Call) error {
	<-ctx.Done()
	return each(func(int, float32) float32 { return 1 })(context.Background(), l, call)
}

// stale answers with what it has answered before, as far as there is something of that size.
func stale(ctx context.Context, l *liar, call *expert.Call) error {
	if err := l.compute(ctx, call); err != nil {
		return err
	}
	last := l.remember(call.Y)
	for r := range min(call.Y.Rows, last.Rows) {
		copy(call.Y.Row(r), last.Row(r))
	}
	return nil
}

func echo(_ context.Context, _ *liar, call *expert.Call) error {
	for r := range call.Y.Rows {
		copy(call.Y.Row(r), call.X.Row(r))
	}
	return nil
}

// permuted gives each row another row's answer.
func permuted(of func(r, n int) int) func(context.Context, *liar, *expert.Call) error {
	return func(ctx context.Context, l *liar, call *expert.Call) error {
		if err := l.compute(ctx, call); err != nil {
			return err
		}
		y, cols := l.keep(call), call.Y.Cols
		for r := range call.Y.Rows {
			from := of(r, call.Y.Rows)
			copy(call.Y.Row(r), y[from*cols:(from+1)*cols])
		}
		return nil
	}
}

// elsewhere computes with the same experts of the next layer that has them.
func elsewhere(ctx context.Context, l *liar, call *expert.Call) error {
	other := *call
	for other.Layer = call.Layer + 1; other.Layer < call.Layer+8; other.Layer++ {
		if err := l.honest.Forward(ctx, &other); err == nil {
			return nil
		}
	}
	other.Layer = 0
	return l.honest.Forward(ctx, &other)
}

func flip(v float32, bit int) float32 { return math.Float32frombits(math.Float32bits(v) ^ 1<<bit) }

func flipWhen(now bool, v float32) float32 {
	if now {
		return flip(v, 20)
	}
	return v
}
