// Package durable is the host's embedded database: one file in the home folder with a few tables of sealed records, whose
// schemas have versions and migrate forwards. It is bbolt: one small package without C, one writer, every transaction on the
// disk before it is answered, and a lock on the file, which says which of two hosts has it during a hand-over. SQLite would
// bring a query language that nothing here asks for and megabytes of generated code.
//
// server/jobs and server/idempotency keep their records in it; server/cmd/pimoe opens it. It refuses a file that a newer
// version has written, a file that another host has, and to keep a record unsealed where there is a key.
package durable

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/seal"
)

// Part is what one owner keeps in the file.
type Part struct {
	Name    string
	Buckets []string // all that it has in this version
	// Migrations lead the part from version 0, which has nothing, to the present one: number i from i to i+1. They are
	// never changed once released.
	Migrations []func(*Tx) error
}

// Options say which file, and what is in it.
type Options struct {
	Path  string
	Box   *seal.Box
	Parts []Part
	Log   *slog.Logger
	// Patience is how long a transaction waits for a file that another host still has. 0 = 5 s: the host before a hand-over
	// needs less unless a request with an idempotency key is under way.
	Patience time.Duration
}

const (
	defaultPatience = 5 * time.Second
	lockWait        = 50 * time.Millisecond  // of one look at the lock; bbolt looks once and then each 50 ms
	lockEvery       = 100 * time.Millisecond // between two looks, as long as this may be a hand-over
	lockLater       = 2 * time.Second        // afterwards: two hosts share a home
	handOver        = 2 * time.Minute        // longer than a host is given to end its requests
)

// ErrElsewhere says that another host has the database: it is being handed over, or two hosts share a home.
var ErrElsewhere = fmt.Errorf("another host has the database of jobs and idempotency keys: %w", sdk.ErrUnavailable)

// DB is the database. Life: Open, then transactions from any goroutine, then Close, which waits for those under way.
type DB struct {
	opts  Options
	ready chan struct{} // closed once bolt or err is set

	mu     sync.RWMutex // guards the three below; held for reading during a transaction
	bolt   *bbolt.DB
	err    error
	closed bool

	cancel  context.CancelFunc // ends the waiting for the lock
	waiting sync.WaitGroup
}

// Open opens the file, and makes and migrates what it lacks. Where it may not be written at all, as on a read-only disk, the
// log says so and transactions are refused. Where another host has it, Open returns at once and the
// database opens as soon as that host lets go; transactions wait for it.
func Open(o Options) (*DB, error) {
	if o.Patience == 0 {
		o.Patience = defaultPatience
	}
	d := &DB{opts: o, ready: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	err := os.MkdirAll(filepath.Dir(o.Path), 0o700)
	if err == nil {
		err = d.open()
	}
	switch {
	case err == nil:
		close(d.ready)
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS):
		d.unusable(err)
	case errors.Is(err, ErrElsewhere):
		o.Log.Info("another host has the database; waiting for it", "file", o.Path)
		d.waiting.Go(func() { d.wait(ctx) })
	default:
		cancel()
		return nil, fmt.Errorf("open database %s: %w", o.Path, err)
	}
	return d, nil
}

// unusable says that there will be no database. The host does all else that it can.
func (d *DB) unusable(err error) {
	d.opts.Log.Error("the database can't be used: jobs and idempotency keys are unavailable", "file", d.opts.Path, "error", err.Error())
	d.mu.Lock()
	d.err = fmt.Errorf("%w: %w", sdk.ErrUnavailable, err)
	d.mu.Unlock()
	close(d.ready)
}

// wait tries until the file is free, it turns out to be unusable, or Close is called.
func (d *DB) wait(ctx context.Context) {
	tick := time.NewTicker(lockEvery)
	defer tick.Stop()
	defer time.AfterFunc(handOver, func() { tick.Reset(lockLater) }).Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := d.open()
		if errors.Is(err, ErrElsewhere) {
			continue
		}
		if err != nil {
			d.unusable(err)
			return
		}
		d.opts.Log.Info("the database is here", "file", d.opts.Path)
		close(d.ready)
		return
	}
}

// boltOptions look at the lock once, and keep the list of free pages in memory: it is made again at a start.
func boltOptions() *bbolt.Options {
	return &bbolt.Options{Timeout: lockWait, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType}
}

// open takes the lock and brings the file up to date.
func (d *DB) open() error {
	before, _ := os.Stat(d.opts.Path) // nil = there is none yet
	b, err := bbolt.Open(d.opts.Path, 0o600, boltOptions())
	if errors.Is(err, berrors.ErrTimeout) {
		return ErrElsewhere
	}
	if err != nil {
		return err
	}
	if after, err := os.Stat(d.opts.Path); before != nil && (err != nil || !os.SameFile(before, after)) {
		return errors.Join(ErrElsewhere, b.Close()) // another host has put a new file in its place meanwhile
	}
	if b, err = prepare(b, d.opts); err != nil {
		return errors.Join(err, b.Close())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bolt = b
	return nil
}

// Ready waits until the database is open. It returns the context's error, or why it never will be.
func (d *DB) Ready(ctx context.Context) error {
	select {
	case <-d.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.usable()
}

// usable needs mu.
func (d *DB) usable() error {
	if d.closed {
		return ErrElsewhere // whoever still asks after a hand-over
	}
	return d.err
}

// View runs a transaction that reads.
func (d *DB) View(ctx context.Context, f func(*Tx) error) error {
	return d.with(ctx, func(b *bbolt.DB) error {
		return b.View(func(tx *bbolt.Tx) error { return f(&Tx{tx, d.opts.Box}) })
	})
}

// Update runs a transaction that reads and writes: all of it is on the disk when Update returns nil, nothing of it
// otherwise.
func (d *DB) Update(ctx context.Context, f func(*Tx) error) error {
	return d.with(ctx, func(b *bbolt.DB) error {
		tx, err := b.Begin(true)
		if err != nil {
			return unwritable(err)
		}
		defer func() { _ = tx.Rollback() }() // after a commit it does nothing
		if err := f(&Tx{tx, d.opts.Box}); err != nil {
			return err
		}
		return unwritable(tx.Commit())
	})
}

// unwritable makes an error of the disk one that may pass.
func unwritable(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("write database: %w: %w", sdk.ErrUnavailable, err)
}

// with runs f on the open database. It waits for the lock no longer than Patience.
func (d *DB) with(ctx context.Context, f func(*bbolt.DB) error) error {
	select {
	case <-d.ready:
	default:
		patient, cancel := context.WithTimeout(ctx, d.opts.Patience)
		err := d.Ready(patient)
		cancel()
		if err != nil && patient.Err() != nil {
			return ErrElsewhere
		}
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.usable(); err != nil {
		return err
	}
	return f(d.bolt)
}

// Close waits for the transactions under way and lets the file go. A second Close does nothing, nor does that of a nil DB.
func (d *DB) Close() error {
	if d == nil {
		return nil
	}
	d.cancel()
	d.waiting.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	if d.bolt == nil {
		return nil
	}
	if err := d.bolt.Close(); err != nil {
		return fmt.Errorf("close database: %w", err)
	}
	return nil
}
