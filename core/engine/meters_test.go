package engine

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/model"
)

// gauge is what a series of the setup's registry says.
func gauge(t *testing.T, s setup, name string) float64 {
	t.Helper()
	var b strings.Builder
	s.metrics.Write(&b)
	for line := range strings.Lines(b.String()) {
		if text, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("no series %s", name)
	return 0
}

// TestQueueAge: the age of the queue grows while a step takes long, and is nothing once everybody has had a step; so it is with
// the cache that requests hold.
func TestQueueAge(t *testing.T) {
	f := newFake(64, 4)
	gate, entered := make(chan struct{}), make(chan struct{}, 1)
	f.before = func(ctx context.Context, _ []model.Span) error {
		select {
		case entered <- struct{}{}:
		default:
		}
		select {
		case <-gate:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s := testSetup(f)
	s.limits.MaxConcurrentRequests, s.limits.MaxQueuedRequests = 1, 1
	var mu sync.Mutex
	now := time.Unix(1e9, 0)
	s.now = func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	e := launchTest(t, f, s)
	if age, held := gauge(t, s, "pimoe_queue_oldest_seconds"), gauge(t, s, "pimoe_kv_used_ratio"); age != 0 || held != 0 {
		t.Errorf("an idle engine: age %v, held %v", age, held)
	}
	var done sync.WaitGroup
	for i := range 2 {
		done.Go(func() { ask(t, e, plain(fmt.Sprint(i), prompt(fmt.Sprint(i), 10), 3)) })
		if i == 0 {
			<-entered
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	for gauge(t, s, "pimoe_engine_running") != 1 || gauge(t, s, "pimoe_engine_queued") != 1 {
		if time.Now().After(deadline) {
			t.Fatal("the second request does not wait")
		}
		time.Sleep(time.Millisecond)
	}
	mu.Lock()
	now = now.Add(7 * time.Second)
	mu.Unlock()
	for gauge(t, s, "pimoe_queue_oldest_seconds") != 7 {
		if time.Now().After(deadline) {
			t.Fatalf("the queue is %v s old, want 7", gauge(t, s, "pimoe_queue_oldest_seconds"))
		}
		time.Sleep(time.Millisecond)
	}
	if held := gauge(t, s, "pimoe_kv_used_ratio"); held <= 0 || held > 0.5 {
		t.Errorf("one request of 13 tokens holds %v of 64 pages", held)
	}
	close(gate)
	done.Wait()
	for gauge(t, s, "pimoe_queue_oldest_seconds") != 0 || gauge(t, s, "pimoe_kv_used_ratio") != 0 {
		if time.Now().After(deadline) {
			t.Fatal("the queue is empty and still old, or the cache is held")
		}
		time.Sleep(time.Millisecond)
	}
}
