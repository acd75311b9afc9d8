//go:build unix

package host

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// tellOfChildren passes the kernel's news of children on until ctx ends: that one has stopped, goes on or has ended (SIGCHLD,
// signal(7)). Which one it was must be looked up: signals that come together are told once.
func tellOfChildren(ctx context.Context, news *notifier) {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGCHLD)
	defer signal.Stop(told)
	for {
		select {
		case <-told:
			news.broadcast()
		case <-ctx.Done():
			return
		}
	}
}
