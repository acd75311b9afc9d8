package bench

import (
	"context"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// instant is an engine that answers at once, routes by position, and remembers what it was asked.
type instant struct {
	mu      sync.Mutex // guards the fields below
	prompts [][]int32
	layers  int
	short   int // tokens to leave out
}

func (e *instant) Submit(_ context.Context, r engine.Request) (engine.Stream, error) {
	if !r.NoReuse || !r.IgnoreEOS || r.Forced != nil {
		return nil, sdk.ErrInvalid
	}
	if r.Observe != nil {
		for p := range len(r.Prompt) + r.MaxTokens - 1 { // each request of a step needs one expert of its own and one that all need
			r.Observe.Route(0, p, []int32{r.Prompt[0] % 1000, 1000}, []float32{.5, .5})
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.prompts = append(e.prompts, r.Prompt)
	return &tokens{left: r.MaxTokens - e.short}, nil
}

func (e *instant) Hidden(_ context.Context, layer int, x tensor.Matrix, all bool, _ moe.Accept) (tensor.Matrix, []engine.RouteInfo, engine.Quality, error) {
	if layer != -1 || all || x.Rows*x.Cols != len(x.Data) {
		return x, nil, engine.Quality{}, sdk.ErrInvalid
	}
	e.layers++
	return x, nil, engine.Quality{}, nil
}

type tokens struct{ left int }

func (s *tokens) Next(context.Context) (engine.Token, error) {
	if s.left == 0 {
		return engine.Token{}, io.EOF
	}
	s.left--
	return engine.Token{HasToken: true}, nil
}
func (s *tokens) Usage() engine.Usage { return engine.Usage{} }
func (s *tokens) Close()              {}

func parse(t *testing.T, texts ...string) (out []Workload) {
	t.Helper()
	for _, text := range texts {
		w, err := ParseWorkload(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, w)
	}
	return out
}

func TestRun(t *testing.T) {
	a, b := &instant{}, &instant{}
	var steps []int
	results, err := Run(context.Background(), []Target{{Isolation: Process, Engine: a}, {Isolation: InProc, Engine: b}}, Options{
		Workloads: parse(t, "1x5+4", "3x5+4", "layer2"), Vocab: 100000, Hidden: 8, Rounds: 2, Seed: 7,
		Progress: func(done, total int, _ string) { steps = append(steps, done, total) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 6 || results[0].Isolation != Process || results[1].Isolation != InProc || results[2].Parallel != 3 || results[4].Workload != "layer2" {
		t.Errorf("%+v", results)
	}
	for _, r := range results[:4] {
		if (r.Isolation == Process) != (r.Tax != nil && r.PrefillTax != nil) || r.PrefillTPS <= 0 || r.TTFT <= 0 || r.Prompt != 5 || r.Gen != 4 {
			t.Errorf("%+v", r)
		}
		if want := float64(r.Parallel + 1); r.Experts != want {
			t.Errorf("%d requests: %v distinct experts, want %v", r.Parallel, r.Experts, want)
		}
	}
	for _, r := range results[4:] {
		if r.Layer.P50 <= 0 || r.Layer.P99 < r.Layer.P50 || r.DecodeTPS != 0 || r.Tax != nil {
			t.Errorf("%+v", r)
		}
	}
	const requests = (1 + 3) * 3 // a warm-up and two rounds
	if len(a.prompts) != requests || len(steps) != 2*18 || steps[len(steps)-2] != 17 || steps[len(steps)-1] != 18 || a.layers < 3*layerCalls {
		t.Errorf("%d prompts, %d layers, progress %v", len(a.prompts), a.layers, steps)
	}
	seen := map[[5]int32]bool{}
	for _, p := range a.prompts {
		if key := [5]int32(p); seen[key] {
			t.Errorf("prompt %v twice", p)
		} else {
			seen[key] = true
		}
	}
	for _, p := range b.prompts { // requests of one round come in any order
		if !seen[[5]int32(p)] {
			t.Errorf("the targets got different prompts: %v", p)
		}
	}
}

// Where only a prompt is measured, another one goes before it in every round, and is not counted.
func TestPromptIsWarmedUp(t *testing.T) {
	e := &instant{}
	results, err := Run(context.Background(), []Target{{Isolation: Process, Engine: e}}, Options{Workloads: parse(t, "1x5+1"), Vocab: 100000, Rounds: 3})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[[5]int32]bool{}
	for _, p := range e.prompts {
		seen[[5]int32(p)] = true
	}
	if len(seen) != 1+2*3 || len(results) != 1 || results[0].Prompt != 5 {
		t.Errorf("%d different prompts, want 7; results %+v", len(seen), results)
	}
}

func TestRefusals(t *testing.T) {
	good := Options{Workloads: parse(t, "1x1+2"), Vocab: 2, Rounds: 1}
	for _, change := range []func(*Options){
		func(o *Options) { o.Workloads = nil }, func(o *Options) { o.Rounds = 0 }, func(o *Options) { o.Vocab = 0 },
		func(o *Options) { o.Workloads = []Workload{{Parallel: 1, Prompt: 0, Gen: 1}} }, func(o *Options) { o.Workloads = parse(t, "layer4") },
	} {
		o := good
		change(&o)
		if _, err := Run(context.Background(), []Target{{Isolation: Process, Engine: &instant{}}}, o); !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := Run(context.Background(), []Target{{Isolation: Process, Engine: &instant{short: 1}}}, good); !errors.Is(err, sdk.ErrInvalidOutput) {
		t.Errorf("an engine that stops early: %v", err)
	}
}

func TestParseWorkload(t *testing.T) {
	for text, want := range map[string]Workload{
		"prefill": {"prefill", 1, 512, 1, false}, "batch32": {"batch32", 32, 32, 32, false}, "layer32": {"layer32", 32, 0, 0, true},
		"4x16+2": {"4x16+2", 4, 16, 2, false},
	} {
		if got, err := ParseWorkload(text); err != nil || got != want {
			t.Errorf("%s: %+v %v", text, got, err)
		}
	}
	for _, text := range []string{"", "x", "4x16", "4+16", "0x1+1", "1x1+0", "layer", "layer0", "layer-1", "4x16+2+3", "99999999x1+1"} {
		if w, err := ParseWorkload(text); !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("%q: %+v %v", text, w, err)
		}
	}
}

// TestPeers: each round runs every peer once with the workloads that count, and ratios compare within a round.
func TestPeers(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	peer := Peer{Command: `echo "$PIMOE_BENCH_WORKLOADS" >>` + log + `; echo noise; echo '{"name":"other","prefill_tps":1,"decode_tps":2,"decode_tps_8":4,"bytes_per_weight":1}'`}
	results, err := Run(t.Context(), []Target{{Isolation: Process, Engine: &instant{}}}, Options{
		Workloads: parse(t, "prefill", "decode", "batch8", "batch32"), Vocab: 100, Rounds: 2, Peers: []Peer{peer},
		Weights: Weights{Trunk: 10, Unit: 5, Layers: 2, TrunkBytes: 2, ExpertsBytes: 4},
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(log)
	if err != nil || string(b) != "prefill decode batch8 batch32\nprefill decode batch8 batch32\n" {
		t.Errorf("%q %v", b, err)
	}
	if len(results) != 7 {
		t.Fatalf("%+v", results)
	}
	prefill, other, decode, batch32 := results[0], results[1], results[2], results[6]
	if other.Isolation != Other || other.Peer != "other" || other.PrefillTPS != 1 || other.DecodeTPS != 0 {
		t.Errorf("%+v", other)
	}
	if q := prefill.Ratios[0]; q.Peer != "other" || q.Decode != nil || q.Prefill.Median < prefill.Prefill.Min || q.Prefill.Max > prefill.Prefill.Max {
		t.Errorf("%+v of %+v", q, prefill)
	}
	if q := decode.Ratios[0]; q.Prefill != nil || math.Abs(q.Decode.Median*2-decode.DecodeTPS) > 1e-6*decode.DecodeTPS {
		t.Errorf("%+v of %+v", q, decode)
	}
	if len(batch32.Ratios) != 0 {
		t.Errorf("a ratio to nothing: %+v", batch32)
	}
	if want := 10*2 + 2*2*5*4.; decode.BytesPerStep != want || decode.BytesPerToken != want {
		t.Errorf("a step of %v bytes, want %v", decode.BytesPerStep, want)
	}
	if want := 10 + 2*2*5.; results[3].BytesPerStep != want || results[3].DecodeTPS != 2 {
		t.Errorf("a step of the peer of %v bytes, want %v", results[3].BytesPerStep, want)
	}
}

// TestSettings: a side with other settings is compared with the plain one of its isolation, and has no tax.
func TestSettings(t *testing.T) {
	results, err := Run(t.Context(), []Target{
		{Isolation: Process, Engine: &instant{}}, {Isolation: InProc, Engine: &instant{}}, {Isolation: Process, Settings: "a.b=2", Engine: &instant{}},
	}, Options{Workloads: parse(t, "2x4+8"), Vocab: 100, Rounds: 3})
	if err != nil {
		t.Fatal(err)
	}
	if plain := results[0]; plain.Settings != "" || len(plain.Ratios) != 0 || plain.Tax == nil {
		t.Errorf("%+v", plain)
	}
	other := results[2]
	if other.Settings != "a.b=2" || other.Tax != nil || len(other.Ratios) != 1 || other.Ratios[0].Peer != Process || other.Ratios[0].Decode == nil {
		t.Fatalf("%+v", other)
	}
	if q := other.Ratios[0].Decode; q.Min > q.Median || q.Median > q.Max || q.Min > other.DecodeTPS/results[0].Decode.Min || q.Max < other.DecodeTPS/results[0].Decode.Max {
		t.Errorf("%+v of %+v and %+v", q, other.Decode, results[0].Decode)
	}
	var b strings.Builder
	if err := WriteResults(&b, results); err != nil || !strings.Contains(b.String(), "process a.b=2  process") {
		t.Errorf("%v\n%s", err, b.String())
	}
}

// TestTurns: what a target has beside it runs in its own turns only, and in each of them.
func TestTurns(t *testing.T) {
	var running, turns [2]int
	var targets []Target
	for i := range running {
		targets = append(targets, Target{Isolation: Process, Settings: strings.Repeat("a=1", i), Engine: &instant{}, Turn: func(begins bool) {
			if running[1-i] > 0 {
				t.Errorf("turn of %d while the other one has its own", i)
			}
			if begins {
				running[i]++
				turns[i]++
			} else {
				running[i]--
			}
		}})
	}
	if _, err := Run(t.Context(), targets, Options{Workloads: parse(t, "2x4+8"), Vocab: 100, Rounds: 3}); err != nil {
		t.Fatal(err)
	}
	if turns != [2]int{4, 4} || running != [2]int{} { // with the warm-up
		t.Errorf("%v turns, %v not ended", turns, running)
	}
}

func TestPeerFails(t *testing.T) {
	for _, command := range []string{"echo broken >&2; exit 3", "echo no JSON", "true", `echo '{"prefill_tps":-1}'`} {
		if f, err := (Peer{Command: command}).run(t.Context(), nil); err == nil || strings.Contains(command, "broken") && !strings.Contains(err.Error(), "broken") {
			t.Errorf("%s: %+v %v", command, f, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := (Peer{Command: "sleep 60 & sleep 60"}).run(ctx, nil); err == nil || time.Since(start) > 10*time.Second {
		t.Errorf("a peer that hangs: %v after %s", err, time.Since(start))
	}
}

// at makes a run from milliseconds: the submit, then the tokens.
func at(ms ...int) run {
	base := time.Unix(1000, 0)
	r := run{submitted: base.Add(time.Duration(ms[0]) * time.Millisecond)}
	for _, m := range ms[1:] {
		r.tokens = append(r.tokens, moment{Time: base.Add(time.Duration(m) * time.Millisecond), allocs: uint64(m)})
	}
	return r
}

func TestSampleOf(t *testing.T) {
	// Two requests of 10 prompt tokens; first tokens at 100 and 200 ms, both decode from 200 to 400 ms.
	s := sampleOf([]run{at(0, 100, 150, 250, 300, 400), at(10, 200, 260, 320, 380, 500)}, 10)
	if s.prefill != 100 { // 20 tokens in 200 ms
		t.Errorf("prefill %v", s.prefill)
	}
	if s.decode != 30 { // 250 300 400, 260 320 380: 6 tokens in 200 ms
		t.Errorf("decode %v", s.decode)
	}
	if s.allocs != 200./6 { // one object a millisecond
		t.Errorf("allocations %v", s.allocs)
	}
	if !slices.Equal(millis(s.ttft), []float64{100, 190}) || !slices.Equal(millis(s.itl), []float64{100, 50, 100, 60, 60, 60}) {
		t.Errorf("ttft %v itl %v", s.ttft, s.itl)
	}
	// Steps of 100 ms, whose tokens are seen one after the other: the last step's all count, as does the time until then.
	s = sampleOf([]run{at(0, 100, 201, 302, 400), at(0, 101, 200, 301, 402), at(0, 102, 202, 300, 401)}, 1)
	if s.decode != 30 { // 3 steps of 3 tokens in 300 ms
		t.Errorf("decode of steps: %v", s.decode)
	}
	// The first request ends before the second has its first token: measured from there to the end.
	s = sampleOf([]run{at(0, 10, 20), at(0, 100, 200)}, 1)
	if s.decode != 10 {
		t.Errorf("decode without a common time: %v", s.decode)
	}
	// One token of the first request comes in the same instant as the second's first: no time to measure in.
	s = sampleOf([]run{at(0, 10, 20, 30, 101), at(0, 100, 200, 300, 400)}, 1)
	if want := 4. / 0.3; math.Abs(s.decode-want) > 1e-9 {
		t.Errorf("decode with hardly a common time: %v, want %v", s.decode, want)
	}
}

func TestTaxIsMedianOfRounds(t *testing.T) {
	samples := [][]sample{
		{{prefill: 50, decode: 90}, {prefill: 50, decode: 50}, {prefill: 50, decode: 95}},
		{{prefill: 100, decode: 100}, {prefill: 100, decode: 100}, {prefill: 100, decode: 100}},
	}
	r := &record{options: Options{Workloads: parse(t, "1x1+2")}, targets: []Target{{Isolation: Process}, {Isolation: InProc}}, samples: [][][]sample{samples}, experts: []float64{0}}
	rs := r.results()
	if rs[0].Tax == nil || math.Abs(*rs[0].Tax-0.1) > 1e-12 || math.Abs(*rs[0].PrefillTax-0.5) > 1e-12 || rs[1].Tax != nil || math.Abs(rs[0].TaxRange.Max-0.5) > 1e-12 {
		t.Errorf("%+v", rs)
	}
	if rs[0].DecodeTPS != 90 || rs[0].PrefillTPS != 50 || rs[0].Decode != (Spread{50, 90, 95}) {
		t.Errorf("medians: %+v", rs[0])
	}
}

// TestLimits: more threads and no memory are never slower by much, and a mapped file can be read.
func TestLimits(t *testing.T) {
	if testing.Short() {
		t.Skip("reads a quarter of a gigabyte several times")
	}
	l, err := MeasureLimits(t.TempDir(), 2)
	if err != nil || l.Mapped[0] < .1 || l.FMA[0] < .1 || l.Threads != 2 {
		t.Errorf("%+v %v", l, err)
	}
}

// TestOwnBytes: memory that this process touches counts, and a mapped file doesn't.
func TestOwnBytes(t *testing.T) {
	before, err := ownBytes(os.Getpid())
	if errors.Is(err, sdk.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	b, unmap, err := mapProbe(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer unmap()
	mine := make([]byte, 64<<20)
	for i := range mine {
		mine[i] = b[i]
	}
	after, err := ownBytes(os.Getpid())
	if grown := after - before; err != nil || grown < 60<<20 || grown > 200<<20 {
		t.Errorf("%d bytes more, %v", grown, err)
	}
	if cpuTime(os.Getpid()) <= 0 {
		t.Error("this process has not worked")
	}
	slices.Sort(mine[:1])
}

func TestReportIsReadable(t *testing.T) {
	var b strings.Builder
	r := Report{Machine: ThisMachine("v1"), Model: "m", Classes: []string{"int8g32", "bf16w-f32"},
		Sides:   []Side{{Isolation: Process, Processes: 8, Starts: []float64{300, 100, 200}, OwnBytes: []int64{2e6, 3e6}}},
		Results: []Result{{Workload: "prefill", Gen: 1, Isolation: Process, PrefillTPS: 2, Prefill: Spread{1, 2, 3}, DecodeTPS: 5, BytesPerToken: 1e9, Ratios: []Ratio{{Peer: "other", Prefill: &Spread{4, 5, 6}}}}}}
	r.SetLimits(Limits{Threads: 2, Mapped: [2]float64{10, 20}}, Limits{Threads: 2, Mapped: [2]float64{11, 19}})
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"m: experts int8g32, trunk bf16w-f32", "v1", "10.0 / 20.0", "11.0 / 19.0", "25%", "2.0 (1.0 to 3.0)", "5.00x (4.00 to 6.00)", "200", "2.0 / 3.0"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
	b.Reset()
	if err := Markdown(&b, []Report{r}); err != nil || !strings.Contains(b.String(), "| m, int8g32, 8 processes | prefill | 2 | - | - | - | - | 5.00x (4.00 to 6.00) |") {
		t.Errorf("%v\n%s", err, &b)
	}
	if strings.Contains(b.String(), "LAYER") {
		t.Errorf("an empty column:\n%s", &b)
	}
}
