package host

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
)

// plainShard is a shard of one value, as a file.
func plainShard(value byte) []byte {
	head := []byte(`{"layers.0.gate":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`)
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(head)))
	return append(append(b, head...), value, 0, 0, 0)
}

// shardsOf is a model that wants a shard of that content for expert 0, and a way to put one there.
func shardsOf(t *testing.T, want []byte) (from weights.Shards, put func([]byte)) {
	t.Helper()
	sum := sha256.Sum256(want)
	from = weights.Shards{Dir: t.TempDir(), Files: map[string]weights.FileDigest{
		weights.ExpertFile(0): {SHA256: hex.EncodeToString(sum[:]), Size: int64(len(want))},
	}}
	put = func(b []byte) {
		t.Helper()
		next := filepath.Join(from.Dir, "next")
		if err := os.WriteFile(next, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, from.Path(weights.ExpertFile(0))); err != nil {
			t.Fatal(err)
		}
	}
	return from, put
}

// TestDamagedShard: a group whose shard is damaged is started again and again, for days. That costs no descriptors, and the file
// that is put in its place is used.
func TestDamagedShard(t *testing.T) {
	good, bad := plainShard(1), plainShard(2)
	from, put := shardsOf(t, good)
	var s shardSet
	defer s.close()
	put(good)
	lent, err := s.open(t.Context(), from, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.discard(lent) // the sweep's or a start's look has found it damaged
	put(bad)
	before := descriptors(t)
	for range 20 {
		if _, err := s.open(t.Context(), from, 0); !errors.Is(err, sdk.ErrInvalid) {
			t.Fatal(err)
		}
	}
	if after := descriptors(t); after > before {
		t.Errorf("20 starts with a damaged shard keep %d descriptors", after-before)
	}
	if _, err := lent.file.Stat(); err != nil {
		t.Errorf("a process may be getting it just now: %v", err)
	}
	put(good)
	sh, err := s.open(t.Context(), from, 0)
	if err != nil || sh == lent {
		t.Fatalf("the mended file: %v", err)
	}
	if again, err := s.open(t.Context(), from, 0); err != nil || again != sh {
		t.Errorf("a good shard is opened twice: %v", err)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir("/dev/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}
