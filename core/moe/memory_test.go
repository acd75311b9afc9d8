package moe

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// still is a router, a prediction, a group and a call that allocate nothing.
type still struct {
	err   error
	wrong bool // about row 1
}

func (*still) Info() sdk.Info                               { return sdk.Info{Name: "still", Kind: sdk.KindRouter} }
func (*still) Configure(context.Context, router.Spec) error { return nil }
func (*still) Close() error                                 { return nil }
func (*still) Route(_ context.Context, _ router.Batch, out router.Routes) error {
	for i := range out.IDs {
		out.IDs[i], out.Weights[i] = int32(i%out.K), 1
	}
	return nil
}
func (s *still) Begin(_ context.Context, _ router.Batch, out router.Routes) expert.Pending {
	s.Route(nil, router.Batch{}, out)
	return (*answered)(s)
}
func (s *still) Predict(_ context.Context, _ router.Batch, out router.Routes) bool {
	s.Route(nil, router.Batch{}, out)
	if s.wrong {
		out.Weights[out.K] = 2
	}
	return true
}
func (s *still) Start(context.Context, *expert.Call) expert.Pending { return s }
func (s *still) Wait() error                                        { return s.err }

type answered still

func (*answered) Wait() error { return nil }

// accepting takes any answer.
type accepting struct{}

func (accepting) Accept(int) Accept { return AcceptAny }
func (accepting) Lost(int, Outcome) {}

func stillInput(rows int) Input {
	return Input{X: tensor.NewMatrix(rows, 4), Logits: tensor.NewMatrix(rows, 2), Tokens: make([]int32, rows), Positions: make([]int32, rows)}
}

// TestPoolHoldsNothing: what a Forward was given, and the errors and calls that it has got, are not held until the next one.
func TestPoolHoldsNothing(t *testing.T) {
	s := &still{err: fmt.Errorf("gone: %w", sdk.ErrUnavailable)}
	l := New(struct{ router.Router }{s}, 2, 2, Placement{0: {0, 1}}, []Group{s, s}, 4, team.Team{})
	if err := l.Degrade([]Policy{{Kind: Renormalise, MaxDroppedMass: 1}, {Kind: Renormalise, MaxDroppedMass: 1}}); err != nil {
		t.Fatal(err)
	}
	in := stillInput(2)
	in.Judge = accepting{}
	lost := func() {
		t.Helper()
		if err := l.Forward(t.Context(), in, tensor.NewMatrix(2, 4)); err != nil {
			t.Fatal(err)
		}
	}
	lost() // both calls
	s.err = nil
	lost() // none
	w := l.pool.Get().(*work)
	for i, x := range w.lost[:cap(w.lost)] {
		if x.err != nil {
			t.Errorf("lost call %d is still there: %v", i, x)
		}
	}
	l.pool.Put(w)
	s.err = errors.New("boom")
	if err := l.Forward(t.Context(), in, tensor.NewMatrix(2, 4)); !errors.Is(err, s.err) {
		t.Fatal(err)
	}
	w = l.pool.Get().(*work)
	for i, p := range w.pending[:cap(w.pending)] {
		if p != nil {
			t.Errorf("call %d is still there", i)
		}
	}
	for i, err := range w.errs[:cap(w.errs)] {
		if err != nil {
			t.Errorf("error %d is still there: %v", i, err)
		}
	}
	if w.to.Data != nil {
		t.Error("the output is still there")
	}
}
