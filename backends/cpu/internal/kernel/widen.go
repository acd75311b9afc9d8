package kernel

// Widen converts 16-bit weights to float32, len(dst) = len(w):
//
//	for i := range dst {
//		dst[i] = table[w[i]]
//	}
func Widen(dst []float32, w []uint16, table *Table) {
	w = w[:len(dst)]
	for i := range dst {
		dst[i] = table[w[i]]
	}
}
