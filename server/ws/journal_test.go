package ws

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

var (
	ann = Owner{"key", "ann", "acme"}
	bob = Owner{"key", "bob", "acme"}
)

var small = StoreLimits{Alone: 10 * time.Second, Kept: 20 * time.Second, Each: 100, All: 250, Most: 4}

// drain takes all events behind last.
func drain(j *Journal, turn, last int) (got []int, over bool) {
	for {
		e, ok, over := j.Next(turn, last)
		if !ok {
			return got, over
		}
		got = append(got, e.Number)
		last = e.Number
	}
}

// A reader that comes and goes at any events sees each of them once, in order.
func TestResumption(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		j, err := NewStore(StoreLimits{Each: 1 << 20, All: 1 << 20, Most: 1}).New("g", ann, 0, start, nil)
		if err != nil {
			t.Fatal(err)
		}
		var seen []int
		turn, woken := 0, 0
		for n := range 50 {
			if turn == 0 || r.IntN(4) == 0 {
				if turn != 0 && r.IntN(2) == 0 {
					j.Detach(turn, start)
				}
				if turn, err = j.Attach(len(seen), func() { woken++ }); err != nil {
					t.Fatal(err)
				}
			}
			if n == 49 {
				j.End("done", []byte("{}"), start)
			} else if err := j.Append("token", fmt.Append(nil, n)); err != nil {
				t.Fatal(err)
			}
			for range r.IntN(3) {
				if e, ok, _ := j.Next(turn, len(seen)); ok {
					seen = append(seen, e.Number)
				}
			}
		}
		rest, over := drain(j, turn, len(seen))
		seen = append(seen, rest...)
		for i, n := range seen {
			if n != i+1 {
				t.Fatalf("seed %d: %v", seed, seen)
			}
		}
		if len(seen) != 50 || !over || woken < 50 {
			t.Fatalf("seed %d: %d events, over %v, woken %d times", seed, len(seen), over, woken)
		}
	}
}

func TestOwners(t *testing.T) {
	s := NewStore(small)
	if _, err := s.New("g", ann, 0, start, nil); err != nil {
		t.Fatal(err)
	}
	for _, o := range []Owner{bob, {"key", "ann", "other"}, {"token", "ann", "acme"}, {}} {
		if _, err := s.Find("g", o); !errors.Is(err, ErrGone) {
			t.Errorf("%v finds it: %v", o, err)
		}
	}
	if _, err := s.Find("g", ann); err != nil {
		t.Error(err)
	}
	if _, err := s.Find("h", ann); !errors.Is(err, ErrGone) {
		t.Errorf("one that never was: %v", err)
	}
}

// Events that were taken make room; those that were not end the generation. The end always fits.
func TestRoom(t *testing.T) {
	s := NewStore(small)
	j, err := s.New("g", ann, 0, start, nil)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 10 {
		if err := j.Append("token", make([]byte, 10)); err != nil {
			t.Fatalf("event %d: %v", n, err)
		}
	}
	if err := j.Append("token", make([]byte, 10)); !errors.Is(err, ErrSlow) {
		t.Errorf("without a reader: %v", err)
	}
	j.End("error", []byte("{}"), start)

	if j, err = s.New("h", ann, 0, start, nil); err != nil {
		t.Fatal(err)
	}
	turn, err := j.Attach(0, func() {})
	if err != nil {
		t.Fatal(err)
	}
	last := 0
	for n := range 100 {
		if err := j.Append("token", make([]byte, 10)); err != nil {
			t.Fatalf("event %d: %v", n, err)
		}
		e, ok, _ := j.Next(turn, last)
		if !ok {
			t.Fatalf("event %d is not there", n)
		}
		last = e.Number
		j.Next(turn, last)
	}
	if _, err := j.Attach(50, func() {}); !errors.Is(err, ErrGone) {
		t.Errorf("behind events that were dropped: %v", err)
	}
	if _, err := j.Attach(101, func() {}); !errors.Is(err, ErrGone) {
		t.Errorf("behind the end: %v", err)
	}
	if _, err := j.Attach(95, func() {}); err != nil {
		t.Errorf("behind one that is there: %v", err)
	}
	if n, bytes := s.Len(); n != 2 || bytes > small.All {
		t.Errorf("%d generations, %d bytes", n, bytes)
	}
}

// Time ends what is alone and forgets what is over, and a full store forgets what has ended first.
func TestSweepAndEvict(t *testing.T) {
	s := NewStore(small)
	var cancelled []string
	add := func(name string, o Owner) *Journal {
		t.Helper()
		j, err := s.New(name, o, 0, start, func(cause error) {
			if !errors.Is(cause, ErrAlone) {
				t.Errorf("cause %v", cause)
			}
			cancelled = append(cancelled, name)
		})
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	read, alone := add("read", ann), add("alone", ann)
	turn, err := read.Attach(0, func() {})
	if err != nil {
		t.Fatal(err)
	}
	if s.Sweep(start.Add(9 * time.Second)); len(cancelled) > 0 {
		t.Errorf("too early: %v", cancelled)
	}
	if s.Sweep(start.Add(10 * time.Second)); !slices.Equal(cancelled, []string{"alone"}) {
		t.Errorf("cancelled %v", cancelled)
	}
	alone.End("error", nil, start.Add(11*time.Second))
	read.Detach(turn, start.Add(15*time.Second))
	if s.Sweep(start.Add(24 * time.Second)); len(cancelled) != 1 {
		t.Errorf("the time counts from the detachment: %v", cancelled)
	}
	if s.Sweep(start.Add(31 * time.Second)); len(cancelled) != 2 {
		t.Errorf("cancelled %v", cancelled)
	}
	if _, err := s.Find("alone", ann); !errors.Is(err, ErrGone) {
		t.Errorf("one that is over for long: %v", err)
	}

	s = NewStore(small)
	for i, name := range []string{"a", "b", "c", "d"} {
		o := ann
		if name == "c" {
			o = bob
		}
		add(name, o).End("done", nil, start.Add(time.Duration(i)*time.Second))
	}
	add("e", bob)
	if _, err := s.Find("c", bob); !errors.Is(err, ErrGone) {
		t.Error("another owner's made room before one's own")
	}
	add("f", bob)
	if _, err := s.Find("a", ann); !errors.Is(err, ErrGone) {
		t.Error("what has ended first is still there")
	}
	add("g", ann)
	add("h", ann)
	if _, err := s.New("i", ann, 0, start, nil); !errors.Is(err, ErrTooMuch) {
		t.Errorf("all run: %v", err)
	}
}

// What a client has from another server is left out.
func TestSkip(t *testing.T) {
	j, err := NewStore(small).New("g", ann, 3, start, nil)
	if err != nil {
		t.Fatal(err)
	}
	turn, err := j.Attach(3, func() {})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := j.Append("token", []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	j.End("done", nil, start)
	if got, over := drain(j, turn, 3); !slices.Equal(got, []int{4, 5, 6}) || !over {
		t.Errorf("%v %v", got, over)
	}
}

// A second reader takes over; the first is told.
func TestTakeOver(t *testing.T) {
	j, err := NewStore(small).New("g", ann, 0, start, nil)
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	first, err := j.Attach(0, func() { told++ })
	if err != nil {
		t.Fatal(err)
	}
	second, err := j.Attach(0, func() {})
	if err != nil || told != 1 {
		t.Fatalf("%v, told %d times", err, told)
	}
	if err := j.Append("token", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, ok, over := j.Next(first, 0); ok || !over {
		t.Error("the first still reads")
	}
	j.Detach(first, start) // changes nothing any more
	if e, ok, _ := j.Next(second, 0); !ok || e.Number != 1 {
		t.Error("the second does not read")
	}
}
