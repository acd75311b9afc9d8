package kernel

import "github.com/pimoe/pimoe/backends/isa"

// at has no kernels for AVX-512 without VNNI: they would be AVX2's in wider registers, for machines of a few years.
func at(l isa.Level) *Kernels {
	switch {
	case l >= isa.AMX:
		return &amx
	case l >= isa.VNNI:
		return &vnni
	case l >= isa.AVX2:
		return &avx2
	}
	return &generic
}

var vnni = Kernels{Quantize: quantizeAVX2, Shape: shapeVNNI, Run: runVNNI}

// shapeVNNI takes up to 8 rows at once with one panel of 16 outputs, so that weights from memory pass by once, in a single
// stream: four streams were a fifth slower, and hopping between panels half as fast. More rows are shared evenly between tiles of
// up to 6 rows and two panels, which fill the 32 registers and load least.
func shapeVNNI(rows, panels int) (tall, wide int) {
	if rows <= 8 {
		return rows, 1
	}
	times := (rows + 5) / 6
	return (rows + times - 1) / times, min(panels, 2)
}

// fenced says which kernels for up to three rows read memory faster.
var fenced = isa.AMD()

func runVNNI(t *Tile, rows, panels int) {
	if fenced && panels == 1 && rows <= 3 {
		runFenced(t, rows)
		return
	}
	switch rows<<4 | panels {
	case 0x11:
		vnni1x1(t)
	case 0x12:
		vnni1x2(t)
	case 0x21:
		vnni2x1(t)
	case 0x22:
		vnni2x2(t)
	case 0x31:
		vnni3x1(t)
	case 0x32:
		vnni3x2(t)
	case 0x41:
		vnni4x1(t)
	case 0x42:
		vnni4x2(t)
	case 0x51:
		vnni5x1(t)
	case 0x52:
		vnni5x2(t)
	case 0x61:
		vnni6x1(t)
	case 0x62:
		vnni6x2(t)
	case 0x71:
		vnni7x1(t)
	case 0x81:
		vnni8x1(t)
	default:
		panic("kernel: no such tile")
	}
}

func runFenced(t *Tile, rows int) {
	switch rows {
	case 1:
		vnni1x1fenced(t)
	case 2:
		vnni2x1fenced(t)
	case 3:
		vnni3x1fenced(t)
	}
}

var avx2 = Kernels{Quantize: quantizeAVX2, Shape: shapeAVX2, Run: runAVX2}

// shapeAVX2 has half the registers of half the width.
func shapeAVX2(rows, _ int) (tall, wide int) {
	times := (rows + 3) / 4
	return (rows + times - 1) / times, 1
}

func runAVX2(t *Tile, rows, _ int) {
	switch rows {
	case 1:
		avx2x1(t)
	case 2:
		avx2x2(t)
	case 3:
		avx2x3(t)
	case 4:
		avx2x4(t)
	default:
		panic("kernel: no such tile")
	}
}
