//go:build linux || darwin

package weights_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// recipe packs the matrices of all files as packing says, and keeps the rest; the trunk has its embedding twice.
func recipe(m *weights.Model, packing func(tensor.DType) string) weights.Recipe {
	r := weights.Recipe{Name: "test", Files: map[string][]weights.Packed{}}
	for file := range m.Manifest.Files {
		if filepath.Ext(file) != ".safetensors" {
			continue
		}
		f, err := weights.Open(filepath.Join(m.Dir, file))
		if err != nil {
			panic(err)
		}
		for _, name := range f.Names() {
			v, _ := f.Tensor(name)
			p := weights.Packed{Name: name, Source: name}
			switch {
			case strings.Contains(name, "embed"):
				r.Files[file] = append(r.Files[file], weights.Packed{Name: "head", Source: name, Packing: packing(v.DType)})
			case len(v.Shape) == 2:
				p.Packing = packing(v.DType)
			}
			r.Files[file] = append(r.Files[file], p)
		}
		f.Close()
	}
	return r
}

// packing is the layout for float kernels.
func packing(d tensor.DType) string {
	if d == tensor.BF16 {
		return pack.N16K2
	}
	return pack.N16
}

func int8s(tensor.DType) string { return pack.G32N16 }

func mustPack(t testing.TB, s *weights.Store, m *weights.Model, r weights.Recipe) *weights.Variant {
	t.Helper()
	v, err := s.Pack(t.Context(), m, r, 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// checkVariant compares every tensor of a variant with what Pack makes of the model's.
func checkVariant(t testing.TB, m *weights.Model, v *weights.Variant, r weights.Recipe) {
	t.Helper()
	for file, list := range r.Files {
		from, err := weights.Open(filepath.Join(m.Dir, file))
		if err != nil {
			t.Fatal(err)
		}
		src, err := v.Open(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		to, err := weights.OpenFile(src, file)
		if err != nil {
			t.Fatal(err)
		}
		src.Close()
		if len(to.Names()) != len(list) {
			t.Errorf("%s has %v", file, to.Names())
		}
		for _, p := range list {
			want, _ := from.Tensor(p.Source)
			if p.Packing != "" {
				if want, err = pack.Pack(p.Packing, want); err != nil {
					t.Fatal(err)
				}
			}
			got, ok := to.Tensor(p.Name)
			if !ok || got.Packing != p.Packing || got.DType != want.DType || fmt.Sprint(got.Shape) != fmt.Sprint(want.Shape) || !bytes.Equal(got.Data, want.Data) {
				t.Errorf("%s %s: %t %q %v %v", file, p.Name, ok, got.Packing, got.DType, got.Shape)
			}
			if !pack.IsAligned(got.Data) {
				t.Errorf("%s %s is not aligned", file, p.Name)
			}
		}
		from.Close()
		to.Close()
	}
}

// TestVariants: what the store packs is what Pack makes of the same weights, and it is made once.
func TestVariants(t *testing.T) {
	for name, packing := range map[string]func(tensor.DType) string{"float": packing, "int8": int8s} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, t.TempDir())
			m := mustImport(t, s, "m", coretest.Golden(t, "models", "qwen3_moe"))
			r := recipe(m, packing)
			if _, err := m.Variant(r); !errors.Is(err, sdk.ErrNotFound) {
				t.Fatalf("before it is made: %v", err)
			}
			var done, total int64
			v, err := s.Pack(t.Context(), m, r, 3, func(d, n int64) {
				if d < done {
					t.Errorf("progress goes back from %d to %d", done, d)
				}
				done, total = d, n
			})
			if err != nil {
				t.Fatal(err)
			}
			if done != total || total != v.Bytes {
				t.Errorf("progress ended at %d of %d, the variant has %d bytes", done, total, v.Bytes)
			}
			checkVariant(t, m, v, r)
			s.SetFault(func(op, path string) error { return fmt.Errorf("%s %s", op, path) })
			checkVariant(t, m, mustPack(t, s, m, r), r) // nothing is written again
			if again, err := s.Find("m"); err != nil || again.Digest() != m.Digest() {
				t.Errorf("the model changed: %v", err)
			}
		})
	}
}

// Packing fails at the k-th change to the disk, for k = 0, 1, 2... until it succeeds. After each failure no half variant
// is taken for one, and packing goes on from there.
func TestPackFailsAtEveryChange(t *testing.T) {
	broken := errors.New("injected")
	s := openStore(t, t.TempDir())
	m := mustImport(t, s, "m", smallModel(t, 1))
	r := recipe(m, packing)
	for k := 0; ; k++ {
		if err := os.RemoveAll(filepath.Join(m.Dir, "packed")); err != nil {
			t.Fatal(err)
		}
		n, op, path := 0, "", ""
		s.SetFault(func(o, p string) error {
			if n++; n-1 == k {
				op, path = o, p
				return broken
			}
			return nil
		})
		v, err := s.Pack(t.Context(), m, r, 2, nil)
		s.SetFault(nil)
		if err == nil {
			checkVariant(t, m, v, r)
			if k < 20 {
				t.Errorf("only %d changes to the disk", k)
			}
			return
		}
		if !errors.Is(err, broken) {
			t.Fatalf("change %d, %s %s: got %v", k, op, path, err)
		}
		if v, err := m.Variant(r); err == nil {
			checkVariant(t, m, v, r) // only the last sync was missing
		} else if !errors.Is(err, sdk.ErrNotFound) {
			t.Fatalf("change %d, %s %s: half a variant: %v", k, op, path, err)
		}
		checkVariant(t, m, mustPack(t, s, m, r), r)
	}
}

// The same with a kill in place of an error.
func TestPackKilled(t *testing.T) {
	home := t.TempDir()
	s := openStore(t, home)
	m := mustImport(t, s, "m", smallModel(t, 1))
	r := recipe(m, packing)
	kills := 0
	for k := 0; ; k += 3 {
		if err := os.RemoveAll(filepath.Join(m.Dir, "packed")); err != nil {
			t.Fatal(err)
		}
		out, err := child(t, home, "m", packIt, k).CombinedOutput()
		if err == nil {
			break
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != -1 {
			t.Fatalf("kill at change %d: %v: %s", k, err, out)
		}
		kills++
		checkVariant(t, m, mustPack(t, s, m, r), r)
	}
	if kills < 6 {
		t.Errorf("only %d kills", kills)
	}
}

// What an interrupted packing has finished is kept if it still has its digest, and only then.
func TestPackResumes(t *testing.T) {
	s := openStore(t, t.TempDir())
	m := mustImport(t, s, "m", coretest.Golden(t, "models", "qwen3_moe"))
	r := recipe(m, packing)
	stop := errors.New("stop")
	s.SetFault(func(op, path string) error {
		if op == "create" && strings.HasSuffix(path, weights.TrunkFile) { // the last one
			return stop
		}
		return nil
	})
	if _, err := s.Pack(t.Context(), m, r, 2, nil); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	if err := flip(filepath.Join(m.Dir, "packed", ".test.partial", "expert-0001.safetensors"), 5000); err != nil {
		t.Fatal(err)
	}
	n := written(s)
	checkVariant(t, m, mustPack(t, s, m, r), r)
	if *n != 2 {
		t.Errorf("%d files written, want the trunk and the damaged one", *n)
	}
}

// A variant is made anew when its recipe or its model is another, when a file is missing or cut short, and when its
// manifest can't be read; the file itself is judged by its digest.
func TestStaleVariants(t *testing.T) {
	s := openStore(t, t.TempDir())
	m := mustImport(t, s, "m", smallModel(t, 1))
	r := recipe(m, packing)
	v := mustPack(t, s, m, r)
	path := v.Path(weights.ExpertFile(0))
	for name, damage := range map[string]func() error{
		"missing":        func() error { return os.Remove(path) },
		"cut short":      func() error { return os.Truncate(path, 100) },
		"broken":         func() error { return os.WriteFile(filepath.Join(v.Dir, "manifest.json"), []byte("{"), 0o600) },
		"another folder": func() error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Variant(r); !errors.Is(err, sdk.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
		checkVariant(t, m, mustPack(t, s, m, r), r)
	}
	other := recipe(m, int8s)
	if _, err := m.Variant(other); !errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("another recipe: %v", err)
	}
	checkVariant(t, m, mustPack(t, s, m, other), other)

	now := mustImport(t, s, "m", smallModel(t, 2))
	if _, err := now.Variant(other); !errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("another model: %v", err)
	}
	if _, err := s.Pack(t.Context(), m, r, 2, nil); !errors.Is(err, sdk.ErrUnavailable) {
		t.Errorf("the model that was replaced: %v", err)
	}
	checkVariant(t, now, mustPack(t, s, now, r), r)
	if err := flip(v.Path(weights.ExpertFile(1)), 4200); err != nil {
		t.Fatal(err)
	}
	v, err := now.Variant(r)
	if err != nil {
		t.Fatal(err)
	}
	if f, err := v.Open(t.Context(), weights.ExpertFile(1)); !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), "remove the folder "+v.Dir) {
		f.Close()
		t.Errorf("a flipped byte: %v", err)
	}
}

// Nothing is packed from a source that is not what was imported.
func TestPackRefusesDamagedSource(t *testing.T) {
	s := openStore(t, t.TempDir())
	m := mustImport(t, s, "m", smallModel(t, 1))
	if err := flip(m.ExpertPath(1), m.Manifest.Files[weights.ExpertFile(1)].Size-1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pack(t.Context(), m, recipe(m, packing), 2, nil); !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), "expert-0001") {
		t.Error(err)
	}
}

func TestPackWithoutSpace(t *testing.T) {
	s := openStore(t, t.TempDir())
	m := mustImport(t, s, "m", smallModel(t, 1))
	s.SetFree(func(string) (uint64, error) { return 16 << 20, nil })
	_, err := s.Pack(t.Context(), m, recipe(m, packing), 2, nil)
	if !errors.Is(err, sdk.ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "MB free") {
		t.Error(err)
	}
}

// Two processes that pack at once end with one variant: one of them makes it.
func TestPackAtOnce(t *testing.T) {
	home := t.TempDir()
	s := openStore(t, home)
	m := mustImport(t, s, "m", coretest.Golden(t, "models", "qwen3_moe"))
	r := recipe(m, packing)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			if out, err := child(t, home, "m", packIt, -1).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	n := written(s)
	v, err := s.Pack(t.Context(), m, r, 2, nil)
	all.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if *n != 0 && *n != len(r.Files) {
		t.Errorf("wrote %d files of %d", *n, len(r.Files))
	}
	checkVariant(t, m, v, r)
}

// TestWrongRecipes names what a recipe asks for in vain.
func TestWrongRecipes(t *testing.T) {
	s := openStore(t, t.TempDir())
	m := mustImport(t, s, "m", smallModel(t, 1))
	one := func(p weights.Packed) map[string][]weights.Packed {
		return map[string][]weights.Packed{weights.TrunkFile: {p}}
	}
	for name, r := range map[string]weights.Recipe{
		"a path":          {Name: "../x", Files: one(weights.Packed{Name: "a", Source: "model.norm.weight"})},
		"no files":        {Name: "x"},
		"no such file":    {Name: "x", Files: map[string][]weights.Packed{"expert-0099.safetensors": nil}},
		"no such tensor":  {Name: "x", Files: one(weights.Packed{Name: "a", Source: "b"})},
		"name twice":      {Name: "x", Files: map[string][]weights.Packed{weights.TrunkFile: {{Name: "a", Source: "model.norm.weight"}, {Name: "a", Source: "model.norm.weight"}}}},
		"no such packing": {Name: "x", Files: one(weights.Packed{Name: "a", Source: "model.norm.weight", Packing: "q4"})},
		"wrong dtype":     {Name: "x", Files: one(weights.Packed{Name: "a", Source: "model.norm.weight", Packing: pack.N16K2})},
	} {
		if _, err := s.Pack(t.Context(), m, r, 2, nil); !errors.Is(err, sdk.ErrInvalid) && !errors.Is(err, sdk.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestVerdictsOutliveTheProcess: a start believes what an earlier process has found for the same identity, and a recheck
// does not; what it finds is what is believed from then on.
func TestVerdictsOutliveTheProcess(t *testing.T) {
	later := func() time.Time { return time.Now().Add(time.Hour) }
	t.Cleanup(weights.SetDigestClock(later))
	s := openStore(t, t.TempDir())
	m := mustImport(t, s, "m", smallModel(t, 1))
	f, err := os.Open(m.TrunkPath())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	book := filepath.Join(filepath.Dir(m.Dir), ".m.verified")
	restart := func() { weights.SetDigestClock(later) }
	if err := m.Verify(t.Context(), weights.TrunkFile, f); err != nil {
		t.Fatal(err)
	}
	line, err := os.ReadFile(book)
	if err != nil {
		t.Fatal(err)
	}
	right := m.Manifest.Files[weights.TrunkFile].SHA256
	if !strings.HasSuffix(string(line), right+"\n") || strings.Count(string(line), "\n") != 1 {
		t.Fatalf("book %q", line)
	}
	restart()
	lie := strings.ReplaceAll(string(line), right, strings.Repeat("0", 64))
	if err := os.WriteFile(book, []byte(string(line)+"not a line\n"+lie), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Verify(t.Context(), weights.TrunkFile, f); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("the last line was not believed: %v", err)
	}
	if err := m.Recheck(t.Context(), weights.TrunkFile, f); err != nil {
		t.Error(err)
	}
	restart()
	if err := m.Verify(t.Context(), weights.TrunkFile, f); err != nil {
		t.Errorf("after the recheck: %v", err)
	}
	restart()
	if err := flip(m.TrunkPath(), 200); err != nil {
		t.Fatal(err)
	}
	if err := m.Verify(t.Context(), weights.TrunkFile, f); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("a changed file: %v", err)
	}
	if err := os.Remove(book); err != nil {
		t.Fatal(err)
	}
	restart()
	if err := os.Mkdir(book, 0o500); err != nil { // can't be written
		t.Fatal(err)
	}
	if err := flip(m.TrunkPath(), 200); err != nil {
		t.Fatal(err)
	}
	if err := m.Verify(t.Context(), weights.TrunkFile, f); err != nil {
		t.Errorf("without a book: %v", err)
	}
}
