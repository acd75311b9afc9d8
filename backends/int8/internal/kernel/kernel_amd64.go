package kernel

import "github.com/pimoe/pimoe/backends/internal/isa"

// at has no kernels for AVX-512 without VNNI: they would be AVX2's in wider registers, for machines of a few years.
func at(l isa.Level) *Kernels {
	switch {
	case l >= isa.VNNI:
		return &vnni
	case l >= isa.AVX2:
		return &avx2
	}
	return &generic
}

var vnni = Kernels{Quantize: quantizeAVX2, Shape: shapeVNNI, Run: runVNNI}

// shapeVNNI fills the 32 registers: up to 6 rows of two panels of 16 outputs. Up to 3 rows wait for memory and take four panels,
// because four streams get more of it. 7 and 8 rows take one panel, so that weights from memory pass by once. More rows are
// shared evenly.
func shapeVNNI(rows, panels int) (int, int) {
	if rows == 7 || rows == 8 {
		return rows, 1
	}
	times := (rows + 5) / 6
	rows = (rows + times - 1) / times
	switch {
	case panels >= 4 && rows <= 3:
		return rows, 4
	case panels >= 2:
		return rows, 2
	}
	return rows, 1
}

func runVNNI(t *Tile, rows, panels int) {
	switch rows<<4 | panels {
	case 0x11:
		vnni1x1(t)
	case 0x12:
		vnni1x2(t)
	case 0x14:
		vnni1x4(t)
	case 0x21:
		vnni2x1(t)
	case 0x22:
		vnni2x2(t)
	case 0x24:
		vnni2x4(t)
	case 0x31:
		vnni3x1(t)
	case 0x32:
		vnni3x2(t)
	case 0x34:
		vnni3x4(t)
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

var avx2 = Kernels{Quantize: quantizeAVX2, Shape: shapeAVX2, Run: runAVX2}

// shapeAVX2 has half the registers of half the width.
func shapeAVX2(rows, panels int) (int, int) {
	switch {
	case rows >= 2:
		return 2, 1
	case panels >= 2:
		return 1, 2
	}
	return 1, 1
}

func runAVX2(t *Tile, rows, panels int) {
	switch {
	case rows == 2:
		avx2x2x1(t)
	case panels == 2:
		avx2x1x2(t)
	default:
		avx2x1x1(t)
	}
}
