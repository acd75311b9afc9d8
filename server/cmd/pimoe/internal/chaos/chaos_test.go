package chaos

import (
	"errors"
	"math"
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

// TestSummary: a fault counts as what became of it, and a stream belongs to the faults that fell between its tokens.
func TestSummary(t *testing.T) {
	r := summary([]nemesis.Outcome{
		outcome(schedule.Kill, at(100), 5, 50, false),
		outcome(schedule.Kill, at(300), 7, 70, false),
		outcome(schedule.Slow, at(500), -1, -1, true),
		outcome(schedule.Stop, at(700), -1, -1, false), // never replaced
		outcome(schedule.Stop, time.Time{}, -1, -1, false),
	}, []load.Pace{
		{First: at(90), Last: at(200), Stall: 20 * time.Millisecond},
		{First: at(200), Last: at(299), Stall: 3 * time.Millisecond},
		{First: at(290), Last: at(310), Stall: 9 * time.Millisecond},
		{First: at(800), Last: at(900), Stall: 4 * time.Millisecond},
	}, 3)
	if r.Injected[schedule.Kill] != 2 || r.Detected[schedule.Kill] != 2 || r.Injected[schedule.Slow] != 1 || r.Detected[schedule.Slow] != 0 || r.Missed[schedule.Stop] != 1 {
		t.Errorf("%+v", r)
	}
	if r.Unsettled != 1 || r.Unexplained != 1 || r.Causes["c"] != 2 {
		t.Errorf("%d unsettled, %d unexplained, causes %v", r.Unsettled, r.Unexplained, r.Causes)
	}
	if r.FailoverMS != (Quantiles{2, 9, 20, 20}) || r.CalmMS != (Quantiles{2, 3, 4, 4}) || r.RecoveryMS.Max != 70 || r.DetectedMS.P50 != 5 {
		t.Errorf("%+v %+v %+v %+v", r.FailoverMS, r.CalmMS, r.RecoveryMS, r.DetectedMS)
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
	stall := func(since, ms int) load.Pace {
		return load.Pace{First: at(0), Last: at(5000), Since: at(since), Stall: time.Duration(ms) * time.Millisecond}
	}
	kill := outcome(schedule.Kill, at(1100), 1, 1, false)
	kill.Process = "e0/0"
	got := worst([]load.Pace{stall(1000, 500), stall(1010, 480), stall(3000, 90), {First: at(0), Last: at(1)}}, []nemesis.Outcome{kill, outcome(schedule.Kill, at(2500), 1, 1, false)})
	if len(got) != 2 || got[0].MS != 500 || got[1].MS != 90 || len(got[0].Faults) != 1 || got[0].Faults[0] != "kill e0/0 at +100 ms" || len(got[1].Faults) != 0 {
		t.Errorf("%+v", got)
	}
}
