package alert

import (
	"cmp"
	"math"
	"slices"
)

// growth is how much a counter grew between two moments in milliseconds, as Prometheus has it: a fall is a restart from zero, and
// what lies between the first and last point and the ends of the window is added at the same pace, if it is not far. It takes
// two points.
func growth(points []point, begin, end int64) (float64, bool) {
	if len(points) < 2 {
		return 0, false
	}
	first, last := points[0], points[len(points)-1]
	grown, before := last.value-first.value, first.value
	for _, p := range points[1:] {
		if p.value < before {
			grown += before
		}
		before = p.value
	}
	seconds := func(ms int64) float64 { return float64(ms) / 1000 }
	toBegin, toEnd, covered := seconds(first.at-begin), seconds(end-last.at), seconds(last.at-first.at)
	pace := covered / float64(len(points)-1)
	if grown > 0 && first.value >= 0 { // it was zero at some time, not less before
		toBegin = min(toBegin, covered*(first.value/grown))
	}
	reach := covered
	for _, gap := range []float64{toBegin, toEnd} {
		if gap >= pace*1.1 { // a point is missing: the series has begun, or ended, somewhere in between
			gap = pace / 2
		}
		reach += gap
	}
	return grown * (reach / covered), true
}

// bucket is one of a histogram: how many values are not above a bound.
type bucket struct{ bound, count float64 }

// quantile is the q-quantile of a histogram, as Prometheus has it: linear within a bucket, and never above the last finite
// bound.
func quantile(q float64, buckets []bucket) float64 {
	slices.SortFunc(buckets, func(a, b bucket) int { return cmp.Compare(a.bound, b.bound) })
	if n := len(buckets); n == 0 || !math.IsInf(buckets[n-1].bound, 1) {
		return math.NaN()
	}
	most := math.Inf(-1)
	for i := range buckets { // counts of different moments may fall
		most = max(most, buckets[i].count)
		buckets[i].count = most
	}
	all := buckets[len(buckets)-1].count
	if len(buckets) < 2 || all == 0 {
		return math.NaN()
	}
	rank := q * all
	i := 0
	for i < len(buckets)-1 && buckets[i].count < rank {
		i++
	}
	switch b := buckets[i]; {
	case i == len(buckets)-1:
		return buckets[i-1].bound
	case i == 0 && b.bound <= 0:
		return b.bound
	case i == 0:
		return b.bound * (rank / b.count)
	default:
		below := buckets[i-1]
		return below.bound + (b.bound-below.bound)*((rank-below.count)/(b.count-below.count))
	}
}
