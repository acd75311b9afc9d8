//go:build amd64 && !linux

package isa

// tilesAllowed is for systems whose way of granting tile registers is not known here.
func tilesAllowed() bool { return false }
