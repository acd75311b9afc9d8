package weights

import "golang.org/x/sys/unix"

// populate has mapped pages read and entered in the page tables. It is false where the kernel (before 5.14) can't.
func populate(b []byte) bool { return unix.Madvise(b, unix.MADV_POPULATE_READ) == nil }

// preferHuge asks for huge pages, of which a walk through weights needs a five-hundredth of the entries in page tables. A kernel that
// has none refuses, which is no error.
func preferHuge(b []byte) {
	if len(b) >= hugePage {
		_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	}
}

// exchange swaps two folders in one step.
func exchange(a, b string) error {
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}
