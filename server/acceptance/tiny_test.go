package acceptance

import (
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pimoe/pimoe/core/coretest"
)

// TestEmbeddedModel: the model that a clone serves continues every golden prompt as the reference does, and has its
// likelihood on text that it was not trained on, domain by domain.
func TestEmbeddedModel(t *testing.T) {
	dir, store := coretest.PimoeTiny(t), home(t)
	var g struct {
		Prompts []struct {
			Text   string  `json:"text"`
			Input  []int32 `json:"input_ids"`
			Greedy []int32 `json:"greedy_ids"`
		} `json:"prompts"`
		Perplexity map[string]struct {
			NLL    float64 `json:"nll"`
			Tokens int     `json:"tokens"`
		} `json:"perplexity"`
	}
	coretest.ReadJSON(t, filepath.Join(dir, "golden.json"), &g)
	var texts []string
	var inputs [][]int32
	for _, p := range g.Prompts {
		texts, inputs = append(texts, p.Text), append(inputs, p.Input)
	}
	for n, ids := range tokenize(t, store, texts) {
		if !slices.Equal(ids, inputs[n]) {
			t.Errorf("prompt %d: ids %v, want %v", n, ids, inputs[n])
		}
	}
	var got []evaluated
	command(t, store, &got, "eval", "--ids-file", file(t, inputs), "--greedy", "48", "-o", "json")
	for n, p := range g.Prompts {
		if !slices.Equal(got[n].Greedy, p.Greedy) {
			t.Errorf("prompt %d: greedy %v, want %v", n, got[n].Greedy, p.Greedy)
		}
	}

	var held struct {
		Documents map[string][]string `json:"documents"`
	}
	coretest.ReadJSON(t, filepath.Join(dir, "heldout.json"), &held)
	if len(held.Documents) != len(g.Perplexity) {
		t.Fatalf("%d domains of text, %d of figures", len(held.Documents), len(g.Perplexity))
	}
	for domain, documents := range held.Documents {
		ids := tokenize(t, store, documents)
		var got []evaluated
		command(t, store, &got, "eval", "--ids-file", file(t, ids), "-o", "json")
		sum, tokens := 0.0, 0
		for n := range ids {
			sum += *got[n].NLL * float64(len(ids[n])-1)
			tokens += len(ids[n]) - 1
		}
		want, ok := g.Perplexity[domain]
		if !ok {
			t.Errorf("no figure for %s", domain)
			continue
		}
		nll := sum / float64(tokens)
		t.Logf("%s: %d tokens, perplexity %.4f", domain, tokens, math.Exp(nll))
		if tokens != want.Tokens || math.Abs(nll-want.NLL) > 1e-3 {
			t.Errorf("%s: %.4f nats over %d tokens, want %.4f over %d", domain, nll, tokens, want.NLL, want.Tokens)
		}
	}
}

// tokenize encodes texts with the embedded model's tokenizer, through the command.
func tokenize(t *testing.T, store string, texts []string) [][]int32 {
	t.Helper()
	var got []struct {
		IDs []int32 `json:"ids"`
	}
	command(t, store, &got, "tokenize", "-m", coretest.PimoeTiny(t), "--texts-file", file(t, texts), "-o", "json")
	var ids [][]int32
	for _, g := range got {
		ids = append(ids, g.IDs)
	}
	return ids
}

// file writes a value as JSON and returns the path.
func file(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "in.json")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// command runs pimoe and decodes what it prints.
func command(t *testing.T, store string, out any, args ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(coretest.Binaries(t), "pimoe"), args...)
	cmd.Env = append(os.Environ(), "PIMOE_HOME="+store)
	stdout, err := cmd.Output()
	if err != nil {
		t.Fatalf("pimoe %v: %v\n%s", args, err, stderr(err))
	}
	if err := json.Unmarshal(stdout, out); err != nil {
		t.Fatalf("pimoe %v printed %q: %v", args, stdout, err)
	}
}
