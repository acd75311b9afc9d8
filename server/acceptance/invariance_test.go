package acceptance

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/server/instance"
)

// variant is one way of computing the same request.
type variant struct {
	name   string
	change func(*config.Config)
	others int // requests that run beside it
}

func group(lists map[string]any) func(*config.Config) {
	return func(c *config.Config) { c.Experts.Group = lists }
}

func entry(experts string) []any {
	return []any{map[string]any{"layers": "all", "experts": experts}}
}

var variants = []variant{
	{"alone", func(*config.Config) {}, 0},
	{"with 31 others", func(*config.Config) {}, 31},
	{"prompt in chunks of 16", func(c *config.Config) { c.Limits.MaxBatchTokens = 16 }, 0},
	{"prompt in chunks of 37, with others", func(c *config.Config) { c.Limits.MaxBatchTokens = 37 }, 31},
	{"whole prompt at once", func(c *config.Config) { c.Limits.MaxBatchTokens = 2048 }, 0},
	{"1 process", group(map[string]any{"all": entry("all")}), 0},
	{"2 processes", group(map[string]any{"a": entry("0-3"), "b": entry("4-7")}), 3},
	{"a process a layer", func(c *config.Config) { c.Experts.Group = "layer" }, 0},
	{"2 replicas", func(c *config.Config) { c.Experts.Replicas = 2 }, 3},
	{"in process", func(c *config.Config) { c.Experts.Isolation = "inproc" }, 3},
	{"gRPC instead of shared memory", func(c *config.Config) { c.Experts.Transport = "grpc" }, 3},
	{"1 thread", func(c *config.Config) { c.Limits.Threads = 1 }, 0},
	{"2 threads", func(c *config.Config) { c.Limits.Threads = 2 }, 3},
}

// TestBitInvariance: every logit of a request has the same bits however it is computed. Each kind of weights and each kind of
// cache has its turn; PIMOE_INVARIANCE=all pairs them all.
func TestBitInvariance(t *testing.T) {
	models := map[string]string{"bf16 weights": "", "f32 weights": coretest.Golden(t, "models", "qwen3_moe")}
	usual := map[string]string{"bf16 weights": "bf16", "f32 weights": "f32"}
	for weights, dir := range models {
		for _, kv := range []string{"f32", "bf16"} {
			if kv != usual[weights] && os.Getenv("PIMOE_INVARIANCE") != "all" {
				continue
			}
			t.Run(weights+", cache "+kv, func(t *testing.T) {
				store := home(t)
				var want string
				for _, v := range variants {
					t.Run(v.name, func(t *testing.T) {
						i := open(t, func(c *config.Config) { c.Model, c.Home, c.KVCache.DType = dir, store, kv }, v.change)
						got := fingerprint(t, i, v.others)
						if want == "" {
							want = got
						}
						if got != want {
							t.Errorf("logits %s, alone %s", got, want)
						}
					})
				}
			})
		}
	}
}

// fingerprint is a digest of all logits of a prompt of 130 tokens and 24 greedy tokens, and of the tokens.
func fingerprint(t *testing.T, i *instance.Instance, others int) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var crowd sync.WaitGroup
	defer crowd.Wait()
	for n := range others {
		crowd.Add(1)
		go func() {
			defer crowd.Done()
			if a := run(ctx, i, greedy(prompt(i, uint64(n)+2, 20+3*n), 100)); a.err != nil {
				t.Error(a.err)
			}
		}()
	}
	for i.Engine.Stats().Running < others {
		if time.Sleep(time.Millisecond); ctx.Err() != nil {
			t.Fatal("the others do not run")
		}
	}
	digest, rows := sha256.New(), 0
	r := greedy(prompt(i, 1, 130), 24)
	r.Observe = &engine.Observer{Logits: func(position int, logits []float32) {
		rows++
		binary.Write(digest, binary.LittleEndian, int64(position))
		for _, v := range logits {
			var b [4]byte
			binary.LittleEndian.PutUint32(b[:], math.Float32bits(v))
			digest.Write(b[:])
		}
	}}
	a := run(ctx, i, r)
	if a.err != nil {
		t.Fatal(a.err)
	}
	if len(a.ids) != 24 || rows < 130+23 {
		t.Fatalf("%d tokens and %d rows of logits", len(a.ids), rows)
	}
	return fmt.Sprintf("%x %v", digest.Sum(nil)[:8], a.ids)
}

// prompt is n seeded ids.
func prompt(i *instance.Instance, seed uint64, n int) []int32 {
	r := rand.New(rand.NewPCG(seed, 7))
	ids := make([]int32, n)
	for j := range ids {
		ids[j] = int32(r.IntN(i.Model.Vocab))
	}
	return ids
}

// TestPrefixReuseInvariance: keys and values taken over from an earlier request give the bits of a computed prompt.
func TestPrefixReuseInvariance(t *testing.T) {
	for _, kv := range []string{"f32", "bf16"} {
		for weights, dir := range map[string]string{"bf16 weights": "", "f32 weights": coretest.Golden(t, "models", "qwen3_moe")} {
			t.Run(weights+", cache "+kv, func(t *testing.T) {
				i := open(t, func(c *config.Config) { c.Model, c.KVCache.DType = dir, kv })
				ask := func(n int, reuse bool) (string, int) {
					r := greedy(prompt(i, 1, n), 16)
					r.Logprobs, r.NoReuse = 20, !reuse
					a := run(t.Context(), i, r)
					if a.err != nil {
						t.Fatal(a.err)
					}
					text := ""
					for _, tok := range a.tokens {
						text += fmt.Sprint(tok.ID, math.Float32bits(tok.Logprob))
						for _, top := range tok.Top {
							text += fmt.Sprint(" ", top.ID, math.Float32bits(top.Logprob))
						}
					}
					return text, cached(t, i, r)
				}
				for _, n := range []int{17, 64, 100, 129} {
					want, _ := ask(n, false)
					cold, _ := ask(n, true)
					warm, reused := ask(n, true)
					if cold != want || warm != want {
						t.Errorf("prompt of %d: reuse changed the bits", n)
					}
					if reused == 0 {
						t.Errorf("prompt of %d: nothing was reused", n)
					}
				}
			})
		}
	}
}

// cached asks once more and returns how many prompt tokens were taken over.
func cached(t *testing.T, i *instance.Instance, r engine.Request) int {
	t.Helper()
	s, err := i.Engine.Submit(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for {
		if _, err := s.Next(t.Context()); err != nil {
			return s.Usage().CachedTokens
		}
	}
}
