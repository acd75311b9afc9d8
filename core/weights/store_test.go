//go:build linux || darwin

package weights_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/core/weights/embedded"
	"github.com/pimoe/pimoe/sdk"
)

var expertTensor = regexp.MustCompile(`^model\.layers\.(\d+)\.mlp\.experts\.(\d+)\.(gate|up|down)_proj\.weight$`)

// qwenPlan splits a checkpoint whose experts are tensors of their own.
func qwenPlan(ck *weights.Checkpoint) (weights.Plan, error) {
	p := weights.Plan{ModelType: "qwen3_moe"}
	for _, name := range ck.Names() {
		v, _ := ck.Tensor(name)
		m := expertTensor.FindStringSubmatch(name)
		if m == nil {
			p.Trunk = append(p.Trunk, weights.Piece{Name: name, Source: name, Shape: v.Shape})
			continue
		}
		e, err := strconv.Atoi(m[2])
		if err != nil {
			return p, err
		}
		for len(p.Experts) <= e {
			p.Experts = append(p.Experts, nil)
		}
		p.Experts[e] = append(p.Experts[e], weights.Piece{Name: "layers." + m[1] + "." + m[3], Source: name, Shape: v.Shape})
	}
	return p, nil
}

// copyModel copies a golden model's folder, to be changed.
func copyModel(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := os.CopyFS(dir, os.DirFS(coretest.Golden(t, "models", name))); err != nil {
		t.Fatal(err)
	}
	return dir
}

func openStore(t testing.TB, dir string) *weights.Store {
	t.Helper()
	s, err := weights.OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustImport(t testing.TB, s *weights.Store, name, src string) *weights.Model {
	t.Helper()
	m, err := s.Import(t.Context(), name, src, qwenPlan, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// checkModel compares a stored model with its source, byte by byte, and looks for anything left behind.
func checkModel(t testing.TB, m *weights.Model, src string) {
	t.Helper()
	ck, err := weights.OpenCheckpoint(src)
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	p, err := qwenPlan(ck)
	if err != nil {
		t.Fatal(err)
	}
	if m.Manifest.Experts != len(p.Experts) || m.Manifest.ModelType != p.ModelType {
		t.Errorf("manifest says %d experts of %s", m.Manifest.Experts, m.Manifest.ModelType)
	}
	samePieces(t, m, m.TrunkPath(), ck, p.Trunk)
	for e := range p.Experts {
		samePieces(t, m, m.ExpertPath(e), ck, p.Experts[e])
	}
	var extra []string
	entries, err := os.ReadDir(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, ok := m.Manifest.Files[e.Name()]; !ok && e.Name() != "manifest.json" {
			extra = append(extra, e.Name())
		}
	}
	if len(extra) > 0 || len(entries) != len(m.Manifest.Files)+1 {
		t.Errorf("%d files, extra %q", len(entries), extra)
	}
	for _, pattern := range []string{".*.partial", ".*.old"} {
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(m.Dir), pattern)); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
}

func samePieces(t testing.TB, m *weights.Model, path string, ck *weights.Checkpoint, pieces []weights.Piece) {
	t.Helper()
	f, err := weights.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if len(f.Names()) != len(pieces) {
		t.Errorf("%s has %d tensors, the plan %d", path, len(f.Names()), len(pieces))
	}
	for _, p := range pieces {
		got, ok := f.Tensor(p.Name)
		want, _ := ck.Tensor(p.Source)
		if !ok || !sameView(got, want) {
			t.Errorf("%s: %s differs from %s", path, p.Name, p.Source)
		}
	}
	opened, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	if err := m.Verify(t.Context(), filepath.Base(path), opened); err != nil {
		t.Error(err)
	}
}

func TestImport(t *testing.T) {
	for _, name := range []string{"qwen3_moe", "qwen3_moe_sharded", "qwen3_moe_tf5", "olmoe"} {
		t.Run(name, func(t *testing.T) {
			src, dir := coretest.Golden(t, "models", name), t.TempDir()
			s := openStore(t, dir)
			now := time.Date(2026, 11, 23, 12, 0, 0, 999, time.FixedZone("x", 3600))
			s.SetNow(func() time.Time { return now })
			var steps []int64
			m, err := s.Import(t.Context(), "m", src, qwenPlan, func(done, total int64) {
				if done < 0 || done > total || total <= 0 || len(steps) > 0 && done < steps[len(steps)-1] {
					t.Errorf("progress %d of %d after %v", done, total, steps)
				}
				steps = append(steps, done)
			})
			if err != nil {
				t.Fatal(err)
			}
			checkModel(t, m, src)
			if len(steps) < 10 || steps[len(steps)-1] != m.Manifest.Size() {
				t.Errorf("progress ends at %d of %d after %d steps", steps[len(steps)-1], m.Manifest.Size(), len(steps))
			}
			if !m.Manifest.Created.Equal(now.Truncate(time.Second)) || m.Name != "m" || m.Dir != filepath.Join(dir, "models", "m") {
				t.Errorf("got %+v", m)
			}
			for _, side := range []string{"config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"} {
				want, err := os.ReadFile(filepath.Join(src, side))
				if err != nil {
					t.Fatal(err)
				}
				if got, err := os.ReadFile(filepath.Join(m.Dir, side)); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s is not copied: %v", side, err)
				}
			}
			if _, ok := m.Manifest.Files["golden.safetensors"]; ok {
				t.Error("the golden answers were copied")
			}
			found, err := s.Find("m")
			if err != nil || found.Digest() != m.Digest() {
				t.Errorf("found %v, %v", found, err)
			}
			trunk, err := m.ReadTrunk(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := trunk.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Whatever the umask, nobody else reads the store.
func TestPermissions(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	dir := filepath.Join(t.TempDir(), "home")
	mustImport(t, openStore(t, dir), "m", coretest.Golden(t, "models", "qwen3_moe"))
	n := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		n++
		return nil
	})
	if err != nil || n < 15 {
		t.Errorf("%d files: %v", n, err)
	}
}

// One source tensor that holds all experts is cut into pieces at element offsets.
func TestImportFused(t *testing.T) {
	data := make([]byte, 2*3*4*2) // [2 experts, 3, 4] of 2 bytes
	for i := range data {
		data[i] = byte(i)
	}
	var b bytes.Buffer
	err := weights.Write(&b, []weights.NamedView{{Name: "fused", View: view(3, data, 2, 3, 4)}, {Name: "norm", View: view(1, data[:16], 4)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	src := folder(t, map[string][]byte{"model.safetensors": b.Bytes()})
	plan := func(*weights.Checkpoint) (weights.Plan, error) {
		return weights.Plan{Trunk: []weights.Piece{{Name: "norm", Source: "norm", Shape: []int{4}}}, Experts: [][]weights.Piece{
			{{Name: "layers.0.gate", Source: "fused", Offset: 0, Shape: []int{1, 4}}, {Name: "layers.0.up", Source: "fused", Offset: 4, Shape: []int{2, 4}}},
			{{Name: "layers.0.gate", Source: "fused", Offset: 12, Shape: []int{1, 4}}, {Name: "layers.0.up", Source: "fused", Offset: 16, Shape: []int{2, 4}}},
		}}, nil
	}
	m, err := openStore(t, t.TempDir()).Import(t.Context(), "m", src, plan, nil)
	if err != nil {
		t.Fatal(err)
	}
	for e := range 2 {
		f, err := weights.Open(m.ExpertPath(e))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		gate, _ := f.Tensor("layers.0.gate")
		up, _ := f.Tensor("layers.0.up")
		if !bytes.Equal(gate.Data, data[e*24:e*24+8]) || !bytes.Equal(up.Data, data[e*24+8:e*24+24]) {
			t.Errorf("expert %d: gate %v, up %v", e, gate.Data, up.Data)
		}
	}
}

func TestWrongPlans(t *testing.T) {
	src := folder(t, map[string][]byte{"model.safetensors": file(`{`+aTensor+`,`+bTensor+`}`, 16)})
	good := weights.Piece{Name: "a", Source: "a", Shape: []int{2}}
	cases := []struct {
		cause string
		trunk weights.Piece
		more  []weights.Piece
	}{
		{`source "c" is not in the checkpoint`, weights.Piece{Name: "c", Source: "c", Shape: []int{2}}, nil},
		{"is outside its source", weights.Piece{Name: "a", Source: "a", Shape: []int{3}}, nil},
		{"is outside its source", weights.Piece{Name: "a", Source: "a", Offset: 1, Shape: []int{2}}, nil},
		{"is outside its source", weights.Piece{Name: "a", Source: "a", Offset: -1, Shape: []int{2}}, nil},
		{"is outside its source", weights.Piece{Name: "a", Source: "b", Offset: math.MaxInt, Shape: []int{0}}, nil},
		{"is outside its source", weights.Piece{Name: "a", Source: "a", Offset: 1 << 62, Shape: []int{1}}, nil},
		{"is outside its source", weights.Piece{Name: "a", Source: "a", Shape: []int{-1}}, nil},
		{"is outside its source", weights.Piece{Name: "a", Source: "a", Shape: []int{1 << 62, 4}}, nil},
		{"the name is empty, taken", weights.Piece{Name: "", Source: "a", Shape: []int{2}}, nil},
		{"the name is empty, taken", good, []weights.Piece{good}},
	}
	s := openStore(t, t.TempDir())
	for _, c := range cases {
		_, err := s.Import(t.Context(), "m", src, func(*weights.Checkpoint) (weights.Plan, error) {
			return weights.Plan{Trunk: append([]weights.Piece{c.trunk}, c.more...), Experts: [][]weights.Piece{{good}}}, nil
		}, nil)
		if !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), c.cause) {
			t.Errorf("got %v, want %q", err, c.cause)
		}
	}
	for _, p := range []weights.Plan{{}, {Trunk: []weights.Piece{good}}, {Trunk: []weights.Piece{good}, Experts: [][]weights.Piece{{good}, nil}}} {
		_, err := s.Import(t.Context(), "m", src, func(*weights.Checkpoint) (weights.Plan, error) { return p, nil }, nil)
		if !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("plan %v: %v", p, err)
		}
	}
	unknown := fmt.Errorf("model_type mamba: %w", sdk.ErrUnsupported)
	_, err := s.Import(t.Context(), "m", src, func(*weights.Checkpoint) (weights.Plan, error) { return weights.Plan{}, unknown }, nil)
	if !errors.Is(err, unknown) {
		t.Errorf("the plan's own error is lost: %v", err)
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("the store has %v, %v", list, err)
	}
}

func TestNames(t *testing.T) {
	s, src := openStore(t, t.TempDir()), coretest.Golden(t, "models", "qwen3_moe")
	for _, name := range []string{"", ".", "..", "../x", "a/b", "/a", `a\b`, ".hidden", "-a", "a b", "a\x00", "\u00e9", "a\n", strings.Repeat("a", 129)} {
		_, find := s.Find(name)
		_, imp := s.Import(t.Context(), name, src, qwenPlan, nil)
		if !errors.Is(find, sdk.ErrInvalid) || !errors.Is(imp, sdk.ErrInvalid) {
			t.Errorf("%q: find %v, import %v", name, find, imp)
		}
	}
	for _, name := range []string{"a", "A1._-", strings.Repeat("a", 128)} {
		if _, err := s.Find(name); !errors.Is(err, sdk.ErrNotFound) || !strings.Contains(err.Error(), "pimoe import") {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := s.Import(t.Context(), embedded.Name, src, qwenPlan, nil); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("the embedded model's name: %v", err)
	}
	if _, err := s.Import(t.Context(), "m", filepath.Join(src, "none"), qwenPlan, nil); !errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("no source: %v", err)
	}
	if _, err := s.Import(t.Context(), "m", filepath.Join(src, "config.json"), qwenPlan, nil); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("a file as source: %v", err)
	}
}

func TestNameFor(t *testing.T) {
	valid := regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}$`)
	seen := map[string]string{}
	for _, dir := range []string{"/", "/m", "/x/m", "/models/Qwen3 30B (A3B)", "/\u00e9\u00e9", "/.cache", "/..x", "/a/" + strings.Repeat("long", 60), "m", "."} {
		name := weights.NameFor(dir)
		if !valid.MatchString(name) || !regexp.MustCompile(`-[0-9a-f]{8}$`).MatchString(name) {
			t.Errorf("%q: name %q", dir, name)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("%q and %q have the name %q", dir, other, name)
		}
		seen[name] = dir
	}
	if weights.NameFor("/x/m/") != weights.NameFor("/x/../x/m") {
		t.Error("two spellings of one path have two names")
	}
	if !strings.HasPrefix(weights.NameFor("/x/qwen3.moe"), "qwen3.moe-") {
		t.Error("the name does not begin with the folder's")
	}
}

// The digest is of the content: another name, time and place don't change it, another byte or two swapped files do.
func TestDigest(t *testing.T) {
	src := coretest.Golden(t, "models", "qwen3_moe")
	s := openStore(t, t.TempDir())
	a := mustImport(t, s, "a", src)
	s.SetNow(func() time.Time { return time.Unix(1, 0) })
	b := mustImport(t, s, "b", copyModel(t, "qwen3_moe"))
	if a.Digest() != b.Digest() || !regexp.MustCompile(`^sha256:[0-9a-f]{64}$`).MatchString(a.Digest()) {
		t.Errorf("%s and %s", a.Digest(), b.Digest())
	}
	swapped := *a
	swapped.Manifest.Files = maps.Clone(a.Manifest.Files)
	f := swapped.Manifest.Files
	f["expert-0000.safetensors"], f["expert-0001.safetensors"] = f["expert-0001.safetensors"], f["expert-0000.safetensors"]
	if swapped.Digest() == a.Digest() {
		t.Error("two swapped experts have the same digest")
	}
	list, err := s.List()
	if err != nil || len(list) != 2 || list[0].Name != "a" || list[1].Name != "b" {
		t.Errorf("list %v, %v", list, err)
	}
}

// A manifest that is newer, broken or lies is refused with a cause; the other models stay listed.
func TestBrokenStore(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	mustImport(t, s, "good", coretest.Golden(t, "models", "qwen3_moe"))
	m := mustImport(t, s, "m", coretest.Golden(t, "models", "qwen3_moe"))
	path := filepath.Join(m.Dir, "manifest.json")
	original, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(key string, value any) []byte {
		var v map[string]any
		if err := json.Unmarshal(original, &v); err != nil {
			t.Fatal(err)
		}
		v[key] = value
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	sum := strings.Repeat("0", 64)
	entry := func(name, sum string, size int) []byte {
		return edit("files", map[string]any{name: map[string]any{"sha256": sum, "size": size}})
	}
	cases := []struct {
		name     string
		manifest []byte
		class    error
		cause    string
	}{
		{"newer", edit("schema", 2), sdk.ErrUnsupported, "schema 2 is newer"},
		{"schema 0", edit("schema", 0), sdk.ErrInvalid, "schema 0"},
		{"no JSON", []byte("x"), sdk.ErrInvalid, "broken"},
		{"empty", nil, sdk.ErrInvalid, "broken"},
		{"cut", original[:len(original)/2], sdk.ErrInvalid, "broken"},
		{"unknown key", edit("extra", 1), sdk.ErrInvalid, `unknown field "extra"`},
		{"other name", edit("name", "other"), sdk.ErrInvalid, "is of model other"},
		{"bad name", edit("name", "../m"), sdk.ErrInvalid, "name"},
		{"file outside", entry("../x", sum, 1), sdk.ErrInvalid, "file name"},
		{"bad digest", entry("x", "sha", 1), sdk.ErrInvalid, "digest or size"},
		{"negative size", entry("x", sum, -1), sdk.ErrInvalid, "digest or size"},
		{"no trunk", entry("x", sum, 1), sdk.ErrInvalid, "lists no trunk.safetensors"},
		{"expert missing", edit("experts", 9), sdk.ErrInvalid, "lists no expert-0008.safetensors"},
		{"negative experts", edit("experts", -1), sdk.ErrInvalid, "-1 experts"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if err := os.WriteFile(path, c.manifest, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Find("m"); !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.cause) {
				t.Errorf("got %v, want %q", err, c.cause)
			}
			list, err := s.List()
			if !errors.Is(err, c.class) || len(list) != 1 || list[0].Name != "good" {
				t.Errorf("list %v, %v", list, err)
			}
		})
	}
	if err := os.WriteFile(path, original, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(path string) error{
		"has": func(path string) error { return os.Truncate(path, 100) },
		"is no regular file": func(path string) error {
			return errors.Join(os.Rename(path, path+".x"), os.Symlink(path+".x", path))
		},
		"is missing": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			m := mustImport(t, s, "m", coretest.Golden(t, "models", "qwen3_moe")) // mends what the last case broke
			if err := spoil(m.ExpertPath(3)); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Find("m"); !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "expert-0003") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestStale(t *testing.T) {
	s := openStore(t, t.TempDir())
	src := copyModel(t, "qwen3_moe_sharded")
	m := mustImport(t, s, "m", src)
	check := func(want bool, why string) {
		t.Helper()
		if got, err := weights.Stale(m, src); err != nil || got != want {
			t.Errorf("%s: stale %v, %v", why, got, err)
		}
	}
	check(false, "untouched")
	for _, name := range []string{"config.json", "model.safetensors.index.json", "model-00002-of-00002.safetensors"} {
		path := filepath.Join(src, name)
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		old := st.ModTime()
		touch := func(at time.Time) {
			if err := os.Chtimes(path, at, at); err != nil {
				t.Fatal(err)
			}
		}
		touch(old.Add(time.Second))
		check(true, name+" touched")
		touch(old)
		check(false, name+" restored")
	}
	write := func(name string) {
		if err := os.WriteFile(filepath.Join(src, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("README.md")
	check(false, "a file that is not imported")
	write("chat_template.jinja")
	check(true, "a new chat template")
	if err := os.Remove(filepath.Join(src, "chat_template.jinja")); err != nil {
		t.Fatal(err)
	}
	check(false, "removed again")
	write("model.safetensors")
	check(true, "a single file that comes before the index")
	if err := os.RemoveAll(src); err != nil {
		t.Fatal(err)
	}
	if _, err := weights.Stale(m, src); !errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("source gone: %v", err)
	}
}

func TestEnsure(t *testing.T) {
	s := openStore(t, t.TempDir())
	src := copyModel(t, "qwen3_moe")
	imports := 0
	plan := func(ck *weights.Checkpoint) (weights.Plan, error) {
		imports++
		if _, err := os.Stat(filepath.Join(ck.Dir(), "config.json")); err != nil {
			t.Error(err)
		}
		return qwenPlan(ck)
	}
	ensure := func(want int, why string) *weights.Model {
		t.Helper()
		m, err := s.Ensure(t.Context(), src, plan, nil)
		if err != nil || imports != want {
			t.Fatalf("%s: %d imports, %v", why, imports, err)
		}
		if m.Name != weights.NameFor(src) {
			t.Errorf("name %s", m.Name)
		}
		return m
	}
	first := ensure(1, "missing")
	ensure(1, "present")
	if err := os.Remove(first.ExpertPath(2)); err != nil {
		t.Fatal(err)
	}
	checkModel(t, ensure(2, "expert removed"), src)
	if err := os.WriteFile(filepath.Join(src, "chat_template.jinja"), []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	again := ensure(3, "template added")
	checkModel(t, again, src)
	if again.Digest() == first.Digest() {
		t.Error("the digest did not change")
	}
	if err := os.WriteFile(filepath.Join(first.Dir, "manifest.json"), []byte(`{"schema":99}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Ensure(t.Context(), src, plan, nil); !errors.Is(err, sdk.ErrUnsupported) {
		t.Errorf("a newer store is overwritten: %v", err)
	}
	if err := os.RemoveAll(src); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Ensure(t.Context(), src, plan, nil); !errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("source gone: %v", err)
	}
}

func TestEmbedded(t *testing.T) {
	s := openStore(t, t.TempDir())
	imports := 0
	plan := func(ck *weights.Checkpoint) (weights.Plan, error) {
		imports++
		want, err := os.ReadFile(filepath.Join(coretest.PimoeTiny(t), "config.json"))
		if err != nil {
			return weights.Plan{}, err
		}
		if got, err := os.ReadFile(filepath.Join(ck.Dir(), "config.json")); err != nil || !bytes.Equal(got, want) {
			t.Errorf("config.json is not in the checkpoint's folder: %v", err)
		}
		return qwenPlan(ck)
	}
	m, err := s.EnsureEmbedded(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	checkModel(t, m, coretest.PimoeTiny(t))
	if m.Name != "pimoe-tiny" || m.Manifest.Experts != 8 {
		t.Errorf("%s with %d experts", m.Name, m.Manifest.Experts)
	}
	names, err := fs.Glob(embedded.Files(), "*")
	want := []string{"chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"}
	if err != nil || !slices.Equal(names, want) {
		t.Errorf("embedded files %q, %v", names, err)
	}
	if _, err := s.EnsureEmbedded(t.Context(), plan); err != nil || imports != 1 {
		t.Errorf("%d imports, %v", imports, err)
	}
	otherBinary(t, m)
	if m, err = s.EnsureEmbedded(t.Context(), plan); err != nil || imports != 2 {
		t.Fatalf("%d imports, %v", imports, err)
	}
	checkModel(t, m, coretest.PimoeTiny(t))
	if _, err := s.ImportEmbedded(t.Context(), plan, nil); err != nil || imports != 3 {
		t.Errorf("%d imports, %v", imports, err)
	}
	checkModel(t, m, coretest.PimoeTiny(t))
}

// otherBinary makes a stored embedded model look as if an executable with other weights had imported it.
func otherBinary(t *testing.T, m *weights.Model) {
	t.Helper()
	path := filepath.Join(m.Dir, "manifest.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := []byte(m.Manifest.Source.Files["model.safetensors"].SHA256)
	if bytes.Count(b, sum) != 1 {
		t.Fatalf("the source's digest is %d times in the manifest", bytes.Count(b, sum))
	}
	if err := os.WriteFile(path, bytes.Replace(b, sum, bytes.Repeat([]byte("0"), 64), 1), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A store that can't be made or written to says where it is and what chooses another place.
func TestStoreNotWritable(t *testing.T) {
	dir := folder(t, map[string][]byte{"home": {1}})
	_, err := weights.OpenStore(filepath.Join(dir, "home"))
	if err == nil || !strings.Contains(err.Error(), "PIMOE_HOME") || !strings.Contains(err.Error(), filepath.Join(dir, "home")) {
		t.Errorf("got %v", err)
	}
	if _, err := weights.OpenStore(""); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("no folder: %v", err)
	}
	for _, cause := range []error{syscall.EACCES, syscall.EROFS, syscall.ENOSPC} {
		s := openStore(t, t.TempDir())
		s.SetFault(func(op, path string) error { return &fs.PathError{Op: op, Path: path, Err: cause} })
		_, err = s.Import(t.Context(), "m", coretest.Golden(t, "models", "qwen3_moe"), qwenPlan, nil)
		if !errors.Is(err, cause) || !errors.Is(err, sdk.ErrUnavailable) || !strings.Contains(err.Error(), "PIMOE_HOME") || !strings.Contains(err.Error(), ".m.partial") {
			t.Errorf("got %v", err)
		}
	}
}

// Too little space is found before a shard is written; what is already there counts.
func TestFreeSpace(t *testing.T) {
	src := coretest.Golden(t, "models", "qwen3_moe")
	s := openStore(t, t.TempDir())
	s.SetFree(func(string) (uint64, error) { return 17e6, nil }) // the spare space, but no model
	_, err := s.Import(t.Context(), "m", src, qwenPlan, nil)
	if !errors.Is(err, sdk.ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "17.0 MB free") || !strings.Contains(err.Error(), "PIMOE_HOME") {
		t.Fatalf("got %v", err)
	}
	s.SetFree(func(string) (uint64, error) { return 18.2e6, nil })
	mustImport(t, s, "m", src)
	s.SetFree(func(string) (uint64, error) { return 0, syscall.EIO })
	if _, err := s.Import(t.Context(), "other", src, qwenPlan, nil); !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v", err)
	}
}

// A cancelled import ends with the context's error, whether it copies or waits for another one.
func TestImportCancelled(t *testing.T) {
	src := coretest.Golden(t, "models", "qwen3_moe")
	s := openStore(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.Import(ctx, "m", src, qwenPlan, func(done, total int64) {
		if done > total/2 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	begun, end := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var first sync.WaitGroup
	first.Go(func() {
		_, err := s.Import(t.Context(), "m", src, qwenPlan, func(int64, int64) {
			once.Do(func() { close(begun); <-end })
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-begun
	ctx, cancel = context.WithTimeout(t.Context(), 60*time.Millisecond)
	defer cancel()
	if _, err := s.Import(ctx, "m", src, qwenPlan, nil); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "another import") {
		t.Errorf("got %v", err)
	}
	close(end)
	first.Wait()
	m, err := s.Find("m")
	if err != nil {
		t.Fatal(err)
	}
	checkModel(t, m, src)
}
