// Package choice is what the routers share: the checks of what a host hands them, and the draw of k distinct experts
// from a hash. Strategies live in the packages beside it; this one refuses to have an opinion.
package choice

import (
	"fmt"
	"maps"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
)

// Take gives a copy of a Spec that can be routed by, and refuses any other, naming the field. params are the names of
// the parameters that the router knows.
func Take(s router.Spec, params ...string) (router.Spec, error) {
	switch {
	case s.Experts < 1:
		return s, fmt.Errorf("%w: experts %d: must be at least 1", sdk.ErrInvalid, s.Experts)
	case s.TopK < 1 || s.TopK > s.Experts:
		return s, fmt.Errorf("%w: top_k %d: must be from 1 to the %d experts", sdk.ErrInvalid, s.TopK, s.Experts)
	case len(s.Layers) == 0:
		return s, fmt.Errorf("%w: layers: there are none", sdk.ErrInvalid)
	case s.Layers[0] < 0:
		return s, fmt.Errorf("%w: layers: %d is negative", sdk.ErrInvalid, s.Layers[0])
	}
	for i, l := range s.Layers[1:] {
		if l <= s.Layers[i] {
			return s, fmt.Errorf("%w: layers: %d follows %d: they must ascend", sdk.ErrInvalid, l, s.Layers[i])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Params)) {
		if !slices.Contains(params, name) {
			return s, fmt.Errorf("%w: params: unknown parameter %q, known: %s", sdk.ErrInvalid, name, known(params))
		}
	}
	if err := checkRule(s.Rule); err != nil {
		return s, err
	}
	s.Layers, s.Params = slices.Clone(s.Layers), maps.Clone(s.Params)
	return s, nil
}

func known(params []string) string {
	if len(params) == 0 {
		return "none"
	}
	return strings.Join(params, ", ")
}

// checkRule is for all routers: also those that ignore the rule refuse one that nobody knows.
func checkRule(r router.Rule) error {
	if r.Score != router.SoftmaxTopK && r.Score != router.TopKSoftmax {
		return fmt.Errorf("%w: rule: score %q: known are %s and %s", sdk.ErrUnsupported, r.Score, router.SoftmaxTopK, router.TopKSoftmax)
	}
	if scale := float64(r.Scale); math.IsNaN(scale) || math.IsInf(scale, 0) || scale < 0 {
		return fmt.Errorf("%w: rule: scale %g: must be finite and not negative", sdk.ErrInvalid, r.Scale)
	}
	return nil
}

// Seed reads the parameter seed, a decimal number from 0 to 2^64-1; without it the seed is 0.
func Seed(params map[string]string) (uint64, error) {
	text, ok := params["seed"]
	if !ok {
		return 0, nil
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: params: seed %q: must be a whole number from 0 to 2^64-1", sdk.ErrInvalid, text)
	}
	return seed, nil
}

// Number reads a parameter that is a finite number from low to high; without it, it is the default.
func Number(params map[string]string, name string, low, high, otherwise float64) (float64, error) {
	text, ok := params[name]
	if !ok {
		return otherwise, nil
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || !(n >= low && n <= high) || math.IsInf(n, 0) {
		return 0, fmt.Errorf("%w: params: %s %q: must be a finite number %s", sdk.ErrInvalid, name, text, between(low, high))
	}
	return n, nil
}

// between words the bounds of a number.
func between(low, high float64) string {
	if math.IsInf(high, 1) {
		return fmt.Sprintf("from %g on", low)
	}
	return fmt.Sprintf("from %g to %g", low, high)
}

// Count reads a parameter that is a whole number from low to high; without it, it is the default.
func Count(params map[string]string, name string, low, high, otherwise int) (int, error) {
	text, ok := params[name]
	if !ok {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("%w: params: %s %q: must be a whole number from %d to %d", sdk.ErrInvalid, name, text, low, high)
	}
	return n, nil
}

// Duration reads a parameter that is a duration above 0, such as 100ms; without it, it is the default.
func Duration(params map[string]string, name string, otherwise time.Duration) (time.Duration, error) {
	text, ok := params[name]
	if !ok {
		return otherwise, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%w: params: %s %q: must be a duration above 0, such as 100ms", sdk.ErrInvalid, name, text)
	}
	return d, nil
}

// CheckBatch refuses a batch that does not fit the spec, or routes that don't fit the batch.
func CheckBatch(s router.Spec, b router.Batch, r router.Routes) error {
	rows, stride := b.Logits.Rows, b.Logits.Stride
	_, sparse := slices.BinarySearch(s.Layers, b.Layer)
	switch {
	case s.Experts == 0:
		return fmt.Errorf("%w: the router is not configured", sdk.ErrUnavailable)
	case !sparse:
		return fmt.Errorf("%w: layer %d has no experts", sdk.ErrInvalid, b.Layer)
	case rows < 0 || rows > 0 && (b.Logits.Cols != s.Experts || stride < s.Experts || len(b.Logits.Data) < (rows-1)*stride+s.Experts):
		return fmt.Errorf("%w: logits are %dx%d with stride %d and %d values, want %d columns", sdk.ErrInvalid, rows, b.Logits.Cols, stride, len(b.Logits.Data), s.Experts)
	case len(b.Tokens) != rows || len(b.Positions) != rows:
		return fmt.Errorf("%w: %d tokens and %d positions for %d rows", sdk.ErrInvalid, len(b.Tokens), len(b.Positions), rows)
	case r.K != s.TopK || len(r.IDs) != rows*r.K || len(r.Weights) != rows*r.K:
		return fmt.Errorf("%w: routes have room for %d ids and %d weights, %d a row: want %d rows of %d", sdk.ErrInvalid, len(r.IDs), len(r.Weights), r.K, rows, s.TopK)
	}
	return nil
}

// CheckLogits refuses rows that are not finite: whoever chooses by comparing can't rank a NaN.
func CheckLogits(b router.Batch) error {
	for r := range b.Logits.Rows {
		for e, v := range b.Logits.Row(r) {
			if v-v != 0 { // NaN for infinities and NaN
				return fmt.Errorf("%w: row %d: the logit of expert %d is %g", sdk.ErrInvalid, r, e, v)
			}
		}
	}
	return nil
}

// Hash folds one more value into a hash by splitmix64's finaliser (Steele, Lea, Flood 2014): a fixed function, the same
// in every version and on every machine.
func Hash(h, value uint64) uint64 { return mix((h ^ value) + golden) }

const golden = 0x9E3779B97F4A7C15

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

// Draw fills ids with distinct experts of 0..experts-1, every subset as likely as any other over random seeds: Floyd's
// algorithm (Bentley and Floyd 1987), its random numbers being splitmix64 from the seed.
func Draw(ids []int32, experts int, seed uint64) {
	for i := range ids {
		last := experts - len(ids) + i // the range grows to 0..last, and last itself is the stand-in for a repeat
		seed += golden
		hi, _ := bits.Mul64(mix(seed), uint64(last)+1)
		id := int32(hi)
		if slices.Contains(ids[:i], id) {
			id = int32(last)
		}
		ids[i] = id
	}
}

// Even gives all weights the same share of 1.
func Even(weights []float32) {
	for i := range weights {
		weights[i] = 1 / float32(len(weights))
	}
}
