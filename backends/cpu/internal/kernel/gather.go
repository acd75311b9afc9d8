package kernel

// Gather puts rows of x side by side, as tiles take them; x[r*stride+i] is input i of row r:
//
//	for i := range in {
//		for r := range rows {
//			dst[i*rows+r] = x[r*stride+i]
//		}
//	}
func Gather(dst, x []float32, rows, in, stride int) {
	if rows == 1 {
		copy(dst[:in], x)
		return
	}
	r := 0
	for ; r+4 <= rows; r += 4 { // four rows a pass, so that a line of dst is written seldom in parts
		a, b, c, d := x[r*stride:][:in], x[(r+1)*stride:][:in], x[(r+2)*stride:][:in], x[(r+3)*stride:][:in]
		at := r
		for i := range a {
			q := dst[at : at+4 : at+4]
			q[0], q[1], q[2], q[3] = a[i], b[i], c[i], d[i]
			at += rows
		}
	}
	for ; r < rows; r++ {
		at := r
		for _, v := range x[r*stride:][:in] {
			dst[at] = v
			at += rows
		}
	}
}
