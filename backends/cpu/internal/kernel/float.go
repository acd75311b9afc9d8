package kernel

// Float multiplies one row by float32 weights, [len(y), len(x)] row-major:
//
//	for o := range y {
//		var sum float32
//		for i := range x {
//			sum += float32(x[i] * w[o*len(x)+i])
//		}
//		y[o] = sum
//	}
func Float(y, x, w []float32) {
	if len(y) < Outputs {
		floatTail(y, x, w)
		return
	}
	for o := 0; o < len(y); o += Outputs {
		o := min(o, len(y)-Outputs) // the last tile overlaps the one before it: the same sums once more
		float6((*[Outputs]float32)(y[o:]), x, w[o*len(x):])
	}
}

func float6(y *[Outputs]float32, x, w []float32) {
	n := len(x)
	// Resliced to len(x), so that the bounds checks leave the loop.
	w0, w1, w2 := w[0*n:][:len(x)], w[1*n:][:len(x)], w[2*n:][:len(x)]
	w3, w4, w5 := w[3*n:][:len(x)], w[4*n:][:len(x)], w[5*n:][:len(x)]
	var a0, a1, a2, a3, a4, a5 float32
	for i, v := range x {
		a0 += float32(v * w0[i])
		a1 += float32(v * w1[i])
		a2 += float32(v * w2[i])
		a3 += float32(v * w3[i])
		a4 += float32(v * w4[i])
		a5 += float32(v * w5[i])
	}
	y[0], y[1], y[2], y[3], y[4], y[5] = a0, a1, a2, a3, a4, a5
}

func floatTail(y, x, w []float32) {
	for o := range y {
		row := w[o*len(x):][:len(x)]
		var sum float32
		for i, v := range x {
			sum += float32(v * row[i])
		}
		y[o] = sum
	}
}
