package ffn

import (
	"context"
	"fmt"
	"slices"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// load checks a spec and prepares its units with the backend. It gives the numeric class of all of them.
func load(ctx context.Context, be backends.Backend, spec expert.Spec, params func(map[string]string) error) (*model, string, error) {
	m := &model{hidden: spec.Hidden, intermediate: spec.Intermediate, units: make(map[expert.Unit]backends.FFN, len(spec.Units))}
	switch {
	case m.hidden < 1 || m.intermediate < 1:
		return nil, "", fmt.Errorf("%w: hidden %d and intermediate %d must be at least 1", sdk.ErrInvalid, m.hidden, m.intermediate)
	case len(spec.Units) == 0:
		return nil, "", fmt.Errorf("%w: no units", sdk.ErrInvalid)
	}
	if err := params(spec.Params); err != nil {
		return nil, "", err
	}
	m.grouped, _ = be.(backends.Grouped)
	class, err := classOf(be, spec)
	if err != nil {
		return nil, "", err
	}
	for _, w := range spec.Units {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		if _, twice := m.units[w.Unit]; twice {
			return nil, "", fmt.Errorf("%w: layer %d expert %d is given twice", sdk.ErrInvalid, w.Layer, w.Expert)
		}
		if m.units[w.Unit], err = m.prepare(be, class, spec.Activation, w); err != nil {
			return nil, "", err
		}
	}
	return m, class, nil
}

func (m *model) prepare(be backends.Backend, class, activation string, w expert.UnitWeights) (backends.FFN, error) {
	for _, t := range []struct {
		name    string
		view    tensor.View
		out, in int
	}{{"gate", w.Gate, m.intermediate, m.hidden}, {"up", w.Up, m.intermediate, m.hidden}, {"down", w.Down, m.hidden, m.intermediate}} {
		if !slices.Equal(t.view.Shape, []int{t.out, t.in}) {
			return nil, fmt.Errorf("%w: layer %d expert %d: %s has shape %v, want [%d %d]", sdk.ErrInvalid, w.Layer, w.Expert,
				t.name, t.view.Shape, t.out, t.in)
		}
	}
	f, err := be.FFN(class, activation, w.Gate, w.Up, w.Down)
	if err != nil {
		return nil, fmt.Errorf("layer %d expert %d: %w", w.Layer, w.Expert, err)
	}
	return f, nil
}

// classOf is the one class of all weights, which must be the one that the host asks for, if it asks.
func classOf(be backends.Backend, spec expert.Spec) (string, error) {
	class := ""
	for _, w := range spec.Units {
		for _, t := range []struct {
			name string
			view tensor.View
		}{{"gate", w.Gate}, {"up", w.Up}, {"down", w.Down}} {
			c, err := be.Class(t.view.DType, spec.NumericClass)
			if err != nil {
				return "", fmt.Errorf("layer %d expert %d: %s: %w", w.Layer, w.Expert, t.name, err)
			}
			if class != "" && c != class {
				return "", fmt.Errorf("%w: layer %d expert %d: %s is of class %s among weights of class %s", sdk.ErrInvalid, w.Layer, w.Expert, t.name, c, class)
			}
			class = c
		}
	}
	return class, nil
}
