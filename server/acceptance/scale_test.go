package acceptance

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/instance"
)

// exactly is an answer to the bit: its text and its tokens' probabilities.
func exactly(a answer) string {
	text := a.text
	for _, tok := range a.tokens {
		text += fmt.Sprintf(" %x", math.Float32bits(tok.Logprob))
	}
	return text
}

// underLoad has the requests made again and again while f runs, each by a client of its own. Every answer must be the right one.
func underLoad(t *testing.T, i *instance.Instance, requests []engine.Request, right []string, f func()) (asked int64) {
	t.Helper()
	var n atomic.Int64
	stop := make(chan struct{})
	var load sync.WaitGroup
	for c, r := range requests {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a := run(t.Context(), i, r)
				n.Add(1)
				if a.err != nil || exactly(a) != right[c] {
					t.Errorf("request %d: error %v, %q, want %q", c, a.err, exactly(a), right[c])
					return
				}
			}
		})
	}
	f()
	close(stop)
	load.Wait()
	return n.Load()
}

// exact are requests of which every bit is looked at, and what the instance answers while nothing happens.
func exact(t *testing.T, i *instance.Instance, n int) (requests []engine.Request, right []string) {
	t.Helper()
	requests = stories(i, n)
	for c := range requests {
		requests[c].Logprobs = 0
		a := run(t.Context(), i, requests[c])
		if a.err != nil {
			t.Fatal(a.err)
		}
		right = append(right, exactly(a))
	}
	return requests, right
}

// TestReplicasFollowLoad: with real processes and under real requests groups grow, as far as the budget of processes goes, and
// when nobody asks any more they go back. No request fails and no bit changes.
func TestReplicasFollowLoad(t *testing.T) {
	const groups, budget = 8, 10
	i := open(t, func(c *config.Config) {
		c.Experts.MaxProcesses, c.Experts.RecheckOneIn = budget, 3 // the replicas' bits are compared, too
		// A group of the small model has calls for a few percent of the time: most of a step is not its own.
		c.Experts.Scaling = config.Scaling{MaxReplicas: 2, BusyPercent: 2, Window: 300 * time.Millisecond, CoolDown: 200 * time.Millisecond}
	})
	requests, right := exact(t, i, 1) // more keep the cores of a small or busy machine busy, and then no group grows
	for _, st := range i.Host.Scaling() {
		if st.Min != 1 || st.Max != 2 {
			t.Errorf("%+v", st)
		}
	}
	most := 0
	asked := underLoad(t, i, requests, right, func() {
		wait(t, "as many processes as the budget has", func() bool {
			most = max(most, len(i.Host.Status()))
			return most == budget && readyIn(i.Host.Scaling()) == budget
		})
		wait(t, "the first calls of a new replica", func() bool {
			return slices.ContainsFunc(i.Host.Status(), func(s host.Status) bool { return s.Replica == 1 && s.Calls > 0 })
		})
	})
	if most > budget {
		t.Errorf("%d processes", most)
	}
	began := time.Now()
	wait(t, "the processes of a host that nobody asks", func() bool { return len(i.Host.Status()) == groups })
	t.Logf("measured: %d requests; the groups had shrunk after %v", asked, time.Since(began))
	for _, st := range i.Host.Scaling() {
		if st.Wanted != 1 || st.Ready != 1 {
			t.Errorf("%+v", st)
		}
	}
	for _, st := range i.Host.Status() {
		if st.Restarts != 0 || st.Errors != 0 || st.LastDeath != nil {
			t.Errorf("%+v", st)
		}
	}
}

func readyIn(list []host.GroupStatus) (n int) {
	for _, st := range list {
		n += st.Ready
	}
	return n
}

// TestScale: an operator gives groups more and fewer processes under load, again and again; PIMOE_SCALINGS says how often.
func TestScale(t *testing.T) {
	i := open(t, func(c *config.Config) { c.Experts.Scaling.MaxReplicas = 3 })
	requests, right := exact(t, i, 3)
	asked := underLoad(t, i, requests, right, func() {
		for n := range rounds("PIMOE_SCALINGS", 6) {
			group := fmt.Sprintf("e%d", n%8)
			for _, replicas := range []int{3, 1} {
				st, err := i.Scale(group, replicas)
				if err != nil || st.Wanted != replicas || st.Ready != replicas || !st.Pinned {
					t.Fatalf("scale %s to %d: %+v, %v", group, replicas, st, err)
				}
			}
			if n%3 == 0 { // a change of program keeps the number
				if _, err := i.Scale(group, 2); err != nil {
					t.Fatal(err)
				}
				if done, err := i.Swap(t.Context(), group, instance.Change{Backend: "cpu"}); err != nil || !done.Difference.Same {
					t.Fatalf("%+v, %v", done, err)
				}
				if st := i.Host.Scaling()[n%8]; st.Wanted != 2 || st.Ready != 2 {
					t.Errorf("after a swap: %+v", st)
				}
			}
		}
	})
	t.Logf("measured: %d requests", asked)
	if _, err := i.Scale("e0", 4); !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), "want 1 to 3") {
		t.Errorf("more than may be: %v", err)
	}
	if st, err := i.Scale("e0", 0); err != nil || st.Pinned {
		t.Errorf("%+v, %v", st, err)
	}
}

// TestBudgets: what does not fit is refused at the start, with the setting's name, and later by whoever asks for more.
func TestBudgets(t *testing.T) {
	_, err := tryOpen(t, func(c *config.Config) { c.Limits.MemoryMB = 64 })
	if !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), `limits.memory_mb: "64" is wrong: want at least`) || !strings.Contains(err.Error(), "8 processes") {
		t.Fatalf("64 MiB for everything: %v", err)
	}
	var need int
	if _, after, ok := strings.Cut(err.Error(), "want at least "); !ok {
		t.Fatal(err)
	} else if _, err := fmt.Sscanf(after, "%d", &need); err != nil {
		t.Fatal(err)
	}
	i := open(t, func(c *config.Config) {
		c.Limits.MemoryMB, c.Experts.Scaling.MaxReplicas, c.Experts.MaxProcesses, c.Plugins.CPUs = need, 64, 64, 1
	})
	if st := i.Host.Status()[0]; st.Lanes > 1 {
		t.Errorf("%d lanes with one core for a process", st.Lanes)
	}
	if _, err := i.Scale("e0", 57); !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), "memory budget") {
		t.Errorf("57 replicas: %v", err)
	}
	if _, err := i.Scale("e0", 64); !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), "processes may run") {
		t.Errorf("64 replicas: %v", err)
	}
	if n := len(i.Host.Status()); n != 8 {
		t.Errorf("%d processes", n)
	}
}

// TestRebalance: the grouping that measured heat proposes is more even, is read as configuration, and gives the same bits.
func TestRebalance(t *testing.T) {
	skewed := map[string]any{ // most of the units in one process
		"a": []any{map[string]any{"layers": "all", "experts": "0-5"}},
		"b": []any{map[string]any{"layers": "all", "experts": 6}},
		"c": []any{map[string]any{"layers": "all", "experts": 7}},
	}
	i := open(t, func(c *config.Config) { c.Experts.Group = skewed })
	if r, err := i.Rebalance(); err != nil || r.Moved != 0 || r.Before != r.After || r.Groups[0].Heat != 0 {
		t.Errorf("without heat: %+v, %v", r, err)
	}
	requests, right := exact(t, i, 3)
	r, err := i.Rebalance()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("measured: %d units moved; %+v became %+v", r.Moved, r.Before, r.After)
	if r.Moved == 0 || r.After.Busiest >= 0.8*r.Before.Busiest || r.After.Layers > r.Before.Layers*1.0001 {
		t.Errorf("%d units moved; %+v became %+v", r.Moved, r.Before, r.After)
	}
	again := open(t, func(c *config.Config) { c.Experts.Group = r.Group })
	units := map[string]int{}
	for _, st := range again.Host.Status() {
		units[st.Group] = st.Units
	}
	for _, g := range r.Groups {
		if units[g.Group] != g.Later {
			t.Errorf("group %s has %d units, want %d", g.Group, units[g.Group], g.Later)
		}
	}
	for c, request := range requests {
		if a := run(t.Context(), again, request); a.err != nil || exactly(a) != right[c] {
			t.Errorf("request %d: error %v, %q, want %q", c, a.err, exactly(a), right[c])
		}
	}
}

// TestScaleCommands: the commands do to a running server what they say, and their output is of use.
func TestScaleCommands(t *testing.T) {
	p := launch(t, home(t), "--set", "experts.scaling.max_replicas=2")
	p.ready(t)
	pimoe := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(p.cmd.Path, append(args, "--admin", p.admin)...).CombinedOutput()
		if err != nil {
			t.Fatalf("pimoe %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	if out := pimoe("experts", "scale", "e3", "--replicas", "2"); !strings.Contains(out, "operator") {
		t.Error(out)
	}
	for _, want := range []string{"LAST CHANGE", "1 to 2, an operator has said so", "MEASURE", "e3/1"} {
		if out := pimoe("experts", "show", "e3"); !strings.Contains(out, want) {
			t.Errorf("show has no %q:\n%s", want, out)
		}
	}
	if out := pimoe("experts", "scale", "e3", "--auto"); strings.Contains(out, "operator  ") {
		t.Error(out)
	}
	out, err := exec.Command(p.cmd.Path, "experts", "scale", "e3", "--replicas", "3", "--admin", p.admin).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "want 1 to 2") {
		t.Errorf("3 replicas: %v %s", err, out)
	}
	if out := pimoe("experts", "rebalance", "--dry-run"); !strings.Contains(out, "0 units change places") {
		t.Error(out)
	}
	file := filepath.Join(t.TempDir(), "grouping.yaml")
	if err := os.WriteFile(file, []byte(pimoe("experts", "rebalance", "--print")), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(p.cmd.Path, "config", "check", file).CombinedOutput(); err != nil {
		t.Errorf("the proposal is no configuration: %v\n%s", err, out)
	}
}
