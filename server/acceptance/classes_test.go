package acceptance

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/backends/isa"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/weights"
)

// class is a numeric class of experts and trunk, and how far it may be from the float32 reference.
type class struct {
	name string
	env  []string
	// share bounds the distance of a logit, of the head as of a gate, from the reference's, as a share of the largest.
	share float64
}

var reduced = []class{
	{"int8g32 experts", []string{"PIMOE_EXPERTS__BACKEND=int8"}, 0.05},
	{"int8g32 experts and trunk", []string{"PIMOE_EXPERTS__BACKEND=int8", "PIMOE_TRUNK__BACKEND=int8"}, 0.08},
	{"bf16 experts and trunk", []string{"PIMOE_EXPERTS__PRECISION=bf16", "PIMOE_TRUNK__PRECISION=bf16"}, 0.03},
}

// TestReducedClasses holds the classes with rounded activations to the reference: every logit within the class's bound,
// and the same experts wherever two logits of the reference's gates are further apart than twice that. What follows a
// permitted flip is another computation and is not compared.
func TestReducedClasses(t *testing.T) {
	store := home(t)
	for _, name := range []string{"olmoe", "mixtral", "qwen2_moe", "granitemoe", "qwen3_moe_sharded", "llama"} {
		dir := coretest.Golden(t, "models", name)
		for _, c := range reduced {
			if strings.HasPrefix(c.name, "bf16") && !storesBF16(t, dir) {
				continue // the class is defined for bf16 weights alone
			}
			t.Run(name+"/"+c.name, func(t *testing.T) { checkReduced(t, dir, store, c) })
		}
	}
}

func storesBF16(t *testing.T, dir string) bool {
	t.Helper()
	var g struct {
		DType string `json:"weights_dtype"`
	}
	coretest.ReadJSON(t, filepath.Join(dir, "golden.json"), &g)
	return strings.Contains(g.DType, "bfloat16") || strings.EqualFold(g.DType, "bf16")
}

func checkReduced(t *testing.T, dir, store string, c class) {
	var g golden
	coretest.ReadJSON(t, filepath.Join(dir, "golden.json"), &g)
	ref, err := weights.Read(filepath.Join(dir, "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	var ids [][]int32
	for _, s := range g.Sequences {
		ids = append(ids, values[int32](t, ref, fmt.Sprintf("seq%d.input_ids", s.Length)))
	}
	_, out := eval(t, dir, store, "process", ids, c.env...)
	worst, compared := 0.0, 0
	for n, s := range g.Sequences {
		prefix := fmt.Sprintf("seq%d.", s.Length)
		same := firstFlip(t, out, ref, n, s.Length, c.share)
		compared += same
		logits, name := values[float32](t, out, fmt.Sprintf("logits.%d", n)), prefix+"logits"
		if s.Length == 130 {
			name, logits = prefix+"logits_last", logits[len(logits)/s.Length*(s.Length-1):]
		}
		want := values[float32](t, ref, name)
		top := largest(want)
		if rows := len(want) * same / s.Length; s.Length != 130 || same == s.Length {
			for i := range rows {
				worst = max(worst, math.Abs(float64(logits[i])-float64(want[i]))/top)
			}
		}
	}
	t.Logf("measured: %s: logits within %.4f of the largest (bound %g), %d prompt tokens with the reference's experts", c.name, worst, c.share, compared)
	if !(worst <= c.share) {
		t.Errorf("a logit is off by %.4f of the largest, bound %g", worst, c.share)
	}
	if compared == 0 {
		t.Error("nothing was compared")
	}
}

// firstFlip is the number of tokens before the first one that has other experts than the reference's. A flip is an error
// where the gate's logits of the two experts are further apart than two errors of the class.
func firstFlip(t *testing.T, out, ref *weights.File, n, rows int, share float64) int {
	t.Helper()
	first := rows
	for l := 0; l < 8; l++ {
		want := fmt.Sprintf("seq%d.layer%d.", rows, l)
		if _, ok := ref.Tensor(want + "topk_ids"); !ok {
			continue
		}
		gi, wi := values[int32](t, out, fmt.Sprintf("routes.%d.%d.ids", n, l)), values[int32](t, ref, want+"topk_ids")
		gates := values[float32](t, ref, want+"router_logits")
		k, experts := len(wi)/rows, len(gates)/rows
		bound := 2 * share * largest(gates)
		for r := range first {
			got, gate := gi[r*k:(r+1)*k], gates[r*experts:(r+1)*experts]
			last := math.Inf(1) // the weakest of the reference's experts
			for _, e := range wi[r*k : (r+1)*k] {
				last = min(last, float64(gate[e]))
			}
			flipped := false
			for _, e := range got {
				if slices.Contains(wi[r*k:(r+1)*k], e) {
					continue
				}
				flipped = true
				if gap := last - float64(gate[e]); gap > bound {
					t.Errorf("layer %d token %d: expert %d instead of one whose gate is %g above (bound %g)", l, r, e, gap, bound)
				}
			}
			if flipped {
				first = r
				break
			}
		}
	}
	return first
}

func largest(v []float32) float64 {
	top := 0.0
	for _, x := range v {
		top = max(top, math.Abs(float64(x)))
	}
	return top
}

// TestReducedEmbedded: a trained model in the reduced classes. It says what the reference says up to the first token whose
// lead is within the class's error, and its likelihood on text that it was not trained on is that of its own precision.
func TestReducedEmbedded(t *testing.T) {
	dir, store := coretest.PimoeTiny(t), home(t)
	var g struct {
		Prompts []struct {
			Input  []int32   `json:"input_ids"`
			Greedy []int32   `json:"greedy_ids"`
			Margin []float64 `json:"greedy_margin"`
		} `json:"prompts"`
		Perplexity map[string]struct {
			NLL    float64 `json:"nll"`
			Tokens int     `json:"tokens"`
		} `json:"perplexity"`
	}
	coretest.ReadJSON(t, filepath.Join(dir, "golden.json"), &g)
	var held struct {
		Documents map[string][]string `json:"documents"`
	}
	coretest.ReadJSON(t, filepath.Join(dir, "heldout.json"), &held)
	var inputs [][]int32
	for _, p := range g.Prompts {
		inputs = append(inputs, p.Input)
	}
	var documents []string
	want, tokens := 0.0, 0
	for domain, list := range held.Documents {
		documents = append(documents, list...)
		want += g.Perplexity[domain].NLL * float64(g.Perplexity[domain].Tokens)
		tokens += g.Perplexity[domain].Tokens
	}
	texts := tokenize(t, store, documents)
	for _, c := range reduced {
		t.Run(c.name, func(t *testing.T) {
			for _, v := range c.env {
				key, value, _ := strings.Cut(v, "=")
				t.Setenv(key, value)
			}
			const lead = 0.5 // logits of this model reach 20
			var got []evaluated
			command(t, store, &got, "eval", "--ids-file", file(t, inputs), "--greedy", "48", "-o", "json")
			same := 0
			for n, p := range g.Prompts {
				for i, id := range p.Greedy {
					if p.Margin[i] <= lead {
						break
					}
					if got[n].Greedy[i] != id {
						t.Errorf("prompt %d: token %d is %d, want %d with a lead of %g", n, i, got[n].Greedy[i], id, p.Margin[i])
						break
					}
					same++
				}
			}
			if same < 2*len(g.Prompts) {
				t.Errorf("only %d tokens were compared", same)
			}
			var judged []evaluated
			command(t, store, &judged, "eval", "--ids-file", file(t, texts), "-o", "json")
			sum := 0.0
			for n, ids := range texts {
				sum += *judged[n].NLL * float64(len(ids)-1)
			}
			more := math.Exp((sum-want)/float64(tokens)) - 1
			t.Logf("measured: %s: %d greedy tokens ahead of small leads, perplexity %+.3f %% over %d tokens", c.name, same, 100*more, tokens)
			if !(math.Abs(more) <= 0.005) {
				t.Errorf("perplexity is %+.3f %% from that of the stored precision, bound 0.5 %%", 100*more)
			}
		})
	}
}

// TestInstructionSets: every class has the same bits on every instruction set that this machine can be held to.
func TestInstructionSets(t *testing.T) {
	store := home(t)
	r := prompts(40, 9)
	for _, c := range append([]class{{name: "as stored"}}, reduced[1:]...) { // int8 experts are in the second one, too
		t.Run(c.name, func(t *testing.T) {
			want := ""
			for _, level := range isa.Available() {
				env := append(slices.Clone(c.env), isa.Env+"="+level.String())
				got, out := eval(t, "", store, "process", r, env...)
				if digest := digest(t, got, out, len(r)); want == "" {
					want = digest
				} else if digest != want {
					t.Errorf("%v: %s, on %v %s", level, digest, isa.Available()[0], want)
				}
			}
		})
	}
}

// prompts are a few seeded sequences of the embedded model's ids.
func prompts(n int, seed uint32) [][]int32 {
	var all [][]int32
	for _, length := range []int{1, 17, n} {
		ids := make([]int32, length)
		for i := range ids {
			seed = seed*1664525 + 1013904223
			ids[i] = int32(seed>>16) % 2000
		}
		all = append(all, ids)
	}
	return all
}

func digest(t *testing.T, got []evaluated, out *weights.File, n int) string {
	t.Helper()
	h := sha256.New()
	for i := range n {
		for _, v := range values[float32](t, out, fmt.Sprintf("logits.%d", i)) {
			binary.Write(h, binary.LittleEndian, math.Float32bits(v))
		}
		fmt.Fprint(h, got[i].Greedy)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// TestUnknownInstructionSet: a level that this machine has not is refused by name, not replaced.
func TestUnknownInstructionSet(t *testing.T) {
	for _, name := range []string{"sse9", "amx"} {
		if l, err := isa.Parse(name); err == nil && slices.Contains(isa.Available(), l) {
			continue
		}
		cmd := exec.Command(filepath.Join(coretest.Binaries(t), "pimoe"), "version")
		cmd.Env = append(os.Environ(), isa.Env+"="+name)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), isa.Env+"="+name) && !strings.Contains(string(out), isa.Env+": ") {
			t.Errorf("%s=%s: %v, %s", isa.Env, name, err, out)
		}
	}
}
