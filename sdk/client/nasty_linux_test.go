package client_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// nothingLeft holds after the test: no goroutine, no descriptor, no child, no file that was not there before.
func nothingLeft(t *testing.T) (runtimeDir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "pm")
	if err != nil {
		t.Fatal(err)
	}
	identity()
	confined()
	ignore := goleak.IgnoreCurrent()
	before := descriptors(t)
	t.Cleanup(func() {
		goleak.VerifyNone(t, ignore)
		if after := descriptors(t); len(after) > len(before) {
			t.Errorf("descriptors: %d before, %d after: %v", len(before), len(after), after)
		}
		if kids := children(t); len(kids) > 0 {
			t.Errorf("children left: %v", kids)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("files left: %v", left)
		}
		os.RemoveAll(dir)
	})
	return dir
}

func descriptors(t *testing.T) (open []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && !strings.Contains(to, "eventpoll") && !strings.Contains(to, "eventfd") && !strings.HasPrefix(to, "/proc/") {
			open = append(open, e.Name()+" "+to)
		}
	}
	return open
}

func children(t *testing.T) (pids []string) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range tasks {
		b, _ := os.ReadFile(f)
		pids = append(pids, strings.Fields(string(b))...)
	}
	return pids
}

// lines collects what a process logs.
type lines struct {
	mu  sync.Mutex
	got []string
}

func (l *lines) add(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got = append(l.got, s)
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.got...)
}

func nastyCommand(dir string, args ...string) client.Command {
	c := client.Command{
		Path: filepath.Join(bin, "nasty"), Args: args, Kind: sdk.KindExpert, RuntimeDir: dir, Identity: identity(),
		Plane: client.ExpertPlane(16, hidden, 2), StartTimeout: 5 * time.Second, Confinement: confined(),
	}
	if len(args) > 0 && slices.Contains(loose, args[0]) {
		c.Confinement = unconfined
	}
	return c
}

// loose are the modes that do what a confined process can't: the host's other defences hold without confinement.
var loose = []string{"link", "other", "pipes", "group", "seals"}

// confined is one confinement for many starts, as a host has it: it has copied and hashed the programs of these tests once.
var confined = sync.OnceValue(func() *client.Confinement {
	dir, err := os.MkdirTemp("", "pm")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	c := client.NewConfinement(client.ConfinementOptions{})
	for _, name := range []string{"nasty", "escape"} {
		p, err := client.Start(context.Background(), client.Command{
			Path: filepath.Join(bin, name), Args: []string{"ok"}, RuntimeDir: dir, Identity: identity(), Transport: client.TransportGRPC, Confinement: c,
		})
		if err != nil {
			panic(err)
		}
		p.Stop(context.Background())
	}
	return c
})

var unconfined = client.NewConfinement(client.ConfinementOptions{Off: true})

func startNasty(t *testing.T, c client.Command) *client.Process {
	t.Helper()
	p, err := client.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop(context.Background()) })
	if err := p.Expert().LoadShards(t.Context(), client.LoadSpec{Spec: expert.Spec{Hidden: hidden, Intermediate: inter, Activation: "silu"}}); err != nil {
		t.Fatal(err)
	}
	return p
}

// Every way to fail a start has its own reason and its own words, takes no longer than it must, and leaves nothing.
func TestStartFailures(t *testing.T) {
	dir := nothingLeft(t)
	foreign, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { foreign.Close() })
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("not a program"), 0o644); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("not a program either"), 0o755); err != nil {
		t.Fatal(err)
	}
	nasty := filepath.Join(bin, "nasty")
	tests := []struct {
		name   string
		path   string
		args   []string
		reason client.Reason
		class  error
		text   string
	}{
		{"missing", filepath.Join(bin, "nowhere"), nil, client.ReasonMissing, sdk.ErrUnavailable, "there is no such file"},
		{"plain", plain, nil, client.ReasonNotExecutable, sdk.ErrUnavailable, "the file is not executable (mode -rw-r--r--)"},
		{"folder", t.TempDir(), nil, client.ReasonNotExecutable, sdk.ErrUnavailable, "it is a folder"},
		{"script", script, nil, client.ReasonNotExecutable, sdk.ErrUnavailable, "exec format error"},
		{"exit", nasty, []string{"exit"}, client.ReasonExited, sdk.ErrUnavailable, "ended before the handshake: exit code 7, last on standard error: no such model / giving up"},
		{"kill", nasty, []string{"kill"}, client.ReasonExited, sdk.ErrUnavailable, "ended before the handshake: killed by SIGKILL"},
		{"print", nasty, []string{"print"}, client.ReasonOutput, sdk.ErrUnavailable, `printed "hello from a plugin" on standard output instead of the handshake`},
		{"cookie", nasty, []string{"cookie"}, client.ReasonNotOurs, sdk.ErrUnsupported, "it is a go-plugin program of another host"},
		{"version", nasty, []string{"version"}, client.ReasonProtocol, sdk.ErrUnsupported, "it speaks protocol version 99, this host 1"},
		{"core", nasty, []string{"core"}, client.ReasonProtocol, sdk.ErrUnsupported, "it speaks go-plugin's core protocol 7, this host 1"},
		{"netrpc", nasty, []string{"netrpc"}, client.ReasonProtocol, sdk.ErrUnsupported, `it speaks "netrpc", this host "grpc"`},
		{"tcp", nasty, []string{"tcp"}, client.ReasonAddress, sdk.ErrUnavailable, "no socket in its own folder"},
		{"foreign", nasty, []string{"foreign", foreign.Addr().String()}, client.ReasonAddress, sdk.ErrUnavailable, "no socket in its own folder"},
		{"link", nasty, []string{"link", foreign.Addr().String()}, client.ReasonAddress, sdk.ErrUnavailable, "which is no socket"},
		{"bare", nasty, []string{"bare"}, client.ReasonExited, sdk.ErrUnavailable, "exit code 4, last on standard error: that was all"},
		{"hang", nasty, []string{"hang"}, client.ReasonTimeout, sdk.ErrDeadline, "it sent no handshake within 700ms"},
		{"silent", nasty, []string{"silent"}, client.ReasonTimeout, sdk.ErrDeadline, "it sent no handshake within 700ms"},
		{"mute", nasty, []string{"mute"}, client.ReasonTimeout, sdk.ErrDeadline, "it shook hands but did not answer within 700ms"},
		{"other", nasty, []string{"other", foreign.Addr().String()}, client.ReasonAddress, sdk.ErrUnavailable, "listens on the socket of process"},
		{"kind", filepath.Join(bin, "router-top1"), nil, client.ReasonKind, sdk.ErrUnsupported, `it is a plugin of kind "router", not "expert"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := nastyCommand(dir, tt.args...)
			c.Path, c.StartTimeout = tt.path, 5*time.Second
			if tt.path != nasty {
				c.Confinement = nil // for this one alone
			}
			if tt.reason == client.ReasonTimeout {
				c.StartTimeout = 700 * time.Millisecond
			}
			began := time.Now()
			p, err := client.Start(t.Context(), c)
			if err == nil {
				p.Stop(context.Background())
				t.Fatal("started")
			}
			var se *client.StartError
			if !errors.As(err, &se) || se.Reason != tt.reason || !errors.Is(err, tt.class) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want reason %q and %q", err, tt.reason, tt.text)
			}
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestStartCancelled(t *testing.T) {
	dir := nothingLeft(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	began := time.Now()
	_, err := client.Start(ctx, nastyCommand(dir, "hang"))
	if !errors.Is(err, context.Canceled) || time.Since(began) > time.Second {
		t.Fatalf("%v after %v", err, time.Since(began))
	}
}

func TestStartRefusesBadCommands(t *testing.T) {
	dir := nothingLeft(t)
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*client.Command){
		"mode 0700":         func(c *client.Command) { c.RuntimeDir = open },
		"room for a socket": func(c *client.Command) { c.RuntimeDir = mkdir(t, filepath.Join(t.TempDir(), strings.Repeat("d", 90))) },
		"runtime folder":    func(c *client.Command) { c.RuntimeDir = "/nowhere" },
		"no identity":       func(c *client.Command) { c.Identity = nil },
		"transport":         func(c *client.Command) { c.Transport = "pigeon" },
		"kind":              func(c *client.Command) { c.Kind = "oracle" },
		"plane": func(c *client.Command) {
			c.Plane = client.PlaneSpec{MaxRows: 1 << 19, InBytesPerRow: 1 << 27, OutBytesPerRow: 1 << 27, Slots: 64}
		},
	} {
		c := nastyCommand(dir, "ok")
		spoil(&c)
		if _, err := client.Start(t.Context(), c); !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func mkdir(t *testing.T, path string) string {
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// Answers that no honest plugin gives are named and never reach the caller.
func TestInvalidOutput(t *testing.T) {
	for mode, text := range map[string]string{
		"nan": "NaN", "inf": "-Inf", "forget": "NaN", "scribble-gen": "generation", "scribble-rows": "answer of 4294967295",
		"scribble-done": "generation", "scribble-status": "status 4294967295", "scribble-values": "NaN",
	} {
		t.Run(mode, func(t *testing.T) {
			p := startNasty(t, nastyCommand(nothingLeft(t), mode))
			var err error
			for range 2000 { // a scribbler hits by chance
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				err = p.Expert().Forward(ctx, call(9, 3))
				cancel()
				if err != nil {
					break
				}
			}
			if !errors.Is(err, sdk.ErrInvalidOutput) || !strings.Contains(err.Error(), text) {
				t.Errorf("got %v, want %q", err, text)
			}
		})
	}
	for _, mode := range []string{"nan", "inf", "forget"} {
		t.Run(mode+" over gRPC", func(t *testing.T) {
			c := nastyCommand(nothingLeft(t), mode)
			c.Transport = client.TransportGRPC
			p := startNasty(t, c)
			if err := p.Expert().Forward(t.Context(), call(9, 3)); !errors.Is(err, sdk.ErrInvalidOutput) {
				t.Error(err)
			}
		})
	}
}

// A length of four billion bytes in an error's header is cut, not believed.
func TestScribbledLength(t *testing.T) {
	p := startNasty(t, nastyCommand(nothingLeft(t), "scribble-length"))
	for range 100 {
		c := call(9, 3)
		if err := p.Expert().Forward(t.Context(), c); err != nil || c.Y.Data[5] != 2*c.X.Data[5] {
			t.Fatalf("%v, %v", err, c.Y.Data[5])
		}
	}
}

func TestSealsHold(t *testing.T) {
	startNasty(t, nastyCommand(nothingLeft(t), "seals")) // Load answers with what was possible
}

// Classes and whole messages survive both transports.
func TestErrorClassesCross(t *testing.T) {
	dir := nothingLeft(t)
	classes := []error{sdk.ErrInvalid, sdk.ErrNotFound, sdk.ErrOverloaded, sdk.ErrUnavailable, sdk.ErrUnsupported, sdk.ErrInvalidOutput, sdk.ErrDeadline}
	for _, transport := range []client.Transport{client.TransportSHM, client.TransportGRPC} {
		c := nastyCommand(dir, "classes")
		c.Transport = transport
		p := startNasty(t, c)
		for i := range 8 {
			one := &expert.Call{Threads: 1, Segments: []expert.Segment{{Expert: i, Rows: 1}}, X: tensor.NewMatrix(1, hidden), Y: tensor.NewMatrix(1, hidden)}
			err := p.Expert().Forward(t.Context(), one)
			for j, class := range classes {
				if errors.Is(err, class) != (i == j) {
					t.Errorf("%s: error %d: %v: is class %d: %v", transport, i, err, j, errors.Is(err, class))
				}
			}
			want := fmt.Sprintf("row of expert %d: ", i)
			if i < 7 {
				want += classes[i].Error()
			} else {
				want += "no class"
			}
			if err == nil || err.Error() != want {
				t.Errorf("%s: got %q, want %q", transport, err, want)
			}
		}
		long := nastyCommand(dir, "long")
		long.Transport = transport
		if err := startNasty(t, long).Expert().Forward(t.Context(), call(1, 1)); !errors.Is(err, sdk.ErrInvalid) || !strings.HasPrefix(err.Error(), "zzz") {
			t.Errorf("%s: long message: %.80v", transport, err)
		}
	}
}

// A process that dies in a call fails that call at once, with its own words.
func TestDeathInACall(t *testing.T) {
	dir := nothingLeft(t)
	for _, transport := range []client.Transport{client.TransportSHM, client.TransportGRPC} {
		for mode, want := range map[string]client.Death{
			"exit-forward": {ExitCode: 5, LastLines: []string{"assertion failed: rows"}},
			"kill-forward": {ExitCode: -1, Signal: "SIGKILL"},
			"panic":        {ExitCode: 2, LastLines: []string{"panic: a bug in an expert"}},
		} {
			c := nastyCommand(dir, mode)
			c.Transport = transport
			p := startNasty(t, c)
			others := make(chan error, 3)
			for range 3 { // also for calls that wait for a slot
				go func() { others <- p.Expert().Forward(t.Context(), call(2, 2)) }()
			}
			err := p.Expert().Forward(t.Context(), call(2, 1))
			var dead *client.DeadError
			if !errors.As(err, &dead) || !errors.Is(err, sdk.ErrUnavailable) || dead.Process != p {
				t.Errorf("%s/%s: %v", transport, mode, err)
			}
			for range 3 {
				if err := <-others; !errors.As(err, &dead) {
					t.Errorf("%s/%s: another call: %v", transport, mode, err)
				}
			}
			if !p.Ending() {
				t.Errorf("%s/%s: not ending", transport, mode)
			}
			d := p.Death()
			if d.ExitCode != want.ExitCode || d.Signal != want.Signal || d.Asked || d.OOM || !strings.Contains(strings.Join(d.LastLines, "\n"), strings.Join(want.LastLines, "\n")) {
				t.Errorf("%s/%s: %v %q", transport, mode, d, d.LastLines)
			}
		}
	}
}

// A process whose thread ends under a call is taken for one that ends: the call fails, later ones are not even sent, and the process can
// still be stopped.
func TestThreadEnds(t *testing.T) {
	p := startNasty(t, nastyCommand(nothingLeft(t), "exit-thread"))
	if p.Ending() {
		t.Error("ending from the beginning")
	}
	for range 2 {
		began := time.Now()
		var dead *client.DeadError
		if err := p.Expert().Forward(t.Context(), call(1, 1)); !errors.As(err, &dead) || !dead.Early || dead.Death.Asked || !strings.Contains(err.Error(), "is ending") {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		if !p.Ending() {
			t.Error("not ending")
		}
	}
	select {
	case <-p.Exited():
		t.Error("the whole process has ended")
	default:
	}
}

// From SIGKILL to the failed call and to Exited.
func TestKillIsSeenAtOnce(t *testing.T) {
	dir := nothingLeft(t)
	var worst time.Duration
	for range 10 {
		p := startNasty(t, nastyCommand(dir, "stuck"))
		pending := p.Expert().Start(t.Context(), call(1, 1))
		began := time.Now()
		if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		var dead *client.DeadError
		if err := pending.Wait(); !errors.As(err, &dead) {
			t.Fatal(err)
		}
		worst = max(worst, time.Since(began))
		p.Stop(t.Context())
	}
	t.Logf("worst of 10: %v", worst)
	if worst > 5*time.Second { // a busy machine takes a second or two; who does not see the end waits for ever
		t.Errorf("worst of 10: %v", worst)
	}
}

// A stopped process keeps nobody: the call ends at its deadline, the heartbeat stands still, Stop ends it.
func TestStoppedProcess(t *testing.T) {
	dir := nothingLeft(t)
	for _, transport := range []client.Transport{client.TransportSHM, client.TransportGRPC} {
		c := nastyCommand(dir, "stop")
		c.Transport = transport
		p := startNasty(t, c)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		began := time.Now()
		err := p.Expert().Forward(ctx, call(1, 1))
		if !errors.Is(err, sdk.ErrDeadline) || time.Since(began) > time.Second {
			t.Errorf("%s: %v after %v", transport, err, time.Since(began))
		}
		if err := p.Ping(ctx); !errors.Is(err, sdk.ErrDeadline) {
			t.Errorf("%s: ping: %v", transport, err)
		}
		cancel()
		if transport == client.TransportSHM {
			a, _ := p.Beat()
			time.Sleep(1100 * time.Millisecond) // two beats of a living process
			if b, ok := p.Beat(); !ok || a != b {
				t.Errorf("beat %d, then %d", a, b)
			}
		}
		stop, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		began = time.Now()
		if err := p.Stop(stop); err != nil || time.Since(began) > 2*time.Second {
			t.Errorf("%s: stop: %v after %v", transport, err, time.Since(began))
		}
		cancel()
	}
}

func TestHangInLoad(t *testing.T) {
	p, err := client.Start(t.Context(), nastyCommand(nothingLeft(t), "load-hang"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := p.Expert().LoadShards(ctx, client.LoadSpec{Spec: expert.Spec{Hidden: 1, Intermediate: 1}}); !errors.Is(err, sdk.ErrDeadline) {
		t.Errorf("load: %v", err)
	}
	if err := p.Ping(t.Context()); err != nil {
		t.Errorf("ping during load: %v", err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestExitInLoad(t *testing.T) {
	p, err := client.Start(t.Context(), nastyCommand(nothingLeft(t), "load-exit"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop(context.Background())
	err = p.Expert().LoadShards(t.Context(), client.LoadSpec{Spec: expert.Spec{Hidden: 1, Intermediate: 1}})
	var dead *client.DeadError
	if !errors.As(err, &dead) || dead.Death.ExitCode != 9 || !strings.Contains(strings.Join(p.Death().LastLines, ""), "out of luck") {
		t.Errorf("load: %v", err)
	}
}

// A call that its caller left keeps its slot until the plugin has closed it, and its late answer meets nobody.
func TestLateAnswerMeetsNobody(t *testing.T) {
	dir := nothingLeft(t)
	c := nastyCommand(dir, "late")
	c.Plane.Slots = 2
	p := startNasty(t, c)
	zero := call(3, 1)
	clear(zero.X.Data)
	for range 2 { // both slots
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := p.Expert().Forward(ctx, zero); !errors.Is(err, sdk.ErrDeadline) {
			t.Fatalf("late call: %v", err)
		}
		cancel()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	if err := p.Expert().Forward(ctx, call(3, 2)); !errors.Is(err, sdk.ErrDeadline) {
		t.Errorf("with no slot: %v", err)
	}
	cancel()
	for i := range 50 {
		c := call(3, uint64(i))
		if err := p.Expert().Forward(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		for j, v := range c.X.Data {
			if c.Y.Data[j] != 2*v {
				t.Fatalf("call %d: value %d is %v, want %v", i, j, c.Y.Data[j], 2*v)
			}
		}
	}
	for j, v := range zero.Y.Data {
		if v != 0 {
			t.Fatalf("the left call's value %d was written: %v", j, v)
		}
	}
}

// A cancelled call returns at once, and the plugin is told.
func TestCancel(t *testing.T) {
	dir := nothingLeft(t)
	for _, transport := range []client.Transport{client.TransportSHM, client.TransportGRPC} {
		var log lines
		c := nastyCommand(dir, "slow")
		c.Transport, c.Log = transport, log.add
		p := startNasty(t, c)
		ctx, cancel := context.WithCancel(t.Context())
		pending := p.Expert().Start(ctx, call(1, 1))
		time.AfterFunc(20*time.Millisecond, cancel)
		began := time.Now()
		if err := pending.Wait(); !errors.Is(err, context.Canceled) || time.Since(began) > time.Second {
			t.Errorf("%s: %v after %v", transport, err, time.Since(began))
		}
		for !strings.Contains(strings.Join(log.all(), "\n"), "cancelled: context canceled") {
			if time.Since(began) > 5*time.Second {
				t.Fatalf("%s: the plugin was not told: %v", transport, log.all())
			}
			time.Sleep(5 * time.Millisecond)
		}
		p.Stop(t.Context())
	}
}

// A plugin whose call never ends does not keep Stop; calls of others end with the process.
func TestStopWithStuckCall(t *testing.T) {
	dir := nothingLeft(t)
	for _, transport := range []client.Transport{client.TransportSHM, client.TransportGRPC} {
		c := nastyCommand(dir, "stuck")
		c.Transport = transport
		p := startNasty(t, c)
		pending := p.Expert().Start(t.Context(), call(1, 1))
		began := time.Now()
		if err := p.Stop(t.Context()); err != nil || time.Since(began) > 4*time.Second {
			t.Errorf("%s: %v after %v", transport, err, time.Since(began))
		}
		var dead *client.DeadError
		if err := pending.Wait(); !errors.As(err, &dead) || !dead.Death.Asked {
			t.Errorf("%s: %v", transport, err)
		}
		if err := p.Expert().Forward(t.Context(), call(1, 1)); !errors.As(err, &dead) {
			t.Errorf("%s: after stop: %v", transport, err)
		}
	}
}

// A child that keeps the pipes open, in a session of its own, delays nothing; one in the group goes with the process.
func TestGrandchildren(t *testing.T) {
	for _, mode := range []string{"pipes", "group"} {
		var log lines
		c := nastyCommand(nothingLeft(t), mode)
		c.Log = log.add
		p := startNasty(t, c)
		began := time.Now()
		p.Kill()
		<-p.Exited()
		if took := time.Since(began); took > 500*time.Millisecond {
			t.Errorf("%s: exit seen after %v", mode, took)
		}
		d := p.Death()
		if took := time.Since(began); took > time.Second {
			t.Errorf("%s: death told after %v", mode, took)
		}
		p.Stop(t.Context())
		pid, err := strconv.Atoi(strings.TrimPrefix(d.LastLines[0], "child "))
		if err != nil {
			t.Fatal(err)
		}
		if mode == "pipes" {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Errorf("the child that was to outlive: %v", err)
			}
			continue
		}
		for began := time.Now(); alive(pid); {
			if time.Since(began) > 2*time.Second {
				t.Fatalf("child %d still lives", pid)
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// alive is false for a zombie.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	return !bytes.Contains(b[bytes.LastIndexByte(b, ')'):], []byte(") Z"))
}

// Floods are read to the end, cut by lines, and no output can stand for the handshake or block the plugin.
func TestFloods(t *testing.T) {
	dir := nothingLeft(t)
	for _, mode := range []string{"flood", "stdout"} {
		var log lines
		c := nastyCommand(dir, mode)
		c.Log = log.add
		p := startNasty(t, c)
		if err := p.Expert().Forward(t.Context(), call(1, 1)); err != nil {
			t.Fatal(err)
		}
		p.Stop(t.Context())
		got := log.all()
		longest := 0
		for _, l := range got {
			longest = max(longest, len(l))
		}
		if longest > 8<<10 || longest < 8000 {
			t.Errorf("%s: longest line has %d bytes", mode, longest)
		}
		want := map[string]string{"flood": "end of flood", "stdout": "1|1|unix|/tmp/evil|grpc|"}[mode]
		if !strings.Contains(strings.Join(got, "\n"), want) || mode == "flood" && len(got) < 20000 {
			t.Errorf("%s: %d lines without %q", mode, len(got), want)
		}
	}
}

// Cycles of start, call and end leave memory maps, descriptors, goroutines and threads where they were.
func TestCycles(t *testing.T) {
	dir := nothingLeft(t)
	cycles := 100
	if testing.Short() {
		cycles = 10
	}
	maps := func() int {
		b, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(b, []byte("memfd:pimoe"))
	}
	for i := range cycles {
		c := nastyCommand(dir, "ok")
		if i%5 == 0 {
			c.Confinement = nil // one of its own
		}
		if i%3 == 1 {
			c.Transport = client.TransportGRPC
		}
		p, err := client.Start(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Expert().LoadShards(t.Context(), client.LoadSpec{Spec: expert.Spec{Hidden: hidden, Intermediate: inter}}); err != nil {
			t.Fatal(err)
		}
		if err := p.Expert().Forward(t.Context(), call(40, 1)); err != nil {
			t.Fatal(err)
		}
		if i%3 == 2 {
			p.Kill()
		}
		if err := p.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := maps(); n != 0 {
			t.Fatalf("cycle %d: %d regions still mapped", i, n)
		}
	}
	runtime.GC()
}

// A host that is killed takes its processes with it: idle, computing, hanging and with children of their own.
func TestHostKilled(t *testing.T) {
	dir := nothingLeft(t)
	var worst time.Duration
	for range 5 {
		host := exec.Command(os.Args[0], dir)
		host.Env = append(os.Environ(), "PIMOE_TEST_HOST="+bin)
		host.Stderr = os.Stderr
		out, err := host.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := host.Start(); err != nil {
			t.Fatal(err)
		}
		var pids []int
		for s := bufio.NewScanner(out); s.Scan() && s.Text() != "ready"; {
			pid, err := strconv.Atoi(s.Text())
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
		if len(pids) != 4 {
			t.Fatalf("%d processes", len(pids))
		}
		if err := host.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for _, pid := range pids {
			for alive(pid) {
				if time.Since(began) > 2*time.Second {
					t.Fatalf("process %d outlives its host", pid)
				}
				time.Sleep(200 * time.Microsecond)
			}
		}
		worst = max(worst, time.Since(began))
		host.Wait()
	}
	t.Logf("worst of 5 x 4: %v", worst)
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left { // a killed host can't tidy; its successor sweeps the runtime folder
		os.RemoveAll(filepath.Join(dir, e.Name()))
	}
}

// SIGTERM lets a running call end and its answer arrive; SIGINT, which a terminal sends to everybody, does nothing.
func TestSignals(t *testing.T) {
	dir := nothingLeft(t)
	for _, transport := range []client.Transport{client.TransportSHM, client.TransportGRPC} {
		c := nastyCommand(dir, "late")
		c.Transport = transport
		p := startNasty(t, c)
		if err := syscall.Kill(p.PID(), syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		slow := call(3, 1)
		clear(slow.X.Data) // these take 300 ms
		slow.X.Data[1] = 21
		pending := p.Expert().Start(t.Context(), slow)
		p.Expert().Wake(true)
		if transport == client.TransportGRPC {
			time.Sleep(100 * time.Millisecond) // until the call has reached the process
		} else {
			time.Sleep(20 * time.Millisecond)
		}
		if err := syscall.Kill(p.PID(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := pending.Wait(); err != nil || slow.Y.Data[1] != 42 {
			t.Errorf("%s: running call: %v, %v", transport, err, slow.Y.Data[1])
		}
		<-p.Exited()
		if d := p.Death(); d.ExitCode != 0 || d.Signal != "" || d.Asked {
			t.Errorf("%s: %v", transport, d)
		}
		p.Stop(t.Context())
	}
}

// Drain waits for the running call and refuses the next.
func TestDrain(t *testing.T) {
	p := startNasty(t, nastyCommand(nothingLeft(t), "late"))
	slow := call(3, 1)
	clear(slow.X.Data)
	pending := p.Expert().Start(t.Context(), slow)
	if err := p.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The call had begun, and Drain has waited for it, or it came too late and was refused.
	if err := pending.Wait(); err != nil && !errors.Is(err, sdk.ErrUnavailable) {
		t.Error(err)
	}
	if err := p.Expert().Forward(t.Context(), call(1, 1)); !errors.Is(err, sdk.ErrUnavailable) {
		t.Errorf("after drain: %v", err)
	}
	if err := p.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// A plugin that is started by hand says what it is.
func TestByHand(t *testing.T) {
	out, err := exec.Command(filepath.Join(bin, "expert-swiglu")).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "PiMoE plugin") {
		t.Errorf("%v\n%s", err, out)
	}
}

// A process sees nothing of the host's environment and no descriptor that isn't meant for it.
func TestInheritance(t *testing.T) {
	t.Setenv("PIMOE_TEST_SECRET", "s3cret")
	secret, err := os.Open("/proc/self/status") // an open file of the host's
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	c := nastyCommand(nothingLeft(t), "ok")
	c.Env = []string{"GIVEN=1"}
	p := startNasty(t, c)
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(env, []byte("s3cret")) || bytes.Contains(env, []byte("PATH=")) || !bytes.Contains(env, []byte("GIVEN=1")) {
		t.Errorf("environment %q", bytes.Split(env, []byte{0}))
	}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.PID()))
	if err != nil || len(fds) == 0 {
		t.Fatal(err)
	}
	for _, fd := range fds {
		to, _ := os.Readlink(fd)
		known := false
		for _, k := range []string{"/dev/null", "pipe:", "socket:", "anon_inode:", "/sys/fs/cgroup/"} {
			known = known || strings.HasPrefix(to, k)
		}
		if !known {
			t.Errorf("descriptor %s is %s", filepath.Base(fd), to)
		}
	}
	if args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID())); bytes.Contains(args, []byte("PRIVATE")) {
		t.Error("a key among the arguments")
	}
}
