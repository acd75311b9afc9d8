package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"gopkg.in/yaml.v3"
)

//go:embed openapi.yaml
var openapiYAML []byte

//go:embed docs.html
var docsHTML string

//go:embed docs.css
var docsCSS string

// description is openapi.yaml in the forms that are served.
type description struct {
	json, html []byte
	policy     string // Content-Security-Policy of the page: no scripts, one style sheet by its hash
	err        error
}

// describe renders the description once. It is part of the binary, so an error is a mistake that a test finds.
var describe = sync.OnceValue(func() (d description) {
	var doc map[string]any
	if d.err = yaml.Unmarshal(openapiYAML, &doc); d.err != nil {
		return d
	}
	if d.json, d.err = json.Marshal(doc); d.err != nil {
		return d
	}
	page, err := template.New("docs").Funcs(template.FuncMap{"json": indented, "paragraphs": paragraphs}).Parse(docsHTML)
	if err != nil {
		d.err = err
		return d
	}
	var out bytes.Buffer
	d.err = page.Execute(&out, map[string]any{"Doc": doc, "Operations": operations(doc), "Style": template.CSS(docsCSS)})
	d.html = out.Bytes()
	hash := sha256.Sum256([]byte(docsCSS))
	d.policy = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'"
	return d
})

// operation is one route on the page.
type operation struct {
	Method, Path string
	Body         map[string]any
}

// operations lists the routes, the model's before the host's.
func operations(doc map[string]any) []operation {
	var out []operation
	paths := doc["paths"].(map[string]any)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		for method, body := range paths[path].(map[string]any) {
			out = append(out, operation{Method: strings.ToUpper(method), Path: path, Body: body.(map[string]any)})
		}
	}
	slices.SortStableFunc(out, func(a, b operation) int { return rank(a.Path) - rank(b.Path) })
	return out
}

func rank(path string) int {
	for i, prefix := range []string{"/v1/", "/api/", ""} {
		if strings.HasPrefix(path, prefix) {
			return i
		}
	}
	return 0
}

func indented(v any) (string, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	return string(b), err
}

func paragraphs(v any) []string {
	text, _ := v.(string)
	return strings.Split(strings.TrimSpace(text), "\n\n")
}

// docs is GET /docs.
func (s *Server) docs(ctx context.Context, r *request) (*reply, error) {
	d := describe()
	if d.err != nil {
		return nil, fmt.Errorf("render the description: %w", d.err)
	}
	return &reply{status: http.StatusOK, contentType: "text/html; charset=utf-8", body: d.html, header: map[string]string{"Content-Security-Policy": d.policy}, lasting: true}, nil
}

// openapi is GET /openapi.json.
func (s *Server) openapi(context.Context, *request) (*reply, error) {
	d := describe()
	if d.err != nil {
		return nil, fmt.Errorf("render the description: %w", d.err)
	}
	return &reply{status: http.StatusOK, contentType: mimeJSON, body: d.json, lasting: true}, nil
}
