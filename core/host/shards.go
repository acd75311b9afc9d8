package host

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
)

// shardSet opens the expert shards for the processes of a host, checked against their manifest: one descriptor for every
// file, which each start inherits. The host reads headers and digests; it never maps a shard.
type shardSet struct {
	mu    sync.Mutex // guards what follows
	files map[string]*shard
	old   []*os.File // found damaged after they were lent: perhaps they are being handed to a process just now
}

// shard is one expert's file with the places of its tensors.
type shard struct {
	from    weights.Shards
	expert  int
	file    *os.File
	extents map[string]weights.Extent
	lent    bool // found good, and perhaps being handed to a process; guarded by the set's mu
}

func (sh *shard) path() string { return sh.from.Path(weights.ExpertFile(sh.expert)) }

// open returns an expert's shard out of a model's files or a packed variant's, opened and checked. The file stays open for
// restarts until close. Several may be checked at once.
func (s *shardSet) open(ctx context.Context, from weights.Shards, e int) (*shard, error) {
	sh, err := s.get(from, e)
	if err != nil {
		return nil, err
	}
	if err := from.Verify(ctx, weights.ExpertFile(e), sh.file); err != nil {
		s.discard(sh)
		return nil, fmt.Errorf("shard of expert %d: %w", e, err)
	}
	if !s.lend(sh) {
		return nil, fmt.Errorf("shard of expert %d: its file was replaced while it was checked: %w", e, sdk.ErrUnavailable)
	}
	return sh, nil
}

// lend notes that a shard is about to be used; false if somebody has discarded it meanwhile.
func (s *shardSet) lend(sh *shard) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files[sh.path()] != sh {
		return false
	}
	sh.lent = true
	return true
}

func (s *shardSet) get(from weights.Shards, e int) (*shard, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := from.Path(weights.ExpertFile(e))
	if sh := s.files[path]; sh != nil {
		return sh, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open shard of expert %d: %w", e, err)
	}
	ext, err := weights.Scan(f, path)
	if err != nil {
		f.Close()
		return nil, err
	}
	if s.files == nil {
		s.files = map[string]*shard{}
	}
	s.files[path] = &shard{from: from, expert: e, file: f, extents: ext}
	return s.files[path], nil
}

// discard has the next start open what then lies at the path. Starts come again and again while a shard stays damaged, so a
// file that nobody has been lent is closed at once.
func (s *shardSet) discard(sh *shard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files[sh.path()] != sh {
		return
	}
	delete(s.files, sh.path())
	if sh.lent {
		s.old = append(s.old, sh.file)
		return
	}
	sh.file.Close()
}

// inUse lists the open shards by expert.
func (s *shardSet) inUse() []*shard {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*shard, 0, len(s.files))
	for _, sh := range s.files {
		list = append(list, sh)
	}
	slices.SortFunc(list, func(a, b *shard) int { return strings.Compare(a.path(), b.path()) })
	return list
}

// recheck hashes an open shard again.
func (sh *shard) recheck(ctx context.Context) error {
	return sh.from.Recheck(ctx, weights.ExpertFile(sh.expert), sh.file)
}

func (s *shardSet) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sh := range s.files {
		sh.file.Close()
	}
	for _, f := range s.old {
		f.Close()
	}
	s.files, s.old = nil, nil
}

// unitTensors are the names of a unit's tensors in its shard, in the order gate, up, down.
func unitTensors(u expert.Unit) [3]string {
	p := fmt.Sprintf("layers.%d.", u.Layer)
	return [3]string{p + "gate", p + "up", p + "down"}
}

// forUnits opens the shards that the units need and says where in them each tensor lies.
func (s *shardSet) forUnits(ctx context.Context, from weights.Shards, units []expert.Unit) ([]*os.File, client.LoadSpec, error) {
	var files []*os.File
	var load client.LoadSpec
	index := map[int]int{}
	open := map[int]*shard{}
	for _, u := range units {
		sh := open[u.Expert]
		if sh == nil {
			var err error
			if sh, err = s.open(ctx, from, u.Expert); err != nil {
				return nil, load, err
			}
			index[u.Expert], open[u.Expert] = len(files), sh
			files = append(files, sh.file)
		}
		var place [3]client.ShardTensor
		for i, name := range unitTensors(u) {
			e, ok := sh.extents[name]
			if !ok {
				return nil, load, fmt.Errorf("shard of expert %d: tensor %s is missing: %w", u.Expert, name, sdk.ErrInvalid)
			}
			place[i] = client.ShardTensor{Shard: index[u.Expert], Offset: e.Offset, Length: e.Length, DType: e.DType, Shape: e.Shape, Packing: e.Packing}
		}
		load.Units = append(load.Units, client.ShardUnit{Unit: u, Gate: place[0], Up: place[1], Down: place[2]})
	}
	return files, load, nil
}

// takes reports whether a plugin declares every packing of a variant.
func takes(info sdk.Info, packed *weights.Variant) bool {
	return !slices.ContainsFunc(packed.Packings, func(p string) bool { return !info.Has(sdk.CapPacking + p) })
}

// source is where a plugin's weights come from: the group's packed variant, or the model as it was imported for a plugin
// that does not take packed weights.
func source(model *weights.Model, packed *weights.Variant) weights.Shards {
	if packed != nil {
		return packed.Shards
	}
	return model.Shards()
}
