package limit

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/access"
)

// Rule is what some principals may ask for. The conditions that are set must all hold.
type Rule struct {
	Key    string      // a principal's id; empty = any
	Tenant string      // empty = any
	Role   access.Role // NoRole = any
	Whole  bool        // the limits are of the whole tenant, not of each of its principals

	Requests   int64 // a minute; 0 = as many as come
	Tokens     int64 // a minute, prompt and answer; 0 = as many as come
	Concurrent int   // at the same time; 0 = as many as come
}

func (r Rule) fits(p access.Principal) bool {
	return (r.Key == "" || r.Key == p.ID) && (r.Tenant == "" || r.Tenant == p.Tenant) && (r.Role == access.NoRole || r.Role == p.Role)
}

// Kind is what a limit counts.
type Kind string

// The kinds.
const (
	Requests   Kind = "requests"
	Tokens     Kind = "tokens"
	Concurrent Kind = "concurrent"
)

// Cell is one bucket of a decision.
type Cell struct {
	Name  string // of the bucket; of any length and content
	Kind  Kind
	Limit int64
	N     int64 // to take; below 0 gives back
}

// Window is a bucket as its client sees it.
type Window struct {
	Kind  Kind
	Limit int64
	Left  int64
	Reset time.Duration // until it is full
}

// Refused is a decision against a request.
type Refused struct {
	Kind    Kind
	Limit   int64
	After   time.Duration // wait so long, and the same request is taken if nobody else takes; 0 = it never is, or, for Concurrent, nobody knows
	Windows []Window
}

func (r *Refused) Error() string {
	switch {
	case r.Kind == Concurrent:
		return fmt.Sprintf("at most %d requests at the same time are allowed here", r.Limit)
	case r.After == 0:
		return fmt.Sprintf("the request needs more than the %d %s a minute that are allowed here", r.Limit, r.Kind)
	}
	return fmt.Sprintf("the limit of %d %s a minute is reached", r.Limit, r.Kind)
}

// Unwrap makes it sdk.ErrOverloaded.
func (r *Refused) Unwrap() error { return sdk.ErrOverloaded }

// Shared are buckets that several hosts take from.
type Shared interface {
	// Take takes from all cells or from none, and says how full they are then, in the order of cells. wait is how long
	// until they could; 0 = they were taken. It returns within a few milliseconds. An error says nothing of the buckets.
	Take(ctx context.Context, cells []Cell) (wait time.Duration, left []Window, err error)
	// Move changes buckets, whatever is in them; a failure is its own to count.
	Move(ctx context.Context, cells []Cell)
}

// Options are what a Limiter works with.
type Options struct {
	Now    func() time.Time // nil = time.Now
	Shared Shared           // nil = the buckets are this process's alone
	Most   int              // buckets in memory; 0 = 65,536
}

// Limiter decides. Its methods are safe for concurrent use.
type Limiter struct {
	now    func() time.Time
	shared Shared
	rules  atomic.Pointer[[]Rule]

	mu    sync.Mutex // guards table; not held while a Shared is asked
	table *table
}

// New makes a Limiter of rules: the first one that fits a principal holds, and of those for whole tenants the first one too.
func New(rules []Rule, o Options) *Limiter {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Most == 0 {
		o.Most = mostBuckets
	}
	l := &Limiter{now: o.Now, shared: o.Shared, table: newTable(o.Most)}
	l.Use(rules)
	return l
}

// Use replaces the rules. What was taken stays taken.
func (l *Limiter) Use(rules []Rule) { l.rules.Store(&rules) }

// Grant is a request that was admitted. Close ends it.
type Grant struct {
	limiter  *Limiter
	cells    []Cell // of requests and tokens
	places   []string
	reserved int64
	windows  []Window
	once     sync.Once
}

// Admit decides about a request that is expected to take so many tokens. The error is a *Refused. Close the Grant.
func (l *Limiter) Admit(ctx context.Context, p access.Principal, tokens int64) (*Grant, error) {
	g := &Grant{limiter: l, reserved: max(tokens, 0)}
	places := l.plan(g, p)
	if len(g.cells) == 0 && len(places) == 0 {
		return g, nil
	}
	if err := l.local(g, places); err != nil {
		return nil, err
	}
	if l.shared == nil || len(g.cells) == 0 {
		return g, nil
	}
	wait, left, err := l.shared.Take(ctx, g.cells)
	if err != nil || len(left) != len(g.cells) {
		return g, nil // the buckets of this process have decided
	}
	for i := range g.windows {
		g.windows[i] = tighter(g.windows[i], left[i])
	}
	if wait > 0 {
		l.undo(g)
		return nil, refusal(g.cells, g.windows, wait)
	}
	return g, nil
}

// plan finds the buckets that count, and the places, of the rules that hold.
func (l *Limiter) plan(g *Grant, p access.Principal) (places []Cell) {
	found := map[bool]bool{}
	for _, r := range *l.rules.Load() {
		if found[r.Whole] || !r.fits(p) {
			continue
		}
		found[r.Whole] = true
		who := "p\x00" + string(p.Kind) + "\x00" + p.ID
		if r.Whole {
			who = "t\x00" + p.Tenant
		}
		if r.Requests > 0 {
			g.cells = append(g.cells, Cell{"r" + who, Requests, r.Requests, 1})
		}
		if r.Tokens > 0 {
			g.cells = append(g.cells, Cell{"t" + who, Tokens, r.Tokens, g.reserved})
		}
		if r.Concurrent > 0 {
			places = append(places, Cell{"c" + who, Concurrent, int64(r.Concurrent), 1})
		}
	}
	return places
}

// local decides by the buckets of this process: all are taken from, or none.
func (l *Limiter) local(g *Grant, places []Cell) error {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	var longest time.Duration
	for _, c := range g.cells {
		longest = max(longest, wait(l.table.buckets[c.Name].full, now, min(c.N, c.Limit), c.Limit))
	}
	for _, c := range g.cells {
		if c.N > c.Limit {
			return &Refused{Kind: c.Kind, Limit: c.Limit, Windows: l.windows(g.cells, now)}
		}
	}
	if longest > 0 {
		return refusal(g.cells, l.windows(g.cells, now), longest)
	}
	for _, c := range places {
		if int64(l.table.buckets[c.Name].running) >= c.Limit {
			return &Refused{Kind: Concurrent, Limit: c.Limit, Windows: l.windows(g.cells, now)}
		}
	}
	for _, c := range places {
		b := l.table.buckets[c.Name]
		b.running++
		l.table.put(c.Name, b, now)
		g.places = append(g.places, c.Name)
	}
	l.move(g.cells, now)
	g.windows = l.windows(g.cells, now)
	return nil
}

// refusal names the limit that has least left of what it gives.
func refusal(cells []Cell, windows []Window, after time.Duration) *Refused {
	r := &Refused{After: after, Windows: windows}
	for i, w := range windows {
		if short := w.Left < cells[i].N; short || r.Kind == "" {
			r.Kind, r.Limit = w.Kind, w.Limit
			if short {
				break
			}
		}
	}
	return r
}

// move takes from the buckets of this process; mu is held.
func (l *Limiter) move(cells []Cell, now time.Time) {
	for _, c := range cells {
		b := l.table.buckets[c.Name]
		b.full = move(b.full, now, c.N, c.Limit)
		l.table.put(c.Name, b, now)
	}
}

func (l *Limiter) windows(cells []Cell, now time.Time) []Window {
	out := make([]Window, len(cells))
	for i, c := range cells {
		full := l.table.buckets[c.Name].full
		out[i] = Window{c.Kind, c.Limit, left(full, now, c.Limit), debt(full, now)}
	}
	return out
}

func tighter(a, b Window) Window {
	return Window{a.Kind, a.Limit, min(a.Left, b.Left), max(a.Reset, b.Reset)}
}

// undo gives back what local has taken, places too.
func (l *Limiter) undo(g *Grant) {
	back := make([]Cell, len(g.cells))
	for i, c := range g.cells {
		back[i] = c
		back[i].N = -c.N
	}
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.move(back, now)
	l.vacate(g, now)
}

func (l *Limiter) vacate(g *Grant, now time.Time) {
	for _, name := range g.places {
		b := l.table.buckets[name]
		b.running = max(b.running-1, 0)
		l.table.put(name, b, now)
	}
	g.places = nil
}

// Windows are the buckets as they were after the request was admitted, for its client.
func (g *Grant) Windows() []Window { return g.windows }

// Close ends the request: its place is free, and of its tokens as many are taken as it has used. It is safe to call it more
// than once; the first call counts.
func (g *Grant) Close(ctx context.Context, used int64) {
	g.once.Do(func() {
		var change []Cell
		for _, c := range g.cells {
			if c.Kind == Tokens && used != g.reserved {
				c.N = used - g.reserved
				change = append(change, c)
			}
		}
		l := g.limiter
		now := l.now()
		l.mu.Lock()
		l.move(change, now)
		l.vacate(g, now)
		l.mu.Unlock()
		if l.shared != nil && len(change) > 0 {
			l.shared.Move(ctx, change)
		}
	})
}
