package wire

import (
	"fmt"
	"math"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/internal/pb"
	"github.com/pimoe/pimoe/sdk/router"
)

// ObserveRequest packs an observation.
func ObserveRequest(o router.Observation) *pb.ObserveRequest {
	req := &pb.ObserveRequest{
		WaitingUs: uint64(o.Waiting / time.Microsecond), Tokens: uint64(o.Tokens), LogProb: o.LogProb,
		Loads: make([]*pb.Load, len(o.Loads)),
	}
	for i, l := range o.Loads {
		req.Loads[i] = &pb.Load{
			Layer: uint32(l.Layer), Expert: uint32(l.Expert), Rows: uint64(l.Rows), BusyUs: uint64(l.Busy / time.Microsecond),
		}
	}
	return req
}

// ObservationOf unpacks it; CheckObservation has to follow.
func ObservationOf(p *pb.ObserveRequest) router.Observation {
	o := router.Observation{
		Waiting: microseconds(p.GetWaitingUs()), Tokens: int(min(p.GetTokens(), math.MaxInt32)), LogProb: p.GetLogProb(),
		Loads: make([]router.Load, len(p.GetLoads())),
	}
	for i, l := range p.GetLoads() {
		o.Loads[i] = router.Load{
			Layer: int(l.GetLayer()), Expert: int(l.GetExpert()), Rows: int(min(l.GetRows(), math.MaxInt32)), Busy: microseconds(l.GetBusyUs()),
		}
	}
	return o
}

// microseconds is at most a day, far above any window.
func microseconds(n uint64) time.Duration {
	return time.Duration(min(n, uint64(24*time.Hour/time.Microsecond))) * time.Microsecond
}

// CheckObservation holds for every observation before it leaves the host and again before an author's code sees it.
func CheckObservation(o router.Observation, experts int) error {
	if o.Waiting < 0 || o.Tokens < 0 || math.IsNaN(o.LogProb) || math.IsInf(o.LogProb, 0) {
		return fmt.Errorf("observation: waiting %v, %d tokens, log probability %g: %w", o.Waiting, o.Tokens, o.LogProb, sdk.ErrInvalid)
	}
	for i, l := range o.Loads {
		if l.Layer < 0 || l.Layer > maxDim || l.Expert < 0 || l.Expert >= experts || l.Rows < 1 || l.Busy < 0 {
			return fmt.Errorf("observation: expert %d of %d in layer %d: %d rows in %v: %w", l.Expert, experts, l.Layer, l.Rows, l.Busy, sdk.ErrInvalid)
		}
		if i > 0 && (l.Layer < o.Loads[i-1].Layer || l.Layer == o.Loads[i-1].Layer && l.Expert <= o.Loads[i-1].Expert) {
			return fmt.Errorf("observation: layer %d, expert %d: loads must ascend: %w", l.Layer, l.Expert, sdk.ErrInvalid)
		}
	}
	return nil
}
