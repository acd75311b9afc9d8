package engine

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk"
)

// Quality says what computed an answer, or the part of it that is there. The zero value is exactly the model.
type Quality struct {
	Kinds   moe.Kinds // the policies that were applied
	Layers  int       // how many layers have an affected token
	Dropped float64   // the largest share of a token's gate mass whose experts did not answer
}

// The statuses of an answer, from best to worst.
const (
	StatusExact    = "exact"    // the model as declared
	StatusFallback = "fallback" // all experts, some of them in another numeric class
	StatusDegraded = "degraded" // without some experts, or with others in their place
)

// Status is one word for it.
func (q Quality) Status() string {
	switch {
	case q.Kinds.Has(moe.Renormalise) || q.Kinds.Has(moe.Substitute):
		return StatusDegraded
	case q.Kinds.Has(moe.Fallback):
		return StatusFallback
	}
	return StatusExact
}

// Policy names the policies that were applied, with a plus between them; empty for an exact answer.
func (q Quality) Policy() string {
	var names []string
	for _, k := range []moe.Kind{moe.Fallback, moe.Renormalise, moe.Substitute} {
		if q.Kinds.Has(k) {
			names = append(names, k.String())
		}
	}
	return strings.Join(names, "+")
}

// ledger sums up what the tokens of a request have lost.
type ledger struct {
	quality Quality
	layers  map[int]bool
	missing moe.Outcome // with its Err: a token has no answer
}

// lose notes one token in one layer. After one without an answer nothing counts any more: what follows is computed from
// nothing.
func (g *ledger) lose(layer int, o moe.Outcome) {
	switch {
	case g.missing.Err != nil:
	case o.Err != nil:
		g.missing = o
	default:
		if g.layers == nil {
			g.layers = map[int]bool{}
		}
		g.layers[layer] = true
		g.quality.Kinds |= o.Kinds
		g.quality.Layers = len(g.layers)
		g.quality.Dropped = max(g.quality.Dropped, o.Dropped)
	}
}

// add takes in what another ledger has.
func (g *ledger) add(other *ledger) {
	for layer := range other.layers {
		g.lose(layer, moe.Outcome{Kinds: other.quality.Kinds, Dropped: other.quality.Dropped})
	}
}

// retryEvery is how often a request that waits for an expert group looks whether it is back: well below what a reader
// notices, and a look costs less than a microsecond.
const retryEvery = 10 * time.Millisecond

// outage is what a request waits for that does without no expert: the restart of a group. Meanwhile it takes part in no
// step, so that it neither delays others nor fails with them.
type outage struct {
	group moe.Availability // nil = it does not wait
	err   error            // what it ends with if the group does not come back
	since time.Time
	retry time.Time
}

// begin starts or goes on with waiting for what an outcome lacks. An error is the request's: waiting makes no sense.
func (h *outage) begin(o moe.Outcome, now time.Time) error {
	if o.Wait == nil || !errors.Is(o.Err, sdk.ErrUnavailable) || o.Wait.Hopeless() != nil {
		return o.Err
	}
	if h.since.IsZero() {
		h.since = now
	}
	h.group, h.err, h.retry = o.Wait, o.Err, now.Add(retryEvery)
	return nil
}

// look reports whether the request can be tried again; an error ends it. most is the longest wait.
func (h *outage) look(now time.Time, most time.Duration) (bool, error) {
	switch {
	case h.group == nil:
		return true, nil
	case now.Before(h.retry):
		return false, nil
	case h.group.Available() == nil:
		h.group = nil
		return true, nil
	case h.group.Hopeless() != nil || now.Sub(h.since) > most:
		return false, h.err
	}
	h.retry = now.Add(retryEvery)
	return false, nil
}

// suspend takes a sequence out of the steps because a token has no answer, or ends it.
func (l *loop) suspend(s *sequence, now time.Time) {
	missing := s.step.missing
	s.step = ledger{}
	first := s.outage.since.IsZero()
	err := s.outage.begin(missing, now)
	var refused *moe.RefusedError
	if first && errors.As(missing.Err, &refused) {
		l.meters.refused.Inc()
		l.log.Warn("degraded answer refused", "request", s.request.ID, "error", refused, "waits", err == nil)
	}
	if err != nil {
		l.end(s, fmt.Errorf("%s: %w", s.stream.name, classify(err)))
	}
}

// resume lets the waiting sequences go on whose group is back, and ends those for which waiting makes no sense.
func (l *loop) resume(now time.Time) {
	if !l.lenient {
		return
	}
	type ending struct {
		s   *sequence
		err error
	}
	var over []ending
	for _, list := range [][]*sequence{l.queue, l.running} {
		for _, s := range list {
			if _, err := s.outage.look(now, l.live.patience()); err != nil {
				over = append(over, ending{s, err})
			}
		}
	}
	for _, e := range over {
		l.end(e.s, fmt.Errorf("%s: %w", e.s.stream.name, classify(e.err)))
	}
}

// settle takes in what the tokens of a step have lost. What was computed without an expert is never given to others.
func (s *sequence) settle() {
	s.outage.since = time.Time{}
	if s.step.quality == (Quality{}) {
		return
	}
	s.lost.add(&s.step)
	s.step = ledger{}
	s.usage.Quality = s.lost.quality
	s.reuse = false
}

// accepts is what the request takes. A seed asks for the same answer each time, which depends on which experts are there
// once one is left out.
func (r *Request) accepts() moe.Accept {
	if r.Accept == moe.AcceptAny && r.Sampling.Seeded {
		return moe.AcceptRepeatable
	}
	return r.Accept
}
