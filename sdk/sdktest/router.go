package sdktest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

const (
	experts = 12
	topK    = 3
)

var routerSpec = router.Spec{Layers: []int{0, 2, 3}, Experts: experts, TopK: topK, Rule: router.Rule{Score: router.SoftmaxTopK, Renormalise: true}}

// routerSuite checks one router over one way of calling it.
type routerSuite struct {
	subject routerSubject
	depends bool // sdk.CapLoadDependent
	answer  *router.Routes
	other   *router.Routes
}

func (s *routerSuite) checks() []check {
	return []check{
		{"info and configure", s.configure},
		{"a rule that can't be followed is refused", s.refusals},
		{"routes are distinct experts with finite weights", s.valid},
		{"the same batch gives the same routes", s.deterministic},
		{"a row's routes don't depend on other rows", s.rowIndependent},
		{"calls run at the same time", s.concurrent},
		{"large batches", s.large},
		{"logits stay as they are", s.readOnly},
		{"observations are taken beside calls", s.observes},
		{"a cancelled call returns", s.cancelled},
	}
}

func newBatch(rows int, seed uint64) router.Batch {
	b := router.Batch{Layer: 2, Logits: tensor.NewMatrix(rows, experts), Hidden: tensor.NewMatrix(rows, hidden)}
	rng := rand.New(rand.NewPCG(seed, 31))
	for i := range b.Logits.Data {
		b.Logits.Data[i] = float32(rng.NormFloat64() * 2)
	}
	for i := range b.Hidden.Data {
		b.Hidden.Data[i] = float32(rng.NormFloat64())
	}
	for i := range rows {
		b.Tokens = append(b.Tokens, int32(rng.IntN(30000)))
		b.Positions = append(b.Positions, int32(i))
	}
	if rows > 4 {
		b.Tokens[1] = -1
		copy(b.Logits.Row(2), make([]float32, experts)) // all equal
		for i := range experts {                        // far apart
			b.Logits.Row(3)[i] = float32(100 - 20*i)
		}
	}
	return b
}

func newRoutes(rows int) router.Routes {
	return router.Routes{K: topK, IDs: make([]int32, rows*topK), Weights: make([]float32, rows*topK)}
}

func (s *routerSuite) with(ctx context.Context, f func(r router.Router) error) (note string, err error) {
	r, stop, err := s.subject.make(ctx, routerSpec, hidden)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, wrap("close", stop())) }()
	if err := r.Configure(ctx, routerSpec); err != nil {
		return "", fmt.Errorf("configure: %w", err)
	}
	return "", f(r)
}

// route calls a router with hidden states only if it asks for them.
func route(ctx context.Context, r router.Router, b router.Batch) (router.Routes, error) {
	if h, ok := r.(router.HiddenRouter); !ok || !h.WantsHidden() {
		b.Hidden = tensor.Matrix{}
	}
	routes := newRoutes(b.Logits.Rows)
	return routes, r.Route(ctx, b, routes)
}

func (s *routerSuite) configure(ctx context.Context) (string, error) {
	return s.with(ctx, func(r router.Router) error {
		i := r.Info()
		if i.Name == "" || i.Kind != sdk.KindRouter && i.Kind != "" {
			return fmt.Errorf("info has name %q and kind %q", i.Name, i.Kind)
		}
		s.depends = i.Has(sdk.CapLoadDependent)
		return nil
	})
}

func (s *routerSuite) refusals(ctx context.Context) (string, error) {
	spec := routerSpec
	spec.TopK = experts + 1
	r, stop, err := s.subject.make(ctx, routerSpec, hidden)
	if err != nil {
		return "", err
	}
	err = r.Configure(ctx, spec)
	if closeErr := stop(); closeErr != nil {
		return "", fmt.Errorf("close after a failed configure: %w", closeErr)
	}
	if !errors.Is(err, sdk.ErrInvalid) && !errors.Is(err, sdk.ErrUnsupported) {
		return "", fmt.Errorf("top %d of %d experts: got %v, want an error of class invalid or unsupported", spec.TopK, experts, err)
	}
	return "", nil
}

func (s *routerSuite) valid(ctx context.Context) (string, error) {
	return s.with(ctx, func(r router.Router) error {
		routes, err := route(ctx, r, newBatch(7, 1))
		if err != nil {
			return err
		}
		return validRoutes(routes)
	})
}

func validRoutes(r router.Routes) error {
	for row := range len(r.IDs) / r.K {
		ids, weights := r.IDs[row*r.K:(row+1)*r.K], r.Weights[row*r.K:(row+1)*r.K]
		for i, id := range ids {
			if id < 0 || id >= experts || slices.Contains(ids[:i], id) {
				return fmt.Errorf("row %d: experts %v are not %d distinct ones of %d", row, ids, r.K, experts)
			}
			if w := float64(weights[i]); math.IsNaN(w) || math.IsInf(w, 0) {
				return fmt.Errorf("row %d: weights %v are not finite", row, weights)
			}
		}
	}
	return nil
}

func sameRoutes(a, b router.Routes) error {
	for i := range a.IDs {
		if a.IDs[i] != b.IDs[i] || math.Float32bits(a.Weights[i]) != math.Float32bits(b.Weights[i]) {
			return fmt.Errorf("row %d: expert %d with %v and expert %d with %v", i/a.K, a.IDs[i], a.Weights[i], b.IDs[i], b.Weights[i])
		}
	}
	return nil
}

func (s *routerSuite) deterministic(ctx context.Context) (string, error) {
	if s.depends {
		return "left out: load-dependent", nil
	}
	return s.with(ctx, func(r router.Router) error {
		a, err := route(ctx, r, newBatch(7, 2))
		if err != nil {
			return err
		}
		if _, err := route(ctx, r, newBatch(3, 8)); err != nil {
			return err
		}
		b, err := route(ctx, r, newBatch(7, 2))
		if err != nil {
			return err
		}
		s.answer = &a
		if s.other != nil {
			if err := sameRoutes(a, *s.other); err != nil {
				return fmt.Errorf("this way and the other: %w", err)
			}
		}
		return sameRoutes(a, b)
	})
}

func (s *routerSuite) rowIndependent(ctx context.Context) (string, error) {
	if s.depends {
		return "left out: load-dependent", nil
	}
	return s.with(ctx, func(r router.Router) error {
		return aloneAgrees(ctx, r, newBatch(7, 3))
	})
}

func aloneAgrees(ctx context.Context, r router.Router, b router.Batch) error {
	all, err := route(ctx, r, b)
	if err != nil {
		return err
	}
	for row := range b.Logits.Rows {
		one, err := route(ctx, r, router.Batch{
			Layer: b.Layer, Logits: b.Logits.Slice(row, row+1), Tokens: b.Tokens[row : row+1], Positions: b.Positions[row : row+1],
			Hidden: b.Hidden.Slice(row, row+1),
		})
		if err != nil {
			return err
		}
		if err := sameRoutes(one, router.Routes{K: topK, IDs: all.IDs[row*topK:], Weights: all.Weights[row*topK:]}); err != nil {
			return fmt.Errorf("row %d alone and in a batch: %w", row, err)
		}
	}
	return nil
}

func (s *routerSuite) concurrent(ctx context.Context) (string, error) {
	return s.with(ctx, func(r router.Router) error {
		want, err := route(ctx, r, newBatch(5, 4))
		if err != nil {
			return err
		}
		errs := make([]error, 8)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				for range 10 {
					got, err := route(ctx, r, newBatch(5, 4))
					if err == nil {
						err = validRoutes(got)
					}
					if err == nil && !s.depends {
						err = sameRoutes(want, got)
					}
					if err != nil {
						errs[i] = err
						return
					}
				}
			})
		}
		wg.Wait()
		return errors.Join(errs...)
	})
}

func (s *routerSuite) large(ctx context.Context) (string, error) {
	return s.with(ctx, func(r router.Router) error {
		b := newBatch(5*maxRows+3, 5)
		if !s.depends {
			return aloneAgrees(ctx, r, b)
		}
		routes, err := route(ctx, r, b)
		if err != nil {
			return err
		}
		return validRoutes(routes)
	})
}

func (s *routerSuite) readOnly(ctx context.Context) (string, error) {
	return s.with(ctx, func(r router.Router) error {
		b, same := newBatch(7, 6), newBatch(7, 6)
		if _, err := route(ctx, r, b); err != nil {
			return err
		}
		if !slices.Equal(b.Logits.Data, same.Logits.Data) || !slices.Equal(b.Tokens, same.Tokens) || !slices.Equal(b.Positions, same.Positions) {
			return errors.New("the batch has changed")
		}
		return nil
	})
}

// observes tells a router that asks for it what happened, some of it beside calls.
func (s *routerSuite) observes(ctx context.Context) (string, error) {
	asks := false
	note, err := s.with(ctx, func(r router.Router) error {
		o, ok := r.(router.Observer)
		if asks = ok && o.Observes(); !asks {
			return nil
		}
		if !s.depends {
			return fmt.Errorf("a router whose routes depend on observations declares %s", sdk.CapLoadDependent)
		}
		errs := make(chan error, 1)
		go func() { errs <- s.observed(ctx, o) }()
		for range 20 {
			routes, err := route(ctx, r, newBatch(7, 7))
			if err == nil {
				err = validRoutes(routes)
			}
			if err != nil {
				return errors.Join(err, <-errs)
			}
		}
		return <-errs
	})
	if !asks {
		note = "left out: does not observe"
	}
	return note, err
}

// observed are times of all kinds: without work, without tokens, uneven, with a queue.
func (s *routerSuite) observed(ctx context.Context, o router.Observer) error {
	loads := []router.Load{
		{Layer: 0, Expert: 1, Rows: 3, Busy: time.Millisecond}, {Layer: 2, Expert: 0, Rows: 1},
		{Layer: 2, Expert: experts - 1, Rows: 9000, Busy: time.Second},
	}
	for i, what := range []router.Observation{
		{}, {Loads: loads}, {Loads: loads, Tokens: 12, LogProb: -2.5}, {Waiting: time.Minute}, {Loads: loads, Waiting: time.Second, Tokens: 1, LogProb: -1e3},
	} {
		if err := o.Observe(ctx, what); err != nil {
			return fmt.Errorf("observation %d: %w", i, err)
		}
	}
	return nil
}

func (s *routerSuite) cancelled(ctx context.Context) (string, error) {
	return s.with(ctx, func(r router.Router) error {
		ended, cancel := context.WithCancel(ctx)
		cancel()
		began := time.Now()
		_, err := route(ended, r, newBatch(7, 1))
		if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, sdk.ErrDeadline) {
			return fmt.Errorf("got %v, want the context's error", err)
		}
		if took := time.Since(began); took > 5*time.Second {
			return fmt.Errorf("took %v", took)
		}
		_, err = route(ctx, r, newBatch(7, 1))
		return wrap("a good call afterwards", err)
	})
}
