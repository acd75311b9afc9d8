//go:build !amd64

package kernel

import "github.com/pimoe/pimoe/backends/isa"

func run(_ isa.Level, f Format, t *Tile) { generic(f, t) }

func panelsOf(isa.Level, Format) []int { return genericPanels }

func lower(isa.Level, Format) isa.Level { return isa.Generic }
