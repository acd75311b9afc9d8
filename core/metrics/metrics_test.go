package metrics

import (
	"fmt"
	"strings"
	"testing"
)

// A full registry keeps what it has and takes nothing new, and says how often it refused.
func TestFull(t *testing.T) {
	r := New()
	first := r.Counter("pimoe_x_total", "n", "0")
	for n := range 2 * maxSeries {
		label := fmt.Sprint(n % maxSeries)
		r.Counter("pimoe_x_total", "n", label).Inc()
	}
	if r.Counter("pimoe_x_total", "n", "0") != first || first.Get() != 2 {
		t.Errorf("the first series is another one, or has %d", first.Get())
	}
	if n := r.drop.Get(); n != 0 {
		t.Errorf("%d were refused, although none was new", n)
	}
	for n := range 10 {
		label := fmt.Sprint("more", n)
		r.Counter("pimoe_y_total", "n", label).Inc()
		r.Gauge("pimoe_y", nil, "n", label).Set(1)
		r.Histogram("pimoe_y_seconds", nil, "n", label).Update(1)
		r.Distribution("pimoe_z_seconds", nil, "n", label).Update(1)
	}
	var text strings.Builder
	r.Write(&text)
	if n := strings.Count(text.String(), "pimoe_x_total{"); n != maxSeries {
		t.Errorf("%d series of %d", n, maxSeries)
	}
	if strings.Contains(text.String(), "more") {
		t.Error("it has taken more")
	}
	if n := r.drop.Get(); n != 40 {
		t.Errorf("%d of 40 are counted as refused", n)
	}
	kept := 0
	r.distributions.Range(func(any, any) bool { kept++; return true })
	if kept != 0 {
		t.Errorf("%d distributions are kept for it", kept)
	}
}
