package weights_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
)

const indexName = "model.safetensors.index.json"

// folder writes files into a new folder.
func folder(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestBrokenCheckpoints(t *testing.T) {
	a, b := file(`{`+aTensor+`}`, 8), file(`{"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8)
	index := func(text string) []byte { return []byte(text) }
	cases := []struct {
		name  string
		files map[string][]byte
		class error
		cause string
	}{
		{"nothing", nil, sdk.ErrNotFound, "has neither model.safetensors nor"},
		{"only pytorch", map[string][]byte{"pytorch_model.bin": {1}}, sdk.ErrNotFound, "has neither"},
		{"single file is broken", map[string][]byte{"model.safetensors": {1}}, sdk.ErrInvalid, "too short"},
		{"single file is a folder", map[string][]byte{"model.safetensors/x": {1}}, sdk.ErrInvalid, "no regular file"},
		{"index is no JSON", map[string][]byte{indexName: index(`x`)}, sdk.ErrInvalid, "{ is expected"},
		{"index is not UTF-8", map[string][]byte{indexName: index("{\"\xff\":1}")}, sdk.ErrInvalid, "not UTF-8"},
		{"index without map", map[string][]byte{indexName: index(`{"metadata":{}}`)}, sdk.ErrInvalid, "no weight_map"},
		{"index with two maps", map[string][]byte{"a": a, indexName: index(`{"weight_map":{"a":"a"},"weight_map":{"a":"a"}}`)}, sdk.ErrInvalid, "duplicate key"},
		{"index nested too deeply", map[string][]byte{"a": a, indexName: index(`{"weight_map":{"a":"a"},"x":` + strings.Repeat("[", 1<<20))}, sdk.ErrInvalid, "nested too deeply"},
		{"index goes on", map[string][]byte{"a": a, indexName: index(`{"weight_map":{"a":"a"}} x`)}, sdk.ErrInvalid, "the end is expected"},
		{"tensor listed twice", map[string][]byte{"a": a, "b": b, indexName: index(`{"weight_map":{"a":"a","a":"b"}}`)}, sdk.ErrInvalid, `duplicate key "a"`},
		{"shard missing", map[string][]byte{"a": a, indexName: index(`{"weight_map":{"a":"a","b":"b"}}`)}, sdk.ErrInvalid, `shard "b" is missing from the folder`},
		{"shard broken", map[string][]byte{"a": a, "b": b[:20], indexName: index(`{"weight_map":{"a":"a","b":"b"}}`)}, sdk.ErrInvalid, "longer than the file"},
		{"tensor missing", map[string][]byte{"a": a, "b": b, indexName: index(`{"weight_map":{"a":"a","b":"b","c":"b"}}`)}, sdk.ErrInvalid, `tensor "c": is missing from its shard "b"`},
		{"tensors in each other's shard", map[string][]byte{"a": a, "b": b, indexName: index(`{"weight_map":{"a":"b","b":"a"}}`)}, sdk.ErrInvalid, "not in its shard"},
		{"tensor in two shards", map[string][]byte{"a": a, "b": b, "c": a, indexName: index(`{"weight_map":{"a":"a","b":"b","c":"c"}}`)}, sdk.ErrInvalid, "as well"},
		{"tensor not in the index", map[string][]byte{"a": file(`{`+aTensor+`,`+bTensor+`}`, 16), indexName: index(`{"weight_map":{"a":"a"}}`)}, sdk.ErrInvalid, `tensor "b": is not in the index`},
		{"path up", map[string][]byte{"a": a, indexName: index(`{"weight_map":{"a":"../a"}}`)}, sdk.ErrInvalid, "no path inside the folder"},
		{"path up and down", map[string][]byte{"a": a, indexName: index(`{"weight_map":{"a":"x/../../a"}}`)}, sdk.ErrInvalid, "no path inside the folder"},
		{"absolute path", map[string][]byte{"a": a, indexName: index(`{"weight_map":{"a":"/etc/passwd"}}`)}, sdk.ErrInvalid, "no path inside the folder"},
		{"empty path", map[string][]byte{"a": a, indexName: index(`{"weight_map":{"a":""}}`)}, sdk.ErrInvalid, "no path inside the folder"},
		{"two names for one shard", map[string][]byte{"a": a, indexName: index(`{"weight_map":{"a":"./a"}}`)}, sdk.ErrInvalid, "no path inside the folder"},
		{"shard is the folder", map[string][]byte{"a": a, indexName: index(`{"weight_map":{"a":"."}}`)}, sdk.ErrInvalid, "no regular file"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ck, err := weights.OpenCheckpoint(folder(t, c.files))
			if !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.cause) {
				t.Errorf("got %v, want %q", err, c.cause)
			}
			if ck != nil {
				t.Error("a checkpoint beside the error")
			}
		})
	}
	if _, err := weights.OpenCheckpoint(filepath.Join(t.TempDir(), "none")); !errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("missing folder: %v", err)
	}
}

// Hugging Face's cache is a folder of links to files elsewhere, with shards in any order; subfolders are inside, too.
func TestUnusualCheckpoints(t *testing.T) {
	blobs := folder(t, map[string][]byte{"0a": file(`{`+aTensor+`}`, 8)})
	dir := folder(t, map[string][]byte{
		"sub/b.safetensors": file(`{"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8),
		indexName:           []byte(`{"weight_map":{"b":"sub/b.safetensors","a":"a.safetensors"},"metadata":{"total_size":1e99,"x":[null,true,{"y":"z"}]}}` + "\n"),
	})
	if err := os.Symlink(filepath.Join(blobs, "0a"), filepath.Join(dir, "a.safetensors")); err != nil {
		t.Fatal(err)
	}
	ck, err := weights.OpenCheckpoint(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(ck.Names(), []string{"a", "b"}) {
		t.Errorf("names %q", ck.Names())
	}
	if _, ok := ck.Tensor("c"); ok {
		t.Error("a tensor that is not there")
	}
	if err := errors.Join(ck.Close(), ck.Close()); err != nil {
		t.Error(err)
	}
}
