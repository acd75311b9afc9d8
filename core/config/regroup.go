package config

import (
	"slices"
	"strconv"
	"strings"

	"github.com/pimoe/pimoe/sdk/expert"
)

// GroupLists is the value of experts.group that puts the units into groups of these names: the opposite of reading it.
func GroupLists(groups map[string][]expert.Unit) map[string]any {
	out := map[string]any{}
	for name, units := range groups {
		byLayer := map[int][]int{}
		for _, u := range units {
			byLayer[u.Layer] = append(byLayer[u.Layer], u.Expert)
		}
		layersOf := map[string][]int{} // by the experts' list
		for layer, experts := range byLayer {
			slices.Sort(experts)
			text := listText(experts)
			layersOf[text] = append(layersOf[text], layer)
		}
		var entries []any
		for experts, layers := range layersOf {
			slices.Sort(layers)
			entries = append(entries, map[string]any{"layers": selection(listText(layers)), "experts": selection(experts)})
		}
		slices.SortFunc(entries, func(a, b any) int { return strings.Compare(entryText(a), entryText(b)) })
		out[name] = entries
	}
	return out
}

// selection is a list of numbers and ranges as a value of the file.
func selection(list string) []any {
	var out []any
	for _, part := range strings.Split(list, ", ") {
		if n, err := strconv.Atoi(part); err == nil {
			out = append(out, n)
			continue
		}
		out = append(out, part)
	}
	return out
}

// entryText orders entries by their experts.
func entryText(entry any) string {
	var b strings.Builder
	for _, v := range entry.(map[string]any)["experts"].([]any) {
		if n, ok := v.(int); ok {
			v = strconv.Itoa(n)
		}
		b.WriteString(v.(string) + " ")
	}
	return b.String()
}
