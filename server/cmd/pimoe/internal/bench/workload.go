package bench

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pimoe/pimoe/sdk"
)

// Workload is what one measurement asks of an engine.
type Workload struct {
	Name     string
	Parallel int // requests at once; rows of a layer
	Prompt   int // tokens of each request
	Gen      int // written tokens of each request; 1 measures the prompt alone
	Layer    bool
}

// named are the workloads that llama-bench (-p 512 -n 128) and llama-batched-bench (-npp 32 -ntg 32) measure.
var named = []Workload{
	{Name: "prefill", Parallel: 1, Prompt: 512, Gen: 1},
	{Name: "decode", Parallel: 1, Prompt: 1, Gen: 128},
	{Name: "batch8", Parallel: 8, Prompt: 32, Gen: 32},
	{Name: "batch32", Parallel: 32, Prompt: 32, Gen: 32},
}

// most bounds every number of a workload.
const most = 1 << 20

// ParseWorkload reads a name (prefill, decode, batch8, batch32), "layerN" for N rows through the experts of the first
// layer that has some, or "RxP+G" for R requests of P prompt tokens and G written ones.
func ParseWorkload(text string) (Workload, error) {
	if i := slices.IndexFunc(named, func(w Workload) bool { return w.Name == text }); i >= 0 {
		return named[i], nil
	}
	bad := fmt.Errorf("workload %q: want prefill, decode, batch8, batch32, layerROWS or REQUESTSxPROMPT+WRITTEN: %w", text, sdk.ErrInvalid)
	number := func(s string) int {
		if n, err := strconv.Atoi(s); err == nil && n <= most {
			return n
		}
		return 0
	}
	w := Workload{Name: text}
	if rows, ok := strings.CutPrefix(text, "layer"); ok {
		w.Parallel, w.Layer = number(rows), true
		if w.Parallel < 1 {
			return w, bad
		}
		return w, nil
	}
	requests, rest, ok1 := strings.Cut(text, "x")
	prompt, gen, ok2 := strings.Cut(rest, "+")
	w.Parallel, w.Prompt, w.Gen = number(requests), number(prompt), number(gen)
	if !ok1 || !ok2 || w.Parallel < 1 || w.Prompt < 1 || w.Gen < 1 {
		return w, bad
	}
	return w, nil
}

// promptOnly says that nothing but the way to the first token is measured.
func (w Workload) promptOnly() bool { return !w.Layer && w.Gen == 1 }

// Tokens is the longest sequence.
func (w Workload) Tokens() int { return w.Prompt + w.Gen }
