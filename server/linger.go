package server

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// lingerFor is how long a closed connection still takes in what its client sends. A client that is answered before it
// has sent its whole body, such as one that is too large, needs this time to read the answer: a close with unread bytes
// resets the connection, and the reset overtakes the answer. More would let a client hold a connection that is done.
const lingerFor = time.Second

// lingering is a listener that resets nobody: its connections close in two steps, our half at once, theirs when they
// have ended it or lingerFor has passed (RFC 9112, section 9.6), and it ends when its queue is empty. It takes no more than its
// crowd allows, and goes on where the system has no descriptor left.
type lingering struct {
	net.Listener
	crowd  *crowd
	guests *guests     // nil = clients are not told apart
	kept   atomic.Bool // another process serves the socket
	closed sync.Once
}

// Accept waits for the next connection.
func (l *lingering) Accept() (net.Conn, error) {
	for failures := 0; ; {
		c, err := l.Listener.Accept()
		tcp, ok := c.(*net.TCPConn)
		switch {
		case err != nil && passes(err) && l.crowd.pause(failures):
			failures++
			continue
		case err != nil || !ok:
			return c, err
		case !l.crowd.enter():
			l.crowd.refuse(tcp)
			failures = 0
			continue
		}
		leave, ok := l.guests.enter(tcp.RemoteAddr())
		if !ok {
			l.crowd.leave()
			l.crowd.refuse(tcp)
			failures = 0
			continue
		}
		return &lingerConn{tcp, sync.OnceFunc(func() { leave(); l.crowd.leave() })}, nil
	}
}

// ebbFor is how long a closing listener lets its queue be accepted: it takes microseconds where somebody serves.
const ebbFor = 50 * time.Millisecond

// Close refuses new connections and leaves those in the queue to be accepted before it ends the listener. A socket that another
// process serves stays as it is, with its queue.
func (l *lingering) Close() (err error) {
	l.closed.Do(func() {
		if !l.kept.Load() {
			ebb(l.Listener, ebbFor)
		}
		l.crowd.shut.Do(func() { close(l.crowd.doors) })
		err = l.Listener.Close()
	})
	return err
}

// lingerConn is a TCP connection with everything that it can do, and a gentler end.
type lingerConn struct {
	*net.TCPConn
	leave func() // of the crowd, once; nil = it was never in it
}

// SetReadDeadline puts a deadline off by up to a quarter of the time to it. Slow clients that have come together would otherwise
// be cut off together, come back together, and leave no core to anybody else each time.
func (c *lingerConn) SetReadDeadline(t time.Time) error {
	if left := time.Until(t); left > 0 {
		t = t.Add(rand.N(left/4 + 1))
	}
	return c.TCPConn.SetReadDeadline(t)
}

// Close ends the connection.
func (c *lingerConn) Close() error {
	if c.leave != nil {
		defer c.leave()
	}
	if c.CloseWrite() == nil && c.TCPConn.SetReadDeadline(time.Now().Add(lingerFor)) == nil {
		io.Copy(io.Discard, onlyReader{c.TCPConn}) // the deadline or the client ends it, and either is fine
	}
	if err := c.TCPConn.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// onlyReader hides the connection's WriteTo, so that the bytes are read into a small buffer and dropped.
type onlyReader struct{ io.Reader }
