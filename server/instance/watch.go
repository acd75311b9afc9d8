package instance

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
)

const (
	// sweepEvery is the time between two checks of a mapped trunk: as often as the host checks the experts' shards.
	sweepEvery = 10 * time.Minute
	// firstSweep is when the first one begins: a start believes what was found out before about a file that has not changed
	// since, so the bits themselves are looked at soon after.
	firstSweep = time.Minute
)

// trunkWatch hashes the file that the trunk is mapped from again and again. What it finds wrong makes the instance not
// ready: the host itself can't be replaced as an expert's process can.
type trunkWatch struct {
	file *os.File
	stop context.CancelFunc
	done chan struct{}

	mu    sync.Mutex
	found error // guarded by mu
}

// watchTrunk begins to watch a variant's trunk; close ends it.
func watchTrunk(packed *weights.Variant, o Options) (*trunkWatch, error) {
	f, err := os.Open(packed.Path(weights.TrunkFile))
	if err != nil {
		return nil, fmt.Errorf("watch the trunk: %w", err)
	}
	if o.SweepEvery == 0 {
		o.SweepEvery = sweepEvery
	}
	ctx, stop := context.WithCancel(context.Background())
	w := &trunkWatch{file: f, stop: stop, done: make(chan struct{})}
	go w.run(ctx, packed, o)
	return w, nil
}

func (w *trunkWatch) run(ctx context.Context, packed *weights.Variant, o Options) {
	defer close(w.done)
	good := time.Now()
	for wait := min(o.SweepEvery, firstSweep); ; wait = o.SweepEvery {
		next := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			next.Stop()
			return
		case <-next.C:
		}
		looked := time.Now()
		err := packed.Recheck(ctx, weights.TrunkFile, w.file)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			o.Log.Error("the trunk's weights are damaged", "err", err)
			if o.Event != nil {
				o.Event(host.Event{What: host.EventDamaged, Object: "trunk", Why: err.Error(), Since: good})
			}
			err = fmt.Errorf("the trunk's weights are damaged on the disk: %w", sdk.ErrUnavailable)
		}
		if err == nil {
			good = looked
		}
		w.mu.Lock()
		w.found = err
		w.mu.Unlock()
	}
}

// damage is what the last check has found.
func (w *trunkWatch) damage() error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.found
}

func (w *trunkWatch) close() error {
	w.stop()
	<-w.done
	return w.file.Close()
}
