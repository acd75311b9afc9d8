package client_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// bin holds the programs that the tests start, built once.
var bin string

func TestMain(m *testing.M) {
	if os.Getenv("PIMOE_TEST_HOST") != "" {
		bin = os.Getenv("PIMOE_TEST_HOST")
		playHost()
		return
	}
	if bin = os.Getenv("PIMOE_TEST_ORDINARY"); bin != "" { // they have been built
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "pimoe-client-test")
	if err != nil {
		panic(err)
	}
	bin = dir
	const small = "-ldflags=-s -w" // each start copies and hashes what it executes
	build := exec.Command("go", "build", small, "-o", dir+"/", "../examples/expert-swiglu", "../examples/router-top1")
	if runtime.GOOS == "linux" {
		build.Args = append(build.Args, "../internal/nasty")
	}
	build.Stderr = os.Stderr
	code := 1
	if err = build.Run(); err == nil && runtime.GOOS == "linux" {
		// As plugins are released: linked statically, so that they need none of the system's files.
		static := exec.Command("go", "build", small, "-o", dir+"/", "../internal/escape")
		static.Env, static.Stderr = append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
		err = static.Run()
	}
	if err == nil {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// playHost starts processes, tells their numbers and waits to be killed.
func playHost() {
	var stuck expert.Pending
	for _, mode := range []string{"ok", "stuck", "load-hang", "pipes"} {
		p, err := client.Start(context.Background(), client.Command{
			Path: filepath.Join(bin, "nasty"), Args: []string{mode}, RuntimeDir: os.Args[1], Identity: identity(), Plane: client.ExpertPlane(4, hidden, 2),
			Confinement: client.NewConfinement(client.ConfinementOptions{Off: mode == "pipes"}),
		})
		if err != nil {
			panic(err)
		}
		if mode == "load-hang" {
			go p.Expert().LoadShards(context.Background(), client.LoadSpec{})
		} else if err := p.Expert().LoadShards(context.Background(), client.LoadSpec{Spec: expert.Spec{Hidden: hidden, Intermediate: 1}}); err != nil {
			panic(err)
		}
		if mode == "stuck" {
			stuck = p.Expert().Start(context.Background(), call(1, 1))
		}
		fmt.Println(p.PID())
	}
	fmt.Println("ready")
	stuck.Wait()
	select {}
}

var identity = sync.OnceValue(func() *client.Identity {
	id, err := client.NewIdentity()
	if err != nil {
		panic(err)
	}
	return id
})

func runtimeDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pm") // t.TempDir is too long for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

const (
	hidden, inter = 64, 48
)

// shardFor writes random float32 weights for units (layer, expert) and describes them.
func shardFor(t testing.TB, layers, experts, hidden, inter int) (*os.File, []client.ShardUnit) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "shard"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	rng := rand.New(rand.NewPCG(1, 2))
	var units []client.ShardUnit
	var off int64
	add := func(out, in int) client.ShardTensor {
		b := make([]byte, 0, 4*out*in)
		for range out * in {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(rng.NormFloat64())/8))
		}
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
		st := client.ShardTensor{Offset: off, Length: int64(len(b)), DType: tensor.F32, Shape: []int{out, in}}
		off += int64(len(b))
		return st
	}
	for l := range layers {
		for e := range experts {
			units = append(units, client.ShardUnit{Unit: expert.Unit{Layer: l, Expert: e}, Gate: add(inter, hidden), Up: add(inter, hidden), Down: add(hidden, inter)})
		}
	}
	return f, units
}

func startExpert(t testing.TB, transport client.Transport) *client.Process {
	t.Helper()
	f, units := shardFor(t, 2, 4, hidden, inter)
	p, err := client.Start(t.Context(), client.Command{
		Path: filepath.Join(bin, "expert-swiglu"), Kind: sdk.KindExpert, RuntimeDir: runtimeDir(t), Identity: identity(),
		Transport: transport, Plane: client.ExpertPlane(16, hidden, 4), Shards: []*os.File{f},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop(context.Background()) })
	err = p.Expert().LoadShards(t.Context(), client.LoadSpec{
		Spec: expert.Spec{Hidden: hidden, Intermediate: inter, Activation: "silu"}, Units: units,
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func call(rows int, seed uint64) *expert.Call {
	c := &expert.Call{Layer: 1, Threads: 1, X: tensor.NewMatrix(rows, hidden), Y: tensor.NewMatrix(rows, hidden)}
	rng := rand.New(rand.NewPCG(seed, 7))
	for i := range c.X.Data {
		c.X.Data[i] = float32(rng.NormFloat64())
	}
	for e, left := 0, rows; left > 0; e++ {
		n := (rows + 3) / 4
		n = min(n, left)
		c.Segments = append(c.Segments, expert.Segment{Expert: e, Rows: n})
		left -= n
	}
	return c
}

// Both transports, calls that fit and calls that are split, one by one and begun together: the same bits.
func TestForwardTransportsAgree(t *testing.T) {
	shm, rpc := startExpert(t, client.TransportSHM), startExpert(t, client.TransportGRPC)
	for _, rows := range []int{0, 1, 15, 16, 17, 100} {
		a, b := call(rows, uint64(rows)), call(rows, uint64(rows))
		if err := shm.Expert().Forward(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		if err := rpc.Expert().Forward(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		var zero int
		for i := range a.Y.Data {
			if math.Float32bits(a.Y.Data[i]) != math.Float32bits(b.Y.Data[i]) {
				t.Fatalf("%d rows: value %d is %v over shared memory and %v over gRPC", rows, i, a.Y.Data[i], b.Y.Data[i])
			}
			if a.Y.Data[i] == 0 {
				zero++
			}
		}
		if zero > rows {
			t.Fatalf("%d rows: %d zeros", rows, zero)
		}
		var begun []expert.Pending
		calls := []*expert.Call{}
		for range 7 {
			c := call(rows, uint64(rows))
			calls = append(calls, c)
			begun = append(begun, shm.Expert().Start(t.Context(), c))
		}
		for i, p := range begun {
			if err := p.Wait(); err != nil {
				t.Fatal(err)
			}
			for j := range a.Y.Data {
				if a.Y.Data[j] != calls[i].Y.Data[j] {
					t.Fatalf("%d rows: call %d differs", rows, i)
				}
			}
		}
	}
	_, rows, _, err := shm.Stats(t.Context())
	if err != nil || rows != 8*(1+15+16+17+100) {
		t.Fatalf("stats: %d rows, %v", rows, err)
	}
	if b, ok := shm.Beat(); !ok || b == 0 {
		t.Fatalf("beat %d %v", b, ok)
	}
}

func TestRouter(t *testing.T) {
	for _, transport := range []client.Transport{client.TransportSHM, client.TransportGRPC} {
		p, err := client.Start(t.Context(), client.Command{
			Path: filepath.Join(bin, "router-top1"), Kind: sdk.KindRouter, RuntimeDir: runtimeDir(t), Identity: identity(),
			Transport: transport, Plane: client.RouterPlane(8, 6, 2, 0, 2),
		})
		if err != nil {
			t.Fatal(err)
		}
		r := p.Router()
		if err := r.Configure(t.Context(), router.Spec{Layers: []int{0}, Experts: 6, TopK: 2}); err != nil {
			t.Fatal(err)
		}
		if r.Observes() || !errors.Is(r.Observe(t.Context(), router.Observation{}), sdk.ErrUnsupported) {
			t.Error("a router that asks for no observations takes one")
		}
		const rows = 21
		b := router.Batch{Logits: tensor.NewMatrix(rows, 6), Tokens: make([]int32, rows), Positions: make([]int32, rows)}
		for i := range rows {
			b.Logits.Row(i)[i%6] = 3
		}
		routes := router.Routes{K: 2, IDs: make([]int32, 2*rows), Weights: make([]float32, 2*rows)}
		if err := r.Route(t.Context(), b, routes); err != nil {
			t.Fatal(err)
		}
		for i := range rows {
			if routes.IDs[2*i] != int32(i%6) || routes.Weights[2*i] != 1 || routes.Weights[2*i+1] != 0 {
				t.Fatalf("row %d: %v %v", i, routes.IDs[2*i:2*i+2], routes.Weights[2*i:2*i+2])
			}
		}
		if err := p.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := p.Death(); d.ExitCode != 0 || d.Signal != "" {
			t.Fatalf("%s: %+v", transport, d)
		}
	}
}

func TestKilledProcessFailsCalls(t *testing.T) {
	for _, transport := range []client.Transport{client.TransportSHM, client.TransportGRPC} {
		p := startExpert(t, transport)
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		<-p.Exited()
		start := time.Now()
		err := p.Expert().Forward(t.Context(), call(4, 1))
		var dead *client.DeadError
		if !errors.As(err, &dead) || !errors.Is(err, sdk.ErrUnavailable) || dead.Death.Signal != "SIGKILL" || !strings.Contains(err.Error(), "SIGKILL") {
			t.Fatalf("%s: %v", transport, err)
		}
		if took := time.Since(start); took > 200*time.Millisecond {
			t.Errorf("%s: took %v", transport, took)
		}
		if err := p.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkForward(b *testing.B) {
	for _, transport := range []client.Transport{client.TransportSHM, client.TransportGRPC} {
		for _, rows := range []int{1, 32} {
			b.Run(fmt.Sprintf("%s/%d", transport, rows), func(b *testing.B) {
				p := startExpert(b, transport)
				c := call(rows, 1)
				for b.Loop() {
					if err := p.Expert().Forward(b.Context(), c); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
