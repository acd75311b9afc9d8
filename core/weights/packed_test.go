package weights_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
)

// packedBytes is a file with one tensor "a" and metadata for it, its data at a multiple of 64.
func packedBytes(text, tensor string, data int) []byte {
	h := fmt.Sprintf(`{"__metadata__":{"packed:a":%s},"a":{%s}}`, strconv.Quote(text), tensor)
	return file(h+strings.Repeat(" ", -(len(h)+8)&63), data)
}

var hostilePacked = []struct {
	name, text, tensor string
	bytes              int
	cause              string
}{
	{"unknown packing", "q4 F32 2 2", `"dtype":"U8","shape":[128],"data_offsets":[0,128]`, 128, "not known"},
	{"unknown dtype", "n16 F99 2 2", `"dtype":"U8","shape":[128],"data_offsets":[0,128]`, 128, "unknown dtype"},
	{"other dtype", "n16k2 F32 2 2", `"dtype":"U8","shape":[128],"data_offsets":[0,128]`, 128, "does not hold"},
	{"no shape", "n16 F32", `"dtype":"U8","shape":[128],"data_offsets":[0,128]`, 128, "want PACKING"},
	{"one dimension", "n16 F32 2", `"dtype":"U8","shape":[128],"data_offsets":[0,128]`, 128, "want 2"},
	{"negative", "n16 F32 -2 2", `"dtype":"U8","shape":[128],"data_offsets":[0,128]`, 128, "dimension"},
	{"zero", "n16 F32 0 2", `"dtype":"U8","shape":[0],"data_offsets":[0,0]`, 0, "shape"},
	{"two spellings", "n16 F32 02 2", `"dtype":"U8","shape":[128],"data_offsets":[0,128]`, 128, "dimension"},
	{"overflow", "n16 F32 4611686018427387904 4", `"dtype":"U8","shape":[0],"data_offsets":[0,0]`, 0, "shape"},
	{"rows overflow", "rows F32 4611686018427387904 4", `"dtype":"U8","shape":[0],"data_offsets":[0,0]`, 0, "overflows"},
	{"too long", "n16 F32 " + strings.Repeat("1", 300), `"dtype":"U8","shape":[128],"data_offsets":[0,128]`, 128, "bytes of metadata"},
	{"too few bytes", "n16 F32 17 2", `"dtype":"U8","shape":[128],"data_offsets":[0,128]`, 128, "needs 256 bytes"},
	{"too many bytes", "n16 F32 2 2", `"dtype":"U8","shape":[192],"data_offsets":[0,192]`, 192, "needs 128 bytes"},
	{"no bytes", "n16 F32 2 2", `"dtype":"F32","shape":[32],"data_offsets":[0,128]`, 128, "want bytes"},
	{"two dimensions of bytes", "n16 F32 2 2", `"dtype":"U8","shape":[2,64],"data_offsets":[0,128]`, 128, "want bytes"},
	{"not there", "n16 F32 2 2", `"dtype":"U8","shape":[0],"data_offsets":[0,0]},"b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]`, 0, "needs"},
}

// TestHostilePacked: what metadata says of a tensor is held against the file, and refused by name.
func TestHostilePacked(t *testing.T) {
	for _, c := range hostilePacked {
		_, err := weights.Parse("f", packedBytes(c.text, c.tensor, c.bytes))
		if !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), c.cause) || !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := weights.Parse("f", file(`{"__metadata__":{"packed:b":"rows U8 0"},`+aTensor+`}`, 8)); err == nil || !strings.Contains(err.Error(), "not there") {
		t.Error(err)
	}
	h := `{"__metadata__":{"packed:a":"n16 F32 2 2"},"a":{"dtype":"U8","shape":[128],"data_offsets":[0,128]}}`
	if _, err := weights.Parse("f", file(h+strings.Repeat(" ", -(len(h)+8)&63+8), 128)); err == nil || !strings.Contains(err.Error(), "no multiple of 64") {
		t.Error(err)
	}
	good := packedBytes("n16 F32 2 2", `"dtype":"U8","shape":[128],"data_offsets":[0,128]`, 128)
	f, err := weights.Parse("f", good)
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := f.Tensor("a"); !ok || pack.Check(v) != nil {
		t.Error(v)
	}
	dir := folder(t, map[string][]byte{"model.safetensors": good})
	if _, err := weights.OpenCheckpoint(dir); !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), "no published checkpoint") {
		t.Errorf("as a checkpoint: %v", err)
	}
}
