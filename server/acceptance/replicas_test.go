package acceptance

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/instance"
)

// pids are the processes of a group, by replica.
func pids(i *instance.Instance, group string) map[int]int {
	out := map[int]int{}
	for _, s := range i.Host.Status() {
		if s.Group == group && !s.Aside {
			out[s.Replica] = s.PID
		}
	}
	return out
}

// await waits until something is so.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for began := time.Now(); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			t.Fatalf("not %s", what)
		}
	}
}

// TestReplicas restarts, drains, kills and stops replicas while requests run: every answer is the one that it was before.
func TestReplicas(t *testing.T) {
	i := open(t, func(c *config.Config) { c.Experts.Replicas = 2 })
	prompt := story(i, "a fox")
	want := run(t.Context(), i, greedy(prompt, 60))
	if want.err != nil {
		t.Fatal(want.err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	answers := 0
	load.Go(func() {
		for ctx.Err() == nil {
			a := run(t.Context(), i, greedy(prompt, 60))
			if a.err != nil || a.text != want.text {
				t.Errorf("an answer meanwhile: %v %q", a.err, a.text)
			}
			answers++
		}
	})
	defer load.Wait()
	defer stop()

	before := pids(i, "e1")
	if err := i.Restart(t.Context(), "e1", 1); err != nil {
		t.Fatal(err)
	}
	if now := pids(i, "e1"); now[0] != before[0] || now[1] == before[1] || now[1] == 0 {
		t.Errorf("one replica restarted: %v, before %v", now, before)
	}
	if err := i.Restart(t.Context(), "e1", -1); err != nil {
		t.Fatal(err)
	}
	if now := pids(i, "e1"); now[0] == before[0] || now[0] == 0 || len(now) != 2 {
		t.Errorf("the group restarted: %v, before %v", now, before)
	}

	st, err := i.Drain("e2", 0)
	if err != nil || st.Wanted != 1 || !st.Pinned {
		t.Fatalf("drain: %+v, %v", st, err)
	}
	if now := pids(i, "e2"); len(now) != 1 || now[1] == 0 {
		t.Errorf("after the drain: %v", now)
	}
	if _, err := i.Drain("e2", 1); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("the last replica: %v", err)
	}
	if _, err := i.Drain("e2", 0); !errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("one that is drained already: %v", err)
	}
	last := pids(i, "e2")[1]
	if err := i.Restart(t.Context(), "e2", 1); err != nil { // the only one: as a whole, so that nobody waits
		t.Error(err)
	}
	if now := pids(i, "e2"); len(now) != 1 || now[1] == last {
		t.Errorf("the last one restarted: %v, before %d", now, last)
	}
	if _, err := i.Scale("e2", 2); err != nil {
		t.Error(err)
	}

	for fault, signal := range map[string]syscall.Signal{host.FaultKill: syscall.SIGKILL, host.FaultStop: syscall.SIGSTOP} {
		old := pids(i, "e3")[0]
		await(t, "up", func() bool { old = pids(i, "e3")[0]; return old != 0 })
		pid, err := i.Hurt("e3", 0, fault)
		if err != nil || pid != old {
			t.Fatalf("%s: %d, %v", fault, pid, err)
		}
		await(t, "replaced after "+signal.String(), func() bool { now := pids(i, "e3")[0]; return now != 0 && now != old })
		for _, s := range i.Host.Status() {
			if s.Group == "e3" && s.Replica == 0 && (s.LastDeath == nil || s.LastDeath.PID != old || s.ReadySince == nil) {
				t.Errorf("%s: status %+v", fault, s)
			}
		}
	}
	stop()
	load.Wait()
	if answers == 0 {
		t.Error("nothing was answered meanwhile")
	}
	t.Logf("%d answers meanwhile", answers)
}
