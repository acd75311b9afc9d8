package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/serve"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// doubling is an expert whose answer is twice the row. A row that begins with 666 makes it panic, one with 99 has it wait.
type doubling struct {
	inside, most atomic.Int64
	gate         chan struct{}
}

func (*doubling) Info() sdk.Info { return sdk.Info{Name: "doubling", NumericClass: "f32"} }

func (*doubling) Load(context.Context, expert.Spec) error { return nil }

func (*doubling) Close() error { return nil }

func (d *doubling) Forward(ctx context.Context, c *expert.Call) error {
	now := d.inside.Add(1)
	defer d.inside.Add(-1)
	for most := d.most.Load(); now > most && !d.most.CompareAndSwap(most, now); most = d.most.Load() {
	}
	for r := range c.X.Rows {
		switch c.X.Row(r)[0] {
		case 666:
			panic("a number that it does not like")
		case 99:
			select {
			case <-d.gate:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		for i, v := range c.X.Row(r) {
			c.Y.Row(r)[i] = 2 * v
		}
	}
	return nil
}

// remoteOf serves an expert until the test ends.
func remoteOf(t *testing.T, e expert.Expert, change func(*serve.RemoteOptions)) (addr string, stop func() error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := serve.RemoteOptions{
		Listener: l, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Description: expert.Description{Info: e.Info(), Model: "m", ModelDigest: "sha256:1", Hidden: 4, Intermediate: 8, Activation: "silu", Zone: "here",
			Units: []expert.Unit{{Layer: 1, Expert: 2}}, Shards: map[int]string{2: "abc"}, Program: "sha256:2"},
	}
	if change != nil {
		change(&o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve.Remote(ctx, e, o) }()
	var once sync.Once
	stop = func() (err error) {
		once.Do(func() { cancel(); err = <-ended })
		return err
	}
	t.Cleanup(func() { _ = stop() }) // who cares has called it
	return l.Addr().String(), stop
}

func connect(t *testing.T, o client.RemoteOptions) *client.Remote {
	t.Helper()
	r, err := client.Connect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Stop(context.Background()) })
	return r
}

// ask makes a call of one row.
func ask(ctx context.Context, e *client.Expert, first float32) ([]float32, error) {
	y := make([]float32, 4)
	err := e.Forward(ctx, &expert.Call{
		Layer: 1, Threads: 1, Segments: []expert.Segment{{Expert: 2, Rows: 1}},
		X: tensor.MatrixOf(1, 4, []float32{first, 1, 2, 3}), Y: tensor.MatrixOf(1, 4, y),
	})
	return y, err
}

// TestRemote: what a host can do with a process on another machine, and what it can't do to others there.
func TestRemote(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	d := &doubling{gate: make(chan struct{})}
	addr, stop := remoteOf(t, d, func(o *serve.RemoteOptions) { o.MaxCalls = 2 })
	one, other := connect(t, client.RemoteOptions{Address: addr}), connect(t, client.RemoteOptions{Address: addr})
	got := one.Description()
	if got.Instance == "" || got.Instance != other.Description().Instance || got.Zone != "here" || got.Shards[2] != "abc" || got.Units[0] != (expert.Unit{Layer: 1, Expert: 2}) || got.Info.Kind != sdk.KindExpert {
		t.Errorf("description %+v", got)
	}
	if y, err := ask(t.Context(), one.Expert(), 5); err != nil || y[0] != 10 || y[3] != 6 {
		t.Errorf("%v %v", y, err)
	}
	if _, err := ask(t.Context(), one.Expert(), 666); err == nil || errors.Is(err, sdk.ErrUnavailable) {
		t.Errorf("a call that panics: %v", err)
	}
	if err := one.Expert().Load(t.Context(), expert.Spec{Hidden: 4, Intermediate: 8}); !errors.Is(err, sdk.ErrUnsupported) {
		t.Errorf("load: %v", err)
	}
	if err := one.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	var calls sync.WaitGroup
	for range 8 { // more than are computed at once
		calls.Go(func() {
			if y, err := ask(t.Context(), other.Expert(), 99); err != nil || y[0] != 198 {
				t.Errorf("%v %v", y, err)
			}
		})
	}
	for began := time.Now(); d.inside.Load() < 2; time.Sleep(time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatal("no calls run")
		}
	}
	one.Cut() // one host's accident is none of the other's
	<-one.Exited()
	if _, err := ask(t.Context(), one.Expert(), 5); !errors.Is(err, sdk.ErrUnavailable) || !strings.Contains(err.Error(), addr) {
		t.Errorf("a call after the end: %v", err)
	}
	close(d.gate)
	calls.Wait()
	if most := d.most.Load(); most > 2 {
		t.Errorf("%d calls at once", most)
	}
	if death := one.Death(); death.Lost == "" || death.Asked {
		t.Errorf("death %+v", death)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	<-other.Exited()
	_, _ = other.Stop(t.Context()), one.Stop(t.Context())
}

// TestRemoteDrain: a server that ends lets the running calls finish, on a connection that the host gives up, too.
func TestRemoteDrain(t *testing.T) {
	d := &doubling{gate: make(chan struct{})}
	addr, stop := remoteOf(t, d, nil)
	r := connect(t, client.RemoteOptions{Address: addr})
	type result struct {
		y   []float32
		err error
	}
	answer := make(chan result, 1)
	go func() {
		y, err := ask(context.Background(), r.Expert(), 99)
		answer <- result{y, err}
	}()
	for d.inside.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	<-r.Exited()
	if death := r.Death(); !strings.Contains(death.Lost, "asked for a new connection") {
		t.Errorf("death %+v", death)
	}
	if err := r.Kill(); err != nil {
		t.Error(err)
	}
	time.AfterFunc(20*time.Millisecond, func() { close(d.gate) })
	if err := r.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	if a := <-answer; a.err != nil || a.y[0] != 198 {
		t.Errorf("the running call: %v %v", a.y, a.err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestRemoteAbandon: a call over gRPC can be looked at and given up while the other end says nothing.
func TestRemoteAbandon(t *testing.T) {
	d := &doubling{gate: make(chan struct{})}
	addr, _ := remoteOf(t, d, nil)
	r := connect(t, client.RemoteOptions{Address: addr})
	call := &expert.Call{Layer: 1, Threads: 1, Segments: []expert.Segment{{Expert: 2, Rows: 1}}, X: tensor.MatrixOf(1, 4, []float32{99, 1, 2, 3}), Y: tensor.NewMatrix(1, 4)}
	p, ok := r.Expert().Start(t.Context(), call).(client.Settling)
	if !ok {
		t.Fatal("the call can't be looked at")
	}
	if p.Settled(0) || p.Settled(5*time.Millisecond) {
		t.Error("settled without an answer")
	}
	p.Abandon()
	call.X.Data[0], call.Y.Data[0] = 5, 0 // nobody else touches them now, which the race detector holds
	if y, err := ask(t.Context(), r.Expert(), 5); err != nil || y[0] != 10 {
		t.Errorf("%v %v", y, err)
	}
}

// TestRemoteHealth: probes see the process as long as it takes calls.
func TestRemoteHealth(t *testing.T) {
	probes, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &doubling{gate: make(chan struct{})}
	addr, stop := remoteOf(t, d, func(o *serve.RemoteOptions) { o.Health = probes })
	conn, err := grpc.NewClient(probes.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask := func() string {
		reply, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "pimoe.v1.Expert"})
		return fmt.Sprint(reply.GetStatus(), err)
	}
	r := connect(t, client.RemoteOptions{Address: addr})
	if got := ask(); got != "SERVING <nil>" {
		t.Error(got)
	}
	running := make(chan struct{})
	go func() {
		defer close(running)
		c := &expert.Call{Layer: 1, Threads: 1, Segments: []expert.Segment{{Expert: 2, Rows: 1}}, X: tensor.MatrixOf(1, 4, []float32{99, 1, 2, 3}), Y: tensor.NewMatrix(1, 4)}
		if err := r.Expert().Forward(context.Background(), c); err != nil {
			t.Error(err)
		}
	}()
	for d.inside.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	<-r.Exited()
	if got := ask(); got != "NOT_SERVING <nil>" {
		t.Error(got)
	}
	close(d.gate)
	<-running
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestRemoteTLS: without certificates nothing leaves the machine, and with them both ends must have good ones.
func TestRemoteTLS(t *testing.T) {
	good, bad := coretest.NewAuthority(t), coretest.NewAuthority(t)
	files := func(f coretest.PEMFiles) client.TLSFiles { return client.TLSFiles{Cert: f.Cert, Key: f.Key, CA: f.CA} }
	mine := files(good.Issue(t, t.TempDir(), "host"))
	foreign := files(bad.Issue(t, t.TempDir(), "host"))
	addr, _ := remoteOf(t, &doubling{}, func(o *serve.RemoteOptions) { o.TLS = files(good.Issue(t, t.TempDir(), "expert", "127.0.0.1")) })
	for _, c := range []struct {
		name  string
		files client.TLSFiles
		as    string
		good  bool
	}{
		{"own", mine, "", true}, {"own, by name", mine, "expert", true}, {"another name", mine, "other", false},
		{"foreign", foreign, "", false}, {"foreign, trusting the server", client.TLSFiles{Cert: foreign.Cert, Key: foreign.Key, CA: mine.CA}, "", false},
	} {
		certificates, err := client.OpenCertificates(c.files, nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 { // whoever writes first must not hide the reason
			r, err := client.Connect(t.Context(), client.RemoteOptions{Address: addr, ServerName: c.as, Certificates: certificates})
			if c.good != (err == nil) || err != nil && !errors.Is(err, client.ErrUntrusted) {
				t.Errorf("%s: %v", c.name, err)
			}
			if err == nil {
				_ = r.Stop(t.Context())
			}
		}
	}
	if _, err := client.Connect(t.Context(), client.RemoteOptions{Address: addr}); err == nil {
		t.Error("a host without TLS is let in")
	}
	if _, err := client.Connect(t.Context(), client.RemoteOptions{Address: "198.51.100.1:7070"}); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("beyond loopback without TLS: %v", err)
	}
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	if err := serve.Remote(t.Context(), &doubling{}, serve.RemoteOptions{Listener: l}); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("served to everybody without TLS: %v", err)
	}
}
