//go:build linux || darwin

package weights_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
)

// storedModel is a fresh import whose digests are not yet known, under a clock for which they are settled.
func storedModel(t *testing.T) *weights.Model {
	t.Helper()
	m := mustImport(t, openStore(t, t.TempDir()), "m", coretest.Golden(t, "models", "qwen3_moe"))
	t.Cleanup(weights.SetDigestClock(func() time.Time { return time.Now().Add(time.Hour) }))
	return m
}

func verifyPath(ctx context.Context, m *weights.Model, file, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(m.Verify(ctx, file, f), f.Close())
}

func TestVerify(t *testing.T) {
	m := storedModel(t)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := verifyPath(cancelled, m, "expert-0001.safetensors", m.ExpertPath(1)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	for range 2 {
		if err := verifyPath(t.Context(), m, "expert-0001.safetensors", m.ExpertPath(1)); err != nil {
			t.Error(err)
		}
	}
	if weights.Remembered() != 1 {
		t.Errorf("%d digests remembered", weights.Remembered())
	}
	// Now that it is known, no byte is read, so a cancelled context does not matter.
	if err := verifyPath(cancelled, m, m.ExpertPath(1), m.ExpertPath(1)); err != nil {
		t.Errorf("hashed again: %v", err)
	}
	if err := verifyPath(t.Context(), m, "expert-0002.safetensors", m.ExpertPath(1)); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("another expert's file: %v", err)
	}
	if err := verifyPath(t.Context(), m, "expert-0099.safetensors", m.ExpertPath(1)); !errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("a file that the manifest does not know: %v", err)
	}
	if err := verifyPath(t.Context(), m, "expert-0001.safetensors", m.Dir); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("a folder: %v", err)
	}
}

// A change that keeps the size is found at once, by the file's identity: in place, by replacement, by a swap.
func TestVerifyFindsChanges(t *testing.T) {
	m := storedModel(t)
	const file = "expert-0001.safetensors"
	path := m.ExpertPath(1)
	if err := verifyPath(t.Context(), m, file, path); err != nil {
		t.Fatal(err)
	}
	wantBroken := func(why string) {
		t.Helper()
		err := verifyPath(t.Context(), m, file, path)
		if !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "import the model again") {
			t.Errorf("%s: %v", why, err)
		}
	}
	if err := flip(path, 4321); err != nil {
		t.Fatal(err)
	}
	wantBroken("a bit flipped")
	wantBroken("the second look")
	if err := flip(path, 4321); err != nil {
		t.Fatal(err)
	}
	if err := verifyPath(t.Context(), m, file, path); err != nil {
		t.Error("flipped back:", err)
	}
	other := m.ExpertPath(2)
	if err := errors.Join(os.Rename(path, path+".x"), os.Rename(other, path), os.Rename(path+".x", other)); err != nil {
		t.Fatal(err)
	}
	wantBroken("two files swapped")
	if err := os.Truncate(path, 1000); err != nil {
		t.Fatal(err)
	}
	wantBroken("cut short")
}

// Every one of many random bits that flip is detected before the file is served.
func TestVerifyFindsEveryBit(t *testing.T) {
	m := storedModel(t)
	path := m.TrunkPath()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		at := r.Int64N(st.Size())
		if err := flip(path, at); err != nil {
			t.Fatal(err)
		}
		if err := verifyPath(t.Context(), m, weights.TrunkFile, path); !errors.Is(err, sdk.ErrInvalid) {
			t.Fatalf("byte %d: %v", at, err)
		}
		if f, err := m.ReadTrunk(t.Context()); !errors.Is(err, sdk.ErrInvalid) {
			t.Fatalf("byte %d: ReadTrunk: %v, %v", at, f, err)
		}
		if err := flip(path, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := verifyPath(t.Context(), m, weights.TrunkFile, path); err != nil {
		t.Error(err)
	}
}

// A file that has just changed is not remembered: a second change within one tick of the clock would not show.
func TestVerifyDistrustsFreshFiles(t *testing.T) {
	m := storedModel(t)
	t.Cleanup(weights.SetDigestClock(time.Now))
	if err := verifyPath(t.Context(), m, weights.TrunkFile, m.TrunkPath()); err != nil {
		t.Error(err)
	}
	if n := weights.Remembered(); n != 0 {
		t.Errorf("%d digests remembered", n)
	}
}

// Recheck reads whatever is known, and what it finds replaces what was known.
func TestRecheck(t *testing.T) {
	m := storedModel(t)
	f, err := os.Open(m.ExpertPath(0))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := m.Verify(t.Context(), "expert-0000.safetensors", f); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Recheck(cancelled, "expert-0000.safetensors", f); !errors.Is(err, context.Canceled) {
		t.Errorf("not read again: %v", err)
	}
	if err := m.Recheck(t.Context(), "expert-0000.safetensors", f); err != nil {
		t.Error(err)
	}
	if err := m.Verify(cancelled, "expert-0000.safetensors", f); err != nil {
		t.Errorf("forgotten: %v", err)
	}
}

// Many callers at once, some of which give up, share the work and all get the right verdict.
func TestVerifyConcurrently(t *testing.T) {
	m := storedModel(t)
	if err := flip(m.ExpertPath(1), 2000); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if i%3 == 0 {
				cancel()
			}
			e := i % 2
			err := verifyPath(ctx, m, filepath.Base(m.ExpertPath(e)), m.ExpertPath(e))
			given := i%3 == 0 && errors.Is(err, context.Canceled)
			if right := e == 0 && err == nil || e == 1 && errors.Is(err, sdk.ErrInvalid); !right && !given {
				t.Errorf("caller %d: %v", i, err)
			}
		})
	}
	all.Wait()
	if n := weights.Remembered(); n != 2 {
		t.Errorf("%d digests remembered", n)
	}
}
