package wire

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/internal/pb"
	"github.com/pimoe/pimoe/sdk/router"
)

func observation() router.Observation {
	return router.Observation{
		Loads: []router.Load{
			{Layer: 0, Expert: 3, Rows: 7, Busy: 1234 * time.Microsecond}, {Layer: 2, Expert: 0, Rows: 1},
			{Layer: 2, Expert: 4, Rows: 90000, Busy: time.Second},
		},
		Waiting: 250 * time.Millisecond, Tokens: 12, LogProb: -1.75,
	}
}

// An observation is the same values at the other end.
func TestObservationsCross(t *testing.T) {
	for _, want := range []router.Observation{{Loads: []router.Load{}}, observation()} {
		raw, err := proto.Marshal(ObserveRequest(want))
		if err != nil {
			t.Fatal(err)
		}
		var req pb.ObserveRequest
		if err := proto.Unmarshal(raw, &req); err != nil {
			t.Fatal(err)
		}
		got := ObservationOf(&req)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if err := CheckObservation(got, 5); err != nil {
			t.Error(err)
		}
	}
}

// What can't have been measured is refused, whoever says it.
func TestObservationsThatCannotBe(t *testing.T) {
	for name, change := range map[string]func(o *router.Observation){
		"expert":     func(o *router.Observation) { o.Loads[2].Expert = 5 },
		"negative":   func(o *router.Observation) { o.Loads[0].Expert = -1 },
		"layer":      func(o *router.Observation) { o.Loads[0].Layer = -1 },
		"no rows":    func(o *router.Observation) { o.Loads[1].Rows = 0 },
		"busy":       func(o *router.Observation) { o.Loads[1].Busy = -1 },
		"twice":      func(o *router.Observation) { o.Loads[2].Expert = 0 },
		"order":      func(o *router.Observation) { o.Loads[0].Layer = 3 },
		"waiting":    func(o *router.Observation) { o.Waiting = -1 },
		"tokens":     func(o *router.Observation) { o.Tokens = -1 },
		"NaN":        func(o *router.Observation) { o.LogProb = math.NaN() },
		"impossible": func(o *router.Observation) { o.LogProb = math.Inf(-1) },
	} {
		o := observation()
		change(&o)
		if err := CheckObservation(o, 5); !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	o := ObservationOf(&pb.ObserveRequest{WaitingUs: math.MaxUint64, Tokens: math.MaxUint64, Loads: []*pb.Load{{Rows: math.MaxUint64, BusyUs: math.MaxUint64}}})
	if err := CheckObservation(o, 1); err != nil {
		t.Errorf("the largest numbers: %v", err)
	}
}
