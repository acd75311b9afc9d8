//go:build !amd64

package kernel

import "github.com/pimoe/pimoe/backends/isa"

func at(isa.Level) *Kernels { return &generic }
