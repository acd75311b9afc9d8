package alert

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
)

// The configuration knows every rule, and the documentation says what to do about each.
func TestRulesAreKnown(t *testing.T) {
	page, err := os.ReadFile("../../docs/alerts.md")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range Rules(thresholds()) {
		names = append(names, r.Name)
		if anchor := "#" + strings.ToLower(r.Name); !strings.HasSuffix(r.Runbook(), "/docs/alerts.md"+anchor) || !strings.Contains(string(page), "\n### "+r.Name+"\n") {
			t.Errorf("%s: docs/alerts.md has nothing at %s", r.Name, r.Runbook())
		}
	}
	for _, k := range config.Keys() {
		if k.Name != "alerts.overrides[].rule" {
			continue
		}
		known := slices.Sorted(slices.Values(k.Enum))
		slices.Sort(names)
		if !slices.Equal(known, names) {
			t.Errorf("the configuration knows %v, there are %v", known, names)
		}
		return
	}
	t.Error("there is no key for overrides")
}

// Thresholds and overrides come from the configuration; without a floor there is no rule for it.
func TestRulesFollowTheConfiguration(t *testing.T) {
	c := config.Default().Alerts
	c.CPUPercent = 50
	c.Overrides = []config.AlertOverride{{Rule: "PimoeCPUHigh", For: "0s", Severity: "critical"}, {Rule: "PimoeMemoryHigh", Off: true}}
	rules := Rules(c)
	find := func(name string) *Rule {
		if i := slices.IndexFunc(rules, func(r Rule) bool { return r.Name == name }); i >= 0 {
			return &rules[i]
		}
		return nil
	}
	if r := find("PimoeCPUHigh"); r == nil || r.Fire != 0.5 || r.For != 0 || r.Severity != Critical {
		t.Errorf("the overridden rule: %+v", r)
	}
	if find("PimoeMemoryHigh") != nil || find("PimoeThroughputLow") != nil {
		t.Error("a rule that nobody wants is there")
	}
}

// What a registry prints is read, and what is no metric is refused with its line.
func TestParse(t *testing.T) {
	text := "# HELP a b\n\na 1\nb{x=\"1\",a=\"q\\\"\\\\\\n}\"} 2.5e3 1700000000000\nskipped{ 1\nb{} +Inf\n"
	got, err := Parse([]byte(text), func(name string) bool { return name != "skipped" })
	if err != nil || len(got) != 3 || got[1].Labels.String() != `{a="q\"\\\n}",x="1"}` || got[1].Value != 2500 || got[0].Name != "a" || got[2].Labels != nil {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"a", "a x", "a{b} 1", "a{b=\"c} 1", "a{b=\"c\" 1", "a{b=c} 1", "a{"} {
		if _, err := Parse([]byte("ok 1\n"+bad+"\n"), func(string) bool { return true }); err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A history has a bound, forgets what no rule looks back at, and takes new series when old ones are gone.
func TestHistoryIsBounded(t *testing.T) {
	rule := Rule{Name: "X", Value: Rate{Series{Name: "x"}, time.Minute}}
	h := NewHistory([]Rule{rule})
	many := func(from int) (out []Sample) {
		for i := range maxSeries + 10 {
			out = append(out, Sample{"x", Labels{{"n", string(rune('a'+from)) + string(rune(i))}}, 1})
		}
		return out
	}
	h.Add(start, many(0))
	if len(h.series) != maxSeries || h.Dropped() != 10 {
		t.Errorf("%d series, %d dropped", len(h.series), h.Dropped())
	}
	h.Add(start.Add(2*time.Minute), nil)
	if len(h.series) > 0 || len(h.find(Series{Name: "x"})) > 0 {
		t.Errorf("%d series that nobody looks at", len(h.series))
	}
	h.Add(start.Add(3*time.Minute), many(1))
	if len(h.find(Series{Name: "x"})) != maxSeries {
		t.Error("no place for new series")
	}
}

// Text from outside never panics.
func FuzzParse(f *testing.F) {
	f.Add([]byte("a{b=\"c\"} 1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := Parse(text, func(string) bool { return true })
		if err != nil && got != nil {
			t.Error("samples beside an error")
		}
	})
}
