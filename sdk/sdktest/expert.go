package sdktest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// expertSuite checks one expert over one way of calling it.
type expertSuite struct {
	subject subject
	dtype   tensor.DType // the first that Load takes; set by the check of that name
	own     bool         // sdk.CapOwnFunction
	answer  []float32    // of a fixed call
	other   []float32    // the same over another way, if there was one
}

func (s *expertSuite) checks() []check {
	return []check{
		{"info and load", s.load},
		{"wrong shapes, dtypes and activations are refused", s.refusals},
		{"known answers", s.known},
		{"the same call gives the same bits", s.deterministic},
		{"a row's bits don't depend on other rows", s.rowIndependent},
		{"a row's bits don't depend on threads", s.threadIndependent},
		{"calls run at the same time", s.concurrent},
		{"large calls", s.large},
		{"x stays as it is", s.readOnly},
		{"a unit that is not loaded is refused", s.unknownUnit},
		{"a cancelled call returns", s.cancelled},
		{"close after a failed load", s.closeAfterFailure},
	}
}

var layerThree = []expert.Segment{{Expert: 0, Rows: 2}, {Expert: 1, Rows: 1}, {Expert: 5, Rows: 3}}

// with loads a fresh expert, runs f and closes it.
func (s *expertSuite) with(ctx context.Context, spec expert.Spec, f func(e *instance) error) (err error) {
	e, err := s.subject.make(ctx, spec)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, wrap("close", e.close())) }()
	if err := e.load(ctx); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	return f(e)
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// good runs f on an expert with the dtype that it takes.
func (s *expertSuite) good(ctx context.Context, f func(e *instance) error) (string, error) {
	if s.dtype == tensor.Invalid {
		return "", errors.New("not tried: no dtype could be loaded")
	}
	return "", s.with(ctx, newSpec(s.dtype, "silu"), f)
}

func (s *expertSuite) load(ctx context.Context) (string, error) {
	var taken []string
	for _, d := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
		var info sdk.Info
		err := s.with(ctx, newSpec(d, "silu"), func(e *instance) error {
			info = e.Info()
			return nil
		})
		switch {
		case errors.Is(err, sdk.ErrUnsupported):
			continue
		case err != nil:
			return "", fmt.Errorf("%s: %w", d, err)
		case info.Name == "" || info.Kind != sdk.KindExpert && info.Kind != "":
			return "", fmt.Errorf("info has name %q and kind %q", info.Name, info.Kind)
		case info.NumericClass == "":
			return "", errors.New("info has no numeric class after load")
		}
		if s.dtype == tensor.Invalid {
			s.dtype, s.own = d, info.Has(sdk.CapOwnFunction)
		}
		taken = append(taken, d.String()+" as "+info.NumericClass)
	}
	if len(taken) == 0 {
		return "", errors.New("load refuses F32, BF16 and F16 weights")
	}
	return strings.Join(taken, ", "), nil
}

func (s *expertSuite) refusals(ctx context.Context) (string, error) {
	if s.own {
		return "left out: own function", nil
	}
	if s.dtype == tensor.Invalid {
		return "", errors.New("not tried: no dtype could be loaded")
	}
	size := s.dtype.Size()
	reshape := func(v *tensor.View, out, in int) {
		*v = tensor.View{DType: v.DType, Shape: []int{out, in}, Data: make([]byte, out*in*size)}
	}
	for name, spoil := range map[string]func(*expert.Spec){
		"gate with a row too few":     func(p *expert.Spec) { reshape(&p.Units[1].Gate, intermediate-1, hidden) },
		"up with a column too many":   func(p *expert.Spec) { reshape(&p.Units[1].Up, intermediate, hidden+1) },
		"down transposed":             func(p *expert.Spec) { reshape(&p.Units[4].Down, intermediate, hidden) },
		"a matrix of three axes":      func(p *expert.Spec) { p.Units[0].Gate.Shape = []int{intermediate, hidden, 1} },
		"weights of dtype BOOL":       func(p *expert.Spec) { boolean(&p.Units[2].Up) },
		"an activation of no meaning": func(p *expert.Spec) { p.Activation = "no-such-activation" },
	} {
		spec := newSpec(s.dtype, "silu")
		spoil(&spec)
		err := s.with(ctx, spec, func(*instance) error { return nil })
		if !errors.Is(err, sdk.ErrInvalid) && !errors.Is(err, sdk.ErrUnsupported) {
			return "", fmt.Errorf("%s: got %v, want an error of class invalid or unsupported", name, err)
		}
	}
	return "", nil
}

func boolean(v *tensor.View) {
	v.DType, v.Data = tensor.Bool, make([]byte, v.Elems())
}

// tolerance is relative to the largest value of the row: float32 accumulation over these widths stays far below 1e-4;
// classes that round activations get what a bfloat16 costs.
func tolerance(class string) float64 {
	if strings.HasSuffix(class, "-f32") {
		return 1e-4
	}
	return 5e-2
}

func (s *expertSuite) known(ctx context.Context) (string, error) {
	if s.own {
		return "left out: own function", nil
	}
	var tried []string
	for _, d := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
		for _, activation := range []string{"silu", "gelu_tanh"} {
			spec := newSpec(d, activation)
			err := s.with(ctx, spec, func(e *instance) error {
				c := newCall(3, 1, 2, layerThree...)
				if err := e.Forward(ctx, c); err != nil {
					return err
				}
				return compare(c, spec, tolerance(e.Info().NumericClass))
			})
			if errors.Is(err, sdk.ErrUnsupported) {
				continue
			}
			if err != nil {
				return "", fmt.Errorf("%s, %s: %w", d, activation, err)
			}
			tried = append(tried, d.String()+" "+activation)
		}
	}
	if len(tried) == 0 {
		return "", errors.New("not tried: nothing could be loaded")
	}
	return strings.Join(tried, ", "), nil
}

func compare(c *expert.Call, spec expert.Spec, tol float64) error {
	row := 0
	for _, seg := range c.Segments {
		i := slices.IndexFunc(spec.Units, func(u expert.UnitWeights) bool {
			return u.Unit == expert.Unit{Layer: c.Layer, Expert: seg.Expert}
		})
		for end := row + seg.Rows; row < end; row++ {
			want, got := reference(spec.Units[i], spec.Activation, c.X.Row(row)), c.Y.Row(row)
			largest := 0.0
			for _, v := range want {
				largest = max(largest, math.Abs(v))
			}
			for j, v := range want {
				if !(math.Abs(float64(got[j])-v) <= tol*largest) {
					return fmt.Errorf("row %d (expert %d), column %d: got %v, want %v", row, seg.Expert, j, got[j], v)
				}
			}
		}
	}
	return nil
}

func (s *expertSuite) deterministic(ctx context.Context) (string, error) {
	return s.good(ctx, func(e *instance) error {
		a, b := newCall(3, 2, 2, layerThree...), newCall(3, 2, 2, layerThree...)
		for _, c := range []*expert.Call{a, newCall(0, 9, 2, expert.Segment{Expert: 1, Rows: 4}), b} {
			if err := e.Forward(ctx, c); err != nil {
				return err
			}
		}
		s.answer = a.Y.Data
		if s.other != nil {
			if err := sameBits(s.answer, s.other); err != nil {
				return fmt.Errorf("this way and the other: %w", err)
			}
		}
		return sameBits(a.Y.Data, b.Y.Data)
	})
}

func sameBits(a, b []float32) error {
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
			return fmt.Errorf("row %d, column %d: %v and %v", i/hidden, i%hidden, a[i], b[i])
		}
	}
	return nil
}

func (s *expertSuite) rowIndependent(ctx context.Context) (string, error) {
	return s.good(ctx, func(e *instance) error {
		batch := newCall(3, 3, 2, layerThree...)
		if err := e.Forward(ctx, batch); err != nil {
			return err
		}
		row := 0
		for _, seg := range batch.Segments {
			for range seg.Rows {
				alone := newCall(3, 0, 1, expert.Segment{Expert: seg.Expert, Rows: 1})
				copy(alone.X.Data, batch.X.Row(row))
				if err := e.Forward(ctx, alone); err != nil {
					return err
				}
				if err := sameBits(alone.Y.Data, batch.Y.Row(row)); err != nil {
					return fmt.Errorf("row %d of the batch and the same row alone: %w", row, err)
				}
				row++
			}
		}
		return nil
	})
}

func (s *expertSuite) threadIndependent(ctx context.Context) (string, error) {
	return s.good(ctx, func(e *instance) error {
		var first *expert.Call
		for _, threads := range []int{1, 2, 3, 8} {
			c := newCall(3, 4, threads, layerThree...)
			if err := e.Forward(ctx, c); err != nil {
				return err
			}
			if first == nil {
				first = c
			}
			if err := sameBits(first.Y.Data, c.Y.Data); err != nil {
				return fmt.Errorf("1 thread and %d: %w", threads, err)
			}
		}
		return nil
	})
}

func (s *expertSuite) concurrent(ctx context.Context) (string, error) {
	return s.good(ctx, func(e *instance) error {
		want := newCall(3, 5, 1, layerThree...)
		if err := e.Forward(ctx, want); err != nil {
			return err
		}
		errs := make([]error, 8)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				for range 10 {
					c := newCall(3, 5, 1+i%2, layerThree...)
					if errs[i] = e.Forward(ctx, c); errs[i] == nil {
						errs[i] = sameBits(want.Y.Data, c.Y.Data)
					}
					if errs[i] != nil {
						return
					}
				}
			})
		}
		wg.Wait()
		return errors.Join(errs...)
	})
}

// large calls exceed a slot many times over, with segments across its borders.
func (s *expertSuite) large(ctx context.Context) (string, error) {
	return s.good(ctx, func(e *instance) error {
		big := newCall(3, 6, 2, expert.Segment{Expert: 0, Rows: maxRows + 3}, expert.Segment{Expert: 1, Rows: 1}, expert.Segment{Expert: 5, Rows: 5*maxRows + 1})
		if err := e.Forward(ctx, big); err != nil {
			return err
		}
		for row, seg := range map[int]int{0: 0, maxRows - 1: 0, maxRows: 0, maxRows + 3: 1, maxRows + 4: 5, big.X.Rows - 1: 5} {
			alone := newCall(3, 0, 1, expert.Segment{Expert: seg, Rows: 1})
			copy(alone.X.Data, big.X.Row(row))
			if err := e.Forward(ctx, alone); err != nil {
				return err
			}
			if err := sameBits(alone.Y.Data, big.Y.Row(row)); err != nil {
				return fmt.Errorf("row %d of %d and the same row alone: %w", row, big.X.Rows, err)
			}
		}
		return nil
	})
}

func (s *expertSuite) readOnly(ctx context.Context) (string, error) {
	return s.good(ctx, func(e *instance) error {
		c := newCall(3, 7, 2, layerThree...)
		before := slices.Clone(c.X.Data)
		if err := e.Forward(ctx, c); err != nil {
			return err
		}
		return wrap("x has changed", sameBits(before, c.X.Data))
	})
}

func (s *expertSuite) unknownUnit(ctx context.Context) (string, error) {
	return s.good(ctx, func(e *instance) error {
		for _, c := range []*expert.Call{newCall(0, 1, 1, expert.Segment{Expert: 5, Rows: 1}), newCall(2, 1, 1, expert.Segment{Expert: 0, Rows: 1})} {
			err := e.Forward(ctx, c)
			if !errors.Is(err, sdk.ErrInvalid) && !errors.Is(err, sdk.ErrNotFound) {
				return fmt.Errorf("layer %d expert %d: got %v, want an error of class invalid or not found", c.Layer, c.Segments[0].Expert, err)
			}
		}
		return wrap("a good call afterwards", e.Forward(ctx, newCall(3, 1, 1, layerThree...)))
	})
}

// cancelled: an expert may finish a call whose context has ended, or not; it returns, and works on.
func (s *expertSuite) cancelled(ctx context.Context) (string, error) {
	return s.good(ctx, func(e *instance) error {
		const soon = 5 * time.Second
		ended, cancel := context.WithCancel(ctx)
		cancel()
		began := time.Now()
		err := e.Forward(ended, newCall(3, 1, 1, layerThree...))
		if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, sdk.ErrDeadline) {
			return fmt.Errorf("got %v, want the context's error", err)
		}
		if took := time.Since(began); took > soon {
			return fmt.Errorf("took %v", took)
		}
		return wrap("a good call afterwards", e.Forward(ctx, newCall(3, 1, 1, layerThree...)))
	})
}

func (s *expertSuite) closeAfterFailure(ctx context.Context) (string, error) {
	spec := newSpec(tensor.F32, "no-such-activation")
	e, err := s.subject.make(ctx, spec)
	if err != nil {
		return "", err
	}
	loadErr := e.load(ctx)
	if err := e.close(); err != nil {
		return "", err
	}
	if loadErr == nil && !s.own {
		return "", errors.New("load took an activation of no meaning")
	}
	return "", nil
}
