package catalogue

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestEntries: names, units and texts are of one kind.
func TestEntries(t *testing.T) {
	name := regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	for _, m := range All() {
		switch {
		case !name.MatchString(m.Name):
			t.Errorf("%s: no name", m.Name)
		case strings.HasSuffix(m.Name, "_total") != (m.Type == Counter):
			t.Errorf("%s: a %s", m.Name, m.Type)
		case m.Unit == "" || m.Help == "" || strings.HasSuffix(m.Help, "."):
			t.Errorf("%s: unit %q, help %q", m.Name, m.Unit, m.Help)
		case !slices.Contains(Sections, m.Section):
			t.Errorf("%s: no section", m.Name)
		}
		for _, unit := range []string{"seconds", "bytes", "joules", "ratio"} {
			stem := strings.TrimSuffix(m.Name, "_total")
			if unit == m.Unit != strings.HasSuffix(stem, "_"+unit) && !(unit == "ratio" && m.Unit == "1") {
				t.Errorf("%s: unit %s", m.Name, m.Unit)
			}
		}
		for _, l := range m.Labels {
			if !name.MatchString(l) || l == "le" || l == "quantile" {
				t.Errorf("%s: label %q", m.Name, l)
			}
		}
	}
}

// TestOf: the parts of histograms and summaries belong to their metric, and nothing else does.
func TestOf(t *testing.T) {
	for series, want := range map[string]string{
		"pimoe_queue_seconds": "pimoe_queue_seconds", "pimoe_queue_seconds_bucket": "pimoe_queue_seconds", "pimoe_queue_seconds_sum": "pimoe_queue_seconds",
		"go_gc_duration_seconds_count": "go_gc_duration_seconds", "go_gc_duration_seconds_bucket": "", "pimoe_engine_running_count": "", "pimoe": "",
	} {
		if m, ok := Of(series); m.Name != want || ok != (want != "") {
			t.Errorf("%s: %q", series, m.Name)
		}
	}
	m, _ := Lookup("pimoe_queue_seconds")
	if !m.Has("le") || m.Has("quantile") || m.Has("group") {
		t.Errorf("labels of a histogram")
	}
}

// TestText: each metric's series are together, under its own words, and what is not in the catalogue is without.
func TestText(t *testing.T) {
	raw := `pimoe_queue_seconds_bucket{le="1"} 2
pimoe_foreign{a="b"} 1
pimoe_expert_calls_total{group="e0",replica="0"} 1
pimoe_queue_seconds_sum 3
pimoe_expert_calls_total{group="e1",replica="0"} 2
go_sched_latencies_seconds_bucket{le="1"} 4
go_goroutines 7
`
	want := `# HELP go_goroutines Goroutines of the host
# TYPE go_goroutines gauge
go_goroutines 7
# HELP pimoe_expert_calls_total Calls that an expert process has answered
# TYPE pimoe_expert_calls_total counter
pimoe_expert_calls_total{group="e0",replica="0"} 1
pimoe_expert_calls_total{group="e1",replica="0"} 2
# HELP pimoe_queue_seconds How long requests have waited for their first step
# TYPE pimoe_queue_seconds histogram
pimoe_queue_seconds_bucket{le="1"} 2
pimoe_queue_seconds_sum 3
pimoe_foreign{a="b"} 1
`
	if got := string(Text([]byte(raw))); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestPage holds docs/metrics.md against the catalogue. PIMOE_TEST_UPDATE=1 rewrites it (make docs).
func TestPage(t *testing.T) {
	const page = "../../../docs/metrics.md"
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- metrics -->\n", "<!-- /metrics -->"
	before, rest, ok := strings.Cut(string(b), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s: no %s ... %s", page, begin, end)
	}
	want := before + begin + table() + end + after
	if want == string(b) {
		return
	}
	if os.Getenv("PIMOE_TEST_UPDATE") != "1" {
		t.Fatalf("%s does not list the metrics as they are; run: make docs", page)
	}
	if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

func table() string {
	var b strings.Builder
	for _, s := range Sections {
		fmt.Fprintf(&b, "\n## %s\n\n| metric | type | unit | labels | what |\n|---|---|---|---|---|\n", s)
		for _, m := range All() {
			if m.Section != s {
				continue
			}
			labels := ""
			if len(m.Labels) > 0 {
				labels = "`" + strings.Join(m.Labels, "`, `") + "`"
			}
			what := m.Help + "."
			if m.When != "" {
				what += " Only where " + m.When + "."
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", m.Name, m.Type, m.Unit, labels, strings.ReplaceAll(what, "|", "\\|"))
		}
	}
	b.WriteByte('\n')
	return b.String()
}
