//go:build linux || darwin

package audit

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockWait is how long another host that shares the log may take for a record.
const lockWait = 2 * time.Second

// lock keeps other hosts with the same log out until it is undone. The kernel drops it with the process.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			return func() { unix.Flock(int(f.Fd()), unix.LOCK_UN); f.Close() }, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR || time.Since(began) > lockWait {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
}
