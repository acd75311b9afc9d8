package host_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/weights"
	modelrouter "github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/serve"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// The test program is its own plugins: started under the name of one, it serves it.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "worker":
		serve.Expert(&worker{})
	case "router":
		serve.Router(modelrouter.New())
	}
	os.Exit(m.Run())
}

// worker is an expert that keeps a core busy for a given time and answers with its input.
type worker struct{ busy time.Duration }

func (w *worker) Info() sdk.Info {
	return sdk.Info{Name: "worker", Version: "1", Capabilities: []string{sdk.CapOwnFunction}}
}

func (w *worker) Load(_ context.Context, s expert.Spec) (err error) {
	w.busy, err = time.ParseDuration(s.Params["busy"])
	return err
}

func (w *worker) Forward(_ context.Context, c *expert.Call) error {
	for r := range c.X.Rows {
		copy(c.Y.Row(r), c.X.Row(r))
	}
	if w.busy > 0 {
		for began := time.Now(); time.Since(began) < w.busy; {
		}
	}
	return nil
}

func (w *worker) Close() error { return nil }

const benchHidden, benchExperts, benchTopK = 2048, 8, 2

// startWorkers starts a router and eight workers, one for each expert of the embedded model's first layer.
func startWorkers(b testing.TB, busy time.Duration) *host.Host {
	b.Helper()
	dir, err := os.MkdirTemp("", "pm") // b.TempDir is too long for a socket's name
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	store, err := weights.OpenStore(filepath.Join(dir, "store"))
	if err != nil {
		b.Fatal(err)
	}
	stored, err := store.EnsureEmbedded(b.Context(), func(ck *weights.Checkpoint) (weights.Plan, error) {
		cfg, err := model.ReadConfig(ck.Dir())
		if err != nil {
			return weights.Plan{}, err
		}
		return cfg.Plan(ck)
	})
	if err != nil {
		b.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range []string{"worker", "router"} {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			b.Fatal(err)
		}
	}
	spec := router.Spec{Layers: []int{0}, Experts: benchExperts, TopK: benchTopK, Rule: router.Rule{Score: router.SoftmaxTopK, Renormalise: true}}
	standIn := modelrouter.New()
	if err := standIn.Configure(b.Context(), spec); err != nil {
		b.Fatal(err)
	}
	o := host.Options{
		Model: stored, Experts: host.ExpertShape{Hidden: benchHidden, Intermediate: 1024, Activation: "silu"},
		Router:     host.RouterSpec{Name: "model", Path: filepath.Join(dir, "router"), Spec: spec, StandIn: standIn},
		RuntimeDir: filepath.Join(dir, "r"), MaxRows: 64, Metrics: metrics.New(), Log: slog.New(slog.DiscardHandler),
		Confinement: client.ConfinementOptions{
			Trusting: true, // the links
			Memory:   -1,   // the race detector reserves more than there is
		},
	}
	for e := range benchExperts {
		o.Groups = append(o.Groups, host.GroupSpec{
			Name: fmt.Sprint("e", e), Units: []expert.Unit{{Layer: 0, Expert: e}}, Backend: "worker",
			Path: filepath.Join(dir, "worker"), Params: map[string]string{"busy": busy.String()}, Replicas: 1,
		})
	}
	h, err := host.Start(b.Context(), o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { h.Close() })
	return h
}

// BenchmarkRoundTrip is one row of 2048 floats to an expert that does nothing and back.
func BenchmarkRoundTrip(b *testing.B) {
	g := startWorkers(b, 0).Groups()[0]
	call := &expert.Call{
		Threads: 1, Segments: []expert.Segment{{Expert: 0, Rows: 1}},
		X: tensor.NewMatrix(1, benchHidden), Y: tensor.NewMatrix(1, benchHidden),
	}
	report(b, func() error { return g.Start(b.Context(), call).Wait() })
}

// BenchmarkLayer is one layer of one row: a hop to the router, then two of eight experts that work 100 us each, other
// ones each time. 100 us would be ideal.
func BenchmarkLayer(b *testing.B) {
	h := startWorkers(b, 100*time.Microsecond)
	place := make([]int, benchExperts)
	for e := range place {
		place[e] = e
	}
	layer := moe.New(h.Router(), benchTopK, benchExperts, moe.Placement{0: place}, h.Groups(), benchHidden, twoThreads(b))
	in := moe.Input{
		X: tensor.NewMatrix(1, benchHidden), Logits: tensor.NewMatrix(1, benchExperts), Tokens: []int32{1}, Positions: []int32{0},
	}
	rng := rand.New(rand.NewPCG(1, 2))
	y := tensor.NewMatrix(1, benchHidden)
	report(b, func() error {
		for e := range in.Logits.Data {
			in.Logits.Data[e] = rng.Float32()
		}
		return layer.Forward(b.Context(), in, y)
	})
}

// report runs f and reports the median and the 99th percentile of its runs.
func report(b *testing.B, f func() error) {
	took := make([]time.Duration, b.N)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range took {
		began := time.Now()
		if err := f(); err != nil {
			b.Fatal(err)
		}
		took[i] = time.Since(began)
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2])/1e3, "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100])/1e3, "p99-us")
}

// twoThreads is a team that ends with the test.
func twoThreads(t testing.TB) team.Team {
	p := team.NewPool(2, team.Options{})
	t.Cleanup(p.Close)
	return p.Team()
}
