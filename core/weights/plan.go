package weights

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/pimoe/pimoe/sdk"
)

// TrunkFile is the trunk's file in a stored model.
const TrunkFile = "trunk.safetensors"

// ExpertFile is the file of an expert's weights, of all layers, in a stored model.
func ExpertFile(e int) string { return fmt.Sprintf("expert-%04d.safetensors", e) }

// maxExperts bounds a plan: each expert is a file, and no published model has a thousand.
const maxExperts = 1 << 14

// Piece is a tensor to be stored: Shape, of the source tensor's dtype, cut from Source at Offset elements from its start.
type Piece struct {
	Name, Source string
	Offset       int
	Shape        []int
}

// Plan says which tensors make the trunk and which each expert, by expert index.
type Plan struct {
	Trunk     []Piece
	Experts   [][]Piece
	ModelType string
}

// digest tells plans apart.
func (p Plan) digest() string {
	b, err := json.Marshal(p)
	if err != nil {
		panic("weights: a plan does not marshal")
	}
	sum := sha256.Sum256(b)
	return digestPrefix + hex.EncodeToString(sum[:])
}

// shard is one file of the store, laid out: the parts, in the layout's order, follow the head.
type shard struct {
	file  string
	head  []byte
	parts []part
	total int64
}

// part is a run of bytes in the source.
type part struct {
	name   string
	src    io.ReaderAt
	off, n int64
}

// split checks a plan against a checkpoint and lays its files out. It reads no weights.
func split(ck *Checkpoint, p Plan) ([]shard, error) {
	if len(p.Trunk) == 0 || len(p.Experts) == 0 || len(p.Experts) > maxExperts {
		return nil, fmt.Errorf("plan with %d trunk tensors and %d experts: %w", len(p.Trunk), len(p.Experts), sdk.ErrInvalid)
	}
	shards := make([]shard, 0, 1+len(p.Experts))
	var errs []error
	add := func(file string, pieces []Piece) {
		s, err := newShard(ck, file, pieces)
		shards, errs = append(shards, s), append(errs, err)
	}
	add(TrunkFile, p.Trunk)
	for e, pieces := range p.Experts {
		add(ExpertFile(e), pieces)
	}
	return shards, errors.Join(errs...)
}

func newShard(ck *Checkpoint, file string, pieces []Piece) (shard, error) {
	s := shard{file: file}
	if len(pieces) == 0 {
		return s, fmt.Errorf("plan: %s has no tensors: %w", file, sdk.ErrInvalid)
	}
	specs, parts := make([]spec, len(pieces)), make([]part, len(pieces))
	for i, p := range pieces {
		var err error
		if specs[i], parts[i], err = p.locate(ck); err != nil {
			return s, fmt.Errorf("plan: %s: %w", file, err)
		}
	}
	l, err := layOut(specs, map[string]string{"format": "pt"}, dataAlign)
	if err != nil {
		return s, fmt.Errorf("plan: %s: %w", file, err)
	}
	s.head, s.total = l.head, l.total
	for _, i := range l.order {
		s.parts = append(s.parts, parts[i])
	}
	return s, nil
}

// locate finds a piece's bytes, which must lie inside its source.
func (p Piece) locate(ck *Checkpoint) (spec, part, error) {
	e, src, ok := ck.extent(p.Source)
	if !ok {
		return spec{}, part{}, fmt.Errorf("source %s is not in the checkpoint: %w", quote(p.Source), sdk.ErrInvalid)
	}
	n, ok := byteSize(e.DType, p.Shape)
	size := int64(e.DType.Size())
	if !ok || p.Offset < 0 || int64(p.Offset) > e.Length/size || n > e.Length-int64(p.Offset)*size {
		return spec{}, part{}, fmt.Errorf("piece %s: shape %s at element %d is outside its source %s %s: %w",
			quote(p.Name), shapeText(p.Shape), p.Offset, quote(p.Source), shapeText(e.Shape), sdk.ErrInvalid)
	}
	return spec{name: p.Name, dtype: e.DType, shape: p.Shape},
		part{name: p.Name, src: src, off: e.Offset + int64(p.Offset)*size, n: n}, nil
}
