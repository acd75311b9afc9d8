package chaos

import (
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/load"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/nemesis"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/schedule"
)

var start = time.Unix(1000, 0)

func at(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }

func outcome(kind schedule.Kind, fired time.Time, detected, recovered float64, survived bool) nemesis.Outcome {
	return nemesis.Outcome{Fault: schedule.Fault{Kind: kind}, Fired: fired, Detected: detected, Recovered: recovered, Survived: survived, Cause: "c"}
}

// TestSummary: a fault counts as what became of it.
func TestSummary(t *testing.T) {
	r := summary([]nemesis.Outcome{
		outcome(schedule.Kill, at(100), 5, 50, false),
		outcome(schedule.Kill, at(300), 7, 70, false),
		outcome(schedule.Slow, at(500), -1, -1, true),
		outcome(schedule.Stop, at(700), -1, -1, false), // never replaced
		outcome(schedule.Stop, time.Time{}, -1, -1, false),
	}, nil, 3)
	if r.Injected[schedule.Kill] != 2 || r.Detected[schedule.Kill] != 2 || r.Injected[schedule.Slow] != 1 || r.Detected[schedule.Slow] != 0 || r.Missed[schedule.Stop] != 1 {
		t.Errorf("%+v", r)
	}
	if r.Unsettled != 1 || r.Unexplained != 1 || r.Causes["c"] != 2 {
		t.Errorf("%d unsettled, %d unexplained, causes %v", r.Unsettled, r.Unexplained, r.Causes)
	}
	if r.RecoveryMS.Max != 70 || r.DetectedMS.P50 != 5 {
		t.Errorf("%+v %+v", r.RecoveryMS, r.DetectedMS)
	}
}

// TestReportErr: what fails a run.
func TestReportErr(t *testing.T) {
	for name, c := range map[string]struct {
		r    Report
		want error
	}{
		"good":                   {Report{Requests: 9, Replicas: 2}, nil},
		"wrong":                  {Report{Wrong: 1}, sdk.ErrInvalidOutput},
		"lost":                   {Report{Lost: 1}, sdk.ErrInvalidOutput},
		"failed, two replicas":   {Report{Failed: 1, Replicas: 2}, sdk.ErrInvalidOutput},
		"failed, one replica":    {Report{Failed: 1, Replicas: 1}, nil},
		"a process did not come": {Report{Unsettled: 1, Replicas: 2}, sdk.ErrDeadline},
	} {
		if err := c.r.Err(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSoakErr: what may not grow, may not grow by one.
func TestSoakErr(t *testing.T) {
	same := Sample{Goroutines: 10, Descriptors: 20, Mappings: 30, Processes: 17, HostRSS: 1}
	if err := (SoakReport{Before: same, After: same}).Err(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Sample){
		"goroutines":  func(s *Sample) { s.Goroutines++ },
		"descriptors": func(s *Sample) { s.Descriptors++ },
		"mappings":    func(s *Sample) { s.Mappings++ },
		"processes":   func(s *Sample) { s.Processes-- },
	} {
		after := same
		change(&after)
		if err := (SoakReport{Before: same, After: after}).Err(); !errors.Is(err, errGrown) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSlope(t *testing.T) {
	var samples []Sample
	for i := range 50 {
		x := Sample{Seconds: float64(i), HostRSS: int64(1000 + 7*i)}
		if i < 5 {
			x.HostRSS = 0 // the warm-up is left out
		}
		samples = append(samples, x)
	}
	point := func(s Sample) (float64, float64) { return s.Seconds, float64(s.HostRSS) }
	if got := slope(samples, point); math.Abs(got-7) > 1e-9 {
		t.Errorf("slope %g", got)
	}
	if got := slope(samples[:2], point); got != 0 {
		t.Errorf("slope of two samples %g", got)
	}
}

// TestWorst: streams that stall together count once, and the faults around a stall are told.
func TestWorst(t *testing.T) {
	stall := func(since, ms int) load.Pace { return paced(since-1, since, since+ms, since+ms+1) }
	kill := outcome(schedule.Kill, at(1100), 1, 1, false)
	kill.Process = "e0/0"
	got := worst([]load.Pace{stall(1000, 500), stall(1010, 480), stall(3000, 90), paced(0), nil}, []nemesis.Outcome{kill, outcome(schedule.Kill, at(2500), 1, 1, false)})
	if len(got) != 2 || got[0].MS != 500 || got[1].MS != 90 || len(got[0].Faults) != 1 || got[0].Faults[0] != "kill e0/0 at +100 ms" || len(got[1].Faults) != 0 {
		t.Errorf("%+v", got)
	}
}

func paced(ms ...int) (p load.Pace) {
	for _, m := range ms {
		p = append(p, at(m))
	}
	return p
}

// TestPauses: of each fault the stream counts that waited longest when it fell or for the token after; what a stream waited for before
// or later does not, nor a fault between streams.
func TestPauses(t *testing.T) {
	paces := []load.Pace{
		paced(0, 50, 53, 58, 66, 70, 166),
		paced(40, 51, 60, 62, 72),
		paced(400, 401),
		paced(500),
		nil,
	}
	for fault, want := range map[int][]float64{52: {9}, 54: {9}, 61: {10}, 100: {96}, 300: nil, 500: nil, 600: nil, 45: {50}} {
		if got := pauses([]time.Time{at(fault)}, paces); !slices.Equal(got, want) {
			t.Errorf("fault at %d ms: %v, want %v", fault, got, want)
		}
	}
	if got := pauses([]time.Time{at(52), at(300), at(61)}, paces); !slices.Equal(got, []float64{9, 10}) {
		t.Errorf("three faults: %v", got)
	}
}

// TestCalm: no moment is compared with faults that is near one, or before its group is complete again.
func TestCalm(t *testing.T) {
	paces := []load.Pace{paced(1000, 9000), paced(0, 10000), nil}
	outcomes := []nemesis.Outcome{
		outcome(schedule.Kill, at(2000), 5, 1500, false),
		outcome(schedule.Slow, at(5000), -1, -1, true),
		outcome(schedule.Stop, time.Time{}, -1, -1, false),
		outcome(schedule.Stop, at(8000), -1, -1, false), // never replaced
	}
	moments := calm(outcomes, paces)
	for _, m := range moments {
		ms := m.Sub(start).Milliseconds()
		if ms > 1800 && ms < 3700 || ms > 4800 && ms < 5500 || ms > 7800 {
			t.Errorf("%d ms is calm", ms)
		}
	}
	if len(moments) != (1800+4800-3700+7800-5500)/20 {
		t.Errorf("%d calm moments", len(moments))
	}
	if got := calm(nil, []load.Pace{nil, paced(7)}); len(got) != 0 {
		t.Errorf("%v without two tokens", got)
	}
}
