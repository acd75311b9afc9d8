//go:build linux

// Command byzantine is an expert plugin that computes right, as pimoe-expert-cpu does, until the file `orders` beside its
// executable says how to lie: the name of a lie and the number of the one process that stays honest. It answers the
// known-answer test right, so that only its calls give it away; lies whose names begin with "test-" are about that test
// alone. With the argument "lies" it lists what it can do.
package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/plugins/experts/ffn"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/serve"
	"github.com/pimoe/pimoe/sdk/tensor"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "lies" {
		for name := range lies {
			fmt.Println(name)
		}
		return
	}
	serve.Expert(&liar{honest: ffn.New(cpu.New(), ffn.Options{}), other: ffn.New(cpu.New(), ffn.Options{}), orders: filepath.Join(filepath.Dir(os.Args[0]), "orders")})
}

// liar is an expert under orders.
type liar struct {
	honest, other *ffn.Expert // other has each unit's weights under the name of the next one
	orders        string      // path of the file

	mu    sync.Mutex // guards all below
	known []float32  // the question of the known-answer test: the first that a process is asked
	calls int        // under the present orders
	last  tensor.Matrix
}

func (l *liar) Info() sdk.Info { return l.honest.Info() }

func (l *liar) Load(ctx context.Context, spec expert.Spec) error {
	if err := l.honest.Load(ctx, spec); err != nil {
		return err
	}
	shifted := spec
	shifted.Units = slices.Clone(spec.Units)
	for i := range shifted.Units {
		shifted.Units[i].Unit = spec.Units[(i+1)%len(spec.Units)].Unit
	}
	return l.other.Load(ctx, shifted)
}

func (l *liar) Forward(ctx context.Context, call *expert.Call) error {
	lie := l.order()
	if asked := l.asked(call); lie == "" || asked != strings.HasPrefix(lie, "test-") && lie != "hang-all" {
		return l.compute(ctx, call)
	}
	tell, ok := lies[lie]
	if !ok {
		panic("no such lie: " + lie)
	}
	return tell(ctx, l, call)
}

func (l *liar) Close() error {
	if err := l.other.Close(); err != nil {
		return err
	}
	return l.honest.Close()
}

// order is the lie to be told now, empty for none.
func (l *liar) order() string {
	b, err := os.ReadFile(l.orders)
	if err != nil {
		return ""
	}
	var lie string
	var honest int
	if fmt.Sscan(string(b), &lie, &honest); honest == os.Getpid() {
		return ""
	}
	return lie
}

// asked reports whether a call is the known-answer test.
func (l *liar) asked(call *expert.Call) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known == nil {
		l.known = slices.Clone(call.X.Row(0))
	}
	return call.X.Rows == 1 && slices.Equal(l.known, call.X.Row(0))
}

// compute answers right.
func (l *liar) compute(ctx context.Context, call *expert.Call) error {
	return l.honest.Forward(ctx, call)
}

// count is the number of this call.
func (l *liar) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	return l.calls
}

// remember keeps an answer and returns the one before it.
func (l *liar) remember(y tensor.Matrix) tensor.Matrix {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := tensor.NewMatrix(y.Rows, y.Cols)
	for r := range y.Rows {
		copy(c.Row(r), y.Row(r))
	}
	last := l.last
	l.last = c
	return last
}

// each changes every value of a right answer.
func each(f func(at int, v float32) float32) func(context.Context, *liar, *expert.Call) error {
	return func(ctx context.Context, l *liar, call *expert.Call) error {
		if err := l.compute(ctx, call); err != nil {
			return err
		}
		for r := range call.Y.Rows {
			row := call.Y.Row(r)
			for i, v := range row {
				row[i] = f(r*len(row)+i, v)
			}
		}
		return nil
	}
}

// one changes the first value of a right answer, or the last one.
func one(last bool, v float32) func(context.Context, *liar, *expert.Call) error {
	return func(ctx context.Context, l *liar, call *expert.Call) error {
		if err := l.compute(ctx, call); err != nil {
			return err
		}
		if last {
			row := call.Y.Row(call.Y.Rows - 1)
			row[len(row)-1] = v
		} else {
			call.Y.Row(0)[0] = v
		}
		return nil
	}
}

// fails answers with an error.
func fails(err error) func(context.Context, *liar, *expert.Call) error {
	return func(context.Context, *liar, *expert.Call) error { return err }
}

// when tells the truth in the other cases.
func when(now func(l *liar, call *expert.Call) bool, lie func(context.Context, *liar, *expert.Call) error) func(context.Context, *liar, *expert.Call) error {
	return func(ctx context.Context, l *liar, call *expert.Call) error {
		if now(l, call) {
			return lie(ctx, l, call)
		}
		return l.compute(ctx, call)
	}
}

func refused(text string, class error) error { return fmt.Errorf("%s: %w", text, class) }

var (
	nan      = float32(math.NaN())
	inf      = float32(math.Inf(1))
	quiet    = math.Float32frombits(0xffc12345)
	loud     = math.Float32frombits(0x7f812345) // a signalling NaN
	huge     = strings.Repeat("/etc/passwd ", 1<<17)
	controls = "\x1b[2J\x1b]0;owned\a\r\n\x00\u202e\xff 200 OK"
)
