package kernel

import "math"

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

// GatherTiles puts inputs of a row among so many as Tiles takes them, from input i on, an even one; x[2j] is the lower half of
// word j, and an odd last one has a zero beside it:
//
//	for j := range (len(x)+1)/2 {
//		dst[(i/2+j)/16*rows*16 + (i/2+j)%16] = x[2j] | x[2j+1]<<16
//	}
func GatherTiles(dst []float32, x []uint16, i, rows int) {
	for at := i / 2; len(x) > 0; {
		n := min(2*(blockWords-at%blockWords), len(x))
		GatherPairs(dst[at/blockWords*rows*blockWords+at%blockWords:], x[:n], 1)
		x, at = x[n:], at+n/2
	}
}

// GatherPairs puts rows of bfloat16 side by side in pairs, as tiles of Dots take them; x[2j] is the lower half of word j of a
// row, and an odd last one has a zero beside it:
//
//	for j := range (len(x)+1)/2 {
//		dst[j*rows] = x[2j] | x[2j+1]<<16
//	}
func GatherPairs(dst []float32, x []uint16, rows int) {
	at := 0
	for ; len(x) >= 2; x = x[2:] {
		dst[at] = math.Float32frombits(uint32(x[0]) | uint32(x[1])<<16)
		at += rows
	}
	if len(x) == 1 {
		dst[at] = math.Float32frombits(uint32(x[0]))
	}
}
