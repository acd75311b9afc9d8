//go:build unix

package main

import (
	"golang.org/x/sys/unix"
)

// keepNoCores has no picture of the memory, which holds keys and prompts, written when this process or a plugin that it starts
// crashes. One byte instead of none also stops Linux from piping the picture to a program, which ignores a limit of zero.
func keepNoCores() error {
	return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1})
}
