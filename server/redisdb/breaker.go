package redisdb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
	"golang.org/x/sync/errgroup"

	"github.com/pimoe/pimoe/sdk"
)

const (
	// opensAt failures open the breaker: with the default timeout a dead server costs 15 ms in all. Each success takes back
	// a quarter, so that a server that fails every fourth call is left alone, too.
	opensAt  = 3.0
	takeBack = 0.25

	firstProbe   = 100 * time.Millisecond // after a loss, doubled each time
	longestProbe = 5 * time.Second
	warm         = 4 // connections that a probe makes
)

// breaker says whether calls are tried. It begins open: the first probe closes it, so that no request waits for the first
// connection. Only the prober closes it.
type breaker struct {
	mu   sync.Mutex // guards what follows
	open bool
	bad  float64
	lost chan struct{} // closed when it opens; made anew when it closes
}

func newBreaker() *breaker {
	b := &breaker{open: true, lost: make(chan struct{})}
	close(b.lost)
	return b
}

func (b *breaker) closed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.open
}

func (b *breaker) success() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bad = max(b.bad-takeBack, 0)
}

// failure reports whether this one has opened the breaker.
func (b *breaker) failure() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open {
		return false
	}
	if b.bad++; b.bad < opensAt {
		return false
	}
	b.open = true
	close(b.lost)
	return true
}

func (b *breaker) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open, b.bad, b.lost = false, 0, make(chan struct{})
}

// opened is closed while the breaker is open.
func (b *breaker) opened() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lost
}

// probe closes the breaker whenever the server can be used, until Close.
func (d *DB) probe() {
	for wait := firstProbe; ; {
		select {
		case <-d.ctx.Done():
			return
		case <-d.breaker.opened():
		}
		err := d.ping()
		if err == nil {
			d.breaker.close()
			d.log.Info("redis_found")
			wait = firstProbe
			continue
		}
		d.log.Debug("redis probe failed", "error", err.Error())
		select {
		case <-d.ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, longestProbe)
	}
}

// ping tries the server as requests would: some at once, which may have to connect and leave their connections to those that
// come, and one within the timeout.
func (d *DB) ping() error {
	var first errgroup.Group
	for range warm {
		first.Go(func() error { return d.pong(dialTimeout + d.timeout) })
	}
	err := first.Wait()
	if err == nil {
		err = d.pong(d.timeout)
	}
	if err != nil {
		return errors.Join(sdk.ErrUnavailable, err)
	}
	return nil
}

func (d *DB) pong(within time.Duration) error {
	ctx, cancel := context.WithTimeout(d.ctx, within)
	defer cancel()
	return d.on(ctx, func(c redis.Conn) error {
		said, err := redis.String(c.Do("PING"))
		if err == nil && said != "PONG" {
			err = fmt.Errorf("redis answers PING with %.20q", said)
		}
		return err
	})
}
