//go:build linux || darwin

package weights

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// mapFile maps size bytes of f read-only.
func mapFile(f *os.File, size int64) ([]byte, func() error, error) {
	b, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, err
	}
	return b, func() error { return unix.Munmap(b) }, nil
}

// privateMemory is zeroed memory outside the garbage collector's heap, where gigabytes of weights would let the heap
// grow by as much again before each collection. seal makes it read-only.
func privateMemory(size int64) (b []byte, seal, release func() error, err error) {
	if b, err = unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE); err != nil {
		return nil, nil, nil, err
	}
	seal = func() error { return unix.Mprotect(b, unix.PROT_READ) }
	return b, seal, func() error { return unix.Munmap(b) }, nil
}

// identify is what tells an open file's present content from any other; false where the platform can't tell.
func identify(f *os.File) (identity, bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return identity{}, false, err
	}
	return identity{
		inode: inode{dev: uint64(st.Dev), ino: st.Ino},
		size:  st.Size,
		mtime: time.Unix(st.Mtim.Unix()).UnixNano(),
		ctime: time.Unix(st.Ctim.Unix()).UnixNano(),
	}, true, nil
}

// freeSpace is how many bytes the user may still write to path's file system.
func freeSpace(path string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// lockFile locks path for this open file description alone, so goroutines exclude each other as processes do. The
// kernel drops the lock when the process dies. The file is never removed: whoever waits on a removed one would hold a
// lock that nobody else sees. With wait false a lock that is taken is errLocked.
func lockFile(ctx context.Context, path string, wait bool) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			// Unlocking comes first, because a child between fork and exec still holds the description.
			return func() error { return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close()) }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		if !wait {
			return nil, errors.Join(errLocked, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for another import to end: %w", ctx.Err()), f.Close())
		case <-poll.C:
		}
	}
}

// syncDir makes the names in a folder durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
