package wire

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/internal/pb"
	"github.com/pimoe/pimoe/sdk/internal/plane"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Every class crosses both ways with its whole text.
func TestErrors(t *testing.T) {
	classes := []error{sdk.ErrInvalid, sdk.ErrNotFound, sdk.ErrOverloaded, sdk.ErrUnavailable, sdk.ErrUnsupported, sdk.ErrInvalidOutput, sdk.ErrDeadline, context.Canceled}
	for i, class := range append(classes, errors.New("plain"), context.DeadlineExceeded) {
		err := fmt.Errorf("layer 3: %w", class)
		for way, got := range map[string]error{"gRPC": FromStatus(ToStatus(err)), "plane": FromReply(ToReply(err))} {
			if got == nil || got.Error() != err.Error() {
				t.Errorf("%s: got %q, want %q", way, got, err)
			}
			for j, c := range classes {
				want := i == j || class == context.DeadlineExceeded && c == sdk.ErrDeadline
				if errors.Is(got, c) != want {
					t.Errorf("%s: %q is %q: %v", way, got, c, !want)
				}
			}
		}
	}
	if FromStatus(ToStatus(nil)) != nil || FromReply(ToReply(nil)) != nil {
		t.Error("no error became one")
	}
	for _, status := range []uint32{uint32(len(classes)) + 10, math.MaxUint32} {
		if err := FromReply(plane.Reply{Status: status}); !errors.Is(err, sdk.ErrInvalidOutput) {
			t.Errorf("status %d: %v", status, err)
		}
	}
}

func randomCall(rng *rand.Rand, rows, cols int) *expert.Call {
	stride := cols + rng.IntN(3) // rows need not follow each other without gaps
	m := func() tensor.Matrix {
		m := tensor.Matrix{Rows: rows, Cols: cols, Stride: stride, Data: make([]float32, rows*stride)}
		for i := range m.Data {
			m.Data[i] = rng.Float32() - 0.5
		}
		return m
	}
	c := &expert.Call{Layer: rng.IntN(100), Threads: 1 + rng.IntN(8), X: m(), Y: m()}
	for e := rng.IntN(3); rows > 0; e += 1 + rng.IntN(3) {
		n := 1 + rng.IntN(rows)
		c.Segments = append(c.Segments, expert.Segment{Expert: e, Rows: n})
		rows -= n
	}
	return c
}

// A call and its answer are the same values at the other end, over both transports.
func TestCallsCross(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		c := randomCall(rng, rng.IntN(20), 1+rng.IntN(40))
		raw, err := proto.Marshal(ForwardRequest(c))
		if err != nil {
			t.Fatal(err)
		}
		var req pb.ForwardRequest
		if err := proto.Unmarshal(raw, &req); err != nil {
			t.Fatal(err)
		}
		rpc, err := CallOf(&req)
		if err != nil {
			t.Fatal(err)
		}
		in, out := make([]byte, 1<<14), make([]byte, 1<<14)
		PutForward(in, c)
		shm := &expert.Call{Segments: make([]expert.Segment, 3)} // what an earlier call left
		if err := PlaneCall(shm, ForwardHead(c, 0), in, out); err != nil {
			t.Fatal(err)
		}
		for way, got := range map[string]*expert.Call{"gRPC": rpc, "plane": shm} {
			if got.Layer != c.Layer || got.Threads != c.Threads || !slices.Equal(got.Segments, c.Segments) {
				t.Fatalf("%s: got %+v, want %+v", way, got, c)
			}
			for r := range c.X.Rows {
				if !slices.Equal(got.X.Row(r), c.X.Row(r)) {
					t.Fatalf("%s: row %d differs", way, r)
				}
				for i, v := range got.Y.Row(r) {
					if v == v && (way == "gRPC" || i == 0 || i == c.X.Cols-1) {
						t.Fatalf("%s: y is not poisoned", way)
					}
					got.Y.Row(r)[i] = -got.X.Row(r)[i]
				}
			}
		}
		for way, take := range map[string]func() error{
			"gRPC":  func() error { return TakeForwardReply(c, ForwardReply(rpc.Y)) },
			"plane": func() error { return TakeForward(c, PlaneForwardReply(shm), out) },
		} {
			if err := take(); err != nil {
				t.Fatalf("%s: %v", way, err)
			}
			for r := range c.X.Rows {
				for i, v := range c.X.Row(r) {
					if c.Y.Row(r)[i] != -v {
						t.Fatalf("%s: row %d column %d", way, r, i)
					}
				}
			}
		}
	}
}

// The parts of a split call are the call.
func TestSliceCall(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	for range 200 {
		c := randomCall(rng, 1+rng.IntN(30), 4)
		each := 1 + rng.IntN(8)
		var segments []expert.Segment
		for from := 0; from < c.X.Rows; from += each {
			p := SliceCall(c, from, min(from+each, c.X.Rows))
			if err := CheckCall(p); err != nil {
				t.Fatal(err)
			}
			if &p.X.Data[0] != &c.X.Row(from)[0] || &p.Y.Data[0] != &c.Y.Row(from)[0] {
				t.Fatal("a part is a copy")
			}
			for _, s := range p.Segments {
				if n := len(segments); n > 0 && segments[n-1].Expert == s.Expert {
					segments[n-1].Rows += s.Rows
				} else {
					segments = append(segments, s)
				}
			}
		}
		if !slices.Equal(segments, c.Segments) {
			t.Fatalf("got %v, want %v", segments, c.Segments)
		}
	}
}

func TestCheckCallRefuses(t *testing.T) {
	good := func() *expert.Call {
		return &expert.Call{Segments: []expert.Segment{{Expert: 1, Rows: 2}, {Expert: 4, Rows: 1}}, X: tensor.NewMatrix(3, 4), Y: tensor.NewMatrix(3, 4)}
	}
	if err := CheckCall(good()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*expert.Call){
		"order":         func(c *expert.Call) { c.Segments[1].Expert = 1 },
		"empty segment": func(c *expert.Call) { c.Segments[0].Rows = 0 },
		"negative":      func(c *expert.Call) { c.Segments[0].Rows = -2 },
		"expert":        func(c *expert.Call) { c.Segments[0].Expert = -1 },
		"sum":           func(c *expert.Call) { c.Segments[0].Rows = 3 },
		"y rows":        func(c *expert.Call) { c.Y = tensor.NewMatrix(2, 4) },
		"y columns":     func(c *expert.Call) { c.Y = tensor.NewMatrix(3, 5) },
		"layer":         func(c *expert.Call) { c.Layer = -1 },
		"threads":       func(c *expert.Call) { c.Threads = -1 },
	} {
		c := good()
		spoil(c)
		if err := CheckCall(c); !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnswersAreJudged(t *testing.T) {
	c := &expert.Call{Segments: []expert.Segment{{Expert: 0, Rows: 2}}, X: tensor.NewMatrix(2, 9), Y: tensor.NewMatrix(2, 9)}
	good := ForwardReply(tensor.NewMatrix(2, 9))
	if err := TakeForwardReply(c, good); err != nil {
		t.Fatal(err)
	}
	for at := range 18 { // every place, in the part done four at a time and in the rest
		for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
			y := tensor.NewMatrix(2, 9)
			y.Data[at] = bad
			if err := TakeForwardReply(c, ForwardReply(y)); !errors.Is(err, sdk.ErrInvalidOutput) {
				t.Errorf("%v at %d: %v", bad, at, err)
			}
		}
	}
	largest := tensor.NewMatrix(2, 9)
	largest.Data[3], largest.Data[8] = math.MaxFloat32, -math.MaxFloat32
	if err := TakeForwardReply(c, ForwardReply(largest)); err != nil {
		t.Errorf("the largest floats: %v", err)
	}
	for name, p := range map[string]*pb.ForwardReply{
		"nothing": {}, "rows": ForwardReply(tensor.NewMatrix(1, 9)), "columns": ForwardReply(tensor.NewMatrix(2, 8)),
		"bytes": {Y: &pb.Matrix{Rows: 2, Cols: 9, Data: make([]byte, 71)}},
		"lie":   {Y: &pb.Matrix{Rows: 1 << 31, Cols: 1 << 31, Data: good.Y.Data}},
	} {
		if err := TakeForwardReply(c, p); !errors.Is(err, sdk.ErrInvalidOutput) {
			t.Errorf("%s: %v", name, err)
		}
	}
	routes := newRoutes(2, 2)
	ok := router.Routes{K: 2, IDs: []int32{0, 3, 1, 2}, Weights: []float32{1, 0, 0.5, 0.5}}
	if err := TakeRouteReply(routes, 4, RouteReply(ok)); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]router.Routes{
		"id":       {K: 2, IDs: []int32{0, 4, 1, 2}, Weights: ok.Weights},
		"negative": {K: 2, IDs: []int32{0, -1, 1, 2}, Weights: ok.Weights},
		"weight":   {K: 2, IDs: ok.IDs, Weights: []float32{1, 0, 0.5, float32(math.NaN())}},
		"short":    {K: 2, IDs: ok.IDs[:2], Weights: ok.Weights[:2]},
	} {
		if err := TakeRouteReply(routes, 4, RouteReply(r)); !errors.Is(err, sdk.ErrInvalidOutput) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBatchesCross(t *testing.T) {
	for _, hidden := range []int{0, 5} {
		b := router.Batch{Layer: 7, Logits: tensor.NewMatrix(3, 4), Tokens: []int32{5, -1, 70000}, Positions: []int32{0, 1, 2}}
		for i := range b.Logits.Data {
			b.Logits.Data[i] = float32(i)
		}
		if hidden > 0 {
			b.Hidden = tensor.NewMatrix(3, hidden)
			b.Hidden.Data[hidden] = 9
		}
		rpc, rpcRoutes, err := BatchOf(RouteRequest(b, 2))
		if err != nil {
			t.Fatal(err)
		}
		in, out := make([]byte, 4096), make([]byte, 4096)
		PutRoute(in, b)
		shm, shmRoutes, err := PlaneBatch(RouteHead(b, 2, 0), in, out)
		if err != nil {
			t.Fatal(err)
		}
		for way, got := range map[string]router.Batch{"gRPC": rpc, "plane": shm} {
			if d := cmp.Diff(b, got); d != "" {
				t.Errorf("%s: %s", way, d)
			}
		}
		want := router.Routes{K: 2, IDs: []int32{0, 1, 2, 3, 3, 0}, Weights: []float32{1, 2, 3, 4, 5, 6}}
		for way, r := range map[string]router.Routes{"gRPC": rpcRoutes, "plane": shmRoutes} {
			if r.IDs[5] != -1 || r.Weights[5] == r.Weights[5] {
				t.Errorf("%s: routes are not spoiled: %+v", way, r)
			}
			copy(r.IDs, want.IDs)
			copy(r.Weights, want.Weights)
		}
		a, p := newRoutes(3, 2), newRoutes(3, 2)
		if err := errors.Join(TakeRouteReply(a, 4, RouteReply(rpcRoutes)), TakeRoute(p, 4, PlaneRouteReply(shm, shmRoutes), out)); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, a) + cmp.Diff(want, p); d != "" {
			t.Error(d)
		}
	}
	spec := router.Spec{Layers: []int{1, 4}, Experts: 8, TopK: 2, Rule: router.Rule{Score: router.TopKSoftmax, Renormalise: true, Scale: 2.5}, Params: map[string]string{"seed": "1"}}
	got, err := RouterSpecOf(ConfigureRequest(spec))
	if d := cmp.Diff(spec, got); d != "" || err != nil {
		t.Error(d, err)
	}
}

// Ranges that leave their shard, also by way of an overflow, are refused; good ones are views of it.
func TestSpecOf(t *testing.T) {
	shard := make([]byte, 4096)
	good := func() *pb.LoadRequest {
		return LoadRequest(expert.Spec{Hidden: 4, Intermediate: 8, Activation: "silu", NumericClass: "auto", Params: map[string]string{"a": "b"}}, []Unit{{
			Unit: expert.Unit{Layer: 2, Expert: 5},
			Gate: Range{Offset: 0, Length: 128, DType: tensor.F32, Shape: []int{8, 4}},
			Up:   Range{Offset: 128, Length: 64, DType: tensor.BF16, Shape: []int{8, 4}},
			Down: Range{Offset: 4096 - 64, Length: 64, DType: tensor.F16, Shape: []int{4, 8}},
		}, {
			Unit: expert.Unit{Layer: 3, Expert: 5},
			Gate: Range{Offset: 0, Length: 320, DType: tensor.I8, Shape: []int{8, 4}, Packing: "p"},
			Up:   Range{Offset: 128, Length: 64, DType: tensor.BF16, Shape: []int{8, 4}},
			Down: Range{Offset: 4096 - 64, Length: 64, DType: tensor.F16, Shape: []int{4, 8}},
		}})
	}
	spec, err := SpecOf(good(), [][]byte{shard})
	if err != nil {
		t.Fatal(err)
	}
	u := spec.Units[0]
	if spec.Hidden != 4 || spec.Params["a"] != "b" || u.Layer != 2 || u.Expert != 5 || &u.Down.Data[63] != &shard[4095] || cap(u.Up.Data) != 64 || u.Up.DType != tensor.BF16 {
		t.Errorf("got %+v", spec)
	}
	if p := spec.Units[1].Gate; p.Packing != "p" || len(p.Data) != 320 || p.DType != tensor.I8 || spec.Units[1].Up.Packing != "" {
		t.Errorf("packed: %q, %d bytes of %v", p.Packing, len(p.Data), p.DType)
	}
	for name, spoil := range map[string]func(*pb.LoadRequest){
		"packed length": func(r *pb.LoadRequest) { r.Units[1].Gate.Length = 5000 },
		"packed shape":  func(r *pb.LoadRequest) { r.Units[1].Gate.Shape = []uint64{1 << 40, 1 << 40} },
		"missing":       func(r *pb.LoadRequest) { r.Units[0].Gate = nil },
		"shard":         func(r *pb.LoadRequest) { r.Units[0].Gate.Shard = 1 },
		"offset":        func(r *pb.LoadRequest) { r.Units[0].Gate.Offset = 4096 },
		"far offset":    func(r *pb.LoadRequest) { r.Units[0].Gate.Offset = math.MaxUint64 - 100 },
		"length":        func(r *pb.LoadRequest) { r.Units[0].Gate.Length = math.MaxUint64 },
		"shape":         func(r *pb.LoadRequest) { r.Units[0].Gate.Shape = []uint64{8, 5} },
		"large shape":   func(r *pb.LoadRequest) { r.Units[0].Gate.Shape = []uint64{1 << 40, 1 << 40} },
		"overflow":      func(r *pb.LoadRequest) { r.Units[0].Gate.Shape = []uint64{1 << 27, 1 << 27, 1 << 8, 32} },
		"wraps to fit":  func(r *pb.LoadRequest) { r.Units[0].Gate.Shape = []uint64{1 << 28, 1 << 28, 1 << 6, 8, 4} },
		"dtype":         func(r *pb.LoadRequest) { r.Units[0].Gate.Dtype = "Q4" },
		"hidden":        func(r *pb.LoadRequest) { r.Hidden = 0 },
		"wide":          func(r *pb.LoadRequest) { r.Intermediate = math.MaxUint32 },
		"another dtype": func(r *pb.LoadRequest) { r.Units[0].Gate.Dtype = "F64" },
	} {
		r := good()
		spoil(r)
		if _, err := SpecOf(r, [][]byte{shard}); !errors.Is(err, sdk.ErrInvalid) && !errors.Is(err, sdk.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// No header makes a plugin read or write outside its slot.
func FuzzPlaneHead(f *testing.F) {
	f.Add(uint32(3), uint32(4), uint32(1), uint32(2), uint32(0), []byte{0, 0, 0, 0, 3, 0, 0, 0})
	f.Add(uint32(math.MaxUint32), uint32(math.MaxUint32), uint32(math.MaxUint32), uint32(1), uint32(7), []byte{})
	f.Add(uint32(1<<28), uint32(1<<28), uint32(0), uint32(1<<28), uint32(1<<28), []byte{1})
	f.Fuzz(func(t *testing.T, rows, cols, segments, k, hidden uint32, start []byte) {
		in, out := make([]byte, 4096), make([]byte, 4096)
		copy(in, start)
		h := plane.Head{Rows: rows, Cols: cols, Segments: segments, K: k, Hidden: hidden}
		if c := new(expert.Call); PlaneCall(c, h, in, out) == nil && (c.X.Rows != int(rows) || len(c.Y.Data) != c.X.Rows*c.X.Cols) {
			t.Errorf("%+v gave %+v", h, c)
		}
		if b, r, err := PlaneBatch(h, in, out); err == nil && (len(r.IDs) != b.Logits.Rows*r.K || len(b.Tokens) != int(rows)) {
			t.Errorf("%+v gave %+v", h, b)
		}
	})
}

// No answer, whatever its header and bytes, becomes a result that is not finite or breaks the host.
func FuzzTakeForward(f *testing.F) {
	f.Add(uint32(0), uint32(2), uint32(3), []byte{0, 0, 0xc0, 0x7f})
	f.Add(uint32(5), uint32(1<<31), uint32(1<<31), []byte{})
	f.Fuzz(func(t *testing.T, status, rows, cols uint32, payload []byte) {
		b := make([]byte, 4096)
		copy(b, payload)
		c := &expert.Call{X: tensor.NewMatrix(2, 3), Y: tensor.NewMatrix(2, 3)}
		if err := TakeForward(c, plane.Reply{Status: status, Rows: rows, Cols: cols}, b); err == nil {
			if rows != 2 || cols != 3 || Judge(c.Y) != nil {
				t.Errorf("%d x %d gave %v", rows, cols, c.Y)
			}
		}
		r := newRoutes(2, 2)
		if err := TakeRoute(r, 3, plane.Reply{Status: status, Rows: rows, Cols: cols}, b); err == nil && JudgeRoutes(r, 3) != nil {
			t.Errorf("gave %v", r)
		}
	})
}
