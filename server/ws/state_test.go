package ws

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

var limits = Limits{
	AuthWithin: 10 * time.Second, Heartbeat: 20 * time.Second, Silence: 50 * time.Second, Idle: 5 * time.Minute,
	Rate: 10, Burst: 5, Work: 2, Subscriptions: 2, FirstMessage: 100, Message: 1000,
}

var start = time.Unix(1000, 0)

func TestAConnectionsLife(t *testing.T) {
	s := NewState(&limits, start, false, 0)
	if s.MaxMessage() != 100 || !errors.Is(s.Allow(Ping), ErrNotYet) || s.Allow(Auth) != nil {
		t.Error("before the credential")
	}
	if _, end := s.Tick(start.Add(9 * time.Second)); end != nil {
		t.Errorf("before its time: %v", end)
	}
	if _, end := s.Tick(start.Add(10 * time.Second)); end == nil || *end != Unauthorised {
		t.Errorf("without a credential: %v", end)
	}
	s.Authenticated()
	if s.MaxMessage() != 1000 || !errors.Is(s.Allow(Auth), ErrHasAuth) || s.Allow(Generate) != nil {
		t.Error("behind the credential")
	}
	if ping, end := s.Tick(start.Add(20 * time.Second)); !ping || end != nil {
		t.Errorf("heartbeat: %v %v", ping, end)
	}
	if ping, _ := s.Tick(start.Add(39 * time.Second)); ping {
		t.Error("a ping too early")
	}
	s.Heard(start.Add(40 * time.Second))
	if ping, end := s.Tick(start.Add(89 * time.Second)); !ping || end != nil {
		t.Errorf("a pong came: %v %v", ping, end)
	}
	if _, end := s.Tick(start.Add(90 * time.Second)); end == nil || *end != TimeOut {
		t.Errorf("silence: %v", end)
	}
}

func TestIdleConnectionsEnd(t *testing.T) {
	s := NewState(&limits, start, true, 0)
	now := start
	pass := func(d time.Duration) *Close {
		for until := now.Add(d); now.Before(until); {
			now = now.Add(10 * time.Second)
			s.Heard(now)
			if _, end := s.Tick(now); end != nil {
				return end
			}
		}
		return nil
	}
	if err := s.Begin("a"); err != nil {
		t.Fatal(err)
	}
	if end := pass(time.Hour); end != nil {
		t.Errorf("while something is under way: %v", end)
	}
	s.End("a", now)
	if end := pass(4 * time.Minute); end != nil {
		t.Errorf("before its time: %v", end)
	}
	if err := s.Subscribe(Key{"t", "a"}); err != nil {
		t.Fatal(err)
	}
	if end := pass(time.Hour); end != nil {
		t.Errorf("while subscribed: %v", end)
	}
	if err := s.Unsubscribe(Key{"t", "a"}); err != nil {
		t.Fatal(err)
	}
	if end := pass(time.Hour); end == nil || *end != TimeOut {
		t.Errorf("idle: %v", end)
	}
}

func TestBounds(t *testing.T) {
	s := NewState(&limits, start, true, 0)
	for _, step := range []struct {
		do   func() error
		want error
	}{
		{func() error { return s.Begin("a") }, nil}, {func() error { return s.Begin("a") }, ErrTwice},
		{func() error { return s.Begin("b") }, nil}, {func() error { return s.Begin("c") }, ErrTooMuch},
		{func() error { s.End("a", start); return s.Begin("c") }, nil},
		{func() error { return s.Subscribe(Key{"t", "a"}) }, nil}, {func() error { return s.Subscribe(Key{"t", "a"}) }, ErrIsTopic},
		{func() error { return s.Subscribe(Key{"", "system.a"}) }, nil}, {func() error { return s.Subscribe(Key{"t", "b"}) }, ErrTopics},
		{func() error { return s.Unsubscribe(Key{"t", "b"}) }, ErrNoTopic}, {func() error { return s.Unsubscribe(Key{"t", "a"}) }, nil},
	} {
		if err := step.do(); !errors.Is(err, step.want) {
			t.Errorf("%v, want %v", err, step.want)
		}
	}
	if s.Working() != 2 || len(s.Topics()) != 1 {
		t.Errorf("%d %v", s.Working(), s.Topics())
	}
}

// However messages come, no more are taken than the bucket has and its rate fills in, if the client is held up as told.
func TestRate(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := NewState(&limits, start, true, 0)
		now, n := start, 0
		for now.Before(start.Add(20 * time.Second)) {
			now = now.Add(time.Duration(r.IntN(100)) * time.Millisecond)
			now = now.Add(s.Take(now))
			n++
			if most := float64(limits.Burst) + limits.Rate*now.Sub(start).Seconds() + 1e-6; float64(n) > most {
				t.Fatalf("seed %d: %d messages after %v", seed, n, now.Sub(start))
			}
		}
	}
}

func TestOutbox(t *testing.T) {
	o := Outbox{MaxFrames: 3, MaxBytes: 10}
	frame := func(n int) Frame { return Frame{Bytes: make([]byte, n)} }
	if err := o.Push(frame(100)); err != nil {
		t.Errorf("a large one alone: %v", err)
	}
	if err := o.Push(frame(1)); !errors.Is(err, ErrSlow) {
		t.Errorf("behind a large one: %v", err)
	}
	if f, ok := o.Pop(); !ok || len(f.Bytes) != 100 {
		t.Error("it is gone")
	}
	for range 3 {
		if err := o.Push(frame(1)); err != nil {
			t.Error(err)
		}
	}
	if err := o.Push(frame(1)); !errors.Is(err, ErrSlow) {
		t.Errorf("the fourth: %v", err)
	}
	o.Clear()
	if _, ok := o.Pop(); ok || o.Push(frame(10)) != nil {
		t.Error("it is not empty")
	}
}

type ear struct{ heard []string }

func (e *ear) Deliver(f Frame) { e.heard = append(e.heard, string(f.Bytes)) }

// told is an ear that says so when it hears the first frame.
type told struct {
	mu    sync.Mutex
	heard []string
	first chan struct{}
}

func (e *told) Deliver(f Frame) {
	e.mu.Lock()
	e.heard = append(e.heard, string(f.Bytes))
	n := len(e.heard)
	e.mu.Unlock()
	if n == 1 {
		close(e.first)
		time.Sleep(time.Millisecond) // so that whoever publishes at once comes before Subscribe has ended
	}
}

// Whoever is told that it is subscribed hears what is published from then on.
func TestSubscribedHears(t *testing.T) {
	b, k := NewBroker(), KeyOf("acme", "news")
	for range 20 {
		e := &told{first: make(chan struct{})}
		published := make(chan int)
		go func() {
			<-e.first
			published <- b.Publish(k, Frame{Bytes: []byte("event")})
		}()
		b.Subscribe(k, e, Frame{Bytes: []byte("subscribed")})
		if n := <-published; n != 1 || !slices.Equal(e.heard, []string{"subscribed", "event"}) {
			t.Fatalf("%d receivers, heard %q", n, e.heard)
		}
		b.Unsubscribe(e, k)
	}
}

func TestTopicsOfTenants(t *testing.T) {
	b := NewBroker()
	var acme, other ear
	b.Subscribe(KeyOf("acme", "news"), &acme)
	b.Subscribe(KeyOf("acme", "news"), &acme)
	b.Subscribe(KeyOf("other", "news"), &other)
	b.Subscribe(KeyOf("acme", SystemStats), &acme)
	b.Subscribe(KeyOf("other", SystemStats), &other)
	for k, want := range map[Key]int{KeyOf("acme", "news"): 1, KeyOf("third", "news"): 0, KeyOf("x", SystemStats): 2, KeyOf("acme", "old"): 0} {
		if n := b.Publish(k, Frame{Bytes: fmt.Append(nil, k)}); n != want || b.Heard(k) != (want > 0) {
			t.Errorf("%v: %d", k, n)
		}
	}
	if len(acme.heard) != 2 || len(other.heard) != 1 {
		t.Errorf("%v %v", acme.heard, other.heard)
	}
	b.Unsubscribe(&acme, KeyOf("acme", "news"), KeyOf("acme", "never"))
	if b.Heard(KeyOf("acme", "news")) || !b.Heard(KeyOf("other", "news")) {
		t.Error("behind unsubscribe")
	}
	if !KeyOf("acme", "system.x").System() || KeyOf("acme", "systems").System() {
		t.Error("what is a system topic")
	}
}
