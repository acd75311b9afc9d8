package memory

import (
	"log/slog"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"
)

// Percent of the limit at which something happens. The system kills at 100: what a running request still takes must fit
// between, and a reading is a moment old.
const (
	shedAt   = 80 // new work is refused
	relieve  = 75 // what is kept for later is given up; below it new work is taken again
	ownShare = 80 // of what others leave, Go's collector works harder from here on
)

// leastHeap is what Go's heap may always have: a collector that has less runs all the time.
const leastHeap = 64 << 20

// Use is a reading.
type Use struct {
	Used  int64 // bytes
	Limit int64 // 0 = none
}

func (u Use) percent() int64 {
	if u.Limit <= 0 {
		return 0
	}
	return u.Used * 100 / u.Limit
}

// Options are what a Watch works with; all are required.
type Options struct {
	Read    func() Use
	Relieve func() // gives up what is only kept for later; called again and again while memory is short
	Every   time.Duration
	Log     *slog.Logger
}

// Watch looks again and again. Life: Start, Pressed from any goroutine, Close.
type Watch struct {
	o       Options
	pressed atomic.Bool
	stop    chan struct{}
	done    sync.WaitGroup
	once    sync.Once
	limited int64 // that Go's heap has been given; 0 = none
}

// Start looks once and goes on in the background.
func Start(o Options) *Watch {
	w := &Watch{o: o, stop: make(chan struct{})}
	w.look()
	w.done.Go(w.run)
	return w
}

// Pressed reports whether new work must wait.
func (w *Watch) Pressed() bool { return w != nil && w.pressed.Load() }

// Close ends the watch and waits for it.
func (w *Watch) Close() {
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

func (w *Watch) look() {
	u := w.o.Read()
	w.limitHeap(u)
	percent := u.percent()
	if percent >= relieve {
		w.o.Relieve()
		debug.FreeOSMemory()
	}
	switch was := w.pressed.Load(); {
	case !was && percent >= shedAt:
		w.pressed.Store(true)
		w.o.Log.Warn("memory_short", "used", u.Used, "limit", u.Limit)
	case was && percent < relieve:
		w.pressed.Store(false)
		w.o.Log.Info("memory_enough", "used", u.Used, "limit", u.Limit)
	}
}

// limitHeap sets Go's own limit to what the others leave, unless GOMEMLIMIT says otherwise.
func (w *Watch) limitHeap(u Use) {
	if u.Limit <= 0 || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(sample)
	own := int64(sample[0].Value.Uint64() - sample[1].Value.Uint64())
	limit := max((u.Limit-max(u.Used-own, 0))*ownShare/100, leastHeap)
	if d := limit - w.limited; d > w.limited/20 || -d > w.limited/20 {
		debug.SetMemoryLimit(limit)
		w.limited = limit
	}
}
