package cost

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// base is a load that fits its machine.
func base() Load {
	return Load{
		Peak: Peak{Cores: 1.2, Levels: Levels{Running: 8, KVPages: 60}}, Cores: 4, MemoryLimit: 8 << 30, HostBytes: 200 << 20, WeightBytes: 1 << 30,
		PageBytes: 1 << 20, Pages: 100, MaxRunning: 100,
		Groups: []GroupLoad{{Name: "e0", Replicas: 1, Lanes: 4, PrivateBytes: 20 << 20, Cores: 0.6}, {Name: "e1", Replicas: 1, Lanes: 4, PrivateBytes: 20 << 20, Cores: 0.3}},
	}
}

func TestSize(t *testing.T) {
	for name, c := range map[string]struct {
		change        func(*Load)
		what, advised string
		why           string // part of the arithmetic
		keep          bool
	}{
		"enough cores":        {func(*Load) {}, "cores of the host", "4", "1.20 / 0.75 = 1.60, rounded up 2", true},
		"too few cores":       {func(l *Load) { l.Peak.Cores = 3.9 }, "cores of the host", "6", "3.90 / 0.75 = 5.20, rounded up 6; or 2 hosts", false},
		"few processes":       {func(*Load) {}, "experts.max_processes", "2", "8 * 4 = 32", true},
		"too many processes":  {func(l *Load) { l.Cores, l.Groups[0].Replicas = 1, 12 }, "experts.max_processes", "8", "13 processes on 1 cores", false},
		"one replica does":    {func(*Load) {}, "replicas of e0", "1", "0.60 / (4 * 0.75) = 0.20", true},
		"a busy group":        {func(l *Load) { l.Groups[0].Cores, l.Groups[0].Lanes = 1.6, 1 }, "replicas of e0", "3", "1.60 / (1 * 0.75) = 2.13", false},
		"no core for it":      {func(l *Load) { l.Groups[0].Cores, l.Groups[0].Lanes, l.Peak.Cores = 1.6, 1, 3.5 }, "replicas of e0", "1", "only 0.50 cores were free", true},
		"too many replicas":   {func(l *Load) { l.Groups[0].Replicas = 3 }, "replicas of e0", "1", "", false},
		"a cache that fits":   {func(*Load) {}, "kv_cache.memory_mb", "100 MiB", "60 of 100 pages", true},
		"a full cache":        {func(l *Load) { l.KVPages = 90 }, "kv_cache.memory_mb", "113 MiB", "90 * 1048576 / 0.80", false},
		"a roomy cache":       {func(l *Load) { l.KVPages = 8 }, "kv_cache.memory_mb", "10 MiB", "8 %", false},
		"an unused cache":     {func(l *Load) { l.KVPages = 0 }, "kv_cache.memory_mb", "100 MiB", "", true},
		"enough places":       {func(*Load) {}, "limits.max_concurrent_requests", "100", "at most 8 ran", true},
		"too few places":      {func(l *Load) { l.MaxRunning, l.Queued = 8, 5 }, "limits.max_concurrent_requests", "13", "8 ran, 5 waited", false},
		"waiting for cores":   {func(l *Load) { l.MaxRunning, l.Queued, l.Peak.Cores = 8, 5, 3.9 }, "limits.max_concurrent_requests", "8", "", true},
		"memory that is more": {func(*Load) {}, "memory of the host", "8192 MiB", "host 200 MiB + cache 100 MiB + 2 processes 40 MiB + weights 1024 MiB + 2 * 2 MiB = 1368 MiB; / 0.80 = 1710 MiB", true},
		"too little memory":   {func(l *Load) { l.MemoryLimit = 1 << 30 }, "memory of the host", "1710 MiB", "", false},
		"no limit":            {func(l *Load) { l.MemoryLimit = 0 }, "memory of the host", "1710 MiB", "", false},
	} {
		l := base()
		c.change(&l)
		found := false
		for _, a := range Size(l) {
			if a.What != c.what {
				continue
			}
			found = true
			if a.Advised != c.advised || !strings.Contains(a.Why, c.why) || a.Change == c.keep {
				t.Errorf("%s: %+v", name, a)
			}
		}
		if !found {
			t.Errorf("%s: no advice on %s", name, c.what)
		}
	}
}

// The worked example of docs/production.md is what Size says.
func TestTheGuidesExample(t *testing.T) {
	l := Load{
		Peak: Peak{Cores: 3.4, Levels: Levels{Running: 40, KVPages: 2600}}, Cores: 4, MemoryLimit: 2 << 30, HostBytes: 160 << 20, WeightBytes: 800 << 20,
		PageBytes: 96 << 10, Pages: 6400, MaxRunning: 100,
	}
	for n := range 16 {
		l.Groups = append(l.Groups, GroupLoad{Name: fmt.Sprint("e", n), Replicas: 1, Lanes: 4, PrivateBytes: 7 << 20, Cores: 0.1})
	}
	l.Groups[3].Cores = 0.41
	said := map[string]bool{}
	for _, a := range Size(l) {
		said[fmt.Sprintf("| %s | %s | %s | %s |", a.What, a.Now, a.Advised, a.Why)] = true
	}
	b, err := os.ReadFile("../../docs/production.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), "| what | now | advised | why |\n|---|---|---|---|\n")
	text, _, _ = strings.Cut(text, "\n\n")
	rows := strings.Split(text, "\n")
	for _, row := range rows {
		if !said[row] {
			t.Errorf("the guide's row\n%s\nis not said; said is\n%v", row, said)
		}
	}
	if len(rows) < 5 {
		t.Errorf("%d rows", len(rows))
	}
}
