package acceptance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/coretest/names"
	"github.com/pimoe/pimoe/core/coretest/wan"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/instance"
)

// endpoint is an expert program that serves other machines.
type endpoint struct {
	addr string
	cmd  *exec.Cmd
	log  *lines
	once sync.Once
	code int
}

// lines are what a program has written to standard error.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// serving starts an expert program and waits until it listens. prefix runs it, such as in a namespace of its own.
func serving(t testing.TB, prefix []string, backend, home string, args ...string) *endpoint {
	t.Helper()
	all := append(slices.Clone(prefix), filepath.Join(coretest.Binaries(t), "pimoe-expert-"+backend), "serve", "--store", home)
	if !slices.Contains(args, "--listen") {
		all = append(all, "--listen", "127.0.0.1:0")
	}
	all = append(all, args...)
	e := &endpoint{cmd: exec.Command(all[0], all[1:]...), log: &lines{}}
	e.cmd.Stderr = e.log
	e.cmd.Env = append(os.Environ(), "GOMAXPROCS=2")
	out, err := e.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.end(syscall.SIGKILL) })
	first := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		first <- line
	}()
	select {
	case line := <-first:
		if e.addr = strings.TrimSpace(strings.TrimPrefix(line, "listening on ")); e.addr == "" {
			e.end(syscall.SIGKILL)
			t.Fatalf("the expert does not listen: %s", e.log)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("the expert does not listen: %s", e.log)
	}
	return e
}

// end sends a signal and returns the exit status.
func (e *endpoint) end(s syscall.Signal) int {
	e.once.Do(func() {
		_ = e.cmd.Process.Signal(s)
		if err := e.cmd.Wait(); err != nil {
			e.code = 1
		}
	})
	return e.code
}

// stored is a store with a model in it: the embedded one, or one of a folder.
func stored(t testing.TB, dir string) (home_, name string) {
	t.Helper()
	c := config.Default()
	c.Home, c.Model = home(t), dir
	m, err := instance.OpenModel(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.Home, m.Name
}

// away has all experts computed by one group of endpoints.
func away(tls config.RemoteTLS, endpoints ...string) func(*config.Config) {
	return func(c *config.Config) {
		c.Experts.Group = map[string]any{"all": entry("all")}
		c.Experts.Remote = []config.Remote{{Group: "*", Endpoints: endpoints, TLS: tls}}
	}
}

// pair is a host's and an expert's certificate.
func pair(t testing.TB, a *coretest.Authority) (host config.RemoteTLS, flags []string, issue func()) {
	t.Helper()
	one, other := t.TempDir(), t.TempDir()
	h, e := a.Issue(t, one, "host"), a.Issue(t, other, "expert", "127.0.0.1")
	return config.RemoteTLS{CertFile: h.Cert, KeyFile: h.Key, CAFile: h.CA},
		[]string{"--tls-cert", e.Cert, "--tls-key", e.Key, "--tls-ca", e.CA},
		func() { a.Issue(t, one, "host"); a.Issue(t, other, "expert", "127.0.0.1") }
}

// TestRemoteBits: experts on other machines give the bits of those here, in every numeric class, with the groups spread over
// several endpoints.
func TestRemoteBits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, backend, precision, dir string }{
		{"bf16w-f32", "cpu", "auto", ""},
		{"int8g32", "int8", "auto", ""},
		{"f32", "cpu", "f32", coretest.Golden(t, "models", "qwen3_moe")},
	} {
		t.Run(c.name, func(t *testing.T) {
			home, name := stored(t, c.dir)
			change := func(cfg *config.Config) {
				cfg.Home, cfg.Model, cfg.Experts.Backend, cfg.Experts.Precision = home, c.dir, c.backend, c.precision
			}
			here := open(t, change)
			ask := greedy(prompt(here, 1, 40), 8)
			ask.Logprobs = 1
			want := run(t.Context(), here, ask)
			tls, flags, _ := pair(t, coretest.NewAuthority(t))
			flags = append(flags, "--model", name, "--precision", c.precision)
			low := serving(t, nil, c.backend, home, append(flags, "--units", "all:0-3")...)
			high := serving(t, nil, c.backend, home, append(flags, "--units", "all:4-7")...)
			there := open(t, change, func(cfg *config.Config) {
				cfg.Experts.Group = map[string]any{"a": entry("0-3"), "b": entry("4-7")}
				cfg.Experts.Remote = []config.Remote{
					{Group: "a", Endpoints: []string{low.addr}, TLS: tls}, {Group: "b", Endpoints: []string{high.addr}, TLS: tls},
				}
			})
			got := run(t.Context(), there, ask)
			if want.err != nil || got.err != nil || !sameAnswer(got, want) {
				t.Errorf("there %v %v, here %v %v", got.ids, got.err, want.ids, want.err)
			}
			for _, s := range there.Host.Status() {
				if s.PID != 0 || s.Endpoint != low.addr && s.Endpoint != high.addr || s.Calls == 0 {
					t.Errorf("status %+v", s)
				}
			}
			if code := low.end(syscall.SIGTERM); code != 0 {
				t.Errorf("exit status %d after SIGTERM: %s", code, low.log)
			}
		})
	}
}

// sameAnswer compares the ids and the bits of their scores.
func sameAnswer(a, b answer) bool {
	return len(a.tokens) > 0 && slices.EqualFunc(a.tokens, b.tokens, func(x, y engine.Token) bool {
		return x.ID == y.ID && math.Float32bits(x.Logprob) == math.Float32bits(y.Logprob)
	})
}

// load asks again and again until it is stopped, and holds every answer against the first.
type load struct {
	stop   context.CancelFunc
	wg     sync.WaitGroup
	done   atomic.Int64
	failed atomic.Int64
	wrong  atomic.Int64
	first  atomic.Pointer[error]
}

func begin(t *testing.T, i *instance.Instance, streams int, want []int32) *load {
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{stop: cancel}
	for range streams {
		l.wg.Go(func() {
			for ctx.Err() == nil {
				a := run(ctx, i, greedy(story(i, "a cat"), len(want)))
				switch {
				case ctx.Err() != nil:
				case a.err != nil:
					l.failed.Add(1)
					l.first.CompareAndSwap(nil, &a.err)
				case !slices.Equal(a.ids, want):
					l.wrong.Add(1)
				default:
					l.done.Add(1)
				}
			}
		})
	}
	return l
}

// longer is how many times as long these tests run; make remote sets it.
func longer() int64 {
	n, err := strconv.ParseInt(os.Getenv("PIMOE_TEST_REMOTE"), 10, 32)
	if err != nil {
		return 1
	}
	return n
}

// more waits for so many further answers, and in a longer run for as many more.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	l.wait(t, n*longer())
}

// wait waits for so many further answers.
func (l *load) wait(t *testing.T, n int64) {
	t.Helper()
	until := l.done.Load() + n
	for began := time.Now(); l.done.Load() < until; time.Sleep(time.Millisecond) {
		if time.Since(began) > time.Duration(longer())*time.Minute {
			t.Fatalf("%d answers, %d failed, %d wrong", l.done.Load(), l.failed.Load(), l.wrong.Load())
		}
	}
}

// end stops and wants nothing failed and nothing wrong.
func (l *load) end(t *testing.T) {
	t.Helper()
	l.stop()
	l.wg.Wait()
	t.Logf("%d answers, %d failed, %d wrong", l.done.Load(), l.failed.Load(), l.wrong.Load())
	if l.failed.Load() > 0 || l.wrong.Load() > 0 {
		err := error(nil)
		if p := l.first.Load(); p != nil {
			err = *p
		}
		t.Errorf("%d answers, %d failed (%v), %d wrong", l.done.Load(), l.failed.Load(), err, l.wrong.Load())
	}
}

// eventually waits until something is so, up to 30 s.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for began := time.Now(); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			t.Fatalf("not %s", what)
		}
	}
}

// ready is how many replicas answer.
func ready(i *instance.Instance) (n int) {
	for _, s := range i.Host.Status() {
		if s.State == "ready" {
			n++
		}
	}
	return n
}

// TestRemoteFaults: two endpoints behind a network with a delay of 1 ms. A partition of one, its end, kill -9 of one, a slow
// one: no answer fails and none is wrong.
func TestRemoteFaults(t *testing.T) {
	t.Parallel()
	home, _ := stored(t, "")
	tls, flags, _ := pair(t, coretest.NewAuthority(t))
	a, b := serving(t, nil, "cpu", home, flags...), serving(t, nil, "cpu", home, flags...)
	left, right := wan.New(t, a.addr), wan.New(t, b.addr)
	left.Delay(time.Millisecond)
	right.Delay(time.Millisecond)
	i := open(t, func(c *config.Config) { c.Home = home }, away(tls, left.Addr(), right.Addr()))
	want := run(t.Context(), i, greedy(story(i, "a cat"), 6))
	if want.err != nil {
		t.Fatal(want.err)
	}
	eventually(t, "two endpoints ready", func() bool { return ready(i) == 2 })
	l := begin(t, i, 3, want.ids)
	l.more(t, 2)
	left.Cut()
	l.more(t, 4)
	eventually(t, "noticed that one is gone", func() bool { return ready(i) == 1 })
	left.Heal()
	eventually(t, "back after the partition", func() bool { return ready(i) == 2 })
	right.Delay(60 * time.Millisecond) // far slower than the other: its calls are hedged, then it is left out
	l.more(t, 3)
	right.Delay(time.Millisecond)
	b.end(syscall.SIGKILL)
	l.more(t, 3)
	eventually(t, "noticed the kill", func() bool { return ready(i) == 1 })
	l.end(t)
}

// TestRemoteRotation: certificates of both ends are renewed, and connections made anew, without a call that fails.
func TestRemoteRotation(t *testing.T) {
	t.Parallel()
	home, _ := stored(t, "")
	tls, flags, renew := pair(t, coretest.NewAuthority(t))
	e := serving(t, nil, "cpu", home, append(flags, "--connection-age", "500ms")...)
	i := open(t, func(c *config.Config) { c.Home = home }, away(tls, e.addr))
	want := run(t.Context(), i, greedy(story(i, "a cat"), 6))
	if want.err != nil {
		t.Fatal(want.err)
	}
	l := begin(t, i, 2, want.ids)
	l.more(t, 2)
	renew()
	eventually(t, "renewed", func() bool { return strings.Contains(e.log.String(), "certificate renewed") })
	before := i.Host.Status()[0].Restarts
	eventually(t, "connected anew", func() bool { return i.Host.Status()[0].Restarts > before })
	l.more(t, 2)
	l.end(t)
}

// TestRemoteRefusals: whoever can't prove who it is, or computes something else, is refused with the reason.
func TestRemoteRefusals(t *testing.T) {
	t.Parallel()
	home, _ := stored(t, "")
	other, otherName := stored(t, coretest.Golden(t, "models", "qwen3_moe"))
	tls, flags, _ := pair(t, coretest.NewAuthority(t))
	foreign, foreignFlags, _ := pair(t, coretest.NewAuthority(t))
	for _, c := range []struct {
		name    string
		backend string
		store   string
		flags   []string
		tls     config.RemoteTLS
		change  func(*config.Config)
		want    string
	}{
		{"foreign expert", "cpu", home, foreignFlags, tls, nil, "certificate"},
		{"foreign host", "cpu", home, flags, foreign, nil, "certificate"},
		{"foreign host that trusts the expert", "cpu", home, flags, config.RemoteTLS{CertFile: foreign.CertFile, KeyFile: foreign.KeyFile, CAFile: tls.CAFile}, nil, "certificate"},
		{"another name", "cpu", home, flags, config.RemoteTLS{CertFile: tls.CertFile, KeyFile: tls.KeyFile, CAFile: tls.CAFile, ServerName: "elsewhere"}, nil, "elsewhere"},
		{"another model", "cpu", other, append([]string{"--model", otherName}, flags...), tls, nil, "this host expects"},
		{"another backend", "int8", home, flags, tls, nil, `backend: it has "int8"`},
		{"another class", "cpu", home, flags, tls, func(c *config.Config) { c.Experts.Precision = "bf16" }, `numeric class: it has "bf16w-f32"`},
		{"too few units", "cpu", home, append([]string{"--units", "all:0-5"}, flags...), tls, nil, "units: it lacks"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := serving(t, nil, c.backend, c.store, c.flags...)
			_, err := tryOpen(t, func(cfg *config.Config) { cfg.Home = home }, away(c.tls, e.addr), func(cfg *config.Config) {
				if c.change != nil {
					c.change(cfg)
				}
			})
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, sdk.ErrUnsupported) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if c.name == "foreign expert" && strings.Contains(fmt.Sprint(err), home) {
				t.Errorf("the error shows the store: %v", err)
			}
		})
	}
}

// TestRemoteNames: endpoints come and go with the answers of a name server, as those of a headless Service do. One that joins
// is tested first, one that leaves finishes its calls, and an answer that does not come ends nothing.
func TestRemoteNames(t *testing.T) {
	t.Parallel()
	home, _ := stored(t, "")
	tls, flags, _ := pair(t, coretest.NewAuthority(t))
	dns := names.New(t)
	const name = "experts.moe.svc.cluster.local"
	tls.ServerName = "expert"
	a := serving(t, nil, "cpu", home, append(flags, "--listen", "127.0.0.1:0", "--zone", "one")...)
	_, port, _ := net.SplitHostPort(a.addr)
	b := serving(t, nil, "cpu", home, append(flags, "--listen", "127.0.0.2:"+port, "--zone", "two")...)
	dns.A(name, "127.0.0.1")
	i := open(t, func(c *config.Config) {
		c.Home = home
		c.Experts.Group = map[string]any{"all": entry("all")}
		c.Experts.Remote = []config.Remote{{Group: "all", DNS: name + ":" + port, Nameserver: dns.Addr(), Refresh: 50 * time.Millisecond, Zone: "two", TLS: tls}}
	})
	want := run(t.Context(), i, greedy(story(i, "a cat"), 6))
	if want.err != nil {
		t.Fatal(want.err)
	}
	l := begin(t, i, 2, want.ids)
	l.more(t, 1)
	dns.A(name, "127.0.0.1", "127.0.0.2")
	eventually(t, "joined", func() bool { return ready(i) == 2 })
	calls := func(addr string) uint64 {
		for _, s := range i.Host.Status() {
			if s.Endpoint == addr {
				return s.Calls
			}
		}
		return 0
	}
	eventually(t, "asking this zone first", func() bool { // unless it is slow, of which a busy machine is a reason
		near, far := calls("127.0.0.2:"+port), calls(a.addr)
		l.wait(t, 2) // not more in a longer run: a quiet moment is enough
		return calls(a.addr)-far < (calls("127.0.0.2:"+port)-near)/4
	})
	dns.Break(true)
	time.Sleep(200 * time.Millisecond) // some questions
	if n := ready(i); n != 2 {
		t.Errorf("%d endpoints without a name server", n)
	}
	dns.Break(false)
	dns.A(name, "127.0.0.1")
	eventually(t, "left", func() bool { return len(i.Host.Status()) == 1 && ready(i) == 1 })
	b.end(syscall.SIGTERM)
	l.more(t, 2)
	l.end(t)
}

// TestRemoteReload: a running host takes over another list of endpoints, and brings a group back to this machine.
func TestRemoteReload(t *testing.T) {
	t.Parallel()
	home, _ := stored(t, "")
	a, b := serving(t, nil, "cpu", home), serving(t, nil, "cpu", home)
	i := open(t, func(c *config.Config) { c.Home = home }, away(config.RemoteTLS{}, a.addr))
	want := run(t.Context(), i, greedy(story(i, "a cat"), 6))
	if want.err != nil {
		t.Fatal(want.err)
	}
	l := begin(t, i, 2, want.ids)
	for _, remote := range [][]config.Remote{{{Group: "all", Endpoints: []string{b.addr}}}, {}, {{Group: "all", Endpoints: []string{a.addr, b.addr}}}} {
		next := i.Applied()
		next.Experts.Remote = remote
		if _, err := i.Reload(t.Context(), next); err != nil {
			t.Fatal(err)
		}
		l.more(t, 2)
		for _, s := range i.Host.Status() {
			if !s.Aside && (s.Endpoint == "") != (len(remote) == 0) {
				t.Errorf("with %v: %+v", remote, s)
			}
		}
	}
	if err := i.Restart(t.Context(), "all", 1); err != nil {
		t.Error(err)
	}
	if _, err := i.Drain("all", 1); !errors.Is(err, sdk.ErrUnsupported) {
		t.Errorf("drained by the host: %v", err)
	}
	if _, err := i.Host.Scale("all", 1); !errors.Is(err, sdk.ErrUnsupported) {
		t.Errorf("scaled by the host: %v", err)
	}
	if _, err := i.Hurt("all", 0, "stop"); !errors.Is(err, sdk.ErrUnsupported) {
		t.Errorf("a process of another machine was stopped: %v", err)
	}
	if _, err := i.Hurt("all", 0, "kill"); err != nil {
		t.Error(err)
	}
	if _, err := i.Swap(t.Context(), "all", instance.Change{Backend: "ref"}); !errors.Is(err, sdk.ErrUnsupported) {
		t.Errorf("swapped by the host: %v", err)
	}
	l.more(t, 2)
	l.end(t)
}
