package deploy

import (
	"bytes"
	"fmt"
	"strconv"
	"text/template"
)

// Place is where a host runs, as far as its configuration depends on it.
type Place struct {
	Addr    string   // of the public listener
	GRPC    string   // of the Open Inference Protocol over gRPC; empty = none
	Names   []string // by which it is asked, beside Values.Host and this machine's own
	Proxies []string // addresses or networks of the proxies before it
	Redis   string   // HOST:PORT that hosts share; empty = none
	Keys    string   // file of the keys that `pimoe keys` makes; empty = in the store
}

// HostConfig is the configuration file of a host. Secrets come by variables that end in _FILE and are not in it.
func (v Values) HostConfig(at Place) []byte {
	return Render(hostConfig, struct {
		Values
		Place
	}{v, at})
}

// Mode is the preset of the host's configuration.
func (v Values) Mode() string {
	if v.Profile == Edge {
		return "cost_optimized"
	}
	return string(v.Environment)
}

// Render executes a template of a target with its values. A template and its data belong to one package, so that it fails
// is an error of that package, which its tests find.
func Render(t *template.Template, data any) []byte {
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		panic("deploy: " + err.Error())
	}
	return b.Bytes()
}

// Template parses a target's template. Note is the first line of every file.
func Template(name, text string) *template.Template {
	return template.Must(template.New(name).Funcs(template.FuncMap{
		"note": func() string { return Note },
		"list": func(words []string) string {
			var b bytes.Buffer
			for i, w := range words {
				if i > 0 {
					b.WriteString(", ")
				}
				b.WriteString(strconv.Quote(w))
			}
			return "[" + b.String() + "]"
		},
		"seconds": func(n int) string { return fmt.Sprintf("%ds", n) },
		"add":     func(a, b int) int { return a + b },
	}).Parse(text))
}

// Note says in a rendered file where it comes from.
const Note = "# Rendered by pimoe deploy render: change the values and render again."

var hostConfig = Template("pimoe.yaml", `{{note}}
mode: {{.Mode}}
server:
  addr: {{.Addr}}
  admin_addr: 127.0.0.1:{{.Ports.Admin}}
{{- if .GRPC}}
  grpc_addr: {{.GRPC}}
{{- end}}
{{- if .Keys}}
auth:
  keys_file: {{.Keys}}
{{- end}}
limits:
  request_timeout: {{seconds .Limits.RequestSeconds}}
  threads: {{.Resources.CPUs}}
  total_memory_mb: {{.Resources.MemoryMB}} # of the host and its plugins, from 80 percent on new work is refused
{{- if eq .Profile "edge"}}
  max_sequence_length: 1024
kv_cache:
  memory_mb: 64
cache:
  memory_mb: 8
{{- end}}
log:
  format: json
web:
  hosts: [{{.Host}}, localhost, 127.0.0.1{{range .Names}}, {{.}}{{end}}]
  trusted_proxies: {{list .Proxies}}
{{- if .Redis}}
redis:
  url: redis://{{.Redis}}/0 # while it is away each host has limits of its own
{{- end}}
`)
