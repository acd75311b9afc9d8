package acceptance

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/instance"
)

// TestWorkHappensInTheProcesses: the host maps no expert shard, and the calls and rows of the processes add up.
func TestWorkHappensInTheProcesses(t *testing.T) {
	i := open(t)
	const n = 20
	r := greedy(story(i, "a fox and a lamp"), n)
	if a := run(t.Context(), i, r); a.err != nil {
		t.Fatal(a.err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(maps), "expert-0") {
		t.Error("an expert shard is mapped in the host")
	}
	layers, topK := len(i.Model.SparseLayers()), i.Model.TopK
	var rows, calls uint64
	for _, s := range i.Host.Status() {
		rows += s.Rows
		calls += s.Calls
		if s.PID == os.Getpid() || s.PID == 0 {
			t.Errorf("group %s: pid %d", s.Group, s.PID)
		}
		shards, err := os.ReadFile("/proc/" + strconv.Itoa(s.PID) + "/maps")
		if err != nil || !strings.Contains(string(shards), "expert-0") {
			t.Errorf("group %s: process %d maps no expert shard (%v)", s.Group, s.PID, err)
		}
	}
	tokens := len(r.Prompt) + n - 1 // the last token is not computed any more
	// In the last layer only those go through the experts whose logits are wanted: one for each token that was drawn.
	if want := uint64((tokens*(layers-1) + n) * topK); rows != want {
		t.Errorf("%d rows in all processes, want (%d tokens x %d layers + %d) x %d experts = %d", rows, tokens, layers-1, n, topK, want)
	}
	steps := i.Engine.Stats().Steps
	router := i.Host.RouterStatus()
	if want := steps * uint64(layers); router.PluginCalls != want || router.StandInCalls != 0 {
		t.Errorf("router calls: %d by the plugin, %d by the stand-in; want %d steps x %d layers = %d and 0",
			router.PluginCalls, router.StandInCalls, steps, layers, want)
	}
	if calls == 0 || calls > steps*uint64(layers*8) {
		t.Errorf("%d calls in %d steps", calls, steps)
	}
}

// TestRouterDecides: another strategy gives other tokens, and those that are load-dependent say so; keys and values that
// they have decided are never taken over.
func TestRouterDecides(t *testing.T) {
	text := func(router string, depends bool) string {
		i := open(t, func(c *config.Config) { c.Router.Plugin = router })
		r := greedy(story(i, "a fox and a lamp"), 24)
		a := run(t.Context(), i, r)
		if a.err != nil {
			t.Fatal(a.err)
		}
		if got := cached(t, i, r) > 0; got == depends {
			t.Errorf("router %s: prefix taken over = %v", router, got)
		}
		if got := slices.Contains(i.Host.RouterStatus().Capabilities, sdk.CapLoadDependent); got != depends {
			t.Errorf("router %s: load-dependent = %v", router, got)
		}
		return a.text
	}
	model := text("model", false)
	for _, c := range []struct {
		router  string
		depends bool
		near    bool // the model's own routes, on purpose
	}{
		{"hash", false, false}, {"random", false, false}, {"hierarchical", false, true}, {"round-robin", true, false},
		{"load-aware", true, true}, {"attention", true, true}, {"adaptive", true, true}, {"learned", true, true},
	} {
		if got := text(c.router, c.depends); got == model && !c.near {
			t.Errorf("router %s gives the model router's text", c.router)
		}
	}
}

// TestObservations: routers that learn from load are told of it while there is work, also the process that has taken the
// place of a dead one; others are told nothing.
func TestObservations(t *testing.T) {
	if n := observed(t, "load-aware"); n != 0 {
		t.Errorf("a router that does not observe was told %d times", n)
	}
	for _, router := range []string{"adaptive", "learned"} {
		i := open(t, func(c *config.Config) { c.Router.Plugin = router })
		for round := range 2 {
			before := i.Host.RouterStatus()
			work(t, i, func() bool { return i.Host.RouterStatus().Observations >= before.Observations+3 })
			if round == 0 {
				if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
		if st := i.Host.RouterStatus(); st.Restarts != 1 {
			t.Errorf("router %s: %d restarts, want 1", router, st.Restarts)
		}
	}
}

// observed is how often a router is told in a second of work.
func observed(t *testing.T, router string) uint64 {
	t.Helper()
	i := open(t, func(c *config.Config) { c.Router.Plugin = router })
	end := time.Now().Add(time.Second)
	work(t, i, func() bool { return time.Now().After(end) })
	return i.Host.RouterStatus().Observations
}

// work runs requests until done.
func work(t *testing.T, i *instance.Instance, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); {
		if time.Now().After(deadline) {
			t.Fatal("a minute of work was not enough")
		}
		if a := run(t.Context(), i, greedy(story(i, "a fox and a lamp"), 100)); a.err != nil {
			t.Fatal(a.err)
		}
	}
}

// TestZeroExpertChangesTokens: what the processes answer is what counts.
func TestZeroExpertChangesTokens(t *testing.T) {
	zeros := build(t, t.TempDir(), "zeros", "pimoe-expert-zeros")
	text := func(change func(*config.Config)) string {
		i := open(t, change)
		a := run(t.Context(), i, greedy(story(i, "a fox and a lamp"), 24))
		if a.err != nil {
			t.Fatal(a.err)
		}
		return a.text
	}
	real := text(func(*config.Config) {})
	one := text(func(c *config.Config) {
		c.Plugins.Dev = true // it is in no catalogue
		c.Experts.Overrides = []config.Override{{Layers: "all", Experts: []any{5}, Plugin: zeros}}
	})
	all := text(func(c *config.Config) {
		c.Plugins.Dev = true
		c.Experts.Overrides = []config.Override{{Layers: "all", Experts: "all", Plugin: zeros}}
	})
	if one == real || all == real || all == one {
		t.Errorf("texts with no, one and only zero experts:\n%q\n%q\n%q", real, one, all)
	}
}

// pluginFolder copies the plugins, so that a test may damage them.
func pluginFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(coretest.Binaries(t))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestImpossibleRestart: when a killed process can't come back, the waiting request is told so at once, with the group
// and the cause; when the executable is there again, requests are answered again.
func TestImpossibleRestart(t *testing.T) {
	plugins := pluginFolder(t)
	i := open(t, func(c *config.Config) { c.Plugins.Dir = plugins })
	r := greedy(story(i, "a fox and a lamp"), 24)
	want := run(t.Context(), i, r)
	if want.err != nil {
		t.Fatal(want.err)
	}
	path := filepath.Join(plugins, "pimoe-expert-cpu")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(i.Host.Status()[2].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r.MaxTokens = 200
	a := run(t.Context(), i, r)
	if !errors.Is(a.err, sdk.ErrUnavailable) {
		t.Fatalf("error %v, want unavailable", a.err)
	}
	for _, part := range []string{"e2", "SIGKILL", "not executable"} {
		if !strings.Contains(a.err.Error(), part) {
			t.Errorf("error %q does not say %q", a.err, part)
		}
	}
	if strings.Contains(a.err.Error(), plugins) {
		t.Errorf("error %q shows a path", a.err)
	}
	t.Logf("measured: told after %v: %v", time.Since(began), a.err)
	if err := i.Ready(); err == nil || !strings.Contains(err.Error(), "e2") {
		t.Errorf("ready says %v", err)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	r.MaxTokens = 24
	for deadline := time.Now().Add(30 * time.Second); ; {
		if a := run(t.Context(), i, r); a.err == nil {
			if a.text != want.text {
				t.Errorf("text %q, want %q", a.text, want.text)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the group did not come back")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestPluginFaults: a plugin that can't serve is an error at start that says what is wrong, and nothing is left.
func TestPluginFaults(t *testing.T) {
	dir := t.TempDir()
	nasty := build(t, dir, "nasty", "nasty")
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, []byte("#!/no/such/interpreter\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	t.Cleanup(func() {
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
	})
	for name, want := range map[string][]string{
		filepath.Join(dir, "missing"): {"missing", "no such file"},
		empty:                         {"empty", "not executable"},
		"exits-at-once":               {"3", "I do not want to"},
		"prints-first":                {"hello, I am a plugin"},
		"wrong-protocol":              {"99"},
		"hangs-at-start":              {"within"},
		"hangs-in-load":               {"load", "not ready within"},
		"refuses-load":                {"layer 0 expert 0", "cursed"},
		"dies-in-load":                {"exited with code 7"},
		"answers-nan":                 {"NaN"},
	} {
		t.Run(filepath.Base(name), func(t *testing.T) {
			path := name
			if !filepath.IsAbs(name) {
				path = filepath.Join(dir, "nasty-"+name)
				if err := os.Link(nasty, path); err != nil {
					t.Fatal(err)
				}
			}
			if strings.HasPrefix(name, "hangs-") { // ten seconds each
				t.Parallel()
			}
			began := time.Now()
			_, err := tryOpen(t, func(c *config.Config) {
				c.Experts.Overrides = []config.Override{{Layers: "all", Experts: []any{1}, Plugin: path}}
				c.Plugins.Dev = true // it is in no catalogue
			})
			if err == nil {
				t.Fatal("the instance opened")
			}
			t.Logf("after %v: %v", time.Since(began), err)
			for _, part := range want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error does not say %q: %v", part, err)
				}
			}
		})
	}
}

// TestInvalidAnswers: an expert that begins to answer NaN is replaced, its call is repeated on the fresh process, and no
// client sees anything of it.
func TestInvalidAnswers(t *testing.T) {
	dir := t.TempDir()
	nasty := build(t, dir, "nasty", "nasty")
	text := func(mode string) (string, *instance.Instance) {
		path := filepath.Join(dir, "nasty-"+mode)
		if err := os.Link(nasty, path); err != nil {
			t.Fatal(err)
		}
		i := open(t, func(c *config.Config) {
			c.Experts.Overrides = []config.Override{{Layers: "all", Experts: []any{1}, Plugin: path}}
			c.Plugins.Dev = true // it is in no catalogue
		})
		a := run(t.Context(), i, greedy(story(i, "a fox and a lamp"), 40))
		if a.err != nil {
			t.Fatal(a.err)
		}
		return a.text, i
	}
	want, _ := text("zeros")
	got, i := text("nan-later")
	if got != want {
		t.Errorf("text %q, want %q", got, want)
	}
	for _, s := range i.Host.Status() {
		if s.Group != "e1" {
			continue
		}
		if s.Errors == 0 || s.Restarts == 0 || s.LastDeath == nil || !strings.Contains(s.LastDeath.Cause, "invalid answer") {
			t.Errorf("status %+v with last death %+v", s, s.LastDeath)
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// footprint is what must not grow.
type footprint struct{ goroutines, descriptors, maps int }

func measure(t *testing.T) footprint {
	t.Helper()
	runtime.GC()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	shared := 0
	for line := range strings.Lines(string(maps)) {
		if strings.Contains(line, "/") { // files and memfds; the Go heap's own maps come and go
			shared++
		}
	}
	return footprint{runtime.NumGoroutine(), descriptors(t), shared}
}

// TestNoLeaks: a thousand requests and a hundred restarts leave goroutines, descriptors and memory maps as they were.
func TestNoLeaks(t *testing.T) {
	i := open(t)
	work := func(requests, restarts int) {
		var wg sync.WaitGroup
		gate := make(chan struct{}, 8)
		for n := range requests {
			wg.Add(1)
			gate <- struct{}{}
			go func() {
				defer func() { <-gate; wg.Done() }()
				if a := run(t.Context(), i, greedy(prompt(i, uint64(n), 5+n%20), 2)); a.err != nil {
					t.Error(a.err)
				}
			}()
		}
		wg.Wait()
		for n := range restarts {
			if _, err := killOne(t.Context(), i, n); err != nil {
				t.Fatal(err)
			}
			// A process that dies before its first answer waits longer each time, so each gets one.
			if a := run(t.Context(), i, greedy(prompt(i, 1, 60), 1)); a.err != nil {
				t.Error(a.err)
			}
		}
	}
	work(50, 9)
	before := measure(t)
	work(rounds("PIMOE_LEAK_REQUESTS", 1000), rounds("PIMOE_LEAK_RESTARTS", 100))
	var after footprint
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if after = measure(t); after.goroutines <= before.goroutines && after.descriptors <= before.descriptors && after.maps <= before.maps {
			t.Logf("measured: before %+v, after %+v", before, after)
			return
		}
	}
	t.Errorf("before %+v, after %+v", before, after)
}

// TestCloseFreesTrunk: a closed instance, and one that could not start, leave none of the trunk's memory mapped.
func TestCloseFreesTrunk(t *testing.T) {
	store := home(t)
	in := func(c *config.Config) { c.Home = store }
	trunks := func() int {
		maps, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(maps), filepath.Join(store, "models", "pimoe-tiny", "packed", "trunk-"))
	}
	i := open(t, in)
	if n := trunks(); n == 0 {
		t.Fatal("no trunk is mapped while an instance is open")
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	if n := trunks(); n != 0 {
		t.Errorf("%d mappings of the trunk after Close", n)
	}
	if _, err := tryOpen(t, in, func(c *config.Config) { c.Router.Plugin = "none-such" }); err == nil {
		t.Fatal("opened without a router")
	}
	if n := trunks(); n != 0 {
		t.Errorf("%d mappings of the trunk after a failed start", n)
	}
}

// TestRot: weights that change under a running host are found by the sweep. The processes that map them are replaced,
// the group says why it can't answer, and it comes back with the right bytes.
func TestRot(t *testing.T) {
	store := home(t)
	i := open(t, func(c *config.Config) { c.Home = store })
	r := greedy(story(i, "a fox and a lamp"), 24)
	want := run(t.Context(), i, r)
	if want.err != nil {
		t.Fatal(want.err)
	}
	path := mapped(t, store, "expert-0003.safetensors")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := int64(len(whole) / 2)
	if _, err := f.WriteAt([]byte{whole[at] ^ 1}, at); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for i.Ready() == nil || !strings.Contains(i.Ready().Error(), "damaged") {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("ready says %v", i.Ready())
		}
		time.Sleep(time.Millisecond)
	}
	t.Logf("measured: found after %v with a sweep every %v: %v", time.Since(began), sweepEvery, i.Ready())
	told, _ := eventsOf.Load(store)
	if d := told.(*events).of(host.EventDamaged); len(d) == 0 || d[0].Object != "expert 3" || d[0].Since.IsZero() || d[0].Since.After(time.Now()) {
		t.Errorf("for the audit log: %+v", d)
	}
	if a := run(t.Context(), i, r); !errors.Is(a.err, sdk.ErrUnavailable) || !strings.Contains(a.err.Error(), "e3") {
		t.Errorf("answered %q, %v", a.text, a.err)
	}
	if _, err := f.WriteAt(whole[at:at+1], at); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); i.Ready() != nil; time.Sleep(time.Millisecond) {
		if time.Since(began) > 80*time.Second {
			t.Fatalf("not back: %v", i.Ready())
		}
	}
	if a := run(t.Context(), i, r); a.text != want.text {
		t.Errorf("text %q, %v, want %q", a.text, a.err, want.text)
	}
}

// mapped is the file of the embedded model that the processes map: packed for their class.
func mapped(t *testing.T, store, file string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(store, "models", "pimoe-tiny", "packed", "*", file))
	if err != nil || len(paths) != 1 {
		t.Fatalf("%s is packed as %v, %v", file, paths, err)
	}
	return paths[0]
}

// TestTrunkRot: the trunk is mapped, too. The host can't be replaced as a process can, so it says that it is not ready, for as
// long as the file is damaged.
func TestTrunkRot(t *testing.T) {
	store := home(t)
	i := open(t, func(c *config.Config) { c.Home = store })
	path := mapped(t, store, "trunk.safetensors")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := int64(len(whole) / 2)
	until := func(what string, done func() bool) {
		for began := time.Now(); !done(); time.Sleep(time.Millisecond) {
			if time.Since(began) > 20*time.Second {
				t.Fatalf("%s: ready says %v", what, i.Ready())
			}
		}
	}
	if _, err := f.WriteAt([]byte{whole[at] ^ 1}, at); err != nil {
		t.Fatal(err)
	}
	until("damaged", func() bool {
		return i.Ready() != nil && strings.Contains(i.Ready().Error(), "trunk's weights are damaged")
	})
	if _, err := f.WriteAt(whole[at:at+1], at); err != nil {
		t.Fatal(err)
	}
	until("mended", func() bool { return i.Ready() == nil })
}

// TestDamagedStore: a weight file whose bytes changed is refused by name before anything serves; one that is missing or
// cut off is imported or packed again, since the source is at hand.
func TestDamagedStore(t *testing.T) {
	store := home(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := config.Default()
	c.Home = store
	m, err := instance.OpenModel(ctx, c, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := instance.Pack(ctx, c, m, nil); err != nil {
		t.Fatal(err)
	}
	packed := []string{mapped(t, store, "expert-0003.safetensors"), mapped(t, store, "trunk.safetensors")}
	flip := func(path string) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b[len(b)/2] ^= 1
		return os.WriteFile(path, b, 0o600)
	}
	for _, damage := range []struct {
		name    string
		do      func(path string) error
		refused bool
	}{
		{"missing", os.Remove, false},
		{"truncated", func(path string) error { return os.Truncate(path, 1000) }, false},
		{"flipped bit", flip, true},
	} {
		for _, path := range append([]string{m.ExpertPath(3), m.TrunkPath()}, packed...) {
			t.Run(damage.name+" "+strings.TrimPrefix(path, m.Dir), func(t *testing.T) {
				if damage.refused && filepath.Dir(path) == m.Dir { // what was imported is read when it is packed
					if err := os.RemoveAll(filepath.Join(m.Dir, "packed")); err != nil {
						t.Fatal(err)
					}
				}
				whole, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := damage.do(path); err != nil {
					t.Fatal(err)
				}
				_, err = tryOpen(t, func(c *config.Config) { c.Home = store })
				if !damage.refused {
					if now, readErr := os.ReadFile(path); err != nil || readErr != nil || !bytes.Equal(now, whole) {
						t.Errorf("not made again: %v, %v", err, readErr)
					}
					return
				}
				if err == nil || !strings.Contains(err.Error(), filepath.Base(path)) || !strings.Contains(err.Error(), "sha256") {
					t.Errorf("error %v, want one that names the file", err)
				}
				if err := os.WriteFile(path, whole, 0o600); err != nil {
					t.Fatal(err)
				}
				if i, err := tryOpen(t, func(c *config.Config) { c.Home = store }); err != nil || i.Ready() != nil {
					t.Errorf("mended: %v", err)
				}
			})
		}
	}
}
