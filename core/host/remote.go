package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/pimoe/pimoe/core/discovery"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
)

// Remote says where the processes of a group are that runs on other machines. Each endpoint is a replica: what a supervisor
// starts is a connection, and what ends one counts as the end of a process.
type Remote struct {
	Source       discovery.Source
	Refresh      time.Duration        // between two looks at the source; 0 = 10 s
	Zone         string               // that this host is in; endpoints of other zones get calls only while none of this one is ready
	Certificates *client.Certificates // nil = without TLS, to loopback addresses only
}

// places are how many replicas the group can have.
func (r Remote) places() int {
	if n := len(r.Source.List); n > 0 {
		return min(n, maxEndpoints)
	}
	return maxEndpoints
}

const (
	// maxEndpoints is how many endpoints of a group a host uses at once. It is far more than hide a failure, and each costs a
	// connection and its tests.
	maxEndpoints   = 16
	defaultRefresh = 10 * time.Second
	// refreshFailed is when a source is asked again that did not answer, or knew nobody.
	refreshFailed = time.Second
	// emptyAnswers is how many answers in a row that there is nobody are believed: a name server that has just started knows
	// nobody, either.
	emptyAnswers = 3
)

// The steps in which a connection to another machine can fail; publicCause words them for clients.
var (
	errNoEndpoint  = errors.New("no endpoint is known")
	errUnreachable = errors.New("endpoint can't be reached")
	errUntrusted   = errors.New("endpoint or host is not trusted")
	errDisagrees   = errors.New("endpoint does not serve what this host expects")
)

// connect brings a replica on another machine up to the point where it may serve: connect, agree, ask questions with known
// answers. On an error nothing is left.
func (l *launcher) connect(ctx context.Context, spec GroupSpec, at discovery.Endpoint, answers *knownAnswers) (*incarnation, error) {
	if at.Address == "" {
		return nil, fmt.Errorf("%w: it has gone from %s: %w", errNoEndpoint, spec.Remote.Source, sdk.ErrUnavailable)
	}
	conn, err := client.Connect(ctx, client.RemoteOptions{Address: at.Address, ServerName: at.Name, Certificates: spec.Remote.Certificates})
	switch {
	case errors.Is(err, client.ErrUntrusted):
		return nil, fmt.Errorf("%w: %w", errUntrusted, err)
	case errors.Is(err, sdk.ErrUnsupported), errors.Is(err, sdk.ErrInvalid), errors.Is(err, sdk.ErrInvalidOutput):
		return nil, fmt.Errorf("%w: %w", errDisagrees, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	d, e := conn.Description(), conn.Expert()
	inc := &incarnation{proc: conn, expert: e, info: d.Info, digest: d.Program, zone: escape(d.Zone), condemn: make(chan struct{})}
	if err := l.agree(spec, d); err != nil {
		return nil, l.abandon(inc, fmt.Errorf("%w: %s: %w", errDisagrees, at.Address, err))
	}
	if err := answers.admit(ctx, d.Info, e); errors.Is(err, sdk.ErrUnavailable) {
		return nil, l.abandon(inc, fmt.Errorf("%w: %s: %w", errUnreachable, at.Address, err))
	} else if err != nil {
		return nil, l.abandon(inc, fmt.Errorf("%w: %s: %w", errWrongAnswer, at.Address, err))
	}
	inc.probe = func(ctx context.Context) error { return answers.probe(ctx, e) }
	return inc, nil
}

// agree holds what a process on another machine says of itself against what the group is. All differences are told at once.
func (l *launcher) agree(spec GroupSpec, d expert.Description) error {
	var bad []error
	differs := func(what string, got, want any) {
		bad = append(bad, fmt.Errorf("%s: it has %v, this host expects %v: %w", what, got, want, sdk.ErrUnsupported))
	}
	o := l.options
	if want := o.Model.Digest(); d.ModelDigest != want {
		differs("model", fmt.Sprintf("%.128q (%s)", d.Model, brief(d.ModelDigest)), fmt.Sprintf("%q (%s)", o.Model.Name, brief(want)))
	}
	if d.Info.Name != spec.Backend {
		differs("backend", fmt.Sprintf("%.64q", d.Info.Name), fmt.Sprintf("%q", spec.Backend))
	}
	if spec.Precision != "" && spec.Precision != "auto" && d.Info.NumericClass != spec.Precision {
		differs("numeric class", fmt.Sprintf("%.64q", d.Info.NumericClass), fmt.Sprintf("%q", spec.Precision))
	}
	shape := o.Experts
	if d.Hidden != shape.Hidden || d.Intermediate != shape.Intermediate || d.Activation != shape.Activation {
		differs("shape", fmt.Sprintf("%d x %d %.32q", d.Hidden, d.Intermediate, d.Activation), fmt.Sprintf("%d x %d %q", shape.Hidden, shape.Intermediate, shape.Activation))
	}
	return errors.Join(append(bad, agreeOnUnits(o.Model, spec.Units, d)...)...)
}

// agreeOnUnits looks for each unit of the group, and for the digest of each shard.
func agreeOnUnits(m *weights.Model, units []expert.Unit, d expert.Description) (bad []error) {
	seen := map[int]bool{}
	missing := 0
	var first expert.Unit
	for _, u := range units {
		if !slices.Contains(d.Units, u) {
			if missing++; missing == 1 {
				first = u
			}
			continue
		}
		if seen[u.Expert] {
			continue
		}
		seen[u.Expert] = true
		if want := m.Manifest.Files[weights.ExpertFile(u.Expert)].SHA256; d.Shards[u.Expert] != want {
			bad = append(bad, fmt.Errorf("shard of expert %d: it has %.12q, this host expects %.12q: %w", u.Expert, d.Shards[u.Expert], want, sdk.ErrUnsupported))
		}
	}
	if missing > 0 {
		bad = append(bad, fmt.Errorf("units: it lacks %d of the group's %d, layer %d expert %d for one: %w", missing, len(units), first.Layer, first.Expert, sdk.ErrUnsupported))
	}
	return bad
}

// away is nil for a group of this host, whose number of replicas is the host's to change.
func (g *group) away(what string) error {
	if g.pool == nil {
		return nil
	}
	return fmt.Errorf("%s %s: it has a replica for each endpoint of %s: start and end processes there: %w", what, g.spec.Name, g.pool.remote.Source, sdk.ErrUnsupported)
}

// awaitStarted waits until a new group may serve.
func (g *group) awaitStarted(ctx context.Context) error {
	if g.pool != nil {
		return g.awaitAny(ctx)
	}
	return awaitAll(ctx, g.serving(), nil)
}

// awaitAny waits until one replica is ready, or all that there are have failed for a reason that waiting does not mend.
func (g *group) awaitAny(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, g.pool.patience)
	defer cancel()
	for {
		changed := g.changed.wait()
		if g.usable() {
			return nil
		}
		known := g.serving()
		var last error
		hopeless := len(known) > 0
		for _, s := range known {
			_, err, never := s.ready()
			hopeless, last = hopeless && never && !errors.Is(err, errParked), err
		}
		if len(known) == 0 {
			last = g.pool.trouble()
		}
		if hopeless {
			return fmt.Errorf("expert group %s: %w", g.spec.Name, last)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("expert group %s: no endpoint of %s is ready: %w", g.spec.Name, g.pool.remote.Source, errors.Join(ctx.Err(), last))
		}
	}
}

// pool deals the endpoints that a group's source names to its replicas. A new endpoint gets a replica without one, which then
// connects and is tested; the replica of an endpoint that the source names no more gets no new calls, finishes those that it
// has, and ends.
type pool struct {
	remote   Remote
	patience time.Duration // for the first replica
	log      *slog.Logger
	again    chan struct{} // a token when a replica has lost its endpoint

	mu    sync.Mutex // guards what follows
	slots []slot
	err   error // of the last look at the source
	left  int   // endpoints that were not used, when that was last said
	seed  maphash.Seed
}

// slot is a replica's endpoint.
type slot struct {
	endpoint discovery.Endpoint // zero = none
	leaving  bool
}

func newPool(r Remote, replicas int, patience time.Duration, log *slog.Logger) *pool {
	if r.Refresh <= 0 {
		r.Refresh = defaultRefresh
	}
	return &pool{remote: r, patience: patience, log: log, again: tokens(), slots: make([]slot, replicas), seed: maphash.MakeSeed()}
}

// ours are the endpoints that this host uses. Of more than it has places for, each host takes others.
func (p *pool) ours(found []discovery.Endpoint) []discovery.Endpoint {
	left := max(len(found)-len(p.slots), 0)
	if left != p.left {
		p.left = left
		p.log.Info("endpoints beyond what a host uses", "found", len(found), "used", len(found)-left)
	}
	if left == 0 {
		return found
	}
	found = slices.Clone(found)
	slices.SortFunc(found, func(a, b discovery.Endpoint) int {
		return cmp.Compare(maphash.Comparable(p.seed, a), maphash.Comparable(p.seed, b))
	})
	return found[:len(p.slots)]
}

// at is a replica's endpoint; the zero one if it has none.
func (p *pool) at(r int) discovery.Endpoint {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.slots[r].endpoint
}

// far reports whether a zone is not this host's.
func (p *pool) far(zone string) bool { return p.remote.Zone != "" && zone != p.remote.Zone }

// trouble is why the source names nobody.
func (p *pool) trouble() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Errorf("%w: %s names nobody: %w", errNoEndpoint, p.remote.Source, cmp.Or(p.err, sdk.ErrUnavailable))
}

// run follows the source until ctx ends.
func (p *pool) run(ctx context.Context, f *fleet, g *group) {
	var leaving sync.WaitGroup
	defer leaving.Wait()
	var found []discovery.Endpoint
	for empty := 0; ctx.Err() == nil; {
		now, err := p.remote.Source.Find(ctx)
		wait := p.remote.Refresh
		if err != nil || len(now) == 0 {
			wait = min(wait, refreshFailed)
		}
		switch empty++; {
		case err == nil && len(now) > 0:
			found, empty = now, 0
		case err != nil && !errors.Is(err, sdk.ErrNotFound):
			empty = 0 // nobody has said that there is nobody
		case empty >= emptyAnswers:
			found = nil
		}
		p.note(g, err)
		p.deal(ctx, f, g, found, &leaving)
		p.rest(ctx, f, g, found, wait, &leaving)
	}
}

// rest waits for the next look at the source. An endpoint that waits for a replica gets one that is set free meanwhile.
func (p *pool) rest(ctx context.Context, f *fleet, g *group, found []discovery.Endpoint, wait time.Duration, leaving *sync.WaitGroup) {
	t := time.NewTimer(wait)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			return
		case <-p.again:
			p.deal(ctx, f, g, found, leaving)
		}
	}
}

// note keeps why the source does not answer, and says it once.
func (p *pool) note(g *group, err error) {
	p.mu.Lock()
	before := p.err
	p.err = err
	p.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		p.log.Warn("endpoints can't be looked up; those that are known stay in use", "err", err)
		g.changed.broadcast()
	case err == nil && before != nil:
		p.log.Info("endpoints can be looked up again")
	}
}

// deal gives the endpoints to replicas.
func (p *pool) deal(ctx context.Context, f *fleet, g *group, found []discovery.Endpoint, leaving *sync.WaitGroup) {
	p.mu.Lock()
	defer p.mu.Unlock()
	found = p.ours(found)
	for r := range p.slots {
		s := &p.slots[r]
		if s.endpoint == (discovery.Endpoint{}) || s.leaving || slices.Contains(found, s.endpoint) {
			continue
		}
		s.leaving = true
		p.log.Info("endpoint has gone", "replica", r, "endpoint", s.endpoint.Address)
		leaving.Go(func() { p.dismiss(ctx, f, g, r) })
	}
	for _, e := range found {
		if slices.ContainsFunc(p.slots, func(s slot) bool { return s.endpoint == e }) {
			continue
		}
		r := slices.Index(p.slots, slot{})
		if r < 0 { // a replica that is leaving makes room soon
			return
		}
		p.slots[r].endpoint = e
		p.log.Info("endpoint found", "replica", r, "endpoint", e.Address)
		f.count.Add(1)
		g.replicas[r].unpark()
	}
}

// dismiss ends a replica whose endpoint has gone, after its calls, and frees its place.
func (p *pool) dismiss(ctx context.Context, f *fleet, g *group, r int) {
	if err := f.shrink(ctx, g, r); err != nil {
		return // the group ends
	}
	g.mu.Lock()
	g.set.Release(r) // a quarantine was the endpoint's
	g.mu.Unlock()
	g.replicas[r].barred.Store(nil)
	p.mu.Lock()
	p.slots[r] = slot{}
	p.mu.Unlock()
	token(p.again)
}

var _ process = (*client.Remote)(nil)
