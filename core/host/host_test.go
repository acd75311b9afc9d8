package host

import (
	"bytes"
	"log/slog"
	"testing"
	"time"
)

// A process that had worked comes back at once, however often it dies.
func TestRestartsAtOnceAfterWork(t *testing.T) {
	var r restarts
	now := time.Unix(0, 0)
	for range 1000 {
		now = now.Add(time.Millisecond)
		if wait, failed := r.next(now, worked, 0.5); wait != 0 || failed {
			t.Fatalf("wait %v, failed %v", wait, failed)
		}
	}
}

// Deaths before the first answer wait up to 50 ms x 2^n, and the sixth within 30 s is one too many.
func TestRestartsBackOffAndGiveUp(t *testing.T) {
	var r restarts
	now := time.Unix(0, 0)
	for n := range intensity {
		wait, failed := r.next(now, broken, 0.999999)
		ceiling := firstBackoff << n
		if failed || wait >= ceiling || wait < ceiling*99/100 {
			t.Fatalf("death %d: wait %v, failed %v; want just below %v", n+1, wait, failed, ceiling)
		}
		now = now.Add(time.Second)
	}
	if wait, failed := r.next(now, broken, 0.5); !failed || wait != halfOpenPeriod {
		t.Fatalf("death %d: wait %v, failed %v; want %v, true", intensity+1, wait, failed, halfOpenPeriod)
	}
	now = now.Add(halfOpenPeriod)
	if _, failed := r.next(now, broken, 0.5); failed {
		t.Fatal("the old deaths are out of the window, yet the process is given up")
	}
	if wait, _ := r.next(now, worked, 0.5); wait != 0 {
		t.Fatalf("after work: wait %v", wait)
	}
	if wait, _ := r.next(now, broken, 0.999999); wait >= firstBackoff {
		t.Fatalf("work did not end the streak: wait %v", wait)
	}
}

// A process that is killed from outside before its first call is never given up, comes back at once a few times, and does
// not take back what it has done wrong itself.
func TestRestartsOfTheStruck(t *testing.T) {
	var r restarts
	now := time.Unix(0, 0)
	for range intensity {
		r.next(now, broken, 0)
	}
	for n := range 1000 {
		wait, failed := r.next(now, struck, 0.999999)
		switch {
		case failed || n < freeStrikes && wait != 0:
			t.Fatalf("strike %d: wait %v, failed %v", n+1, wait, failed)
		case n >= freeStrikes && (wait < firstBackoff*9/10 || wait >= maxStrikeWait):
			t.Fatalf("strike %d: wait %v", n+1, wait)
		}
	}
	if _, failed := r.next(now, broken, 0); !failed {
		t.Error("strikes made a crash loop forgotten")
	}
	r.next(now, worked, 0)
	if wait, _ := r.next(now, struck, 0.999999); wait != 0 {
		t.Errorf("work did not end the row of strikes: wait %v", wait)
	}
}

func TestPulse(t *testing.T) {
	at := time.Unix(0, 0)
	look := func(p *pulse, after time.Duration, count uint64) bool {
		at = at.Add(after)
		return p.silent(at, count)
	}
	p := newPulse(at)
	for i := range uint64(50) {
		if look(p, lookEvery, i/2) {
			t.Fatal("a beating process is called silent")
		}
	}
	look(p, lookEvery, 25)
	for n := 1; n <= int(silentLooks); n++ {
		if got, want := look(p, lookEvery, 25), n == int(silentLooks); got != want {
			t.Fatalf("silent process, look %d: silent = %v", n, got)
		}
	}
	p = newPulse(at)
	for range 100 {
		if look(p, 3*lookEvery, 0) {
			t.Fatal("a host that was late itself must not blame the process")
		}
	}
}

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{
		"plain text, äöü 世界":      "plain text, äöü 世界",
		"\x1b[31mred\x1b[0m":      `\x1b[31mred\x1b[0m`,
		"a\rb\nc\td":              `a\rb\nc\td`,
		"bell\a nul\x00":          `bell\a nul\x00`,
		"c1 \u009b31m":            `c1 \u009b31m`,
		"sep\u2028line\u202ebidi": `sep\u2028line\u202ebidi`,
		"bad \xff byte":           `bad \ufffd byte`,
	} {
		if got := escape(in); got != want {
			t.Errorf("escape(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestPluginLog(t *testing.T) {
	var out bytes.Buffer
	drop := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	log := pluginLog(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: drop})))
	for _, line := range []string{
		"plain\x1b[2Jtext",
		`{"time":"2026-01-01T00:00:00Z","level":"WARN","msg":"from slog","unit":3}`,
		`{"@timestamp":"x","@level":"error","@message":"from hclog\n","@module":"m","level":"INFO"}`,
		`{"level":"ERROR"}`,
		`{not json`,
	} {
		log(line)
	}
	want := `level=INFO msg=plain\x1b[2Jtext
level=WARN msg="from slog" plugin.unit=3
level=ERROR msg="from hclog\\n" plugin.@module=m plugin.level=INFO
level=INFO msg="{\"level\":\"ERROR\"}"
level=INFO msg="{not json"
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}
