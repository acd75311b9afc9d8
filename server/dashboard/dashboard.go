// Package dashboard makes the dashboards for Grafana: system, application, business and experts, each as rows of panels with
// queries over the metrics that a host prints.
//
// server/deploy/monitoring renders them. A test runs every query against a Prometheus that has scraped a server under load,
// and each must return data. The package refuses to talk to Grafana and to show what /metrics does not have.
package dashboard

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Dashboard is one page.
type Dashboard struct {
	UID   string // of the page and of its file
	Title string
	Rows  []Row
}

// Row is a line of panels under a title.
type Row struct {
	Title  string
	Panels []Panel
}

// Panel shows the answers of its queries over time.
type Panel struct {
	Title   string
	Kind    Kind   // empty = Graph
	Unit    string // as Grafana names units
	Queries []Query
}

// Kind is how a panel looks.
type Kind string

// The kinds.
const (
	Graph  Kind = "timeseries"
	Number Kind = "stat"
	Table  Kind = "bargauge" // the present values side by side, the largest first
)

// Query is an expression in PromQL, with Grafana's variables.
type Query struct{ Expr, Legend string }

// Queries are all of a page.
func (d Dashboard) Queries() (out []Query) {
	for _, r := range d.Rows {
		for _, p := range r.Panels {
			out = append(out, p.Queries...)
		}
	}
	return out
}

type object map[string]any

const (
	columns     = 24 // of Grafana's grid
	perRow      = 3
	panelHeight = 8
	// schema is the version of the format of Grafana 10; later versions read it.
	schema = 38
)

// source is the variable that says which Prometheus is asked.
var source = object{"type": "prometheus", "uid": "${datasource}"}

// JSON is the page as Grafana reads it. The same page gives the same bytes.
func (d Dashboard) JSON() ([]byte, error) {
	var panels []object
	y := 0
	add := func(p object, x, w, h int) {
		p["id"], p["gridPos"] = len(panels)+1, object{"x": x, "y": y, "w": w, "h": h}
		panels = append(panels, p)
	}
	for _, r := range d.Rows {
		add(object{"type": "row", "title": r.Title, "collapsed": false, "panels": []object{}}, 0, columns, 1)
		y++
		for i, p := range r.Panels {
			if i > 0 && i%perRow == 0 {
				y += panelHeight
			}
			add(p.object(), i%perRow*columns/perRow, columns/perRow, panelHeight)
		}
		y += panelHeight
	}
	page := object{
		"uid": d.UID, "title": d.Title, "tags": []string{"pimoe"}, "schemaVersion": schema, "version": 1, "editable": false, "id": nil,
		"time": object{"from": "now-1h", "to": "now"}, "refresh": "30s", "timezone": "browser", "panels": panels,
		"templating": object{"list": []object{
			{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0},
			{
				"name": "instance", "label": "Host", "type": "query", "datasource": source, "query": object{"query": `label_values(` + Instances + `, instance)`, "refId": "instance"},
				"includeAll": true, "allValue": ".*", "multi": true, "current": object{"text": "All", "value": "$__all"}, "refresh": 2, "sort": 1,
			},
		}},
		"links": []object{{"title": "PiMoE", "type": "dashboards", "tags": []string{"pimoe"}, "asDropdown": true, "includeVars": true, "keepTime": true}},
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(page); err != nil {
		return nil, fmt.Errorf("dashboard %s: %w", d.UID, err)
	}
	return b.Bytes(), nil
}

func (p Panel) object() object {
	kind := p.Kind
	if kind == "" {
		kind = Graph
	}
	var targets []object
	for i, q := range p.Queries {
		targets = append(targets, object{
			"refId": string(rune('A' + i)), "datasource": source, "expr": q.Expr, "legendFormat": q.Legend, "range": kind == Graph, "instant": kind != Graph,
		})
	}
	out := object{
		"type": string(kind), "title": p.Title, "datasource": source, "targets": targets,
		"fieldConfig": object{"defaults": object{"unit": p.Unit, "min": 0}, "overrides": []object{}},
		"options":     object{},
	}
	if kind == Graph {
		out["options"] = object{"legend": object{"displayMode": "list", "placement": "bottom"}, "tooltip": object{"mode": "multi", "sort": "desc"}}
	}
	return out
}
