package host

import (
	"testing"
	"time"
)

// What a process says of its own time is believed as far as it can be true.
func TestWithin(t *testing.T) {
	sent := time.Unix(1000, 0)
	now := sent.Add(100 * time.Millisecond)
	ms := func(n int) time.Time { return sent.Add(time.Duration(n) * time.Millisecond) }
	for name, c := range map[string]struct {
		began time.Time
		took  int // ms
		want  time.Time
		for_  int
	}{
		"true":             {ms(20), 50, ms(20), 50},
		"all of it":        {sent, 100, sent, 100},
		"a late clock":     {ms(90), 50, ms(25), 50},
		"an early clock":   {ms(-3600_000), 50, ms(25), 50},
		"longer than that": {ms(10), 5000, sent, 100},
		"negative":         {ms(10), -5, ms(10), 0},
		"far away":         {time.Unix(1<<40, 0), 50, ms(25), 50},
	} {
		began, took := within(c.began, time.Duration(c.took)*time.Millisecond, sent, now)
		if !began.Equal(c.want) || took != time.Duration(c.for_)*time.Millisecond {
			t.Errorf("%s: %v for %v, want %v for %d ms", name, began.Sub(sent), took, c.want.Sub(sent), c.for_)
		}
	}
	if began, took := within(time.Time{}, time.Hour, sent, now); !began.IsZero() || took != 0 {
		t.Errorf("nothing said: %v %v", began, took)
	}
}
