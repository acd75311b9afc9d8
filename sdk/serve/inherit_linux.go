package serve

import "golang.org/x/sys/unix"

func dup(from, to int) error { return unix.Dup3(from, to, 0) }

// preferHuge asks for huge pages for weights that are not in memory yet. A kernel that has none refuses, which is no error.
func preferHuge(b []byte) { _ = unix.Madvise(b, unix.MADV_HUGEPAGE) }
