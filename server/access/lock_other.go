//go:build !unix

package access

import (
	"errors"
	"os"
	"time"
)

// lockFile waits, at most ten seconds, until it could make the file.
func lockFile(path string) (unlock func(), err error) {
	for range 200 {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			return func() { f.Close(); os.Remove(path) }, nil
		}
		if !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil, errors.New(path + " is held by another process; remove it if there is none")
}
