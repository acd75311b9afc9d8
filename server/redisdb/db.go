package redisdb

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/sdk"
)

const (
	connections = 16              // calls of a millisecond at 16 at once are 16,000 a second: far beyond what one host generates
	dialTimeout = time.Second     // in the background: with TLS over a slow network a connection takes several round trips
	idleTimeout = 5 * time.Minute // below the idle limits of firewalls
	maxReply    = 8 << 20         // bytes: the largest value that Set takes, and more than any script of ours returns
	maxValue    = maxReply - 64
)

// The errors that a caller tells apart. All others are sdk.ErrUnavailable, too: nothing can be had from Redis now.
var (
	ErrMissing = fmt.Errorf("redis has no such key: %w", sdk.ErrNotFound)
	ErrDown    = fmt.Errorf("redis is not there: %w", sdk.ErrUnavailable) // the breaker is open
)

// Options open a DB.
type Options struct {
	Config  config.Redis // with a URL
	Metrics *metrics.Registry
	Log     *slog.Logger // told when Redis comes and goes
}

// DB is one Redis. Life: Open, calls from any goroutine, Close. A DB whose server is away is as usable as any other: calls
// fail at once.
type DB struct {
	pool    *redis.Pool
	timeout time.Duration
	prefix  string
	log     *slog.Logger
	meters  *meters
	slots   chan struct{} // one for each call under way
	breaker *breaker
	lost    atomic.Int64 // when the breaker opened, in ns since 1970

	ctx     context.Context // of all calls; ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup
	closing sync.RWMutex // held for reading while a call begins, for writing by Close
	closed  bool
}

// Open makes a DB and begins to look for its server in the background. It fails for a configuration that can't work, not
// for a server that is away.
func Open(o Options) (*DB, error) {
	server, err := config.ParseRedisURL(o.Config.URL)
	if err != nil {
		return nil, fmt.Errorf("redis.url: want %w", err)
	}
	dial, err := dialer(server, o.Config.CAFile)
	if err != nil {
		return nil, err
	}
	opts := []redis.DialOption{
		redis.DialContextFunc(dial), redis.DialDatabase(server.DB), redis.DialUsername(o.Config.Username), redis.DialPassword(o.Config.Password),
		redis.DialReadTimeout(o.Config.Timeout), redis.DialWriteTimeout(o.Config.Timeout),
	}
	d := &DB{
		pool: &redis.Pool{
			DialContext: func(ctx context.Context) (redis.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, dialTimeout)
				defer cancel()
				return redis.DialContext(ctx, "tcp", server.Addr, opts...)
			},
			MaxIdle: connections, MaxActive: connections, IdleTimeout: idleTimeout,
		},
		timeout: o.Config.Timeout, prefix: o.Config.Prefix, log: o.Log,
		slots: make(chan struct{}, connections), breaker: newBreaker(),
	}
	d.pool.TestOnBorrow = d.current
	d.meters = newMeters(o.Metrics, d)
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.running.Go(d.probe)
	return d, nil
}

// dialer connects to the one address, through a reader that refuses replies of any size.
func dialer(server config.RedisServer, caFile string) (func(context.Context, string, string) (net.Conn, error), error) {
	plain := new(net.Dialer)
	if !server.TLS {
		return func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := plain.DialContext(ctx, "tcp", server.Addr)
			return bounded(conn, err)
		}, nil
	}
	conf := &tls.Config{ServerName: server.Host, MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("redis.ca_file: %w", errors.Join(sdk.ErrInvalid, err))
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("redis.ca_file: %s has no certificate in PEM: %w", caFile, sdk.ErrInvalid)
		}
	}
	secure := &tls.Dialer{NetDialer: plain, Config: conf}
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := secure.DialContext(ctx, "tcp", server.Addr)
		return bounded(conn, err)
	}, nil
}

// Get is the value of a key, or ErrMissing.
func (d *DB) Get(ctx context.Context, key string) ([]byte, error) {
	var out []byte
	err := d.call(ctx, "get", func(c redis.Conn) (err error) {
		out, err = redis.Bytes(c.Do("GET", d.prefix+key))
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Set puts a value for ttl, which is above zero: nothing of ours stays in Redis for good. The value must not
// be changed afterwards: a call that has run out of time may still be sending it.
func (d *DB) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if ttl < time.Millisecond || len(value) > maxValue {
		return fmt.Errorf("redis set: want a time to live of a millisecond or more and at most %d bytes, got %s and %d: %w", maxValue, ttl, len(value), sdk.ErrInvalid)
	}
	return d.call(ctx, "set", func(c redis.Conn) error {
		_, err := c.Do("SET", d.prefix+key, value, "PX", ttl.Milliseconds())
		return err
	})
}

// Script is a Lua script that runs whole in Redis. Its text is a constant of the program.
type Script struct{ script *redis.Script }

// NewScript registers a script's text; Redis learns it with the first Eval.
func NewScript(text string) *Script { return &Script{redis.NewScript(-1, text)} }

// Eval runs a script. keys and args reach it as KEYS and ARGV and never as text of it. The result is int64, string, nil or
// a list of them. A call that has run out of time may have run in Redis all the same.
func (d *DB) Eval(ctx context.Context, s *Script, keys []string, args ...any) (any, error) {
	all := []any{len(keys)}
	for _, k := range keys {
		all = append(all, d.prefix+k)
	}
	all = append(all, args...)
	var out any
	err := d.call(ctx, "eval", func(c redis.Conn) (err error) {
		out, err = s.script.Do(c, all...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return texts(out), nil
}

// texts makes strings of a reply's bytes.
func texts(reply any) any {
	switch v := reply.(type) {
	case []byte:
		return string(v)
	case []any:
		for i := range v {
			v[i] = texts(v[i])
		}
	}
	return reply
}

// Healthy reports whether calls are tried at all.
func (d *DB) Healthy() bool { return d.breaker.closed() }

// Close ends all calls and waits for them.
func (d *DB) Close() error {
	d.closing.Lock()
	again := d.closed
	d.closed = true
	d.closing.Unlock()
	if again {
		return nil
	}
	d.cancel()
	err := d.pool.Close()
	d.running.Wait()
	return err
}

// call runs f on a connection beside its caller, which waits no longer than the timeout: to connect may take longer, and is then
// done for those that come later. At most as many calls as there are connections run at once.
func (d *DB) call(ctx context.Context, op string, f func(redis.Conn) error) error {
	if !d.breaker.closed() {
		d.meters.count(op, "down")
		return ErrDown
	}
	asked := ctx
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	select {
	case d.slots <- struct{}{}:
	default: // all are busy: whoever waited for one would be late as well
		cancel()
		d.meters.count(op, "busy")
		return fmt.Errorf("redis %s: %d calls are under way: %w", op, cap(d.slots), sdk.ErrUnavailable)
	}
	began := time.Now()
	done := make(chan error, 1)
	if !d.start(func() {
		defer cancel()
		defer func() { <-d.slots }()
		done <- d.on(ctx, f)
	}) {
		<-d.slots
		cancel()
		return ErrDown
	}
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		select {
		case err = <-done: // f has just returned, which ends ctx, too
		default:
			err = ctx.Err()
		}
	}
	if asked.Err() != nil { // the caller has gone, which says nothing about Redis
		d.meters.count(op, "cancelled")
		return fmt.Errorf("redis %s: %w", op, asked.Err())
	}
	return d.outcome(op, began, err)
}

// on runs f on a connection, unless the call is over when there is one.
func (d *DB) on(ctx context.Context, f func(redis.Conn) error) (err error) {
	c, err := d.pool.GetContext(d.ctx)
	if err != nil {
		return err
	}
	defer func() {
		if e := c.Close(); err == nil {
			err = e
		}
	}()
	if err := ctx.Err(); err != nil {
		return err
	}
	return f(c)
}

// current refuses a connection that has been idle since before Redis was lost: a server that came back knows nothing of it.
func (d *DB) current(_ redis.Conn, since time.Time) error {
	if since.UnixNano() <= d.lost.Load() {
		return ErrDown
	}
	return nil
}

// start runs f on a goroutine that Close waits for; false once the DB is closed.
func (d *DB) start(f func()) bool {
	d.closing.RLock()
	defer d.closing.RUnlock()
	if d.closed {
		return false
	}
	d.running.Go(f)
	return true
}

// outcome counts a call, tells the breaker and gives the error its class.
func (d *DB) outcome(op string, began time.Time, err error) error {
	d.meters.took(op, time.Since(began))
	switch {
	case err == nil:
		d.breaker.success()
		d.meters.count(op, "ok")
		return nil
	case errors.Is(err, redis.ErrNil):
		d.breaker.success()
		d.meters.count(op, "missing")
		return ErrMissing
	}
	word := "error"
	var said redis.Error
	if errors.As(err, &said) { // it answers, and in time: full memory, a right that is missing, a script that fails
		d.breaker.success()
		d.meters.count(op, "refused")
		return fmt.Errorf("redis %s: %w", op, errors.Join(sdk.ErrUnavailable, err))
	}
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		word = "timeout"
	}
	d.meters.count(op, word)
	if d.breaker.failure() {
		d.lost.Store(time.Now().UnixNano())
		d.meters.opened.Inc()
		d.log.Warn("redis_lost", "op", op, "error", err.Error())
	}
	return fmt.Errorf("redis %s: %w", op, errors.Join(sdk.ErrUnavailable, err))
}
