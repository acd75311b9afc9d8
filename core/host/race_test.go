//go:build race

package host

// raced says that the race detector slows everything down tenfold; the long histories are for a run without it.
const raced = true
