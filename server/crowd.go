package server

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// keptDescriptors are left to the host itself however many clients come: a process that is started takes some two dozen for
	// a moment, the audit log three, a sweep one, and refusing clients takes refusing of them.
	keptDescriptors = 96
	// adminConnections are kept for those who look what is wrong: a browser with the console opens up to six.
	adminConnections = 24
	// leastConnections are taken even where the limit on descriptors leaves no room for them.
	leastConnections = 8
	// refusing is how many clients at once are told that there is no room; more are only closed.
	refusing = 16
	// acceptPause is the longest time between two tries to accept where the system has nothing left.
	acceptPause = 100 * time.Millisecond
)

// crowd bounds the connections of a listener, so that clients leave descriptors to the host.
type crowd struct {
	most  int64 // 0 = no bound
	now   atomic.Int64
	told  chan struct{} // a token for each client that is being told
	doors chan struct{} // closed when the listener closes
	shut  sync.Once
}

func newCrowd(most int64) *crowd {
	return &crowd{most: most, told: make(chan struct{}, refusing), doors: make(chan struct{})}
}

// connectionsLeft is how many connections the public listener may have, by the limit on descriptors and what is open now;
// 0 = as many as come.
func connectionsLeft() int64 {
	limit, open := openFiles()
	if limit == 0 {
		return 0
	}
	return max(limit-open-keptDescriptors-adminConnections, leastConnections)
}

// enter reports whether there is room for one more.
func (c *crowd) enter() bool {
	if n := c.now.Add(1); c.most > 0 && n > c.most {
		c.now.Add(-1)
		return false
	}
	return true
}

func (c *crowd) leave() { c.now.Add(-1) }

// refuse tells a client that there is no room, without waiting for it.
func (c *crowd) refuse(conn *net.TCPConn) {
	select {
	case c.told <- struct{}{}:
	default:
		conn.Close()
		return
	}
	go func() { // ends within lingerFor
		defer func() { <-c.told }()
		conn.SetDeadline(time.Now().Add(lingerFor))
		io.WriteString(conn, noRoom)
		(&lingerConn{TCPConn: conn}).Close()
	}()
}

var noRoom = func() string {
	body := string((&fault{status: http.StatusServiceUnavailable, code: "too_many_connections", message: "the server has as many connections as it can hold", retry: true}).openai("").Body())
	r := http.Response{StatusCode: http.StatusServiceUnavailable, ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body)), Close: true,
		Header: http.Header{"Content-Type": {mimeJSON}, "Retry-After": {"1"}, "Cache-Control": {"no-store"}}}
	var b strings.Builder
	if err := r.Write(&b); err != nil {
		panic("server: a constant answer can't be written")
	}
	return b.String()
}()

// passes reports whether an error of accept is one that passes: the system has nothing left at the moment, or the client is gone
// already. fasthttp would end the server for it.
func passes(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// pause waits after the n-th failure in a row; false means that the listener is closed.
func (c *crowd) pause(n int) bool {
	t := time.NewTimer(min(time.Millisecond<<min(n, 10), acceptPause))
	defer t.Stop()
	select {
	case <-c.doors:
		return false
	case <-t.C:
		return true
	}
}
