package acceptance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/server/instance"
)

// kills is how many processes TestKill kills: enough in every run to hit each process several times, and as many as
// PIMOE_KILLS says in the long run.
func kills() int { return rounds("PIMOE_KILLS", 27) }

// TestKill kills expert processes and the router with SIGKILL during streams under load. Every stream ends with the
// text it has without the kills, and no error reaches a client.
func TestKill(t *testing.T) {
	t.Run("one replica", func(t *testing.T) { killed(t, open(t)) })
	t.Run("two replicas", func(t *testing.T) { killed(t, open(t, func(c *config.Config) { c.Experts.Replicas = 2 })) })
	if os.Getenv("PIMOE_KILLS") != "" { // the long run says what hedging is worth
		t.Run("without hedging", func(t *testing.T) {
			killed(t, open(t, func(c *config.Config) { c.Experts.Replicas, c.Experts.Hedge = 2, "off" }))
		})
	}
}

func killed(t *testing.T, i *instance.Instance) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	requests := stories(i, 4)
	want := make([]string, len(requests))
	for n, r := range requests {
		a := run(ctx, i, r)
		if a.err != nil {
			t.Fatal(a.err)
		}
		want[n] = a.text
	}
	var mu sync.Mutex
	var outages, stalls []time.Duration // of the killed process; longest gap between two tokens of a stream
	stop := make(chan struct{})
	var load sync.WaitGroup
	for n, r := range requests {
		load.Add(1)
		go func() {
			defer load.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				a := run(ctx, i, r)
				if a.err != nil || a.text != want[n] {
					t.Errorf("stream %d: error %v, text %q, want %q", n, a.err, a.text, want[n])
					return
				}
				mu.Lock()
				stalls = append(stalls, a.stall)
				mu.Unlock()
			}
		}()
	}
	for k := range kills() {
		time.Sleep(time.Duration(20+rand.IntN(60)) * time.Millisecond) // the fault's random moment, not a wait for something
		outage, err := killOne(ctx, i, k)
		if err != nil {
			t.Error(err)
			break
		}
		outages = append(outages, outage)
	}
	close(stop)
	load.Wait()
	if len(outages) == 0 || len(stalls) == 0 {
		t.Fatalf("%d kills and %d streams", len(outages), len(stalls))
	}
	t.Logf("measured: %d kills: replaced and serving after %s", len(outages), quantiles(outages))
	t.Logf("measured: %d streams: longest gap between two tokens %s", len(stalls), quantiles(stalls))
	deaths := uint64(0)
	for _, s := range i.Host.Status() {
		deaths += s.Restarts
		if s.LastDeath == nil || s.LastDeath.Signal != "SIGKILL" {
			t.Errorf("group %s: last death %+v, want SIGKILL", s.Group, s.LastDeath)
		}
	}
	if deaths += i.Host.RouterStatus().Restarts; deaths != uint64(kills()) {
		t.Errorf("%d restarts after %d kills", deaths, kills())
	}
}

func quantiles(d []time.Duration) string {
	slices.Sort(d)
	return fmt.Sprintf("p50 %v, p99 %v, worst %v", d[len(d)/2], d[len(d)*99/100], d[len(d)-1])
}

// killOne kills the k-th process in turn, the router among them, and returns how long the host was without it.
func killOne(ctx context.Context, i *instance.Instance, k int) (time.Duration, error) {
	status := i.Host.Status()
	at := k % (len(status) + 1)
	pid := func() int {
		if at == len(status) {
			return i.Host.RouterStatus().PID
		}
		return i.Host.Status()[at].PID
	}
	old := pid()
	if old == 0 {
		return 0, fmt.Errorf("process %d is not there before its kill", at)
	}
	began := time.Now()
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		return 0, fmt.Errorf("kill %d: %w", old, err)
	}
	for {
		if now := pid(); now != 0 && now != old {
			return time.Since(began), nil
		}
		if time.Since(began) > 10*time.Second || ctx.Err() != nil {
			return 0, fmt.Errorf("process %d (pid %d) was not replaced within 10 s", at, old)
		}
		time.Sleep(time.Millisecond)
	}
}

// stories are different requests: two greedy, the others drawn with a seed.
func stories(i *instance.Instance, n int) []engine.Request {
	about := []string{"a fox and a lamp", "a bear who lost a hat", "a girl and a boat", "an old king"}
	var out []engine.Request
	for k := range n {
		r := greedy(story(i, about[k%len(about)]), 96)
		if k%2 == 1 {
			r.Sampling = sampler.Params{Temperature: 0.8, TopP: 0.95, Seed: uint64(k), Seeded: true}
		}
		out = append(out, r)
	}
	return out
}

// TestStop stops an expert and the router with SIGSTOP: each is replaced within a second, and the text stays.
func TestStop(t *testing.T) {
	i := open(t)
	r := stories(i, 1)[0]
	want := run(t.Context(), i, r)
	if want.err != nil {
		t.Fatal(want.err)
	}
	for _, at := range []int{0, 3, 7, 8} {
		pid := i.Host.RouterStatus().PID
		if at < 8 {
			pid = i.Host.Status()[at].PID
		}
		done := make(chan answer, 1)
		go func() { done <- run(t.Context(), i, r) }()
		began := time.Now()
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		for {
			now := i.Host.RouterStatus().PID
			if at < 8 {
				now = i.Host.Status()[at].PID
			}
			if now != 0 && now != pid {
				break
			}
			if time.Since(began) > 10*time.Second {
				t.Fatalf("process %d was not replaced within 10 s", at)
			}
			time.Sleep(time.Millisecond)
		}
		took := time.Since(began)
		t.Logf("measured: stopped process %d replaced after %v", at, took)
		if took > time.Second && os.Getenv("PIMOE_STRICT_TIMES") != "" {
			t.Errorf("replaced after %v, want within 1 s", took)
		}
		if a := <-done; a.err != nil || a.text != want.text {
			t.Errorf("error %v, text %q, want %q", a.err, a.text, want.text)
		}
	}
}
