package helm

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"
	"text/template"

	"gopkg.in/yaml.v3"

	"github.com/pimoe/pimoe/server/deploy"
)

// Set changes the chart's values before they are filled in: SECTION.KEY to value.
type Set map[string]any

// Render fills in the chart as `helm template NAME --namespace NAMESPACE` does. The result has the manifests by their path
// below the chart's templates; a file that renders to nothing is not in it.
func (t Target) Render(v deploy.Values, set Set) (map[string][]byte, error) {
	files, err := t.chart(v)
	if err != nil {
		return nil, err
	}
	values, err := decode(files["values.yaml"], set)
	if err != nil {
		return nil, err
	}
	data := map[string]any{
		"Values": values, "Files": chartFiles(files),
		"Release": map[string]any{"Name": v.Name, "Namespace": v.Namespace},
	}
	all := template.New("").Option("missingkey=error")
	all.Funcs(functions(all))
	var names []string
	for name, text := range files {
		if !strings.HasPrefix(name, "templates/") {
			continue
		}
		if _, err := all.New(name).Parse(string(text)); err != nil {
			return nil, fmt.Errorf("read template: %w", err)
		}
		if path.Ext(name) == ".yaml" {
			names = append(names, name)
		}
	}
	out := map[string][]byte{}
	for _, name := range names {
		var b bytes.Buffer
		if err := all.ExecuteTemplate(&b, name, data); err != nil {
			return nil, fmt.Errorf("fill in template: %w", err)
		}
		text := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(b.String()), "---\n"))
		if text != "" {
			out[strings.TrimPrefix(name, "templates/")] = []byte(text + "\n")
		}
	}
	return out, nil
}

// decode reads values.yaml and changes it.
func decode(text []byte, set Set) (map[string]any, error) {
	var values map[string]any
	if err := yaml.Unmarshal(text, &values); err != nil {
		return nil, fmt.Errorf("the chart's values: %w", err)
	}
	for key, value := range set {
		section, field, _ := strings.Cut(key, ".")
		m, ok := values[section].(map[string]any)
		if _, known := m[field]; !ok || !known {
			return nil, fmt.Errorf("the chart's values have no %s", key)
		}
		m[field] = value
	}
	return values, nil
}

// chartFiles are what templates see as .Files.
type chartFiles map[string][]byte

// Get is the file's text; empty if there is none, as in Helm.
func (f chartFiles) Get(name string) string { return string(f[name]) }

// functions are those of Helm's that the templates use, for the values that they are used with.
func functions(all *template.Template) template.FuncMap {
	return template.FuncMap{
		"include": func(name string, data any) (string, error) {
			var b bytes.Buffer
			err := all.ExecuteTemplate(&b, name, data)
			return b.String(), err
		},
		"toYaml": toYAML,
		"fromYaml": func(text string) (map[string]any, error) {
			var v map[string]any
			err := yaml.Unmarshal([]byte(text), &v)
			return v, err
		},
		"dict":  func() map[string]any { return map[string]any{} },
		"merge": merge,
		"toJson": func(v any) (string, error) {
			b, err := json.Marshal(v)
			return string(b), err
		},
		"nindent": func(n int, text string) string {
			pad := "\n" + strings.Repeat(" ", n)
			return pad + strings.ReplaceAll(text, "\n", pad)
		},
		"quote":      quote,
		"int":        toInt,
		"add":        func(a, b int) int { return a + b },
		"mul":        func(a, b int) int { return a * b },
		"div":        func(a, b int) int { return a / b },
		"list":       func(items ...any) []any { return items },
		"trimSuffix": func(suffix, text string) string { return strings.TrimSuffix(text, suffix) },
		"sha256sum":  func(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) },
		"lookup":     func(...string) map[string]any { return nil }, // there is no cluster to look at
	}
}

// merge puts into dst what only src has, and returns it.
func merge(dst, src map[string]any) map[string]any {
	for key, value := range src {
		have, there := dst[key]
		inner, ok := have.(map[string]any)
		other, both := value.(map[string]any)
		switch {
		case !there:
			dst[key] = value
		case ok && both:
			merge(inner, other)
		}
	}
	return dst
}

func quote(v any) string { return strconv.Quote(fmt.Sprint(v)) }

func toInt(v any) (int, error) { return strconv.Atoi(fmt.Sprint(v)) }

func toYAML(v any) (string, error) {
	var b strings.Builder
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(v); err != nil {
		return "", err
	}
	return strings.TrimSuffix(b.String(), "\n"), e.Close()
}
