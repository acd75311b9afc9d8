package kernel

// halfOutputs is fewer than Outputs: the table takes a register, and the loads that find its entries fill the gaps
// between the additions.
const halfOutputs = 4

// Half multiplies one row by 16-bit weights, [len(y), len(x)] row-major, whose values are in the table:
//
//	for o := range y {
//		var sum float32
//		for i := range x {
//			sum += float32(x[i] * table[w[o*len(x)+i]])
//		}
//		y[o] = sum
//	}
//
// For BF16, too, the table is faster (by about a third) than shifting the bits: a load goes into the multiplication,
// while shifted bits have to move from an integer register to a float register. The weights of a model lie in a narrow
// range, so of the table's 256 KiB a few are in use.
func Half(y, x []float32, w []uint16, table *Table) {
	if len(y) < halfOutputs {
		halfTail(y, x, w, table)
		return
	}
	for o := 0; o < len(y); o += halfOutputs {
		o := min(o, len(y)-halfOutputs) // the last tile overlaps the one before it: the same sums once more
		half4((*[halfOutputs]float32)(y[o:]), x, w[o*len(x):], table)
	}
}

func half4(y *[halfOutputs]float32, x []float32, w []uint16, table *Table) {
	n := len(x)
	w0, w1, w2, w3 := w[0*n:][:len(x)], w[1*n:][:len(x)], w[2*n:][:len(x)], w[3*n:][:len(x)]
	var a0, a1, a2, a3 float32
	for i, v := range x {
		a0 += float32(v * table[w0[i]])
		a1 += float32(v * table[w1[i]])
		a2 += float32(v * table[w2[i]])
		a3 += float32(v * table[w3[i]])
	}
	y[0], y[1], y[2], y[3] = a0, a1, a2, a3
}

func halfTail(y, x []float32, w []uint16, table *Table) {
	for o := range y {
		row := w[o*len(x):][:len(x)]
		var sum float32
		for i, v := range x {
			sum += float32(v * table[row[i]])
		}
		y[o] = sum
	}
}
