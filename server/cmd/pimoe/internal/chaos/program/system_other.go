//go:build !linux

package program

import (
	"fmt"
	"syscall"

	"github.com/pimoe/pimoe/sdk"
)

// Supported says why nothing here works: only Linux tells what the processes of another program are and hold.
func Supported() error {
	return fmt.Errorf("chaos looks at processes through /proc, which only Linux has: %w", sdk.ErrUnsupported)
}

func attributes() *syscall.SysProcAttr { return nil }

// Members is empty here.
func (p *Server) Members() []int { return nil }

// Memfds is empty here.
func Memfds(int) map[string]bool { return nil }

// Holders is 0 here.
func Holders(map[string]bool) int { return 0 }

// Sockets is 0 here.
func Sockets(string) int { return 0 }

// FootprintOf is unsupported here.
func FootprintOf(int) (Footprint, error) { return Footprint{}, Supported() }
