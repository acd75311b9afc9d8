package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// MaxRuntimeDir is how long the path of Options.RuntimeDir may be: within the 108 bytes of a Unix socket's address, a
// host's folder, a process's folder and the socket's name still have to find room.
const MaxRuntimeDir = 50

// runtimeDir is this host's private folder for sockets. It is locked while the host lives, so that the next host knows
// which folders are left over.
type runtimeDir struct {
	path string
	lock *os.File
}

// newRuntimeDir makes the folder inside parent and sweeps the folders of hosts that are gone.
func newRuntimeDir(parent string) (*runtimeDir, error) {
	if len(parent) > MaxRuntimeDir {
		return nil, fmt.Errorf("runtime folder %s: the path is %d bytes long, Unix sockets leave room for %d", parent, len(parent), MaxRuntimeDir)
	}
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, fmt.Errorf("make runtime folder: %w", err)
	}
	// One host at a time sweeps and makes its folder, or a sweep could take a new folder whose lock is not held yet.
	gate, err := lockFile(filepath.Join(parent, "sweep.lock"), unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer gate.Close()
	removeLeftovers(parent)
	path, err := os.MkdirTemp(parent, "h"+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return nil, fmt.Errorf("make runtime folder: %w", err)
	}
	lock, err := lockFile(filepath.Join(path, "lock"), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return nil, errors.Join(err, removeAll(path))
	}
	return &runtimeDir{path: path, lock: lock}, nil
}

func (r *runtimeDir) close() error {
	return errors.Join(removeAll(r.path), r.lock.Close())
}

// removeLeftovers removes the folders whose lock nobody holds. A folder that can't be removed is left for the next start.
func removeLeftovers(parent string) {
	old, _ := filepath.Glob(filepath.Join(parent, "h*-*"))
	for _, dir := range old {
		lock, err := lockFile(filepath.Join(dir, "lock"), unix.LOCK_EX|unix.LOCK_NB)
		if err != nil {
			continue // a living host, or not ours
		}
		removeAll(dir)
		lock.Close()
	}
}

// lockFile opens or makes a file and takes its lock. A killed host's lock is free.
func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock runtime folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock runtime folder %s: %w", path, err)
	}
	return f, nil
}
