package metrics

import (
	"slices"
	"sync/atomic"
)

// Distribution is a histogram that can be read again: the library's can only be printed.
type Distribution struct {
	*Histogram
	bounds []float64
	counts []atomic.Uint64 // by bucket, not cumulative; the last one is above all bounds
}

// Distribution is the histogram of a name and label pairs with upper bounds as buckets; nil means Seconds. Whoever asks for it
// later gets the same one, with the bounds of the first.
func (r *Registry) Distribution(name string, bounds []float64, labels ...string) *Distribution {
	if bounds == nil {
		bounds = Seconds
	}
	name = series(name, labels)
	if d, ok := r.distributions.Load(name); ok {
		return d.(*Distribution)
	}
	h, kept := r.histogram(name, bounds)
	d := &Distribution{Histogram: h, bounds: bounds, counts: make([]atomic.Uint64, len(bounds)+1)}
	if !kept {
		return d
	}
	first, _ := r.distributions.LoadOrStore(name, d)
	return first.(*Distribution)
}

// Update adds a value.
func (d *Distribution) Update(v float64) {
	d.Histogram.Update(v)
	at, _ := slices.BinarySearch(d.bounds, v) // a bound belongs to its bucket
	d.counts[at].Add(1)
}

// Bounds are the upper bounds of the buckets but the last, which has none.
func (d *Distribution) Bounds() []float64 { return d.bounds }

// Counts puts how many values each bucket has into to, and returns it; to may be nil.
func (d *Distribution) Counts(to []uint64) []uint64 {
	to = to[:0]
	for i := range d.counts {
		to = append(to, d.counts[i].Load())
	}
	return to
}
