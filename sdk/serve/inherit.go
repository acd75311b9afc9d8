//go:build unix

package serve

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/sdk"
)

// takeStdout moves standard output aside for the handshake and lets descriptor 1 point at standard error, so that
// nothing that is printed later, by Go or by a linked library, can be taken for the handshake or block on a full pipe.
func takeStdout() (*os.File, error) {
	fd, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("keep standard output: %w", err)
	}
	if err := dup(2, 1); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("redirect standard output: %w", err)
	}
	return os.NewFile(uintptr(fd), "handshake"), nil
}

// keepFromChildren closes a descriptor in whatever this process starts.
func keepFromChildren(fd int) { unix.CloseOnExec(fd) }

// mapShards maps the inherited weights read-only and closes their descriptors. The mappings live as long as the process.
func mapShards(fds []int) ([][]byte, error) {
	shards := make([][]byte, len(fds))
	for i, fd := range fds {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return nil, fmt.Errorf("shard %d: %w", i, err)
		}
		if st.Size < 0 || int64(int(st.Size)) != st.Size {
			return nil, fmt.Errorf("shard %d: %d bytes: %w", i, st.Size, sdk.ErrInvalid)
		}
		if st.Size > 0 {
			b, err := unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ, unix.MAP_SHARED)
			if err != nil {
				return nil, fmt.Errorf("shard %d: map: %w", i, err)
			}
			shards[i] = b
		}
		unix.Close(fd)
	}
	return shards, nil
}
