package crowd

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// slowEvery is the time between two bytes of a slow client.
const slowEvery = time.Second

// slow measures others' requests without and with clients that send and read a byte a second, and what they cost in memory.
func (o Options) slow(ctx context.Context, r *Report) error {
	h := newHolder(o)
	defer h.close()
	o.Say("%v without slow clients", o.Hold)
	r.SlowWithout = o.bystanders(ctx, h)
	before, err := o.settled()
	if err != nil {
		return err
	}
	l, err := o.loris(ctx, h)
	if err != nil {
		return err
	}
	o.Say("the same beside %d slow clients", o.Slow)
	r.SlowWith = o.bystanders(ctx, h)
	r.SlowCut, err = l.close()
	r.SlowBytes = max(l.most.Load()-before, 0)
	if r.SlowWithout.Requests.P99 > 0 {
		r.SlowRatio = round(r.SlowWith.Requests.P99 / r.SlowWithout.Requests.P99)
	}
	return err
}

// bystanders are the requests of those who are not slow.
func (o Options) bystanders(ctx context.Context, h *holder) (p Phase) {
	ctx, cancel := context.WithTimeout(ctx, o.Hold)
	defer cancel()
	p.Requests, p.Failed = at(ctx, o.Requests, h.request)
	return p
}

// loris is the slow clients. Each holds a connection, and comes back at once when the server has ended it.
type loris struct {
	host   string
	holder *holder
	work   sync.WaitGroup
	cancel context.CancelFunc
	cut    atomic.Int64
	most   atomic.Int64 // bytes of the server's memory

	mu  sync.Mutex // guards err
	err error
}

// loris opens the slow clients: a third sends a header, a third a body, a third does not read a long answer as fast as it could.
func (o Options) loris(ctx context.Context, h *holder) (*loris, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("url %q: %w: %w", o.URL, err, sdk.ErrInvalid)
	}
	l := &loris{host: u.Host, holder: h}
	ctx, l.cancel = context.WithCancel(ctx)
	ways := []func(context.Context, *net.TCPConn){l.header, l.body, l.reader}
	var there sync.WaitGroup
	door := make(chan struct{}, opening)
	for i := range o.Slow {
		there.Add(1)
		l.work.Go(func() { l.stay(ctx, door, sync.OnceFunc(there.Done), ways[i%len(ways)]) })
	}
	l.work.Go(func() { l.weigh(ctx) })
	there.Wait()
	return l, nil
}

// stay holds a connection, and another one when it has ended, until the context does. It tells when it is there first.
func (l *loris) stay(ctx context.Context, door chan struct{}, there func(), way func(context.Context, *net.TCPConn)) {
	defer there()
	for ctx.Err() == nil {
		door <- struct{}{}
		c, err := l.holder.dialer().DialContext(ctx, "tcp", l.host)
		<-door
		if err != nil {
			l.fail(ctx, fmt.Errorf("a slow client can't connect: %w", err))
			return
		}
		there()
		end := context.AfterFunc(ctx, func() { c.Close() })
		way(ctx, c.(*net.TCPConn)) // the network is tcp
		if end(); ctx.Err() == nil {
			l.cut.Add(1)
		}
		c.Close()
	}
}

func (l *loris) fail(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
}

// header sends a request's header without an end.
func (l *loris) header(ctx context.Context, c *net.TCPConn) {
	l.drip(ctx, c, "GET /v1/models HTTP/1.1\r\nHost: "+l.host+"\r\nX-Slow: ")
}

// body sends a request's body of which most is missing.
func (l *loris) body(ctx context.Context, c *net.TCPConn) {
	l.drip(ctx, c, "POST /v1/completions HTTP/1.1\r\nHost: "+l.host+"\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{\"prompt\":\"")
}

// drip sends a beginning and then a byte now and then until the server has had enough. What the server answers is read: who
// drips must not have the request that it pretends to send.
func (l *loris) drip(ctx context.Context, c *net.TCPConn, begin string) {
	if _, err := io.WriteString(c, begin); err != nil {
		return
	}
	l.holder.readers.Go(func() { // ends with the connection
		var b [64]byte
		for {
			n, err := c.Read(b[:])
			if n > 0 && strings.HasPrefix(string(b[:n]), "HTTP/1.1 2") {
				l.fail(ctx, fmt.Errorf("half of a request is answered %q: %w", b[:n], sdk.ErrInvalidOutput))
			}
			if err != nil {
				c.Close()
				return
			}
		}
	})
	slowly(ctx, func() bool {
		_, err := c.Write([]byte{'x'})
		return err == nil
	})
}

// reader asks for a long answer and reads a byte now and then of what fits into the smallest buffer.
func (l *loris) reader(ctx context.Context, c *net.TCPConn) {
	if c.SetReadBuffer(tight) != nil {
		return
	}
	if _, err := io.WriteString(c, "GET /openapi.json HTTP/1.1\r\nHost: "+l.host+"\r\n\r\n"); err != nil {
		return
	}
	slowly(ctx, func() bool {
		var b [1]byte
		_, err := c.Read(b[:])
		return err == nil
	})
}

// weigh keeps the most memory that the server had.
func (l *loris) weigh(ctx context.Context) {
	slowly(ctx, func() bool {
		if n, err := l.holder.Footprint(); err == nil && n > l.most.Load() {
			l.most.Store(n)
		}
		return true
	})
}

// slowly does something again and again, until it is false or the context ends.
func slowly(ctx context.Context, do func() bool) {
	tick := time.NewTicker(slowEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if !do() {
				return
			}
		}
	}
}

// close ends all; it tells how many connections the server had ended before.
func (l *loris) close() (cut int, err error) {
	l.cancel()
	l.work.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return int(l.cut.Load()), l.err
}
