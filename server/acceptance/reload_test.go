package acceptance

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
)

// reloadable is a running server with a configuration file, a folder of plugins of its own, an API key, and clients that
// compare every answer with the first.
type reloadable struct {
	*program
	file, dir, keyFile string
	catalogue          string
	want               string
	asked              atomic.Int64
	stop               chan struct{}
	clients            sync.WaitGroup
}

const reloadKey = "a-key-of-the-reload-tests"

// reloadableServer starts a server with two clients. Its configuration is base; {dir} in it is the folder of plugins.
func reloadableServer(t *testing.T) *reloadable {
	t.Helper()
	store := home(t)
	r := &reloadable{file: filepath.Join(store, "pimoe.yaml"), dir: filepath.Join(store, "plugins"), keyFile: filepath.Join(store, "key"), stop: make(chan struct{})}
	r.catalogue = filepath.Join(r.dir, "plugins.yaml")
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pimoe-expert-cpu", "pimoe-expert-ref", "pimoe-router-model", "pimoe-router-hash"} {
		r.put(t, name, r.built(t, name))
	}
	r.pin(t)
	r.configure(t, r.base())
	if err := os.WriteFile(r.keyFile, []byte(reloadKey), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PIMOE_API_KEY_FILE", r.keyFile)
	r.program = launch(t, store, "--config", r.file)
	r.ready(t)
	text, _, err := r.ask(false)
	if err != nil || text == "" {
		t.Fatalf("text %q, error %v", text, err)
	}
	r.want = text
	for c := range 2 {
		r.clients.Go(func() {
			for n := c; ; n++ {
				select {
				case <-r.stop:
					return
				default:
				}
				text, _, err := r.ask(n%2 == 0)
				r.asked.Add(1)
				if err != nil || text != r.want {
					t.Errorf("a request during the reloads: error %v, text %q, want %q", err, text, r.want)
					return
				}
			}
		})
	}
	return r
}

func (r *reloadable) base() string {
	return "plugins:\n  dir: " + r.dir + "\nlimits:\n  request_timeout: 1m\n"
}

// rest ends the clients.
func (r *reloadable) rest(t *testing.T, atLeast int64) {
	t.Helper()
	close(r.stop)
	r.clients.Wait()
	if n := r.asked.Load(); n < atLeast {
		t.Errorf("%d requests: that was no load", n)
	}
	if err := r.terminate(); err != nil {
		t.Error(err)
	}
}

func (r *reloadable) built(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(coretest.Binaries(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// put replaces a plugin's file, as a package manager does: in one step.
func (r *reloadable) put(t *testing.T, name string, content []byte) {
	t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path+".new", content, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func (r *reloadable) pin(t *testing.T) {
	t.Helper()
	cmd := exec.Command(filepath.Join(coretest.Binaries(t), "pimoe"), "plugins", "pin", "--plugins", r.dir)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("pin: %v\n%s", err, b)
	}
}

func (r *reloadable) configure(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ask is a continuation with the key, and what the answer says of the plugins.
func (r *reloadable) ask(stream bool) (text, plugins string, err error) {
	req, err := http.NewRequest(http.MethodPost, r.url+"/v1/completions", strings.NewReader(fmt.Sprintf(completion, stream)))
	if err != nil {
		return "", "", err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+reloadKey)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		return "", "", fmt.Errorf("%s: %s", resp.Status, b)
	}
	if stream {
		var whole bytes.Buffer
		text, err = streamed(io.TeeReader(resp.Body, &whole))
		if m := pluginsRemark.FindStringSubmatch(whole.String()); m != nil {
			plugins = m[1]
		}
		return text, plugins, err
	}
	var body chunk
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		return "", "", err
	}
	return body.Choices[0].Text, resp.Header.Get("Pimoe-Plugins"), nil
}

var pluginsRemark = regexp.MustCompile(`(?m)^: plugins (.*)$`)

// answerOf is what the admin API says to a reload.
type answerOf struct {
	Status  int `json:"-"`
	Code    string
	Detail  string
	Hash    string
	Changes []struct{ Key string }
	Took    time.Duration `json:"took_ns"`
	Proc    *struct {
		Groups []struct{ Group string }
		Router string
	} `json:"processes"`
}

func (r *reloadable) reload(t *testing.T) answerOf {
	t.Helper()
	resp, err := http.Post(r.admin+"/admin/reload", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	a := answerOf{Status: resp.StatusCode}
	if err == nil {
		err = json.Unmarshal(b, &a)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return a
}

func (r *reloadable) hash(t *testing.T) string {
	t.Helper()
	resp, err := http.Get(r.admin + "/admin/config")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var c struct{ Hash, YAML string }
	if err := json.NewDecoder(resp.Body).Decode(&c); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(c.YAML, reloadKey) {
		t.Error("the admin API shows the key")
	}
	return c.Hash
}

// pids are the processes of the experts.
func (r *reloadable) pids(t *testing.T) string {
	t.Helper()
	resp, err := http.Get(r.admin + "/admin/experts")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var list struct {
		Experts []struct {
			PID   int
			Aside bool
		}
		Router struct{ PID int }
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(list)
}

// badConfigs are ways to be wrong, each with what its refusal must name.
var badConfigs = []struct {
	name string
	make func(r *reloadable, rng *rand.Rand) string
	says string
}{
	{"no YAML", func(r *reloadable, rng *rand.Rand) string {
		b := []byte(r.base())
		at := rng.IntN(len(b))
		return string(b[:at]) + "\n\t{[" + string(b[at:])
	}, ""},
	{"an unknown key", func(r *reloadable, rng *rand.Rand) string {
		return r.base() + fmt.Sprintf("  k%d: 1\n", rng.IntN(1e6))
	}, "unknown key"},
	{"a number out of bounds", func(r *reloadable, rng *rand.Rand) string {
		return r.base() + fmt.Sprintf("  max_concurrent_requests: %d\n", -rng.IntN(1e6))
	}, "limits.max_concurrent_requests"},
	{"no number", func(r *reloadable, rng *rand.Rand) string {
		return r.base() + fmt.Sprintf("  max_queued_requests: x%d\n", rng.IntN(1e6))
	}, "limits.max_queued_requests"},
	{"a key of another host", func(r *reloadable, rng *rand.Rand) string {
		return r.base() + fmt.Sprintf("  max_batch_tokens: %d\n", 513+rng.IntN(1000))
	}, "limits.max_batch_tokens can't be changed in a running host"},
	{"another model", func(r *reloadable, rng *rand.Rand) string {
		return r.base() + fmt.Sprintf("model: m%d\n", rng.IntN(1e6))
	}, "model can't be changed"},
	{"a missing plugin", func(r *reloadable, rng *rand.Rand) string {
		return r.base() + fmt.Sprintf("experts:\n  backend: b%d\n", rng.IntN(1e6))
	}, "no such file"},
	{"a missing router", func(r *reloadable, rng *rand.Rand) string {
		return r.base() + fmt.Sprintf("router:\n  plugin: r%d\n", rng.IntN(1e6))
	}, "no such file"},
	{"a missing catalogue", func(r *reloadable, rng *rand.Rand) string {
		return strings.Replace(r.base(), "limits:", fmt.Sprintf("  catalogue: /nowhere/%d.yaml\nlimits:", rng.IntN(1e6)), 1)
	}, "catalogue"},
	{"an expert that does not exist", func(r *reloadable, rng *rand.Rand) string {
		return r.base() + fmt.Sprintf("experts:\n  overrides:\n  - {layers: all, experts: %d, backend: ref}\n", 8+rng.IntN(100))
	}, "experts.overrides"},
	{"another placement", func(r *reloadable, rng *rand.Rand) string {
		return r.base() + fmt.Sprintf("experts:\n  overrides:\n  - {layers: 0, experts: %d, backend: ref}\n", rng.IntN(8))
	}, "which expert groups there are"},
	{"a plugin that is not pinned", func(r *reloadable, rng *rand.Rand) string {
		return r.base() + fmt.Sprintf("experts:\n  overrides:\n  - {layers: all, experts: %d, plugin: %s/nasty-zeros}\n", rng.IntN(8), r.dir)
	}, "catalogue"},
	{"a plugin that lies", func(r *reloadable, rng *rand.Rand) string {
		return r.base() + fmt.Sprintf("experts:\n  overrides:\n  - {layers: all, experts: %d, plugin: %s/pimoe-expert-liar}\n", rng.IntN(8), r.dir)
	}, "expert group e"},
	{"a key that is gone", nil, "api_key"},
}

// TestBadReloads tries to reload configurations that are wrong, in files and by the admin API and SIGHUP, under load: nothing
// changes, no request notices, and the reason is told. PIMOE_BAD_CONFIGS says how many.
func TestBadReloads(t *testing.T) {
	r := reloadableServer(t)
	r.putNasty(t)
	hash, pids := r.hash(t), r.pids(t)
	rng := rand.New(rand.NewPCG(22, 1))
	times := rounds("PIMOE_BAD_CONFIGS", 3*len(badConfigs))
	for n := range times {
		wait(t, "load", func() bool { return r.asked.Load() >= int64(n)/4 || t.Failed() })
		bad := badConfigs[n%len(badConfigs)]
		if bad.make == nil { // the secret is no part of the file
			r.configure(t, r.base())
			if err := os.WriteFile(r.keyFile, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		} else {
			r.configure(t, bad.make(r, rng))
		}
		if n%3 == 2 {
			rejected := strings.Count(r.stderr.String(), "config_rejected")
			if err := r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			wait(t, "the refusal of "+bad.name, func() bool { return strings.Count(r.stderr.String(), "config_rejected") > rejected })
		} else if a := r.reload(t); a.Status/100 == 2 || a.Code != "config_rejected" || !strings.Contains(a.Detail, bad.says) {
			t.Errorf("%s: %+v, want it to say %q", bad.name, a, bad.says)
		}
		if bad.make == nil {
			if err := os.WriteFile(r.keyFile, []byte(reloadKey), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := r.hash(t); got != hash {
			t.Fatalf("%s: the hash is %s, before %s", bad.name, got, hash)
		}
	}
	if got := r.pids(t); got != pids {
		t.Errorf("the processes are others: %s, before %s", got, pids)
	}
	if strings.Contains(r.stderr.String(), "config_applied") {
		t.Error("something was applied")
	}

	// The good ones: a limit, then all groups.
	r.configure(t, r.base()+"  max_queued_requests: 77\nlog:\n  level: debug\n")
	limit := r.reload(t)
	if limit.Status != http.StatusOK || len(limit.Changes) != 2 || limit.Proc != nil || limit.Hash == hash || limit.Hash != r.hash(t) || limit.Took > 5*time.Second {
		t.Errorf("a good reload of a limit: %+v", limit)
	}
	r.configure(t, r.base()+"  max_queued_requests: 77\nexperts:\n  backend: ref\n")
	groups := r.reload(t)
	if groups.Status != http.StatusOK || groups.Proc == nil || len(groups.Proc.Groups) != 8 {
		t.Errorf("a good reload of all groups: %+v", groups)
	}
	if again := r.reload(t); again.Status != http.StatusOK || len(again.Changes) != 0 || again.Proc != nil || again.Hash != groups.Hash {
		t.Errorf("the same once more: %+v", again)
	}
	r.rest(t, int64(times)/4)
	t.Logf("measured: %d bad configurations under %d requests; a good one took %v, with all groups %v", times, r.asked.Load(), limit.Took, groups.Took)
}

// putNasty puts the nasty plugin into the folder, once pinned and once not.
func (r *reloadable) putNasty(t *testing.T) {
	t.Helper()
	nasty, err := os.ReadFile(build(t, t.TempDir(), "nasty", "nasty"))
	if err != nil {
		t.Fatal(err)
	}
	r.put(t, "pimoe-expert-liar", nasty)
	r.pin(t)
	r.put(t, "nasty-zeros", nasty)
}

// TestRollingUpgrade replaces the experts' plugin under load, time and again, every fifth time by a version that is broken in
// some way: no request fails, every answer is the same, and its plugins are those before or after, never both. A broken
// version is refused within five seconds. PIMOE_UPGRADES says how often.
func TestRollingUpgrade(t *testing.T) {
	r := reloadableServer(t)
	good, nasty := r.built(t, "pimoe-expert-cpu"), build(t, t.TempDir(), "nasty", "nasty")
	liar, err := os.ReadFile(nasty)
	if err != nil {
		t.Fatal(err)
	}
	broken := []struct {
		name string
		file []byte
	}{
		{"answers zeros", liar}, {"does not start", good[:len(good)/2]},
		{"is no plugin", r.built(t, "pimoe")}, {"is a router", r.built(t, "pimoe-router-model")}, {"is no program", []byte("#!/bin/sh\nexit 0\n")},
	}
	version := func() string {
		_, plugins, err := r.ask(false)
		if err != nil {
			t.Fatal(err)
		}
		return plugins
	}
	before, slowest, slowestBack := version(), time.Duration(0), time.Duration(0)
	if !regexp.MustCompile(`^experts=[0-9a-f]{12}; router=[0-9a-f]{12}$`).MatchString(before) {
		t.Fatalf("an answer names the plugins %q", before)
	}
	if _, plugins, err := r.ask(true); err != nil || plugins != before {
		t.Errorf("a stream names the plugins %q, error %v", plugins, err)
	}
	for n := range rounds("PIMOE_UPGRADES", 10) {
		began := time.Now()
		if n%5 == 4 {
			b := broken[n/5%len(broken)]
			r.put(t, "pimoe-expert-cpu", b.file)
			r.pinForced(t)
			a := r.reload(t)
			if a.Status == http.StatusOK {
				t.Fatalf("a version that %s was taken: %+v", b.name, a)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("a version that %s was rolled back after %v", b.name, took)
			}
			slowestBack = max(slowestBack, time.Since(began))
			if got := version(); got != before {
				t.Errorf("after a version that %s: plugins %q, want %q", b.name, got, before)
			}
			continue
		}
		r.put(t, "pimoe-expert-cpu", append(bytes.Clone(good), fmt.Sprintf("version %d", n)...))
		r.pinForced(t)
		a := r.reload(t)
		if a.Status != http.StatusOK || a.Proc == nil || len(a.Proc.Groups) != 8 {
			t.Fatalf("upgrade %d: %+v", n, a)
		}
		slowest = max(slowest, a.Took)
		got := version()
		if got == before || strings.Contains(got, ",") {
			t.Errorf("upgrade %d: plugins %q, before %q", n, got, before)
		}
		before = got
	}
	// A bad file lies there, and a process dies: what runs is what was taken, not what lies there.
	r.put(t, "pimoe-expert-cpu", liar)
	for _, pid := range children(t) {
		if exe, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); bytes.Contains(exe, []byte("pimoe-expert-cpu")) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if got := version(); got != before {
		t.Errorf("after the deaths: plugins %q, want %q", got, before)
	}
	r.rest(t, 10)
	t.Logf("measured: upgrades under %d requests; the slowest took %v, the slowest roll-back %v", r.asked.Load(), slowest, slowestBack)
}

// pinForced writes the catalogue without looking at what the file is.
func (r *reloadable) pinForced(t *testing.T) {
	t.Helper()
	var b strings.Builder
	b.WriteString("plugins:\n")
	for _, name := range []string{"cpu", "ref"} {
		fmt.Fprintf(&b, "- {name: %s, kind: expert, version: \"1\", sha256: %s}\n", name, sum(t, filepath.Join(r.dir, "pimoe-expert-"+name)))
	}
	for _, name := range []string{"model", "hash"} {
		fmt.Fprintf(&b, "- {name: %s, kind: router, version: \"1\", sha256: %s}\n", name, sum(t, filepath.Join(r.dir, "pimoe-router-"+name)))
	}
	if err := os.WriteFile(r.catalogue, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestReloadRouter changes the router and back: requests keep the one that they began with, and the texts are each router's own.
func TestReloadRouter(t *testing.T) {
	r := reloadableServer(t)
	close(r.stop) // these clients know one text only
	r.clients.Wait()
	r.configure(t, r.base()+"router:\n  plugin: hash\n")
	if a := r.reload(t); a.Status != http.StatusOK || a.Proc == nil || a.Proc.Router != "hash" || len(a.Proc.Groups) != 0 {
		t.Fatalf("to hash: %+v", a)
	}
	hashed, _, err := r.ask(false)
	if err != nil || hashed == r.want {
		t.Fatalf("the text is the model router's, error %v", err)
	}
	right := map[string]bool{r.want: true, hashed: true}
	var clients sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if text, _, err := r.ask(true); err != nil || !right[text] {
					t.Errorf("error %v, text %q is neither router's", err, text)
					return
				}
			}
		})
	}
	for n := range rounds("PIMOE_ROUTER_RELOADS", 4) {
		name := []string{"model", "hash"}[n%2]
		r.configure(t, r.base()+"router:\n  plugin: "+name+"\n")
		if a := r.reload(t); a.Status != http.StatusOK || a.Proc == nil || a.Proc.Router != name {
			t.Fatalf("to %s: %+v", name, a)
		}
		if text, _, err := r.ask(false); err != nil || (text == r.want) != (name == "model") {
			t.Errorf("after the change to %s: error %v, text %q", name, err, text)
		}
	}
	close(stop)
	clients.Wait()
	if err := r.terminate(); err != nil {
		t.Error(err)
	}
}

// sum is a file's digest in hexadecimal.
func sum(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// TestReloadRollsBack: a version that passes every test and breaks under load, while it is watched, is rolled back; no request
// loses its answer, and the configuration is the one before.
func TestReloadRollsBack(t *testing.T) {
	dir := t.TempDir()
	nasty := build(t, dir, "nasty", "nasty")
	for _, mode := range []string{"zeros", "nan-later"} {
		if err := os.Link(nasty, filepath.Join(dir, "nasty-"+mode)); err != nil {
			t.Fatal(err)
		}
	}
	use := func(mode string) []config.Override {
		return []config.Override{{Layers: "all", Experts: []any{1}, Plugin: filepath.Join(dir, "nasty-"+mode)}}
	}
	i := open(t, func(c *config.Config) {
		c.Plugins.Dev = true
		c.Experts.Overrides = use("zeros")
	})
	request := greedy(story(i, "a fox and a lamp"), 40)
	want := run(t.Context(), i, request)
	if want.err != nil {
		t.Fatal(want.err)
	}
	hash := i.Applied().Hash()
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 2 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if a := run(t.Context(), i, request); a.err != nil || a.text != want.text {
					t.Errorf("error %v, text %q, want %q", a.err, a.text, want.text)
					return
				}
			}
		})
	}
	next := i.Applied()
	next.Experts.Overrides = use("nan-later")
	next.Limits.MaxQueuedRequests = 7
	began := time.Now()
	done, err := i.Reload(t.Context(), next)
	if err == nil || !strings.Contains(err.Error(), "rolled back") {
		t.Errorf("reloaded %+v, error %v", done, err)
	}
	took, why := time.Since(began), err
	if i.Applied().Hash() != hash {
		t.Error("the configuration has changed")
	}
	if took > 5*time.Second {
		t.Errorf("the roll-back took %v", took)
	}
	// What is good is still taken: the same zeros from another path, and a limit.
	if err := os.Link(nasty, filepath.Join(dir, "nasty-zeros2")); err != nil {
		t.Fatal(err)
	}
	next.Experts.Overrides = use("zeros2")
	if done, err = i.Reload(t.Context(), next); err != nil || done.Processes == nil || len(done.Processes.Groups) != 1 {
		t.Errorf("reloaded %+v, error %v", done, err)
	}
	close(stop)
	clients.Wait()
	wait(t, "the end of what was replaced", func() bool { return len(i.Host.Status()) == 8 })
	t.Logf("measured: rolled back after %v: %v", took, why)
}
