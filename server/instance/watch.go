package instance

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

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
func watchTrunk(packed *weights.Variant, every time.Duration, log *slog.Logger) (*trunkWatch, error) {
	f, err := os.Open(packed.Path(weights.TrunkFile))
	if err != nil {
		return nil, fmt.Errorf("watch the trunk: %w", err)
	}
	if every == 0 {
		every = sweepEvery
	}
	ctx, stop := context.WithCancel(context.Background())
	w := &trunkWatch{file: f, stop: stop, done: make(chan struct{})}
	go w.run(ctx, packed, every, log)
	return w, nil
}

func (w *trunkWatch) run(ctx context.Context, packed *weights.Variant, every time.Duration, log *slog.Logger) {
	defer close(w.done)
	for wait := min(every, firstSweep); ; wait = every {
		next := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			next.Stop()
			return
		case <-next.C:
		}
		err := packed.Recheck(ctx, weights.TrunkFile, w.file)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			log.Error("the trunk's weights are damaged", "err", err)
			err = fmt.Errorf("the trunk's weights are damaged on the disk: %w", sdk.ErrUnavailable)
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
