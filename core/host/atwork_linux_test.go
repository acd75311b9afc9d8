package host

import (
	"os/exec"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestAtWork looks at processes that compute, sleep and are stopped.
func TestAtWork(t *testing.T) {
	run := func(script string) int {
		c := exec.Command("/bin/sh", "-c", script)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Process.Kill(); c.Wait() })
		return c.Process.Pid
	}
	busy, idle := run("while :; do :; done"), run("exec sleep 300") // exec: to kill the shell would leave it
	is := func(pid int, want bool) {
		t.Helper()
		for until := time.Now().Add(10 * time.Second); atWork(pid) != want; time.Sleep(time.Millisecond) {
			if time.Now().After(until) {
				t.Fatalf("process %d is at work: %v, want %v", pid, !want, want)
			}
		}
	}
	is(busy, true)
	is(idle, false)
	if err := syscall.Kill(busy, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	is(busy, false)
	if atWork(1 << 30) {
		t.Error("nobody is at work")
	}
}

// still is a call that takes so long.
type still struct{ ends time.Time }

func (s still) Wait() error { time.Sleep(time.Until(s.ends)); return nil }
func (s still) Abandon()    {}
func (s still) Settled(within time.Duration) bool {
	time.Sleep(min(max(within, 0), time.Until(s.ends)))
	return !time.Now().Before(s.ends)
}

// working is at work until then.
type working struct {
	*fakeProcess
	until time.Time
}

func (w working) AtWork() bool { return time.Now().Before(w.until) }

// TestOverdue: a call is hedged when it is due, unless its process is at work; then when it stops, and late in any case.
func TestOverdue(t *testing.T) {
	const due = 4 * time.Millisecond
	for name, c := range map[string]struct{ works, takes, hedged time.Duration }{
		"in time":               {0, 3 * time.Millisecond, 0},
		"asleep":                {0, time.Second, due},
		"at work":               {time.Minute, 7 * due, 0},
		"at work for too long":  {time.Minute, time.Second, workPatience * due},
		"at work, then stopped": {due + time.Millisecond, time.Second, due + due/2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				p := &groupCall{ctx: t.Context(), try: try{sent: began, inc: &incarnation{proc: working{&fakeProcess{}, began.Add(c.works)}}}}
				overdue := p.overdue(still{began.Add(c.takes)}, due)
				took := time.Since(began)
				if overdue != (c.hedged > 0) || overdue && took != c.hedged || !overdue && took != c.takes {
					t.Errorf("overdue %v after %v", overdue, took)
				}
			})
		})
	}
}

// TestThread: what the kernel says of a thread, whatever its name is, and that one which takes itself down is not at work.
func TestThread(t *testing.T) {
	const rest = " 0 20 0 1 0 5678 1000 200 18446744073709551615\n"
	for stat, want := range map[string]struct {
		thread
		ending bool
	}{
		"12 (sh) R 1 12 12 0 -1 4194304 100" + rest:             {thread{'R', 4194304}, false},
		"12 (a) S (b) R) S 1 12 12 34816 12 4194560 100" + rest: {thread{'S', 4194560}, false},
		"12 (pimoe-expert) R 1 12 12 0 -1 4227084 100" + rest:   {thread{'R', 4227084}, true}, // PF_EXITING and others
		"12 (pimoe-expert) Z 1 12 12 0 -1 4227084 100" + rest:   {thread{'Z', 4227084}, true},
		"12 (sh) R 1 12 12 0 -1 x 100" + rest:                   {},
		"12 (sh) R 1 12":                                        {},
		"":                                                      {},
		"12 sh R 1 12 12 0 -1 4 1":                              {},
	} {
		if got := parseThread([]byte(stat)); got != want.thread || got.ending() != want.ending {
			t.Errorf("%q: %+v, ending %v", stat, got, got.ending())
		}
	}
}
