package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wantAnswer compares an answer with the sequential one.
func wantAnswer(t testing.TB, a answer, p []int32, n int) {
	t.Helper()
	ids := oracle(p, n)
	if a.err != nil || !slices.Equal(a.ids, ids) || a.text != spell(ids) || a.finish != FinishLength {
		t.Errorf("got %v %q %s %v\nwant %v %q", a.ids, a.text, a.finish, a.err, ids, spell(ids))
	}
}

func TestContinuation(t *testing.T) {
	f := newFake(64, 4)
	e := launchTest(t, f, testSetup(f))
	p := prompt("fox", 50)
	ids := oracle(p, 40)
	all := spell(ids)
	tests := []struct {
		name   string
		change func(*Request)
		ids    []int32
		text   string
		finish FinishReason
	}{
		{"to its length", func(*Request) {}, ids, all, FinishLength},
		{"one token", func(r *Request) { r.MaxTokens = 1 }, ids[:1], spell(ids[:1]), FinishLength},
		{"prompt only", func(r *Request) { r.MaxTokens = PromptOnly }, nil, "", FinishLength},
		{"stop string", func(r *Request) { r.Stop = []string{all[9:14], "zzz"} }, ids[:tokensFor(ids, 14)], all[:9], FinishStop},
		{"forced beginning", func(r *Request) { r.Forced = []int32{1, 2, 3}; r.MaxTokens = 10 }, append([]int32{1, 2, 3}, oracle(append(slices.Clone(p), 1, 2, 3), 7)...), "", FinishLength},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := plain(test.name, p, 40)
			test.change(&r)
			a := ask(t, e, r)
			if test.text == "" {
				test.text = spell(test.ids)
			}
			if a.err != nil || !slices.Equal(a.ids, test.ids) || a.text != test.text || a.finish != test.finish {
				t.Errorf("got %v %q %s %v\nwant %v %q %s", a.ids, a.text, a.finish, a.err, test.ids, test.text, test.finish)
			}
			if a.usage.PromptTokens != len(p) || a.usage.CompletionTokens != len(test.ids) {
				t.Errorf("usage %+v, want %d and %d tokens", a.usage, len(p), len(test.ids))
			}
		})
	}
}

// tokensFor is how many tokens it takes until n bytes of text are complete.
func tokensFor(ids []int32, n int) int {
	d, text := &syllables{}, ""
	for i, id := range ids {
		if text += d.Push(id); len(text) >= n {
			return i + 1
		}
	}
	return len(ids)
}

func TestEndOfText(t *testing.T) {
	f := newFake(64, 4)
	s := testSetup(f)
	p := prompt("end", 9)
	ids := oracle(p, 30)
	s.eos = []int32{ids[12]}
	first := slices.Index(ids, ids[12])
	e := launchTest(t, f, s)
	r := plain("stops", p, 30)
	r.IgnoreEOS = false
	a := ask(t, e, r)
	if !slices.Equal(a.ids, ids[:first]) || a.finish != FinishStop || a.text != spell(ids[:first]) || a.usage.CompletionTokens != first {
		t.Errorf("got %v %q %s %+v, want %v %q", a.ids, a.text, a.finish, a.usage, ids[:first], spell(ids[:first]))
	}
	if last := a.tokens[len(a.tokens)-1]; last.HasToken || last.ID != ids[12] {
		t.Errorf("last event %+v, want the end-of-text id without a token", last)
	}
	wantAnswer(t, ask(t, e, plain("goes on", p, 30)), p, 30)
}

func TestRefused(t *testing.T) {
	f := newFake(16, 4) // 64 tokens
	s := testSetup(f)
	s.context = 100
	e := launchTest(t, f, s)
	for _, test := range []struct {
		name string
		r    Request
		says string
	}{
		{"empty prompt", plain("", nil, 5), "empty"},
		{"longer than the context", plain("", prompt("", 101), 5), "101 tokens, the context limit is 100"},
		{"larger than the cache", plain("", prompt("", 60), 20), "need 79 tokens of the key and value cache, which holds 64"},
		{"prompt larger than the cache", plain("", prompt("", 70), 0), "need 70 tokens"},
		{"negative id", plain("", []int32{3, -1}, 5), "token id -1 at 1"},
		{"id outside the vocabulary", plain("", []int32{fakeVocab}, 5), fmt.Sprintf("outside 0..%d", fakeVocab-1)},
		{"forced id outside", Request{Prompt: []int32{1}, Forced: []int32{99}, Logprobs: -1}, "token id 99"},
		{"empty stop string", Request{Prompt: []int32{1}, Stop: []string{"a", ""}, Logprobs: -1}, "stop string is empty"},
		{"negative length", plain("", []int32{1}, -2), "max tokens -2"},
	} {
		_, err := e.Submit(t.Context(), test.r)
		if !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want sdk.ErrInvalid saying %q", test.name, err, test.says)
		}
	}
	late := plain("", []int32{1}, 1)
	late.Deadline = time.Now().Add(-time.Second)
	if _, err := e.Submit(t.Context(), late); !errors.Is(err, sdk.ErrDeadline) {
		t.Errorf("past deadline: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Submit(gone, plain("", []int32{1}, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("done context: %v", err)
	}
}

// At the limits everything still fits: the context limit and the cache cut MaxTokens 0, the last token needs no page.
func TestLimits(t *testing.T) {
	f := newFake(16, 4)
	s := testSetup(f)
	s.context = 40
	e := launchTest(t, f, s)
	for _, n := range []int{1, 39, 40} {
		p := prompt("limit", n)
		a := ask(t, e, plain("context", p, 0))
		wantAnswer(t, a, p, 40-n)
	}
	p := prompt("limit", 30)
	wantAnswer(t, ask(t, e, plain("cut", p, 1000)), p, 10)

	s = testSetup(f)
	s.context = 1000
	small := launchTest(t, f, s)
	p = prompt("pool", 60)
	wantAnswer(t, ask(t, small, plain("pool", p, 0)), p, 5)
	wantAnswer(t, ask(t, small, plain("pool", p, 5)), p, 5)
}

// An observer sees every position once and in order, with the logits that decide the next token, also when the request
// was preempted on the way.
func TestObserver(t *testing.T) {
	f := newFake(20, 4)
	g := hold(f)
	e := launchTest(t, f, testSetup(f))
	p := prompt("seen", 30)
	ids := append(slices.Clone(p), oracle(p, 12)...)
	observe := func() (*Observer, *[]int, *[]int) {
		var positions, routes []int
		return &Observer{
			Logits: func(at int, logits []float32) {
				positions = append(positions, at)
				if want := fakeRow(ids[:at+1]); !slices.Equal(logits, want) {
					t.Errorf("logits of position %d differ", at)
				}
			},
			Route: func(_, at int, _ []int32, _ []float32) { routes = append(routes, at) },
		}, &positions, &routes
	}
	var want []int
	for i := range len(ids) - 1 {
		want = append(want, i)
	}
	wg := sync.WaitGroup{}
	for i := range 6 {
		r := plain(fmt.Sprint(i), p, 12)
		var positions, routes *[]int
		r.Observe, positions, routes = observe()
		s, err := e.Submit(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			a := read(t.Context(), s)
			wantAnswer(t, a, p, 12)
			if !slices.Equal(*positions, want) || !slices.Equal(*routes, want) {
				t.Errorf("positions %v\nroutes %v\nwant %v", *positions, *routes, want)
			}
			if a.usage.CachedTokens != 0 {
				t.Errorf("an observed request reused %d tokens", a.usage.CachedTokens)
			}
		})
	}
	g.open()
	wg.Wait()
	if e.Stats().Preemptions == 0 {
		t.Error("nobody was preempted: the pool is too large for this test")
	}
}

// fakeRow is the logits after ids.
func fakeRow(ids []int32) []float32 {
	state := uint64(0)
	for p, id := range ids {
		state = fold(state, cell{id, int32(p)})
	}
	row := make([]float32, fakeVocab)
	fakeLogits(state, row)
	return row
}

// An engine without prefix reuse computes every prompt, whatever the requests allow.
func TestNoPrefixReuse(t *testing.T) {
	f := newFake(64, 4)
	s := testSetup(f)
	s.reuse = false
	e := launchTest(t, f, s)
	p := prompt("shared", 41)
	for range 2 {
		a := ask(t, e, plain("", p, 20))
		wantAnswer(t, a, p, 20)
		if a.usage.CachedTokens != 0 {
			t.Errorf("%d tokens reused", a.usage.CachedTokens)
		}
	}
}

func TestPrefixReuse(t *testing.T) {
	f := newFake(64, 4)
	e := launchTest(t, f, testSetup(f))
	p := prompt("shared", 41)
	request := func(tenant string, p []int32, n int) Request {
		r := plain("", p, n)
		r.Tenant = tenant
		return r
	}
	first := ask(t, e, request("a", p, 20))
	wantAnswer(t, first, p, 20)
	turn := append(append(slices.Clone(p), first.ids...), 5, 6, 7) // the next turn of a conversation
	for _, test := range []struct {
		name   string
		r      Request
		cached int
	}{
		{"the same prompt: all whole pages before its last token", request("a", p, 20), 40},
		{"a prompt of whole pages computes its last one", request("a", p[:40], 20), 36},
		{"another tenant", request("b", p, 20), 0},
		{"no reuse", func() Request { r := request("a", p, 20); r.NoReuse = true; return r }(), 0},
		{"the next turn reuses what was generated", request("a", turn, 20), 60},
		{"another middle", request("a", append(slices.Clone(p[:20]), prompt("other", 21)...), 20), 20},
	} {
		a := ask(t, e, test.r)
		wantAnswer(t, a, test.r.Prompt, 20)
		if a.usage.CachedTokens != test.cached {
			t.Errorf("%s: %d tokens reused, want %d", test.name, a.usage.CachedTokens, test.cached)
		}
	}
}

// n requests with one prompt that come at once compute it once.
func TestRepeatsAtOnce(t *testing.T) {
	f := newFake(128, 4)
	e := launchTest(t, f, testSetup(f))
	p := prompt("n", 100)
	var streams []Stream
	for range 6 {
		s, err := e.Submit(t.Context(), plain("", p, 3))
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	for _, s := range streams {
		wantAnswer(t, read(t.Context(), s), p, 3)
	}
	if rows := f.rows.Load(); rows > 100+5*4+6*2 {
		t.Errorf("%d rows were computed for one prompt of 100 tokens and five repeats of its last page", rows)
	}
}

// A long prompt leaves streams going: while it is read, every step also decodes.
func TestLongPromptDoesNotStall(t *testing.T) {
	f := newFake(128, 4)
	s := testSetup(f)
	s.chunk = 10
	g := hold(f)
	e := launchTest(t, f, s)
	stream, err := e.Submit(t.Context(), plain("stream", prompt("s", 4), 60))
	if err != nil {
		t.Fatal(err)
	}
	<-g.entered
	long := prompt("long", 200)
	other, err := e.Submit(t.Context(), plain("long", long, 1))
	if err != nil {
		t.Fatal(err)
	}
	g.open()
	wantAnswer(t, read(t.Context(), other), long, 1)
	read(t.Context(), stream)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, sizes := range f.steps {
		if n := slices.Max(sizes); n > 10 && len(sizes) > 1 || n > 4 && len(sizes) == 1 {
			t.Errorf("step %v: a chunk that stalls the stream", sizes)
		}
	}
}

// gate lets a test hold the model inside a step.
type gate struct {
	entered chan struct{}
	leave   chan error
}

// hold makes f's next steps wait at the gate, or for their context.
func hold(f *fake) *gate {
	g := &gate{make(chan struct{}, 100), make(chan error)}
	f.before = func(ctx context.Context, _ []model.Span) error {
		select {
		case g.entered <- struct{}{}:
		default: // the test has stopped counting
		}
		select {
		case err := <-g.leave:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return g
}

func TestQueueFull(t *testing.T) {
	f := newFake(64, 4)
	g := hold(f)
	s := testSetup(f)
	s.limits.MaxConcurrentRequests, s.limits.MaxQueuedRequests = 2, 3
	e := launchTest(t, f, s)
	var streams []Stream
	for i := range 5 {
		st, err := e.Submit(t.Context(), plain(fmt.Sprint(i), prompt(fmt.Sprint(i), 6), 2))
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, st)
	}
	_, err := e.Submit(t.Context(), plain("sixth", prompt("x", 6), 2))
	if !errors.Is(err, ErrQueueFull) || !errors.Is(err, sdk.ErrOverloaded) {
		t.Fatalf("a sixth request: %v, want ErrQueueFull", err)
	}
	<-g.entered
	streams[4].Close() // queued: its place is free at once, although a step hangs
	waitFor(t, func() bool { s := e.Stats(); return s.Running+s.Queued == 4 })
	st, err := e.Submit(t.Context(), plain("sixth", prompt("x", 6), 2))
	if err != nil {
		t.Fatalf("after a place was freed: %v", err)
	}
	g.open()
	streams[4] = st
	for i, s := range streams {
		p := prompt(fmt.Sprint(i), 6)
		if i == 4 {
			p = prompt("x", 6)
		}
		wantAnswer(t, read(t.Context(), s), p, 2)
	}
}

// open lets all further steps through.
func (g *gate) open() { close(g.leave) }

// waitFor polls a condition that another goroutine brings about.
func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the condition did not come true in 10 s")
		}
	}
}

func TestDrainAndClose(t *testing.T) {
	f := newFake(64, 4)
	g := hold(f)
	e := launchTest(t, f, testSetup(f))
	p := prompt("drain", 6)
	st, err := e.Submit(t.Context(), plain("", p, 5))
	if err != nil {
		t.Fatal(err)
	}
	<-g.entered
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := e.Drain(short); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 requests left") {
		t.Errorf("drain with a hanging step: %v", err)
	}
	if _, err := e.Submit(t.Context(), plain("", p, 5)); !errors.Is(err, sdk.ErrUnavailable) {
		t.Errorf("submit while draining: %v", err)
	}
	g.open()
	if err := e.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	wantAnswer(t, read(t.Context(), st), p, 5)
}

func TestCloseEndsAll(t *testing.T) {
	f := newFake(64, 4)
	g := hold(f)
	s := testSetup(f)
	s.limits.MaxConcurrentRequests = 1
	e := launchTest(t, f, s)
	var streams []Stream
	for range 2 { // one in a step, one queued
		st, err := e.Submit(t.Context(), plain("", prompt("", 6), 5))
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, st)
	}
	hidden := make(chan error)
	go func() {
		_, _, _, err := e.Hidden(t.Context(), -1, tensor.NewMatrix(1, 2), false, moe.AcceptExact)
		hidden <- err
	}()
	<-g.entered
	waitFor(t, func() bool { return e.Stats().Queued == 2 })
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for _, st := range streams {
		if a := read(t.Context(), st); !errors.Is(a.err, sdk.ErrUnavailable) {
			t.Errorf("stream after Close: %v", a.err)
		}
	}
	if err := <-hidden; !errors.Is(err, sdk.ErrUnavailable) {
		t.Errorf("hidden after Close: %v", err)
	}
	if _, err := e.Submit(t.Context(), plain("", prompt("", 6), 5)); !errors.Is(err, sdk.ErrUnavailable) {
		t.Errorf("submit after Close: %v", err)
	}
}

// A failed step ends the requests in it and nobody else.
func TestStepFails(t *testing.T) {
	f := newFake(64, 4)
	g := hold(f)
	s := testSetup(f)
	s.limits.MaxBatchSize = 2
	e := launchTest(t, f, s)
	var streams []Stream
	for i := range 3 {
		st, err := e.Submit(t.Context(), plain(fmt.Sprint(i), prompt(fmt.Sprint(i), 6), 4))
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, st)
		if i == 0 {
			<-g.entered // alone in its step, which is about to fail; then 1 and 2 share steps
		}
	}
	g.leave <- fmt.Errorf("expert group e3: killed by signal 9: %w", sdk.ErrUnavailable)
	g.open()
	if a := read(t.Context(), streams[0]); !errors.Is(a.err, sdk.ErrUnavailable) || !strings.Contains(a.err.Error(), "e3") {
		t.Errorf("the request in the step: %v", a.err)
	}
	for i := 1; i < 3; i++ {
		wantAnswer(t, read(t.Context(), streams[i]), prompt(fmt.Sprint(i), 6), 4)
	}
	if got := e.Stats().FreePages; got != 64 {
		t.Errorf("%d pages free, want 64", got)
	}
}

// Values that are no logits end the request, whatever made them.
func TestNaN(t *testing.T) {
	s := newSequence(plain("", []int32{1, 2}, 1), 1, time.Now())
	row := make([]float32, fakeVocab)
	if d := s.draw(2, row); d.err != nil {
		t.Fatal(d.err)
	}
	row[7] = float32(math.NaN())
	if d := s.draw(2, row); !errors.Is(d.err, sdk.ErrInvalidOutput) {
		t.Errorf("NaN: %v", d.err)
	}
}

// A cancelled request leaves a step that others share without disturbing it; a step that nobody waits for is cancelled.
func TestCancelInStep(t *testing.T) {
	f := newFake(64, 4)
	g := hold(f)
	e := launchTest(t, f, testSetup(f))
	ctx, cancel := context.WithCancel(t.Context())
	first, err := e.Submit(t.Context(), plain("first", prompt("f", 6), 4))
	if err != nil {
		t.Fatal(err)
	}
	<-g.entered
	a, err := e.Submit(ctx, plain("a", prompt("a", 6), 4))
	if err != nil {
		t.Fatal(err)
	}
	b, err := e.Submit(t.Context(), plain("b", prompt("b", 6), 4))
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	first.Close() // cancels the step: the gate was never opened
	<-g.entered   // a and b
	cancel()
	if r := read(t.Context(), a); !errors.Is(r.err, context.Canceled) {
		t.Errorf("cancelled: %v", r.err)
	}
	waitFor(t, func() bool { return e.Stats().Running == 2 }) // the place is kept until the step is over
	g.open()
	wantAnswer(t, read(t.Context(), b), prompt("b", 6), 4)
	if r := read(t.Context(), first); !errors.Is(r.err, context.Canceled) {
		t.Errorf("closed: %v", r.err)
	}
}

// A reader that does not read holds up only itself: the others finish although they need its place and its pages, and
// its own text is complete when it comes back.
func TestSlowReader(t *testing.T) {
	f := newFake(24, 4)
	s := testSetup(f)
	s.buffer = 4
	s.limits.MaxConcurrentRequests = 2
	e := launchTest(t, f, s)
	var slow []Stream
	for i := range 2 {
		st, err := e.Submit(t.Context(), plain("slow", prompt(fmt.Sprint("slow", i), 40), 30))
		if err != nil {
			t.Fatal(err)
		}
		slow = append(slow, st)
	}
	for i := range 5 {
		p := prompt(fmt.Sprint("quick", i), 40)
		wantAnswer(t, ask(t, e, plain("quick", p, 30)), p, 30)
	}
	if e.Stats().Preemptions == 0 {
		t.Error("no parked request gave up its place")
	}
	for i, st := range slow {
		p := prompt(fmt.Sprint("slow", i), 40)
		wantAnswer(t, read(t.Context(), st), p, 30)
	}
}

// Requests that together need far more pages than there are take turns and lose nothing, whatever fits into a step.
func TestPreemption(t *testing.T) {
	for _, size := range []int{1, 2, 8} {
		f := newFake(16, 4)
		g := hold(f)
		s := testSetup(f)
		s.limits.MaxBatchSize = size
		e := launchTest(t, f, s)
		var streams []Stream
		for i := range 12 {
			st, err := e.Submit(t.Context(), plain(fmt.Sprint(i), prompt(fmt.Sprint(i), 5), 50))
			if err != nil {
				t.Fatal(err)
			}
			streams = append(streams, st)
		}
		g.open()
		for i, st := range streams {
			a := read(t.Context(), st)
			wantAnswer(t, a, prompt(fmt.Sprint(i), 5), 50)
			if a.usage.CachedTokens != 0 {
				t.Errorf("%d tokens count as reused: taking back its own pages is no gift", a.usage.CachedTokens)
			}
		}
		if s := e.Stats(); s.Preemptions == 0 || s.CompletionTokens != 600 {
			t.Errorf("%d sequences a step: %+v, want preemptions and 600 tokens", size, s)
		}
	}
}

// A preempted sequence takes its own pages back, if nobody got them.
func TestPreemptedTakesBack(t *testing.T) {
	l := newLoop(looped(testSetup(newFake(8, 4))), newInbox())
	s := newSequence(plain("", prompt("", 14), 5), 5, time.Now())
	l.running, s.running = []*sequence{s}, true
	s.flow = l.fair.of(flowKey{}, 1)
	for range 2 {
		l.secure(s, 14)
		s.computed = 13
		l.index(s)
		l.preempt(s)
		if l.take(s); s.computed != 12 || l.pool.available() != 5 {
			t.Errorf("%d tokens taken back, %d pages available, want 12 and 5", s.computed, l.pool.available())
		}
	}
}

// A prompt is only admitted when its pages and those promised to others can be had: nobody is preempted for it.
func TestAdmission(t *testing.T) {
	f := newFake(16, 4)
	g := hold(f)
	e := launchTest(t, f, testSetup(f))
	var streams []Stream
	for i := range 4 {
		st, err := e.Submit(t.Context(), plain("", prompt(fmt.Sprint(i), 40), 1))
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, st)
	}
	g.open()
	for i, st := range streams {
		wantAnswer(t, read(t.Context(), st), prompt(fmt.Sprint(i), 40), 1)
	}
	if n := e.Stats().Preemptions; n != 0 {
		t.Errorf("%d preemptions, want none", n)
	}
}

// A reader that goes before it has read everything does not see a regular end.
func TestCancelUnread(t *testing.T) {
	s := newStream("request", 4, func() {})
	s.push(Token{Finish: FinishLength}, Usage{})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Next(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("unread end: %v, want context.Canceled", err)
	}
}

// Tokens that are given count as the continuation's for the sampler's penalties.
func TestForcedCounts(t *testing.T) {
	r := plain("", []int32{1, 2}, 3)
	r.Forced, r.Sampling.FrequencyPenalty = []int32{5}, 1000
	s := newSequence(r, 3, time.Now())
	row := make([]float32, fakeVocab)
	row[5] = 100
	if d := s.draw(2, row); d.id != 5 {
		t.Fatalf("drew %d, want the forced 5", d.id)
	}
	if d := s.draw(3, row); d.id == 5 {
		t.Error("drew 5 again in spite of its penalty")
	}
}

// A request that is cancelled between Submit's check and its arrival at the loop leaves at once.
func TestCancelledBeforeArrival(t *testing.T) {
	f := newFake(4, 4)
	box := newInbox()
	l := newLoop(looped(testSetup(f)), box)
	s := newSequence(plain("", []int32{1}, 1), 1, time.Now())
	s.unwatch = func() bool { return true }
	s.stream = newStream("request", 4, func() { box.touch(s) })
	s.stream.Close()
	l.receive(box.take()) // the word of the cancellation comes first
	if err := box.submit(s, &config.Limits{MaxConcurrentRequests: 1}, time.Now()); err != nil {
		t.Fatal(err)
	}
	l.receive(box.take())
	if len(l.queue) != 0 || box.waiting.live != 0 {
		t.Errorf("%d queued, %d live", len(l.queue), box.waiting.live)
	}
}

func TestLogprobs(t *testing.T) {
	f := newFake(64, 4)
	e := launchTest(t, f, testSetup(f))
	r := plain("", prompt("p", 7), 4)
	r.Logprobs = 3
	ids := slices.Clone(r.Prompt)
	for _, tok := range ask(t, e, r).tokens {
		row := fakeRow(ids)
		want := sampler.TopLogprobs(row, 3)
		if len(tok.Top) != 3 || tok.Logprob != sampler.Logprob(row, tok.ID) {
			t.Fatalf("%+v: want the log-probability %v and three alternatives", tok, sampler.Logprob(row, tok.ID))
		}
		for i, top := range tok.Top {
			if top != TopLogprob(want[i]) {
				t.Errorf("alternative %d: %+v, want %+v", i, top, want[i])
			}
		}
		ids = append(ids, tok.ID)
	}
	r.Logprobs = -1
	if tok := ask(t, e, r).tokens[0]; tok.Logprob != 0 || tok.Top != nil {
		t.Errorf("%+v has log-probabilities that nobody asked for", tok)
	}
}

// The series say what happened.
func TestMetrics(t *testing.T) {
	f := newFake(64, 4)
	s := testSetup(f)
	p := prompt("metrics", 9)
	s.eos = oracle(p, 1)
	e := launchTest(t, f, s)
	ask(t, e, plain("", p, 5))
	again := plain("", p, 5)
	again.IgnoreEOS = false
	ask(t, e, again) // reuses two pages and stops before its first token
	var b strings.Builder
	s.metrics.Write(&b)
	for _, want := range []string{
		"pimoe_prompt_tokens_total 18", "pimoe_cached_tokens_total 8", "pimoe_completion_tokens_total 5",
		"pimoe_engine_steps_total 6", "pimoe_engine_preemptions_total 0",
		`pimoe_engine_finished_total{reason="length"} 1`, `pimoe_engine_finished_total{reason="stop"} 1`,
		"pimoe_engine_running 0", "pimoe_engine_queued 0", `pimoe_engine_pages{state="used"} 0`,
		"pimoe_time_to_first_token_seconds_count 2", "pimoe_inter_token_seconds_count 4", "pimoe_queue_seconds_count 2",
		"pimoe_engine_step_seconds_count 6", "pimoe_engine_batch_sequences_count 6", "pimoe_engine_batch_tokens_sum 14",
	} {
		if !strings.Contains(b.String(), want+"\n") {
			t.Errorf("%q is missing", want)
		}
	}
}

func TestHidden(t *testing.T) {
	f := newFake(8, 4)
	e := launchTest(t, f, testSetup(f))
	x := tensor.MatrixOf(2, 2, []float32{1, 2, 3, 4})
	for _, test := range []struct {
		layer int
		all   bool
		want  []float32
		route int
	}{
		{-1, false, []float32{11, 21, 31, 41}, 2},
		{3, false, []float32{13, 23, 33, 43}, 2},
		{-1, true, []float32{113, 213, 313, 413}, 4},
	} {
		y, routes, _, err := e.Hidden(t.Context(), test.layer, x, test.all, moe.AcceptExact)
		if err != nil || !slices.Equal(y.Data, test.want) || len(routes) != test.route {
			t.Errorf("layer %d: %v, %d routes, %v", test.layer, y.Data, len(routes), err)
		}
	}
	if _, _, _, err := e.Hidden(t.Context(), 2, x, false, moe.AcceptExact); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("a layer without experts: %v", err)
	}
	if x.Data[0] != 1 {
		t.Error("the caller's hidden states were changed")
	}
}

// holds reports whether n requests live and the loop knows of all.
func (b *inbox) holds(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiting.live == n && len(b.jobs) == 0
}

// Hidden states that wait while a call is under way share the next one, and each caller gets the rows that it would have had
// alone. Where the shared call fails, each has one of its own. A caller that has gone is in nobody's way.
func TestHiddenSharesCalls(t *testing.T) {
	for _, fails := range []bool{false, true} {
		f := newFake(8, 4)
		entered, release := make(chan struct{}, 16), make(chan struct{})
		var calls atomic.Int64
		f.before = func(ctx context.Context, _ []model.Span) error {
			n := calls.Add(1)
			if n == 1 {
				entered <- struct{}{}
				<-release
			}
			if fails && n == 2 {
				return fmt.Errorf("a row too many: %w", sdk.ErrUnavailable)
			}
			return nil
		}
		e := launchTest(t, f, testSetup(f))
		var callers sync.WaitGroup
		ask := func(i int) {
			x := tensor.MatrixOf(1+i%2, 1, []float32{float32(i), float32(i + 100)}[:1+i%2])
			y, routes, _, err := e.Hidden(t.Context(), 3, x, false, moe.AcceptExact)
			if err != nil || y.Rows != x.Rows || len(routes) != x.Rows {
				t.Errorf("caller %d: %v, %d routes, %v", i, y, len(routes), err)
				return
			}
			for r := range y.Rows {
				if y.Row(r)[0] != x.Row(r)[0]*10+3 || routes[r].Row != r {
					t.Errorf("caller %d, row %d: %v, route %v", i, r, y.Row(r), routes[r])
				}
			}
		}
		callers.Go(func() { ask(0) })
		<-entered
		for i := range 4 {
			callers.Go(func() { ask(1 + i) })
		}
		gone, leave := context.WithCancel(t.Context())
		callers.Go(func() {
			if _, _, _, err := e.Hidden(gone, 3, tensor.NewMatrix(1, 1), false, moe.AcceptExact); err == nil {
				t.Error("a caller that has gone has an answer")
			}
		})
		for !e.box.holds(6) {
			time.Sleep(time.Millisecond)
		}
		leave()
		close(release)
		callers.Wait()
		if got, want := calls.Load(), map[bool]int64{false: 2, true: 6}[fails]; got != want {
			t.Errorf("fails %v: %d calls, want %d", fails, got, want)
		}
	}
}

// Everything at once: random requests on a pool far too small, with cancellations, deadlines and slow readers. Whoever
// finishes has the text that the request has alone; whoever does not has a beginning of it.
func TestRandomLoad(t *testing.T) {
	const n = 200
	f := newFake(40, 4)
	s := testSetup(f)
	s.buffer = 6
	e := launchTest(t, f, s)
	var wg sync.WaitGroup
	var mu sync.Mutex
	whole := 0
	for i := range n {
		r := rand.New(rand.NewPCG(uint64(i), 9))
		wg.Go(func() {
			if randomRequest(t, e, r, i) {
				mu.Lock()
				whole++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	st := e.Stats()
	t.Logf("%d of %d complete; %+v", whole, n, st)
	if whole < n/2 || st.Preemptions == 0 || st.CachedTokens == 0 {
		t.Errorf("%d of %d complete, %d preemptions, %d tokens reused: this load tests little", whole, n, st.Preemptions, st.CachedTokens)
	}
	waitFor(t, func() bool { s := e.Stats(); return s.FreePages == s.Pages && s.Running+s.Queued == 0 })
}

// randomRequest runs one request of TestRandomLoad and reports whether it ran to its end.
func randomRequest(t *testing.T, e *Engine, r *rand.Rand, i int) bool {
	p := append(prompt(fmt.Sprint("family", r.IntN(4)), r.IntN(60)), prompt(fmt.Sprint(i), 1+r.IntN(30))...)
	if r.IntN(4) == 0 { // every page has the same tokens: only the chain tells them apart
		p = slices.Repeat([]int32{1, 2, 3, 4}, 1+len(p)/4)
	}
	n := 1 + r.IntN(60)
	req := plain(fmt.Sprint(i), p, n)
	if r.IntN(2) == 0 {
		req.Sampling = sampler.Params{Temperature: 0.9, TopP: 0.95, FrequencyPenalty: 0.5, RepetitionPenalty: 1.1, Seed: uint64(i), Seeded: true}
	}
	ids := sampled(p, n, req.Sampling)
	req.Tenant = fmt.Sprint(r.IntN(2))
	req.NoReuse = r.IntN(8) == 0
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	kind := r.IntN(6)
	if kind == 0 {
		req.Deadline = time.Now().Add(time.Duration(r.IntN(30)) * time.Millisecond)
	}
	s, err := e.Submit(ctx, req)
	if err != nil {
		if kind != 0 || !errors.Is(err, sdk.ErrDeadline) && !errors.Is(err, sdk.ErrOverloaded) { // it would wait beyond its deadline
			t.Errorf("submit %d: %v", i, err)
		}
		return false
	}
	defer s.Close()
	var got []int32
	text := ""
	cut := r.IntN(n)
	for {
		tok, err := s.Next(ctx)
		switch {
		case err != nil && tok.Finish == "" && len(got) < n:
			if kind > 2 || !errors.Is(err, sdk.ErrDeadline) && !errors.Is(err, context.Canceled) {
				t.Errorf("request %d: %v", i, err)
			}
			if !slices.Equal(got, ids[:len(got)]) {
				t.Errorf("request %d ended early with other tokens", i)
			}
			return false
		case err != nil:
			if !slices.Equal(got, ids) || text != spell(ids) {
				t.Errorf("request %d: got %v %q, want %v %q", i, got, text, ids, spell(ids))
			}
			return true
		}
		got = append(got, tok.ID)
		text += tok.Text
		switch {
		case kind == 1 && len(got) > cut:
			cancel()
		case kind == 2 && len(got) > cut:
			s.Close()
		case kind == 3 && len(got)%8 == 0:
			time.Sleep(time.Duration(r.IntN(3)) * time.Millisecond) // this reader is slow
		}
	}
}
