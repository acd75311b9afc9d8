package metrics

import (
	"slices"
	"strings"
	"testing"
)

// A distribution counts what the histogram of the same name prints, and is the same one for all who ask.
func TestDistribution(t *testing.T) {
	r := New()
	d := r.Distribution("x_seconds", []float64{1, 2, 4}, "a", "b")
	for _, v := range []float64{0.5, 1, 1.5, 2, 4, 4.1, 100} {
		d.Update(v)
	}
	if got, want := r.Distribution("x_seconds", nil, "a", "b").Counts(nil), []uint64{2, 2, 1, 2}; !slices.Equal(got, want) {
		t.Errorf("counts %v, want %v", got, want)
	}
	if got := r.Distribution("x_seconds", nil, "a", "c").Counts(nil); slices.Max(got) > 0 || len(got) != len(Seconds)+1 {
		t.Errorf("another series has %v", got)
	}
	var text strings.Builder
	r.Write(&text)
	for _, line := range []string{`x_seconds_bucket{a="b",le="1"} 2`, `x_seconds_bucket{a="b",le="4"} 5`, `x_seconds_bucket{a="b",le="+Inf"} 7`} {
		if !strings.Contains(text.String(), line) {
			t.Errorf("not printed: %s\n%s", line, text.String())
		}
	}
}
