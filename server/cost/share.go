package cost

import "math/bits"

// share cuts total into whole parts in proportion to the weights; they add up to total. Where all weights are zero, so are the
// parts.
func share(total int64, weights []int64) []int64 {
	out := make([]int64, len(weights))
	sum := int64(0)
	for _, w := range weights {
		sum += w
	}
	if sum <= 0 || total <= 0 {
		return out
	}
	before, given := int64(0), int64(0)
	for i, w := range weights {
		if w == 0 {
			continue // of a group's many units few have work in one look
		}
		before += w
		upTo := portion(total, before, sum)
		out[i], given = upTo-given, upTo
	}
	return out
}

// portion is total*part/whole, rounded down, for part <= whole. The product may need more than 64 bits.
func portion(total, part, whole int64) int64 {
	hi, lo := bits.Mul64(uint64(total), uint64(part))
	q, _ := bits.Div64(hi, lo, uint64(whole))
	return int64(q)
}
