package remote

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
)

// parseUnits reads "all", or LAYERS:EXPERTS entries behind semicolons, where each side is all or numbers and ranges behind
// commas. A number must exist; a range of layers may leave gaps, because not every layer has experts.
func parseUnits(text string, layers []int, experts int) ([]expert.Unit, error) {
	if text == "all" {
		text = "all:all"
	}
	all := make([]int, experts)
	for i := range all {
		all[i] = i
	}
	chosen := map[expert.Unit]bool{}
	for entry := range strings.SplitSeq(text, ";") {
		left, right, ok := strings.Cut(strings.TrimSpace(entry), ":")
		if !ok {
			return nil, fmt.Errorf("%.80q: want all or LAYERS:EXPERTS, such as all:0-3: %w", entry, sdk.ErrInvalid)
		}
		ls, err := pick(left, layers, "layers with experts")
		if err != nil {
			return nil, err
		}
		xs, err := pick(right, all, "experts")
		if err != nil {
			return nil, err
		}
		for _, l := range ls {
			for _, x := range xs {
				chosen[expert.Unit{Layer: l, Expert: x}] = true
			}
		}
	}
	var units []expert.Unit
	for _, l := range layers {
		for _, x := range all {
			if u := (expert.Unit{Layer: l, Expert: x}); chosen[u] {
				units = append(units, u)
			}
		}
	}
	return units, nil
}

// pick are the numbers of have, ascending, that a selection names.
func pick(text string, have []int, what string) ([]int, error) {
	if text == "all" {
		return have, nil
	}
	chosen := map[int]bool{}
	for part := range strings.SplitSeq(text, ",") {
		a, b, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			b = a
		}
		from, err1 := strconv.Atoi(a)
		to, err2 := strconv.Atoi(b)
		found := false
		for _, n := range have {
			if err1 == nil && err2 == nil && n >= from && n <= to {
				chosen[n], found = true, true
			}
		}
		if !found || to > have[len(have)-1] {
			return nil, fmt.Errorf("%.80q: the model's %s are %d to %d: %w", part, what, have[0], have[len(have)-1], sdk.ErrInvalid)
		}
	}
	var out []int
	for n := range chosen {
		out = append(out, n)
	}
	slices.Sort(out)
	return out, nil
}

// activations maps the names of transformers to those of expert.Spec, as the host does.
var activations = map[string]string{
	"silu": "silu", "swish": "silu",
	"gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_tanh": "gelu_tanh",
}

// maxConfig bounds config.json.
const maxConfig = 1 << 20

// activation is that of the model in a folder. The host tells whether it means the same.
func activation(dir string) (string, error) {
	path := filepath.Join(dir, "config.json")
	st, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("model: %w", err)
	}
	if st.Size() > maxConfig {
		return "", fmt.Errorf("%s: has %d bytes: %w", path, st.Size(), sdk.ErrInvalid)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("model: %w", err)
	}
	c := struct {
		Act string `json:"hidden_act"`
	}{Act: "silu"}
	if err := json.Unmarshal(b, &c); err != nil {
		return "", fmt.Errorf("%s: %w: %w", path, err, sdk.ErrInvalid)
	}
	name, ok := activations[c.Act]
	if !ok {
		return "", fmt.Errorf("%s: hidden_act %.40q: %w", path, c.Act, sdk.ErrUnsupported)
	}
	return name, nil
}
