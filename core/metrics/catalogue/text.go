package catalogue

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
)

// Text gives Prometheus text its HELP and TYPE lines: the series of raw, which has none, each metric's together. Metrics come by
// name. What is not in the catalogue comes last, without a word about it.
//
// Libraries print more of the Go runtime and the process than the catalogue has, under names that say nothing of their
// kind; series of go_ and process_ that are not in it are left out.
func Text(raw []byte) []byte {
	families := map[string][][]byte{}
	for line := range bytes.Lines(raw) {
		name := series(line)
		if name == "" {
			continue
		}
		m, known := Of(name)
		if !known {
			if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
				continue
			}
			m.Name = name
		}
		families[m.Name] = append(families[m.Name], line)
	}
	names := make([]string, 0, len(families))
	for name := range families {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		_, knownA := byName[a]
		_, knownB := byName[b]
		if knownA != knownB {
			if knownA {
				return -1
			}
			return 1
		}
		return cmp.Compare(a, b)
	})
	var out bytes.Buffer
	out.Grow(2 * len(raw))
	for _, name := range names {
		if m, known := byName[name]; known {
			out.WriteString("# HELP " + name + " " + help.Replace(m.Help) + "\n# TYPE " + name + " " + string(m.Type) + "\n")
		}
		for _, line := range families[name] {
			out.Write(line)
		}
	}
	return out.Bytes()
}

// series is the name at the start of a line; empty for a comment and for nothing.
func series(line []byte) string {
	if end := bytes.IndexAny(line, "{ \n"); end > 0 && line[0] != '#' {
		return string(line[:end])
	}
	return ""
}

var help = strings.NewReplacer("`", "", `\`, `\\`, "\n", `\n`)
