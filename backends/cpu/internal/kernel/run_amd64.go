package kernel

import (
	"golang.org/x/sys/cpu"

	"github.com/pimoe/pimoe/backends/isa"
)

//go:generate sh -c "cd _asm && go run ."

// The assembly takes as many panels as panelsOf says for the tile's rows, or 2 or 1 where that is less.

//go:noescape
func f32AVX512(t *Tile)

//go:noescape
func f16AVX512(t *Tile)

//go:noescape
func bf16AVX512(t *Tile)

//go:noescape
func blocksAVX512(t *Tile)

//go:noescape
func dotsAVX512(t *Tile)

//go:noescape
func f32AVX2(t *Tile)

//go:noescape
func f16AVX2(t *Tile)

//go:noescape
func bf16AVX2(t *Tile)

//go:noescape
func blocksAVX2(t *Tile)

//go:noescape
func dotsAVX2(t *Tile)

// lower is the level that has code for the format: VDPBF16PS is an extension of its own.
func lower(l isa.Level, f Format) isa.Level {
	if f == Tiles {
		if l < isa.AMX {
			return isa.Generic
		}
		return l
	}
	l = min(l, isa.AVX512)
	if f == Dots && l == isa.AVX512 && !cpu.X86.HasAVX512BF16 {
		return isa.AVX2
	}
	return l
}

func run(l isa.Level, f Format, t *Tile) {
	switch l {
	case isa.AMX:
		tilesAMX(t)
	case isa.AVX512:
		switch f {
		case F32:
			f32AVX512(t)
		case F16:
			f16AVX512(t)
		case BF16:
			bf16AVX512(t)
		case Blocks:
			blocksAVX512(t)
		case Dots:
			dotsAVX512(t)
		}
	case isa.AVX2:
		switch f {
		case F32:
			f32AVX2(t)
		case F16:
			f16AVX2(t)
		case BF16:
			bf16AVX2(t)
		case Blocks:
			blocksAVX2(t)
		case Dots:
			dotsAVX2(t)
		}
	default:
		generic(f, t)
	}
}

// panelsOf is, for 1, 2, ... rows, how many panels a tile has at most.
func panelsOf(l isa.Level, f Format) []int {
	switch {
	case l == isa.AVX512 && f == Blocks:
		return avx512Blocks
	case l == isa.AVX512:
		return avx512Panels
	case l == isa.AVX2 && f == Blocks:
		return avx2Blocks
	case l == isa.AVX2:
		return avx2Panels
	}
	return genericPanels
}
