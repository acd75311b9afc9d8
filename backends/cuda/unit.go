package cuda

import (
	"fmt"

	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// unit is what lies on the device of an expert, or of a matrix, which is its down: addresses, 0 where there is nothing.
type unit struct {
	at    [4]uint64
	bytes int64
}

// The places in a unit, in the order of the kernels' tile.
const (
	toGate = iota
	toUp
	toDown
	toBias
)

// matrix is a view on its way to a place in a unit.
type matrix struct {
	name string
	view tensor.View
	to   int
}

// upload lays matrices out on the device. On an error nothing of them stays there.
func (b *Backend) upload(k *kind, list ...matrix) (u unit, err error) {
	for _, m := range list {
		var data []byte
		switch {
		case m.to != toBias:
			if data, err = k.layout(m.view); err != nil {
				b.engine.discard(u)
				return unit{}, fmt.Errorf("%s: %w", m.name, err)
			}
		case len(m.view.Data) > 0:
			f := make([]float32, m.view.Elems())
			pack.Widen(f, m.view.Data, m.view.DType)
			data = floatBytes(f)
		default:
			continue
		}
		if u.at[m.to], err = b.engine.put(data); err != nil {
			b.engine.discard(u)
			return unit{}, fmt.Errorf("%w: cuda: %s: %w", sdk.ErrUnavailable, m.name, err)
		}
		u.bytes += int64(len(data))
		if b.options.Progress != nil {
			b.options.Progress(len(data))
		}
	}
	return u, nil
}
