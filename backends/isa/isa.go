// Package isa says which instruction sets the kernels may use: the best that processor and system have, or less where
// the environment variable PIMOE_CPU asks for it. The backends ask it once, when they are made.
//
// It refuses to know kernels: each package keeps its own table of functions by Level.
package isa

import (
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/pimoe/pimoe/sdk"
)

// Level is a set of instruction sets; each has all that the ones before it have.
type Level int

// The levels. Arithmetic of one numeric class has the same bits on all of them.
const (
	Generic Level = iota // pure Go
	AVX2                 // AVX2, FMA3 and F16C
	AVX512               // AVX-512 F, BW, DQ and VL
	VNNI                 // AVX512_VNNI: dot products of bytes
	AMX                  // AMX-INT8 and AMX-BF16, with the system's permission to use tiles
)

var names = []string{"generic", "avx2", "avx512", "vnni", "amx"}

func (l Level) String() string { return names[l] }

// Parse reads a level's name.
func Parse(name string) (Level, error) {
	if i := slices.Index(names, name); i >= 0 {
		return Level(i), nil
	}
	return 0, fmt.Errorf("instruction set %q: want one of %v: %w", name, names, sdk.ErrInvalid)
}

// Env is the variable that forces a level.
const Env = "PIMOE_CPU"

var choice = sync.OnceValues(func() (Level, error) {
	best := detect()
	name := os.Getenv(Env)
	if name == "" {
		return best, nil
	}
	l, err := Parse(name)
	switch {
	case err != nil:
		return best, fmt.Errorf("%s: %w", Env, err)
	case l > best:
		return best, fmt.Errorf("%s=%s: this machine has %v at best: %w", Env, name, best, sdk.ErrUnsupported)
	}
	return l, nil
})

// Active is the level to use.
func Active() Level {
	l, _ := choice()
	return l
}

// Err says what is wrong with the forced level, which Active then ignores. Programs refuse to start with it.
func Err() error {
	_, err := choice()
	return err
}

// Available are all levels that this machine has, lowest first, whatever is forced: tests walk them.
func Available() []Level {
	var all []Level
	for l := Generic; l <= detect(); l++ {
		all = append(all, l)
	}
	return all
}
