// Package disk watches the file system of the home: whether there is room on it and whether it may be written. Answers need
// neither; jobs, kept answers, keys and records of changes do. So an operator hears of it within a second, and not when the first
// change is refused.
//
// server starts one Watch and gives it the figure. The package refuses to write: a look is one call to the system, and a probe
// file would itself be what fails. So what a quota or a damaged disk refuses shows only when something is written.
package disk

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Reading is a file system at a look.
type Reading struct {
	Free     int64 // bytes that the host's user may take
	ReadOnly bool
}

// Least is the room below which a disk counts as full: a transaction of the database and a record of a change need some pages.
const Least = 256 << 10

// Options are what a Watch works with; all but Read are required.
type Options struct {
	Path  string
	Read  func(path string) (Reading, error) // nil = the system's
	Every time.Duration
	Log   *slog.Logger
}

// Watch looks again and again. Life: Start, Writable from any goroutine, Close.
type Watch struct {
	o    Options
	bad  atomic.Pointer[string] // why nothing can be written; nil = it can
	stop chan struct{}
	done sync.WaitGroup
	once sync.Once
}

// Start looks once and goes on in the background.
func Start(o Options) *Watch {
	if o.Read == nil {
		o.Read = read
	}
	w := &Watch{o: o, stop: make(chan struct{})}
	w.look()
	w.done.Go(w.run)
	return w
}

// Writable reports whether the disk had room at the last look, and could be written.
func (w *Watch) Writable() bool { return w.bad.Load() == nil }

// Close ends the watch and waits for it. It works on none.
func (w *Watch) Close() {
	if w == nil {
		return
	}
	w.once.Do(func() { close(w.stop) })
	w.done.Wait()
}

func (w *Watch) run() {
	t := time.NewTicker(w.o.Every)
	defer t.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-t.C:
			w.look()
		}
	}
}

// look notes a change, and says it once.
func (w *Watch) look() {
	now, err := w.o.Read(w.o.Path)
	if err != nil {
		return // a folder that is not there yet, or a system that does not tell
	}
	why := now.trouble()
	before := w.bad.Load()
	switch {
	case why == "" && before != nil:
		w.bad.Store(nil)
		w.o.Log.Info("home can be written again", "home", w.o.Path)
	case why != "" && (before == nil || *before != why):
		w.bad.Store(&why)
		w.o.Log.Error("home can't be written: answers go on; jobs, idempotency keys and changes are refused", "home", w.o.Path, "why", why)
	}
}

// trouble says why nothing can be written; empty where it can. It is the same text as long as it is the same trouble.
func (r Reading) trouble() string {
	switch {
	case r.ReadOnly:
		return "the file system is read-only"
	case r.Free < Least:
		return fmt.Sprintf("the disk is full: less than %d KiB are left", Least>>10)
	}
	return ""
}
