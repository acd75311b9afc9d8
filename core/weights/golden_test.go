package weights_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Every golden folder opens, and each way of opening a file sees the same tensors.
func TestGoldenCheckpoints(t *testing.T) {
	folders, err := os.ReadDir(coretest.Golden(t, "models"))
	if err != nil || len(folders) == 0 {
		t.Fatal("no golden models:", err)
	}
	for _, folder := range folders {
		t.Run(folder.Name(), func(t *testing.T) {
			dir := coretest.Golden(t, "models", folder.Name())
			ck, err := weights.OpenCheckpoint(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer ck.Close()
			if len(ck.Names()) < 10 || !slices.Contains(ck.Names(), "model.embed_tokens.weight") {
				t.Fatalf("%d tensors, no embedding", len(ck.Names()))
			}
			paths, err := filepath.Glob(filepath.Join(dir, "model*.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, path := range paths {
				n += sameEverywhere(t, path, ck)
			}
			if n != len(ck.Names()) {
				t.Errorf("the files hold %d tensors, the checkpoint %d", n, len(ck.Names()))
			}
		})
	}
}

// sameEverywhere compares Open, OpenFile, Read, Parse and Scan of a file, and the checkpoint it belongs to.
func sameEverywhere(t *testing.T, path string, ck *weights.Checkpoint) int {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	extents, err := weights.Scan(opened, path)
	if err != nil {
		t.Fatal(err)
	}
	ways := map[string]*weights.File{}
	for way, open := range map[string]func() (*weights.File, error){
		"Open":     func() (*weights.File, error) { return weights.Open(path) },
		"OpenFile": func() (*weights.File, error) { return weights.OpenFile(opened, path) },
		"Read":     func() (*weights.File, error) { return weights.Read(path) },
		"Parse":    func() (*weights.File, error) { return weights.Parse(path, b) },
	} {
		f, err := open()
		if err != nil {
			t.Fatalf("%s: %v", way, err)
		}
		defer f.Close()
		ways[way] = f
	}
	names := ways["Parse"].Names()
	if len(extents) != len(names) {
		t.Fatalf("Scan sees %d tensors, Parse %d", len(extents), len(names))
	}
	for way, f := range ways {
		if !slices.Equal(f.Names(), names) || f.Metadata()["format"] != "pt" {
			t.Fatalf("%s: names or metadata differ", way)
		}
		for _, name := range names {
			v, ok := f.Tensor(name)
			e := extents[name]
			if !ok || v.DType != e.DType || !slices.Equal(v.Shape, e.Shape) || !bytes.Equal(v.Data, b[e.Offset:e.Offset+e.Length]) {
				t.Fatalf("%s: %s differs from what Scan says", way, name)
			}
			c, _ := ck.Tensor(name)
			if !sameView(v, c) {
				t.Fatalf("%s: %s differs from the checkpoint", way, name)
			}
		}
		if _, ok := f.Tensor("no such tensor"); ok {
			t.Fatalf("%s: a tensor that is not there", way)
		}
	}
	return len(names)
}

// A checkpoint in one file and the same tensors in shards with an index are the same checkpoint.
func TestShardedEqualsSingle(t *testing.T) {
	sharded, err := weights.OpenCheckpoint(coretest.Golden(t, "models", "qwen3_moe_sharded"))
	if err != nil {
		t.Fatal(err)
	}
	defer sharded.Close()
	single := openCopy(t, sharded)
	if !slices.Equal(sharded.Names(), single.Names()) {
		t.Fatal("names differ")
	}
	for _, name := range sharded.Names() {
		a, _ := sharded.Tensor(name)
		b, _ := single.Tensor(name)
		if !sameView(a, b) {
			t.Errorf("%s differs", name)
		}
	}
}

func sameView(a, b tensor.View) bool {
	return a.DType == b.DType && slices.Equal(a.Shape, b.Shape) && bytes.Equal(a.Data, b.Data)
}

// openCopy writes all tensors of a checkpoint into one file and opens that.
func openCopy(t *testing.T, ck *weights.Checkpoint) *weights.Checkpoint {
	t.Helper()
	var list []weights.NamedView
	for _, name := range ck.Names() {
		v, _ := ck.Tensor(name)
		list = append(list, weights.NamedView{Name: name, View: v})
	}
	var b bytes.Buffer
	if err := weights.Write(&b, list, map[string]string{"format": "pt"}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "model.safetensors"), b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := weights.OpenCheckpoint(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	return out
}
