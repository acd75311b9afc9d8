package server

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"time"
)

// errGone is the cause of a request whose client has closed the connection. net/http's users know it as status 499.
var errGone = fmt.Errorf("the client has gone: %w", context.Canceled)

// watch cancels a request when its client has gone. Fiber does not tell, so it looks at the socket itself: an end of
// the stream with nothing left to read, or a reset, means gone. That is how clients look that abort. A client that
// only shuts down its sending half while it waits for the answer looks the same and is taken as gone too; HTTP/1.1
// clients don't do that. Bytes that wait to be read (a pipelined request) hide an end behind them until they are read.
//
// The returned function ends the watch and waits for it. A connection without a descriptor is not watched.
func watch(ctx context.Context, conn net.Conn, every time.Duration, cancel context.CancelCauseFunc) (stop func()) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return func() {}
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return func() {}
	}
	quit, ended := make(chan struct{}), make(chan struct{})
	gone := hungUp
	if _, secure := conn.(*secureConn); secure { // TLS says goodbye in bytes that nobody reads meanwhile, and they hide the end
		gone = cutOff
	}
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-ctx.Done():
				return
			case <-tick.C:
				if gone(raw) {
					cancel(errGone)
					return
				}
			}
		}
	}()
	return func() {
		close(quit)
		<-ended
	}
}
