package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/server/instance"
)

// TestDealtPrompt: a prompt whose rows are dealt to real processes (core/moe) has the bits that direct calls give, also while
// those processes are killed.
func TestDealtPrompt(t *testing.T) {
	shape := write(t, "wide.yaml", []byte("hidden: 2048\nlayers: 2\nexperts: 4\ntop_k: 2\nintermediate: 64\nheads: 2\nkv_heads: 1\nhead_dim: 32\nvocab: 300\npositions: 2048\n"))
	home := t.TempDir()
	start := func(isolation string, replicas int) *instance.Instance {
		t.Helper()
		cfg := config.Default()
		cfg.Home, cfg.Plugins.Dir = home, coretest.Binaries(t)
		cfg.Limits.MaxBatchTokens, cfg.Limits.RequestTimeout = 1024, time.Minute
		cfg.Experts.Isolation, cfg.Experts.Replicas, cfg.Experts.RecheckOneIn = isolation, replicas, 0
		a := &app{out: io.Discard, err: io.Discard}
		if err := a.useShape(t.Context(), &cfg, shape); err != nil {
			t.Fatal(err)
		}
		i, err := instance.Open(t.Context(), instance.Options{Config: cfg, Log: slog.New(slog.DiscardHandler), Builtin: builtin(), SweepEvery: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := i.Close(); err != nil {
				t.Error(err)
			}
		})
		return i
	}

	want := logitsOf(t, start("inproc", 1))
	i := start("process", 2)
	calls := func() (n uint64) {
		for _, s := range i.Host.Status() {
			n += s.Calls
		}
		return n
	}
	before := calls()
	if got := logitsOf(t, i); got != want {
		t.Error("other logits than by direct calls")
	}
	// Sent at once they would be at most one for each of two layers, four groups and two lanes.
	if n, lanes := calls()-before, i.Host.Status()[0].Lanes; lanes == 2 && n <= 2*4*2 {
		t.Errorf("%d calls: the rows were not dealt", n)
	}

	ctx, stop := context.WithCancel(t.Context())
	var killer sync.WaitGroup
	defer killer.Wait()
	defer stop()
	var killed atomic.Int32
	killer.Go(func() {
		for rng := rand.New(rand.NewPCG(5, 6)); ctx.Err() == nil; time.Sleep(time.Duration(100+rng.IntN(200)) * time.Millisecond) {
			all := i.Host.Status()
			if pid := all[rng.IntN(len(all))].PID; pid > 0 && syscall.Kill(pid, syscall.SIGKILL) == nil {
				killed.Add(1)
			}
		}
	})
	for n := 0; n < 8 || killed.Load() < 5; n++ {
		if got := logitsOf(t, i); got != want {
			t.Fatal("other logits while processes are killed")
		}
	}
}

// logitsOf is a digest of all logits of a prompt of 700 tokens.
func logitsOf(t *testing.T, i *instance.Instance) (digest [32]byte) {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 7))
	r := engine.Request{Prompt: make([]int32, 700), MaxTokens: 1, IgnoreEOS: true, Logprobs: -1}
	for j := range r.Prompt {
		r.Prompt[j] = rng.Int32N(int32(i.Model.Vocab))
	}
	d, rows := sha256.New(), 0
	r.Observe = &engine.Observer{Logits: func(_ int, logits []float32) {
		rows++
		_ = binary.Write(d, binary.LittleEndian, logits) // a hash takes all
	}}
	s, err := i.Engine.Submit(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for {
		if _, err = s.Next(t.Context()); err != nil {
			break
		}
	}
	if !errors.Is(err, io.EOF) || rows != len(r.Prompt) {
		t.Fatalf("%d rows of logits: %v", rows, err)
	}
	return [32]byte(d.Sum(nil))
}
