//go:build linux || darwin

package weights_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// childEnv makes the test executable an importer: "HOME|NAME|SOURCE|K". It kills itself before its K-th change to the
// disk; with K = -1 it does not.
const childEnv = "PIMOE_TEST_IMPORT"

func TestMain(m *testing.M) {
	if job := os.Getenv(childEnv); job != "" {
		if err := importChild(strings.Split(job, "|")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func importChild(job []string) error {
	s, err := weights.OpenStore(job[0])
	if err != nil {
		return err
	}
	k, err := strconv.Atoi(job[3])
	if err != nil {
		return err
	}
	n := 0
	s.SetFault(func(string, string) error {
		if n == k {
			return errors.Join(syscall.Kill(os.Getpid(), syscall.SIGKILL), errors.New("still alive"))
		}
		n++
		return nil
	})
	if job[2] == packIt {
		m, err := s.Find(job[1])
		if err == nil {
			_, err = s.Pack(context.Background(), m, recipe(m, packing), 2, nil)
		}
		return err
	}
	_, err = s.Import(context.Background(), job[1], job[2], qwenPlan, nil)
	return err
}

// packIt in place of a source makes the child pack the model.
const packIt = "pack"

func child(t *testing.T, home, name, src string, k int) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|%s|%d", childEnv, home, name, src, k))
	return cmd
}

// smallModel is a source with two experts, so small that an import costs little; seeds differ in the weights.
func smallModel(t *testing.T, seed byte) string {
	t.Helper()
	data := make([]byte, 24)
	var list []weights.NamedView
	for i, name := range []string{"model.embed_tokens.weight", "model.layers.0.mlp.experts.0.gate_proj.weight",
		"model.layers.0.mlp.experts.0.up_proj.weight", "model.layers.0.mlp.experts.1.gate_proj.weight", "model.norm.weight"} {
		data[0], data[1] = seed, byte(i)
		list = append(list, weights.NamedView{Name: name, View: view(tensor.F32, bytes.Clone(data), 2, 3)})
	}
	var b bytes.Buffer
	if err := weights.Write(&b, list, nil); err != nil {
		t.Fatal(err)
	}
	return folder(t, map[string][]byte{"model.safetensors": b.Bytes(), "config.json": {'{', '}'}, "tokenizer.json": {'{', '}'}})
}

// An import fails at the k-th change to the disk, for k = 0, 1, 2... until one succeeds. After each failure nothing half
// done is visible and an import goes on from there; together they end in the right model.
func TestImportFailsAtEveryChange(t *testing.T) {
	src := smallModel(t, 1)
	broken := errors.New("injected")
	for k := 0; ; k++ {
		s := openStore(t, filepath.Join(t.TempDir(), strconv.Itoa(k)))
		n, op, path := 0, "", ""
		s.SetFault(func(o, p string) error {
			if n++; n-1 == k {
				op, path = o, p
				return broken
			}
			return nil
		})
		m, err := s.Import(t.Context(), "m", src, qwenPlan, nil)
		if err == nil {
			checkModel(t, m, src)
			if k < 45 {
				t.Errorf("only %d changes to the disk", k)
			}
			return
		}
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), filepath.Base(path)) {
			t.Fatalf("change %d, %s %s: got %v", k, op, path, err)
		}
		if m, err := s.Find("m"); err == nil {
			checkModel(t, m, src) // only the last sync was missing
		} else if !errors.Is(err, sdk.ErrNotFound) {
			t.Fatalf("change %d, %s %s: half a model: %v", k, op, path, err)
		}
		s.SetFault(nil)
		if m, err = s.Import(t.Context(), "m", src, qwenPlan, nil); err != nil {
			t.Fatalf("change %d, %s %s: resumed: %v", k, op, path, err)
		}
		checkModel(t, m, src)
	}
}

// The same with a kill in place of an error, at some of the changes, and a model that is replaced: it stays whole.
func TestImportKilled(t *testing.T) {
	first, second := smallModel(t, 1), smallModel(t, 2)
	home := t.TempDir()
	s := openStore(t, home)
	kills := 0
	for k := 0; ; k += 4 {
		old := mustImport(t, s, "m", first)
		out, err := child(t, home, "m", second, k).CombinedOutput()
		if err == nil {
			break
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != -1 {
			t.Fatalf("kill at change %d: %v: %s", k, err, out)
		}
		kills++
		m, err := s.Find("m")
		if err != nil {
			t.Fatalf("kill at change %d: %v", k, err)
		}
		if m.Digest() == old.Digest() && m.Manifest.Source.Dir != old.Manifest.Source.Dir {
			t.Fatalf("kill at change %d: manifest and files are of two models", k)
		}
		checkModel(t, mustImport(t, s, "m", second), second)
	}
	if kills < 10 {
		t.Errorf("only %d kills", kills)
	}
}

// written counts the shards that an import writes.
func written(s *weights.Store) *int {
	n := new(int)
	s.SetFault(func(op, path string) error {
		if op == "create" && strings.HasSuffix(path, ".safetensors") {
			*n++
		}
		return nil
	})
	return n
}

// cutShort imports until some shards are done, then fails.
func cutShort(t *testing.T, s *weights.Store, name, src string) {
	t.Helper()
	stop := errors.New("stop")
	s.SetFault(func(op, path string) error {
		if op == "create" && strings.HasSuffix(path, "expert-0004.safetensors") {
			return stop
		}
		return nil
	})
	if _, err := s.Import(t.Context(), name, src, qwenPlan, nil); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	s.SetFault(nil)
}

// What is finished is kept if it still has its digest, and only then.
func TestResumeKeepsFinishedShards(t *testing.T) {
	src := copyModel(t, "qwen3_moe")
	cases := []struct {
		name  string
		spoil func(partial string) error
		want  int
	}{
		{"untouched", func(string) error { return nil }, 4},
		{"a bit flipped", func(p string) error { return flip(filepath.Join(p, "expert-0001.safetensors"), 5000) }, 5},
		{"a shard cut", func(p string) error { return os.Truncate(filepath.Join(p, "trunk.safetensors"), 100) }, 5},
		{"a shard gone", func(p string) error { return os.Remove(filepath.Join(p, "trunk.safetensors")) }, 5},
		{"state gone", func(p string) error { return os.Remove(filepath.Join(p, "state.json")) }, 9},
		{"state broken", func(p string) error { return os.Truncate(filepath.Join(p, "state.json"), 20) }, 9},
		{"rubbish beside", func(p string) error { return os.MkdirAll(filepath.Join(p, "x", "y"), 0o700) }, 4},
		{"source touched", func(string) error {
			return os.Chtimes(filepath.Join(src, "config.json"), time.Now(), time.Unix(1e9, 0))
		}, 9},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			home := t.TempDir()
			s := openStore(t, home)
			cutShort(t, s, "m", src)
			if err := c.spoil(filepath.Join(home, "models", ".m.partial")); err != nil {
				t.Fatal(err)
			}
			n := written(s)
			var last, total int64
			m, err := s.Import(t.Context(), "m", src, qwenPlan, func(d, a int64) { last, total = d, a })
			if err != nil {
				t.Fatal(err)
			}
			checkModel(t, m, src)
			if *n != c.want || last != total {
				t.Errorf("%d shards written, want %d; progress %d of %d", *n, c.want, last, total)
			}
		})
	}
}

// A partial folder goes when its source is gone or another, and stays while somebody can go on with it.
func TestAbandonedPartialsAreCleaned(t *testing.T) {
	home := t.TempDir()
	s := openStore(t, home)
	gone, stays := copyModel(t, "qwen3_moe"), copyModel(t, "qwen3_moe")
	cutShort(t, s, "gone", gone)
	cutShort(t, s, "stays", stays)
	partial := func(name string) string { return filepath.Join(home, "models", "."+name+".partial") }
	if err := errors.Join(os.RemoveAll(gone), os.MkdirAll(partial("empty"), 0o700), os.MkdirAll(partial("../models/.x"), 0o700)); err != nil {
		t.Fatal(err)
	}
	mustImport(t, s, "m", coretest.Golden(t, "models", "qwen3_moe"))
	for name, want := range map[string]bool{"gone": false, "stays": true, "empty": false, "m": false} {
		if _, err := os.Stat(partial(name)); (err == nil) != want {
			t.Errorf("partial folder of %s: %v", name, err)
		}
	}
	n := written(s)
	checkStays := mustImport(t, s, "stays", stays)
	if *n != 4 || checkStays.Name != "stays" {
		t.Errorf("%d shards written, want 4", *n)
	}
}

// A second import of an unchanged source writes nothing; one of a damaged model mends it.
func TestImportIsIdempotent(t *testing.T) {
	s, src := openStore(t, t.TempDir()), coretest.Golden(t, "models", "qwen3_moe")
	mustImport(t, s, "m", src)
	n := written(s)
	var last, total int64
	m, err := s.Import(t.Context(), "m", src, qwenPlan, func(d, a int64) { last, total = d, a })
	if err != nil || *n != 0 || last != total || total == 0 {
		t.Errorf("%d shards written, progress %d of %d, %v", *n, last, total, err)
	}
	checkModel(t, m, src)
	if err := flip(m.ExpertPath(5), 3000); err != nil {
		t.Fatal(err)
	}
	m = mustImport(t, s, "m", src)
	if *n == 0 {
		t.Error("a damaged model was not mended")
	}
	checkModel(t, m, src)
}

// A source that changes while it is read is refused, and the next import starts from nothing.
func TestSourceChangesDuringImport(t *testing.T) {
	s, src := openStore(t, t.TempDir()), copyModel(t, "qwen3_moe")
	change := func(do func(path string) error) error {
		changed := false
		_, err := s.Import(t.Context(), "m", src, qwenPlan, func(done, total int64) {
			if !changed && done > total/2 {
				changed = true
				if err := do(filepath.Join(src, "model.safetensors")); err != nil {
					t.Error(err)
				}
			}
		})
		return err
	}
	if err := change(func(p string) error { return os.Chtimes(p, time.Time{}, time.Unix(1e9, 0)) }); !errors.Is(err, sdk.ErrUnavailable) || !strings.Contains(err.Error(), "changed during the import") {
		t.Errorf("touched: %v", err)
	}
	if err := change(func(p string) error { return os.Truncate(p, 10000) }); !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), "cut short") {
		t.Errorf("truncated: %v", err)
	}
	if _, err := s.Find("m"); !errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("half a model: %v", err)
	}
}

// Imports of one name in several goroutines and processes at once all end in the one right model.
func TestConcurrentImports(t *testing.T) {
	home, src := t.TempDir(), coretest.Golden(t, "models", "qwen3_moe")
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			s, err := weights.OpenStore(home)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := s.Import(t.Context(), "m", src, qwenPlan, nil); err != nil {
				t.Error(err)
			}
		})
	}
	for range 2 {
		all.Go(func() {
			if out, err := child(t, home, "m", src, -1).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	all.Wait()
	m, err := openStore(t, home).Find("m")
	if err != nil {
		t.Fatal(err)
	}
	checkModel(t, m, src)
}

// While a model is replaced again and again, it is never missing and never half one, half the other.
func TestReplacedModelIsAlwaysThere(t *testing.T) {
	home := t.TempDir()
	sources := []string{coretest.Golden(t, "models", "qwen3_moe"), coretest.Golden(t, "models", "qwen3_moe_tf5")}
	s := openStore(t, home)
	mustImport(t, s, "m", sources[0])
	done := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if _, err := s.Find("m"); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range 6 {
		mustImport(t, s, "m", sources[(i+1)%2])
	}
	close(done)
	reader.Wait()
}

// A crash between the two renames of a system that can't exchange folders is mended.
func TestRecoverOldModel(t *testing.T) {
	home, src := t.TempDir(), coretest.Golden(t, "models", "qwen3_moe")
	s := openStore(t, home)
	m := mustImport(t, s, "m", src)
	old := filepath.Join(home, "models", ".m.old")
	if err := os.Rename(m.Dir, old); err != nil {
		t.Fatal(err)
	}
	n := written(s)
	checkModel(t, mustImport(t, s, "m", src), src)
	if *n != 0 {
		t.Errorf("%d shards written: the old model was not put back", *n)
	}
	if err := os.Mkdir(old, 0o700); err != nil {
		t.Fatal(err)
	}
	checkModel(t, mustImport(t, s, "m", src), src)
}

// Where folders can't be exchanged, a model is replaced by two renames.
func TestReplaceWithoutExchange(t *testing.T) {
	s := openStore(t, t.TempDir())
	s.SetSwap(func(string, string) error { return syscall.EINVAL })
	for seed := range byte(3) {
		src := smallModel(t, seed)
		checkModel(t, mustImport(t, s, "m", src), src)
	}
}

// flip inverts a bit of a file.
func flip(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var b [1]byte
	_, rerr := f.ReadAt(b[:], at)
	b[0] ^= 0x10
	_, werr := f.WriteAt(b[:], at)
	return errors.Join(rerr, werr, f.Close())
}
