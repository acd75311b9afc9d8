package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/internal/pb"
	"github.com/pimoe/pimoe/sdk/internal/plane"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// CheckBatch holds for every batch before it leaves the host and again before an author's code sees it.
func CheckBatch(b router.Batch, r router.Routes) error {
	rows, experts := b.Logits.Rows, b.Logits.Cols
	if rows < 0 || rows > maxDim || experts < 1 || experts > maxDim || b.Layer < 0 || b.Layer > maxDim {
		return fmt.Errorf("layer %d, logits of %d x %d: %w", b.Layer, rows, experts, sdk.ErrInvalid)
	}
	if r.K < 1 || r.K > experts || len(r.IDs) != rows*r.K || len(r.Weights) != rows*r.K {
		return fmt.Errorf("routes of k=%d with %d ids and %d weights for %d rows and %d experts: %w",
			r.K, len(r.IDs), len(r.Weights), rows, experts, sdk.ErrInvalid)
	}
	if len(b.Tokens) != rows || len(b.Positions) != rows {
		return fmt.Errorf("%d tokens and %d positions for %d rows: %w", len(b.Tokens), len(b.Positions), rows, sdk.ErrInvalid)
	}
	if h := b.Hidden; h.Cols != 0 && (h.Rows != rows || h.Cols > maxDim) {
		return fmt.Errorf("hidden states of %d x %d for %d rows: %w", h.Rows, h.Cols, rows, sdk.ErrInvalid)
	}
	return nil
}

// SliceBatch is the part of a batch, and of its routes, with the rows [from, to).
func SliceBatch(b router.Batch, r router.Routes, from, to int) (router.Batch, router.Routes) {
	part := router.Batch{
		Layer: b.Layer, Logits: b.Logits.Slice(from, to), Tokens: b.Tokens[from:to], Positions: b.Positions[from:to],
	}
	if b.Hidden.Cols != 0 {
		part.Hidden = b.Hidden.Slice(from, to)
	}
	return part, router.Routes{K: r.K, IDs: r.IDs[from*r.K : to*r.K], Weights: r.Weights[from*r.K : to*r.K]}
}

// ConfigureRequest packs a router's spec.
func ConfigureRequest(s router.Spec) *pb.ConfigureRequest {
	req := &pb.ConfigureRequest{
		Experts: uint32(s.Experts), TopK: uint32(s.TopK), Params: s.Params,
		Rule: &pb.Rule{Score: string(s.Rule.Score), Renormalise: s.Rule.Renormalise, Scale: s.Rule.Scale},
	}
	for _, l := range s.Layers {
		req.Layers = append(req.Layers, uint32(l))
	}
	return req
}

// RouterSpecOf unpacks it.
func RouterSpecOf(p *pb.ConfigureRequest) (router.Spec, error) {
	if p.GetExperts() < 1 || p.GetExperts() > maxDim || p.GetTopK() < 1 || p.GetTopK() > p.GetExperts() {
		return router.Spec{}, fmt.Errorf("configure: top %d of %d experts: %w", p.GetTopK(), p.GetExperts(), sdk.ErrInvalid)
	}
	s := router.Spec{
		Experts: int(p.GetExperts()), TopK: int(p.GetTopK()), Params: p.GetParams(),
		Rule: router.Rule{Score: router.Score(p.GetRule().GetScore()), Renormalise: p.GetRule().GetRenormalise(), Scale: p.GetRule().GetScale()},
	}
	for _, l := range p.GetLayers() {
		s.Layers = append(s.Layers, int(l))
	}
	return s, nil
}

// newRoutes makes routes that are wrong until they are filled.
func newRoutes(rows, k int) router.Routes {
	r := router.Routes{K: k, IDs: make([]int32, rows*k), Weights: make([]float32, rows*k)}
	spoil(r)
	return r
}

func spoil(r router.Routes) {
	for i := range r.IDs {
		r.IDs[i] = -1
	}
	poison(r.Weights)
}

// JudgeRoutes looks at routes in the host's own memory: ids within the experts, weights finite.
func JudgeRoutes(r router.Routes, experts int) error {
	for i, id := range r.IDs {
		if id < 0 || int64(id) >= int64(experts) {
			return fmt.Errorf("row %d: expert %d of %d: %w", i/r.K, id, experts, sdk.ErrInvalidOutput)
		}
	}
	if i := notFinite(r.Weights); i >= 0 {
		return fmt.Errorf("row %d: weight %v: %w", i/r.K, r.Weights[i], sdk.ErrInvalidOutput)
	}
	return nil
}

// RouteRequest packs a batch.
func RouteRequest(b router.Batch, k int) *pb.RouteRequest {
	req := &pb.RouteRequest{Layer: uint32(b.Layer), K: uint32(k), Logits: matrix(b.Logits), Tokens: b.Tokens, Positions: b.Positions}
	if b.Hidden.Cols != 0 {
		req.Hidden = matrix(b.Hidden)
	}
	return req
}

// BatchOf unpacks a batch, with routes to fill.
func BatchOf(req *pb.RouteRequest) (router.Batch, router.Routes, error) {
	logits, err := unpack(req.GetLogits())
	if err != nil {
		return router.Batch{}, router.Routes{}, fmt.Errorf("logits: %w", err)
	}
	b := router.Batch{Layer: int(req.GetLayer()), Logits: logits, Tokens: req.GetTokens(), Positions: req.GetPositions()}
	if req.GetHidden() != nil {
		if b.Hidden, err = unpack(req.GetHidden()); err != nil {
			return router.Batch{}, router.Routes{}, fmt.Errorf("hidden: %w", err)
		}
	}
	if req.GetK() < 1 || int64(req.GetK()) > int64(logits.Cols) {
		return router.Batch{}, router.Routes{}, fmt.Errorf("k=%d of %d experts: %w", req.GetK(), logits.Cols, sdk.ErrInvalid)
	}
	r := newRoutes(logits.Rows, int(req.GetK()))
	return b, r, CheckBatch(b, r)
}

// RouteReply packs filled routes.
func RouteReply(r router.Routes) *pb.RouteReply {
	p := &pb.RouteReply{}
	for i, id := range r.IDs {
		p.Ids = binary.LittleEndian.AppendUint32(p.Ids, uint32(id))
		p.Weights = binary.LittleEndian.AppendUint32(p.Weights, math.Float32bits(r.Weights[i]))
	}
	return p
}

// TakeRouteReply fills routes.
func TakeRouteReply(r router.Routes, experts int, p *pb.RouteReply) error {
	if len(p.GetIds()) != 4*len(r.IDs) || len(p.GetWeights()) != 4*len(r.Weights) {
		return fmt.Errorf("answer of %d and %d bytes, want %d: %w", len(p.GetIds()), len(p.GetWeights()), 4*len(r.IDs), sdk.ErrInvalidOutput)
	}
	for i := range r.IDs {
		r.IDs[i] = int32(binary.LittleEndian.Uint32(p.Ids[4*i:]))
	}
	decode(r.Weights, p.Weights)
	return JudgeRoutes(r, experts)
}

// RouteBytes is what one row of a batch needs in a slot: in the request and in the answer.
func RouteBytes(b router.Batch, k int) (in, out int) {
	return 4*(b.Logits.Cols+b.Hidden.Cols) + 8, 8 * k
}

// RouteHead is the plane's header of a batch.
func RouteHead(b router.Batch, k int, left time.Duration) plane.Head {
	return plane.Head{
		Op: plane.OpRoute, Layer: int32(b.Layer), Threads: 1, Rows: uint32(b.Logits.Rows), Cols: uint32(b.Logits.Cols),
		K: uint32(k), Hidden: uint32(b.Hidden.Cols), Timeout: uint64(left / time.Microsecond),
	}
}

// PutRoute writes a batch's payload: logits, token ids, positions, hidden states.
func PutRoute(p []byte, b router.Batch) {
	rows := b.Logits.Rows
	p = putRows(p, b.Logits)
	copy(asInts(p, rows), b.Tokens)
	copy(asInts(p[4*rows:], rows), b.Positions)
	if b.Hidden.Cols != 0 {
		putRows(p[8*rows:], b.Hidden)
	}
}

// PlaneBatch makes a batch of a payload. All its slices are views of the shared memory; the routes are spoiled.
func PlaneBatch(h plane.Head, in, out []byte) (router.Batch, router.Routes, error) {
	rows, experts, hidden, k := uint64(h.Rows), uint64(h.Cols), uint64(h.Hidden), uint64(h.K)
	if rows > maxDim || experts > maxDim || hidden > maxDim || k < 1 || k > experts ||
		rows*(4*(experts+hidden)+8) > uint64(len(in)) || rows*k*8 > uint64(len(out)) {
		return router.Batch{}, router.Routes{}, fmt.Errorf("batch of %d x %d (hidden %d, k %d) does not fit its slot: %w", rows, experts, hidden, k, sdk.ErrInvalid)
	}
	n := int(rows)
	b := router.Batch{Layer: int(h.Layer), Logits: tensor.MatrixOf(n, int(experts), asFloats(in, n*int(experts)))}
	in = in[4*n*int(experts):]
	b.Tokens, b.Positions = asInts(in, n), asInts(in[4*n:], n)
	if hidden != 0 {
		b.Hidden = tensor.MatrixOf(n, int(hidden), asFloats(in[8*n:], n*int(hidden)))
	}
	r := router.Routes{K: int(k), IDs: asInts(out, n*int(k)), Weights: asFloats(out[4*n*int(k):], n*int(k))}
	spoil(r)
	return b, r, CheckBatch(b, r)
}

// PlaneRouteReply is the header of filled routes.
func PlaneRouteReply(b router.Batch, r router.Routes) plane.Reply {
	return plane.Reply{Rows: uint32(b.Logits.Rows), Cols: uint32(r.K)}
}

// TakeRoute fills routes from a payload that its writer may still change.
func TakeRoute(r router.Routes, experts int, reply plane.Reply, b []byte) error {
	if err := FromReply(reply); err != nil {
		return err
	}
	if int64(reply.Cols) != int64(r.K) || int64(reply.Rows)*int64(r.K) != int64(len(r.IDs)) {
		return fmt.Errorf("answer of %d rows with k=%d, want %d values with k=%d: %w", reply.Rows, reply.Cols, len(r.IDs), r.K, sdk.ErrInvalidOutput)
	}
	copy(r.IDs, asInts(b, len(r.IDs)))
	copy(r.Weights, asFloats(b[4*len(r.IDs):], len(r.Weights)))
	return JudgeRoutes(r, experts)
}
