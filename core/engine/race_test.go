//go:build race

package engine_test

// raced: the race detector makes a model's arithmetic fifty times slower, so less of it is done.
const raced = true
