package engine

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// world is a server with places, in virtual time, that asks fair and admission as the engine does: so many requests run at
// once, each at a speed of its own, and the others wait.
type world struct {
	limits    config.Limits
	fair      *fair
	admission *admission
	queue     []*sequence
	running   ends
	now       time.Time
	looked    time.Time // when something has ended last
	number    uint64
	begun     map[*sequence]time.Time
	took      map[string][]float64 // by tenant: seconds from submit to end
	given     map[flowKey]float64  // tokens of requests that have got a place
	refused   map[string]int
	speed     float64 // tokens a second of a place
}

// ends are running requests by the time of their end.
type ends []ending

type ending struct {
	at time.Time
	s  *sequence
}

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(ending)) }
func (e *ends) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func newWorld(places int, weights map[string]string) *world {
	return &world{
		limits: config.Limits{MaxConcurrentRequests: places, MaxQueuedRequests: 1000, MaxQueueTime: 5 * time.Second, Weights: weights},
		fair:   newFair(), admission: newAdmission(), now: time.Unix(0, 0), looked: time.Unix(0, 0), speed: 100,
		begun: map[*sequence]time.Time{}, took: map[string][]float64{}, given: map[flowKey]float64{}, refused: map[string]int{},
	}
}

// submit brings a request of so many tokens.
func (w *world) submit(key flowKey, tokens float64) bool {
	if err := w.admission.check(key, &w.limits, w.now, time.Time{}); err != nil {
		w.refused[key.tenant]++
		return false
	}
	w.number++
	s := &sequence{number: w.number, request: Request{Tenant: key.tenant, Priority: key.priority}, cost: tokens, submitted: w.now, stream: newStream("", 1, func() {})}
	w.admission.enter(key, &w.limits, tokens)
	s.flow = w.fair.of(key, key.weight(&w.limits))
	w.fair.wait(s.flow, s.cost, w.now)
	w.queue = append(w.queue, s)
	w.place()
	return true
}

// place gives free places away.
func (w *world) place() {
	for len(w.running) < w.limits.MaxConcurrentRequests {
		s := w.fair.choose(w.queue, w.limits.MaxConcurrentRequests)
		if s == nil {
			return
		}
		w.queue = remove(w.queue, s)
		s.placed, s.tag = true, w.fair.start(s.flow, s.cost)
		w.admission.start(s.flow.flowKey, s.cost)
		s.flow.held++
		w.given[s.flow.flowKey] += s.cost
		w.begun[s] = w.now
		heap.Push(&w.running, ending{w.now.Add(time.Duration(s.cost / w.speed * 1e9)), s})
	}
}

// until runs what ends before a time.
func (w *world) until(t time.Time) {
	for len(w.running) > 0 && !w.running[0].at.After(t) {
		e := heap.Pop(&w.running).(ending)
		if len(w.queue) > 0 {
			w.admission.speed.add(e.s.cost, e.at.Sub(w.looked)) // as a step that has ended
		}
		w.now, w.looked = e.at, e.at
		e.s.flow.held--
		w.fair.end(e.s.flow, true, 0, w.now)
		w.admission.leave(e.s.flow.flowKey)
		w.took[e.s.request.Tenant] = append(w.took[e.s.request.Tenant], w.now.Sub(e.s.submitted).Seconds())
		delete(w.begun, e.s)
		w.place()
	}
	w.now = t
}

// load sends Poisson arrivals of each tenant, rates in requests a second, for so long.
func (w *world) load(rng *rand.Rand, rates map[string]float64, d time.Duration) {
	type arrival struct {
		at     time.Time
		tenant string
	}
	var all []arrival
	names := make([]string, 0, len(rates))
	for name := range rates {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for t := w.now; ; {
			t = t.Add(time.Duration(rng.ExpFloat64() / rates[name] * 1e9))
			if t.Sub(w.now) > d {
				break
			}
			all = append(all, arrival{t, name})
		}
	}
	slices.SortFunc(all, func(a, b arrival) int { return a.at.Compare(b.at) })
	for _, a := range all {
		w.until(a.at)
		w.submit(flowKey{tenant: a.tenant}, 20+rng.ExpFloat64()*80)
	}
}

func p99(xs []float64) float64 {
	xs = slices.Sorted(slices.Values(xs))
	return xs[len(xs)*99/100]
}

// One tenant asks for fifty times its share, nine for half of theirs: these wait about as long as without the flood, none of
// their requests is refused, and the flood gets what they leave.
func TestFlood(t *testing.T) {
	const places, each = 16, 16.0 / 10 // requests a second that are a tenant's share: a request takes a second
	rates := map[string]float64{}
	for i := range 9 {
		rates[fmt.Sprint("quiet", i)] = each / 2
	}
	run := func() (*world, []float64) {
		w := newWorld(places, nil)
		w.load(rand.New(rand.NewPCG(5, 6)), rates, 20*time.Minute)
		var took []float64
		for name := range rates {
			if name != "flood" {
				took = append(took, w.took[name]...)
				if w.refused[name] > 0 {
					t.Errorf("%d requests of %s were refused", w.refused[name], name)
				}
			}
		}
		return w, took
	}
	_, alone := run()
	rates["flood"] = 50 * each
	w, flooded := run()
	if a, b := p99(alone), p99(flooded); b > 1.2*a {
		t.Errorf("p99 %.2f s beside a flood, %.2f s alone", b, a)
	}
	if n := len(w.took["flood"]); float64(n) < 0.5*16*20*60 {
		t.Errorf("the flood had %d requests done of what the others left", n)
	}
	if w.refused["flood"] == 0 {
		t.Error("nothing of the flood was refused")
	}
	for _, took := range w.took["flood"] {
		if took > 60 {
			t.Fatalf("a request of the flood that was taken took %.1f s", took)
		}
	}
}

// Ten tenants that all ask for too much have equal shares, or what their weights say, within 5 percent.
func TestShares(t *testing.T) {
	weights := map[string]string{"t0": "2", "t1": "4"}
	w := newWorld(16, weights)
	rates := map[string]float64{}
	for i := range 10 {
		rates[fmt.Sprint("t", i)] = float64(10 + 2*i)
	}
	w.load(rand.New(rand.NewPCG(7, 8)), rates, 30*time.Minute)
	unit := 0.0
	for _, n := range w.given {
		unit += n
	}
	unit /= 14
	for key, n := range w.given {
		if want := unit * key.weight(&w.limits); math.Abs(n/want-1) > 0.05 {
			t.Errorf("%s has %.0f tokens, want about %.0f", key.tenant, n, want)
		}
	}
}

// Whatever comes: what two flows get while both wait differs, by weight, by at most their largest requests; and everybody who
// waits gets a place in the end.
func TestFairProperties(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	for range 200 {
		weights := map[string]string{}
		keys := make([]flowKey, 2+rng.IntN(6))
		for i := range keys {
			keys[i] = flowKey{fmt.Sprint("t", i), Priority(rng.IntN(3) - 1)}
			weights[keys[i].tenant] = fmt.Sprint(1 + rng.IntN(5))
		}
		w := newWorld(1, weights)
		w.limits.MaxQueueTime = 0
		w.limits.MaxQueuedRequests = 1 << 20
		largest := map[flowKey]float64{}
		total := 0
		for _, key := range keys {
			for range 20 + rng.IntN(30) {
				cost := 1 + rng.Float64()*100
				largest[key] = max(largest[key], cost)
				w.submit(key, cost)
				total++
			}
		}
		clear(w.given) // the very first one came when nobody else waited
		for len(w.running) > 0 {
			w.until(w.running[0].at)
			checkShares(t, w, keys, largest)
		}
		done := 0
		for _, took := range w.took {
			done += len(took)
		}
		if done != total || len(w.queue) > 0 || w.fair.active != 0 || w.admission.live != 0 || len(w.admission.lines) != 0 {
			t.Fatalf("%d of %d done; left: %+v %+v", done, total, w.fair, w.admission)
		}
	}
}

func checkShares(t *testing.T, w *world, keys []flowKey, largest map[flowKey]float64) {
	t.Helper()
	for _, a := range keys {
		for _, b := range keys {
			if w.fair.flows[a].waiting == 0 || w.fair.flows[b].waiting == 0 {
				continue
			}
			wa, wb := a.weight(&w.limits), b.weight(&w.limits)
			if d := math.Abs(w.given[a]/wa - w.given[b]/wb); d > 2*(largest[a]/wa+largest[b]/wb) {
				t.Fatalf("%v and %v differ by %.1f", a, b, d)
			}
		}
	}
}

// Admission foretells how long a request waits: who is taken waits about as long as the limit at most, whatever the load.
func TestForetold(t *testing.T) {
	for _, load := range []float64{2, 10, 50} {
		w := newWorld(8, nil)
		w.limits.MaxQueuedRequests = 1 << 20
		w.load(rand.New(rand.NewPCG(11, 12)), map[string]float64{"a": 8 * load}, 10*time.Minute)
		took := w.took["a"]
		if p := p99(took[len(took)/10:]); p > 5*1.5+6 { // its own time, too: p99 of it is 5.7 s
			t.Errorf("load %v: p99 %.1f s", load, p)
		}
		if n := float64(len(took)); n < 0.95*8*600 {
			t.Errorf("load %v: %v requests done, want about %v", load, n, 8*600)
		}
		if w.refused["a"] == 0 {
			t.Errorf("load %v: nobody was refused", load)
		}
	}
}

// A refusal says when to come again: who does, alone, is taken.
func TestComeAgain(t *testing.T) {
	w := newWorld(2, nil)
	key := flowKey{tenant: "a"}
	rng := rand.New(rand.NewPCG(13, 14))
	for range 50 {
		var over *OverloadError
		for over == nil {
			w.until(w.now.Add(100 * time.Millisecond))
			for range 3 {
				if err := w.admission.check(key, &w.limits, w.now, time.Time{}); err != nil {
					if !errors.As(err, &over) || !errors.Is(err, ErrQueueFull) || !errors.Is(err, sdk.ErrOverloaded) || over.After <= 0 {
						t.Fatalf("%v: want an OverloadError with a time", err)
					}
					break
				}
				w.submit(key, 20+rng.Float64()*100)
			}
		}
		w.until(w.now.Add(time.Duration(math.Ceil(over.After.Seconds())+1) * time.Second)) // in whole seconds, and one for what a place holds up
		if err := w.admission.check(key, &w.limits, w.now, time.Time{}); err != nil {
			t.Fatalf("after %s: %v", over.After, err)
		}
	}
	if err := w.admission.check(key, &w.limits, w.now, w.now); w.admission.foretold(key, 1) > 0 && err == nil {
		t.Error("a request whose deadline is now may wait")
	}
}

// A request's wait is that of its flow's requests before it and of as much of others' as is worked off beside them.
func TestForetoldWait(t *testing.T) {
	w := newWorld(1, nil)
	a, flood, quiet, heavy := w.admission, flowKey{tenant: "flood"}, flowKey{tenant: "quiet"}, flowKey{tenant: "heavy"}
	w.limits.Weights = map[string]string{"heavy": "2"}
	wait := func(key flowKey, want float64) {
		t.Helper()
		if got := a.foretold(key, key.weight(&w.limits)).Seconds(); math.Abs(got-want) > 1e-6 {
			t.Errorf("%s: %v s, want %v", key.tenant, got, want)
		}
	}
	a.enter(flood, &w.limits, 1000)
	wait(flood, 0) // nobody knows how fast the host is
	for range 10 {
		a.speed.add(10, 100*time.Millisecond) // 100 a second
	}
	wait(flood, 10)
	wait(quiet, 0)
	a.enter(quiet, &w.limits, 50)
	wait(quiet, 0.5+0.5)
	wait(flood, 10+0.5)
	a.enter(heavy, &w.limits, 60)
	wait(quiet, 0.5+0.5+0.6) // the heavy one may have 100 meanwhile, and needs 60
	wait(heavy, 0.6+0.3+0.3)
	wait(flood, 10+0.5+0.6)
}

// One slow step with a queue behind it, as while another program starts on the same cores, has nobody refused; several have.
func TestOneSlowStep(t *testing.T) {
	w := newWorld(1, nil)
	key := flowKey{tenant: "a"}
	w.limits.MaxQueueTime = 2 * time.Second
	a := w.admission
	for range 150 {
		a.enter(key, &w.limits, 2)
	}
	refused := func() bool { return a.check(key, &w.limits, w.now, time.Time{}) != nil }
	const stall = 600 * time.Millisecond
	a.speed.add(64, stall)
	if refused() {
		t.Error("refused by a single step")
	}
	for range 4 {
		a.speed.add(64, 10*time.Millisecond)
	}
	if a.speed.add(64, stall); refused() {
		t.Error("refused by a second slow step among quick ones")
	}
	for range 4 {
		a.speed.add(64, stall)
	}
	if !refused() {
		t.Errorf("taken by a host that works off %.0f tokens a second, with %.0f before it", a.speed.rate(), a.lines[key].queued)
	}
}

// A full queue takes those whose tenant has less than its share of it, and never more than twice as many in all.
func TestFullQueue(t *testing.T) {
	w := newWorld(1, nil)
	w.limits.MaxQueuedRequests, w.limits.MaxQueueTime = 99, 0
	flood := flowKey{tenant: "flood"}
	for w.submit(flood, 1) {
	}
	if w.admission.live != 100 {
		t.Errorf("%d of one tenant", w.admission.live)
	}
	for i := range 1000 {
		w.submit(flowKey{tenant: fmt.Sprint(i % 20)}, 1)
	}
	if n := w.admission.live; n > 200 || n < 150 {
		t.Errorf("%d in all", n)
	}
	for i := range 20 {
		if l := w.admission.lines[flowKey{tenant: fmt.Sprint(i)}]; l == nil || l.live > 50 {
			t.Errorf("tenant %d has %+v", i, l)
		}
	}
}

// Tenants that come while another one holds all places and fills the queue are served at once: places are taken back for them,
// and all answers are what they would have been.
func TestTenantsBesideFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(512, 4)
		set := testSetup(f)
		set.limits.MaxConcurrentRequests = 8
		release := make(chan struct{})
		f.before = func(context.Context, []model.Span) error {
			<-release
			time.Sleep(time.Millisecond) // whoever has had an answer reads it before the next step
			return nil
		}
		e := start(set)
		defer stopTest(t, e, f)
		type ended struct {
			tenant string
			a      answer
			p      []int32
		}
		const flood = 60
		const quiet = 2 * 3 // of two tenants: eight places are no whole number for each of three
		ends := make(chan ended, flood+quiet)
		submit := func(tenant, seed string) {
			p := prompt(seed, 20)
			r := plain(seed, p, 40)
			r.Tenant = tenant
			s, err := e.Submit(t.Context(), r)
			if err != nil {
				t.Error(err)
				return
			}
			go func() { defer s.Close(); ends <- ended{tenant, read(t.Context(), s), p} }()
		}
		for i := range flood {
			submit("flood", fmt.Sprint("flood", i))
		}
		for i := range quiet {
			submit(fmt.Sprint("quiet", i%2), fmt.Sprint("quiet", i))
		}
		close(release)
		before := 0
		for i := range flood + quiet {
			got := <-ends
			wantAnswer(t, got.a, got.p, 40)
			if got.tenant != "flood" {
				before = i
			}
		}
		if before > 16 {
			t.Errorf("%d requests had ended before the last one of the quiet tenants", before)
		}
	})
}

// Hidden states of tenants that come behind those of another one do not wait for all of that one's, and have room where that one has
// used up its own.
func TestJobsBesideFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(64, 4)
		set := testSetup(f)
		set.limits.MaxConcurrentRequests, set.limits.MaxQueuedRequests = 8, 32
		release, entered := make(chan struct{}), make(chan struct{}, 1)
		f.before = func(context.Context, []model.Span) error {
			select {
			case entered <- struct{}{}:
			default:
			}
			<-release
			time.Sleep(time.Millisecond) // whoever has had an answer says so before the next step
			return nil
		}
		e := start(set)
		defer stopTest(t, e, f)
		const each = 16 // rows: two calls fill a step
		order := make(chan string, 100)
		var calls sync.WaitGroup
		defer calls.Wait()
		submit := func(tenant string) {
			x := tensor.NewMatrix(each, 2)
			calls.Go(func() {
				if _, _, _, err := e.Hidden(For(t.Context(), tenant, Normal), -1, x, false, moe.AcceptExact); err != nil {
					t.Errorf("%s: %v", tenant, err)
				}
				order <- tenant
			})
			synctest.Wait() // it has its place
		}
		for range 40 {
			submit("flood")
		}
		<-entered
		if _, _, _, err := e.Hidden(For(t.Context(), "flood", Normal), -1, tensor.NewMatrix(1, 2), false, moe.AcceptExact); !errors.Is(err, ErrQueueFull) {
			t.Errorf("one more of the flood: %v", err)
		}
		for i := range 4 {
			submit(fmt.Sprint("quiet", i%2))
		}
		close(release)
		last := 0
		for i := range 44 {
			if tenant := <-order; tenant != "flood" {
				last = i
			}
		}
		if last > 12 {
			t.Errorf("%d calls had ended before the last one of the quiet tenants", last)
		}
	})
}

// Trim forgets what nobody uses, also while requests run, and their answers stay as they are.
func TestTrim(t *testing.T) {
	f := newFake(64, 4)
	e := launchTest(t, f, testSetup(f))
	p := prompt("kept", 40)
	wantAnswer(t, ask(t, e, plain("", p, 8)), p, 8)
	if s := e.Stats(); s.CachedPages == 0 {
		t.Fatalf("nothing is kept: %+v", s)
	}
	e.Trim()
	for end := time.Now().Add(20 * time.Second); e.Stats().CachedPages > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after 20 s: %+v", e.Stats())
		}
	}
	if s := e.Stats(); s.FreePages != s.Pages {
		t.Errorf("%+v", s)
	}
	stop := make(chan struct{})
	trimmed := make(chan struct{})
	go func() {
		defer close(trimmed)
		for {
			select {
			case <-stop:
				return
			default:
				e.Trim()
				time.Sleep(100 * time.Microsecond)
			}
		}
	}()
	for range 20 {
		a := ask(t, e, plain("", p, 30))
		wantAnswer(t, a, p, 30)
	}
	close(stop)
	<-trimmed
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.released == 0 {
		t.Error("no memory was given back")
	}
}
