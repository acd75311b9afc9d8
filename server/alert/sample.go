package alert

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pimoe/pimoe/sdk"
)

// Label is one label of a series.
type Label struct{ Name, Value string }

// Labels are sorted by name, without the series' own name.
type Labels []Label

// Get is the value of a label; empty if there is none, as in PromQL.
func (l Labels) Get(name string) string {
	for _, x := range l {
		if x.Name == name {
			return x.Value
		}
	}
	return ""
}

// String is as in PromQL, and different for different labels.
func (l Labels) String() string {
	var b strings.Builder
	b.WriteByte('{')
	for i, x := range l {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(x.Name + "=" + strconv.Quote(x.Value))
	}
	b.WriteByte('}')
	return b.String()
}

// only are the labels of some names.
func (l Labels) only(names []string) (out Labels) {
	for _, x := range l {
		if slices.Contains(names, x.Name) {
			out = append(out, x)
		}
	}
	return out
}

// without are the labels but one.
func (l Labels) without(name string) (out Labels) {
	for _, x := range l {
		if x.Name != name {
			out = append(out, x)
		}
	}
	return out
}

// Sample is the value of one series at one moment.
type Sample struct {
	Name   string
	Labels Labels
	Value  float64
}

// Parse reads Prometheus text as a registry prints it, the series for which want is true. Its error names the line.
func Parse(text []byte, want func(name string) bool) ([]Sample, error) {
	var out []Sample
	n := 0
	for line := range bytes.Lines(text) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		end := bytes.IndexAny(line, "{ ")
		if end < 0 {
			return nil, fmt.Errorf("metrics, line %d: no value: %w", n, sdk.ErrInvalid)
		}
		name := string(line[:end])
		if !want(name) {
			continue
		}
		s := Sample{Name: name}
		rest, err := s.labels(string(line[end:]))
		if err == nil {
			value, _, _ := strings.Cut(strings.TrimSpace(rest), " ") // a time may follow
			s.Value, err = strconv.ParseFloat(value, 64)
		}
		if err != nil {
			return nil, fmt.Errorf("metrics, line %d: %w: %w", n, err, sdk.ErrInvalid)
		}
		out = append(out, s)
	}
	return out, nil
}

// labels reads {a="b",...}, if text begins with it, and returns what follows.
func (s *Sample) labels(text string) (rest string, err error) {
	if text[0] != '{' {
		return text, nil
	}
	for text = text[1:]; text != "" && text[0] != '}'; text = strings.TrimPrefix(text, ",") {
		name, quoted, ok := strings.Cut(text, "=")
		if !ok {
			return "", fmt.Errorf("a label without a value")
		}
		literal, err := strconv.QuotedPrefix(quoted) // Prometheus' escapes are among Go's
		if err != nil {
			return "", fmt.Errorf("label %s: %w", name, err)
		}
		value, err := strconv.Unquote(literal)
		if err != nil {
			return "", fmt.Errorf("label %s: %w", name, err)
		}
		s.Labels = append(s.Labels, Label{strings.TrimSpace(name), value})
		text = quoted[len(literal):]
	}
	if text == "" {
		return "", fmt.Errorf("labels without an end")
	}
	slices.SortFunc(s.Labels, func(a, b Label) int { return strings.Compare(a.Name, b.Name) })
	return text[1:], nil
}
