package host

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Trial is a new version of a group that is being tried: as a canary it computes a share of the new requests, as a shadow it
// repeats calls whose answers nobody uses.
type Trial struct {
	Group   string     `json:"group"`
	Kind    string     `json:"kind"` // canary or shadow
	Share   float64    `json:"share"`
	To      string     `json:"to"`
	Known   Difference `json:"known"`   // over the known questions
	Calls   uint64     `json:"calls"`   // of requests (canary), or repeated (shadow)
	Errors  uint64     `json:"errors"`  // of these calls
	Live    Difference `json:"live"`    // over the calls that were compared
	Checked uint64     `json:"checked"` // calls that were compared
	State   string     `json:"state"`   // running, promoted, rolled back
	Why     string     `json:"why,omitempty"`
}

// trialOf is the trial of a Host; there is one at a time.
type trialOf struct {
	seat     *seat
	fresh    *group
	share    float64
	kind     string
	known    Difference
	mostLive float64 // relative difference beyond which it is rolled back
	over     chan struct{}

	mu      sync.Mutex // guards what follows
	live    Difference
	checked uint64
	state   string
	why     string
	failed  atomic.Uint64 // calls that the shadow did not answer
	asked   atomic.Uint64
}

const (
	lookAtTrial = 50 * time.Millisecond
	// trialErrors of a canary's processes, invalid answers or deaths, are too many.
	trialErrors = 1
)

// Try starts a new version of a group beside the present one. kind "canary" gives it that share of the new requests; kind
// "shadow" has it repeat that share of the calls and throws its answers away. It is rolled back by itself when one of its
// processes dies or answers wrongly, or when its answers lie farther from the present ones than the bound allows (relative
// difference; 0 = by the numeric class). It ends with Promote or Rollback.
func (h *Host) Try(ctx context.Context, name, kind string, share, bound float64, change func(*GroupSpec) error) (*Trial, error) {
	switch {
	case h.fleet == nil:
		return nil, fmt.Errorf("%s: the experts run in the host's own process: %w", kind, sdk.ErrUnsupported)
	case kind != "canary" && kind != "shadow":
		return nil, fmt.Errorf("kind %q: want canary or shadow: %w", kind, sdk.ErrInvalid)
	case !(share > 0 && share <= 1):
		return nil, fmt.Errorf("%s: share %g: want more than 0 and at most 1: %w", kind, share, sdk.ErrInvalid)
	}
	h.changing.Lock()
	defer h.changing.Unlock()
	s := h.seat(name)
	if s == nil {
		return nil, fmt.Errorf("%s %q: %w", kind, name, errUnknownGroup)
	}
	if t := h.running(); t != nil {
		return nil, fmt.Errorf("%s %s: group %s is being tried already: %w", kind, name, t.seat.name, sdk.ErrInvalid)
	}
	old, err := s.group()
	if err != nil {
		return nil, err
	}
	fresh, err := h.prepare(ctx, s, old, change)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", kind, name, err)
	}
	t := &trialOf{seat: s, fresh: fresh, share: share, kind: kind, mostLive: bound, live: Difference{Same: true, Cosine: 1}, state: "running", over: make(chan struct{})}
	if t.known, err = compare(old.answers, fresh.answers); err == nil {
		err = t.known.acceptable(old, fresh)
	}
	if err != nil {
		h.fleet.dismiss(fresh)
		return nil, fmt.Errorf("%s %s: %w", kind, name, err)
	}
	if t.mostLive == 0 && old.answers.numericClass() != fresh.answers.numericClass() {
		t.mostLive = mostRelative
	}
	h.trial.Store(t)
	if kind == "canary" {
		h.editions.try(s, t.candidate(old), share, old.draw)
	}
	h.fleet.wg.Go(func() { h.attend(t) })
	return t.describe(), nil
}

// candidate is the canary as its requests see it: where it gives the present group's bits, a call that it can't answer is the
// present group's, so that a bad version costs nobody an answer. One of another numeric class must finish what it began.
func (t *trialOf) candidate(old *group) member {
	if !t.known.Same {
		return t.fresh
	}
	return &backed{group: t.fresh, behind: old}
}

// attend compares and watches until the trial is over.
func (h *Host) attend(t *trialOf) {
	for {
		select {
		case <-t.over:
			return
		case <-h.fleet.life.Done():
			return
		case <-time.After(lookAtTrial):
		}
		if why := t.verdict(); why != "" {
			h.log.Error("trial is rolled back", "group", t.seat.name, "kind", t.kind, "why", why)
			h.tell(Event{What: EventRolledBack, Object: t.seat.name, Why: why})
			if err := h.end(h.fleet.life, t, "rolled back", why); err != nil {
				h.log.Error("roll back", "group", t.seat.name, "err", err)
			}
			return
		}
	}
}

// running is the trial that is under way; nil = none.
func (h *Host) running() *trialOf {
	if t := h.trial.Load(); t != nil && t.running() {
		return t
	}
	return nil
}

// untried is nil if a seat may be given to others: who is being tried there is compared with who has it.
func (h *Host) untried(s *seat) error {
	if t := h.running(); t != nil && t.seat == s {
		return fmt.Errorf("group %s is being tried: promote it or roll it back first: %w", s.name, sdk.ErrInvalid)
	}
	return nil
}

func (t *trialOf) running() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state == "running"
}

// verdict is why the trial must be rolled back; empty while there is no reason.
func (t *trialOf) verdict() string {
	if n := t.failed.Load(); n >= trialErrors {
		return fmt.Sprintf("%d calls failed", n)
	}
	if why := t.fresh.fault(); why != "" {
		return why
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.checked > 0 && !(t.live.Relative <= t.mostLive) {
		return fmt.Sprintf("answers differ by %.3g of the largest value, more than %g", t.live.Relative, t.mostLive)
	}
	return ""
}

func (t *trialOf) describe() *Trial {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := &Trial{Group: t.seat.name, Kind: t.kind, Share: t.share, To: t.fresh.title(), Known: t.known, Live: t.live, Checked: t.checked,
		State: t.state, Why: t.why, Calls: t.asked.Load(), Errors: t.failed.Load()}
	if t.kind == "canary" {
		d.Calls = 0
		for _, s := range t.fresh.stats {
			d.Calls += s.calls.Load()
			d.Errors += s.errors.Load()
		}
	}
	return d
}

// compared takes the answers of both versions to one call.
func (t *trialOf) compared(now, tried tensor.Matrix) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.checked++
	t.live.add(now.Data, tried.Data)
}

// Trial describes the present or last trial; nil if there was none.
func (h *Host) Trial() *Trial {
	t := h.trial.Load()
	if t == nil {
		return nil
	}
	return t.describe()
}

// Promote puts the version that is being tried in the place of the present one; Rollback ends it.
func (h *Host) Promote(ctx context.Context, name string) (*Trial, error) {
	return h.decide(ctx, name, "promoted")
}

// Rollback ends a trial. Requests that it computes end on it.
func (h *Host) Rollback(ctx context.Context, name string) (*Trial, error) {
	return h.decide(ctx, name, "rolled back")
}

func (h *Host) decide(ctx context.Context, name, state string) (*Trial, error) {
	t := h.trial.Load()
	if t == nil || t.seat.name != name || !t.running() {
		return nil, fmt.Errorf("group %q is not being tried: %w", name, sdk.ErrNotFound)
	}
	if err := h.end(ctx, t, state, "by an operator"); err != nil {
		return nil, err
	}
	return t.describe(), nil
}

// end ends a trial, once.
func (h *Host) end(ctx context.Context, t *trialOf, state, why string) error {
	h.changing.Lock()
	defer h.changing.Unlock()
	t.mu.Lock()
	if t.state != "running" {
		t.mu.Unlock()
		return fmt.Errorf("group %s: it is %s already: %w", t.seat.name, t.state, sdk.ErrInvalid)
	}
	t.state, t.why = state, why
	close(t.over)
	t.mu.Unlock()
	leaving, old := t.fresh, h.editions.untry()
	if state == "promoted" {
		leaving = t.seat.own()
		old = h.editions.shift(one(t.seat, t.fresh, t.known.Same))
	}
	h.log.Info("trial is over", "group", t.seat.name, "kind", t.kind, "to", t.fresh.title(), "state", state, "why", why)
	return h.retire(ctx, t.seat, leaving, old)
}

// retire ends a group when the last request of the editions has ended, in the background if ctx ends before.
func (h *Host) retire(ctx context.Context, s *seat, g *group, old []uint64) error {
	err := h.editions.drained(ctx, s, old)
	if err == nil {
		h.fleet.dismiss(g)
		return nil
	}
	h.fleet.wg.Go(func() {
		if h.editions.drained(h.fleet.life, s, old) == nil {
			h.fleet.dismiss(g)
		}
	})
	return err
}

// shadowed has a sampled call of a group repeated by the version that is being tried.
func (c *recheck) shadow(ctx context.Context, s *sampled, t *trialOf) {
	replica, inc := t.fresh.begin(0)
	if inc == nil {
		return
	}
	t.asked.Add(1)
	y := tensor.NewMatrix(s.y.Rows, s.y.Cols)
	if err := t.fresh.ask(ctx, replica, inc, s.call, y); err != nil {
		t.failed.Add(1)
		return
	}
	t.compared(s.y, y)
}
