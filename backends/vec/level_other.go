//go:build !amd64

package vec

func siluMul(dst, gate, up []float32)                      { siluMulGeneric(dst, gate, up) }
func geluTanhMul(dst, gate, up []float32)                  { geluTanhMulGeneric(dst, gate, up) }
func dot(x, y []float32) float32                           { return dotGeneric(x, y) }
func normScale(y, x, w []float32, r float32)               { normScaleGeneric(y, x, w, r) }
func add(y, x []float32)                                   { addGeneric(y, x) }
func addScaled(y, x []float32, w float32)                  { addScaledGeneric(y, x, w) }
func scale(y, x []float32, w float32)                      { scaleGeneric(y, x, w) }
func clamp(x []float32, limit float32)                     { clampGeneric(x, limit) }
func defects(x []float32) uint32                           { return defectsGeneric(x) }
func rotate(x, cos, sin []float32)                         { rotateGeneric(x, cos, sin) }
func top(s []float32) float32                              { return topGeneric(s) }
func expSum(s []float32, top float32, sum *[lanes]float32) { expSumGeneric(s, top, sum) }
func fromBF16(dst []float32, src []uint16)                 { fromBF16Generic(dst, src) }
func toBF16(dst []uint16, src []float32)                   { toBF16Generic(dst, src) }
func fromF16(dst []float32, src []uint16)                  { fromF16Generic(dst, src) }
func toF16(dst []uint16, src []float32)                    { toF16Generic(dst, src) }
func scores(s []float32, ld int, q []float32, dim int, k Store, at []int) {
	scoresGeneric(s, ld, q, dim, k, at)
}
func mix(out []float32, width int, p []float32, ld int, v Store, at []int, from, to int) {
	mixGeneric(out, width, p, ld, v, at, from, to)
}
