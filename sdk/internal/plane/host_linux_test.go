package plane

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/sdk"
)

// byHand makes both ends without lanes: the test does what they would do, when it wants.
func byHand(t testing.TB, slots, lanes int, cores ...int) (*Host, *Plugin) {
	t.Helper()
	host, plugin := ends(t, Spec{Slots: slots, Lanes: lanes, MaxRows: 1, InBytesPerRow: 64, OutBytesPerRow: 64}, cores)
	plugin.handler = echo
	t.Cleanup(func() {
		host.Close()
		plugin.unmap()
	})
	return host, plugin
}

// answer serves the call that lies in a slot, as its lane would.
func (p *Plugin) answer(i int) {
	p.serve(&slot{
		in:  p.req[p.layout.reqSlot(i):][:headerSize+p.layout.InCap],
		out: p.res[p.layout.resSlot(i):][:headerSize+p.layout.OutCap],
	}, new(callContext))
}

func mustPost(t testing.TB, h *Host, lane int, head Head) Ticket {
	t.Helper()
	ticket, ok, err := h.TryPost(lane, head, func([]byte) {})
	if err != nil || !ok {
		t.Fatalf("lane %d: posted %v, %v", lane, ok, err)
	}
	return ticket
}

func ignore(Reply, []byte) error { return nil }

// gone is a context that has ended.
func gone() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// until asks again and again, for what other threads do.
func until(t testing.TB, what string, met func() bool) {
	t.Helper()
	for began := time.Now(); time.Since(began) < 5*time.Second; time.Sleep(100 * time.Microsecond) {
		if met() {
			return
		}
	}
	t.Fatalf("in vain: %s", what)
}

// Whatever callers and the plugin do, and in whatever order: a slot belongs to one call from its post until its answer was taken,
// or, if the caller left, until the plugin has closed it. Then, and not earlier, another call gets it, and its own answer.
func TestASlotBelongsToOneCall(t *testing.T) {
	type call struct {
		Ticket
		n              uint64
		answered, left bool
	}
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 0))
		slots := 1 + rng.IntN(6)
		host, plugin := byHand(t, slots, 1+rng.IntN(slots))
		var calls []*call // that hold a slot
		drop := func(c *call) { calls = slices.DeleteFunc(calls, func(other *call) bool { return other == c }) }
		for n := range uint64(500) {
			var c *call
			if len(calls) > 0 {
				c = calls[rng.IntN(len(calls))]
			}
			switch what := rng.IntN(5); {
			case what < 2:
				head := Head{Op: OpForward, Rows: uint32(n), Cols: 7}
				ticket, ok, err := host.TryPost(rng.IntN(slots+2)-1, head, func(b []byte) { binary.LittleEndian.PutUint64(b, n) })
				if err != nil || ok != (len(calls) < slots) {
					t.Fatalf("seed %d, step %d: posted %v, %v, when %d of %d slots are taken", seed, n, ok, err, len(calls), slots)
				}
				if !ok {
					continue
				}
				for _, other := range calls {
					if other.slot == ticket.slot {
						t.Fatalf("seed %d: call %d got slot %d, which call %d has (answered %v, left %v)", seed, n, ticket.slot, other.n, other.answered, other.left)
					}
				}
				calls = append(calls, &call{Ticket: ticket, n: n})
			case c == nil:
			case what == 2 && !c.answered:
				plugin.answer(c.slot)
				c.answered = true
				if c.left {
					drop(c)
				}
			case what == 3 && c.answered:
				err := c.Wait(gone(), 0, func(r Reply, b []byte) error {
					if got := binary.LittleEndian.Uint64(b); got != c.n || r.Rows != uint32(c.n) || r.Cols != 7 || len(b) != host.layout.OutCap {
						return fmt.Errorf("call %d got the answer %d of %d rows in %d bytes", c.n, got, r.Rows, len(b))
					}
					return nil
				})
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				drop(c)
			case what > 2 && !c.left:
				if c.answered || rng.IntN(2) == 0 {
					c.Leave()
				} else if err := c.Wait(gone(), time.Second, nil); !errors.Is(err, context.Canceled) {
					t.Fatalf("seed %d: call %d without an answer: %v", seed, c.n, err)
				}
				if got := word(plugin.req, host.layout.reqSlot(c.slot)+slotCancel).Load(); got != uint32(c.gen) {
					t.Fatalf("seed %d: generation %d was given up, the plugin sees %d", seed, c.gen, got)
				}
				if c.left = true; c.answered {
					drop(c)
				}
			}
		}
	}
}

// A plugin that writes nonsense spoils only its own calls, and a slot whose generation it did not close is not used again.
func TestAnswerOfAnotherGeneration(t *testing.T) {
	host, plugin := byHand(t, 1, 1)
	done := word(plugin.res, host.layout.resSlot(0)+slotDone)

	ticket := mustPost(t, host, AnyLane, Head{})
	done.Store(77)
	if err := ticket.Wait(t.Context(), time.Second, ignore); !errors.Is(err, sdk.ErrInvalidOutput) {
		t.Errorf("generation 77 is done: %v", err)
	}
	if _, ok, err := host.TryPost(AnyLane, Head{}, func([]byte) {}); ok || err != nil {
		t.Errorf("the slot is still open: posted %v, %v", ok, err)
	}
	plugin.answer(0)
	ticket = mustPost(t, host, AnyLane, Head{})

	plugin.answer(0)
	binary.LittleEndian.PutUint64(plugin.res[host.layout.resSlot(0)+slotGenBack:], ticket.gen+1<<32)
	if err := ticket.Wait(t.Context(), time.Second, ignore); !errors.Is(err, sdk.ErrInvalidOutput) {
		t.Errorf("the upper half of the generation is wrong: %v", err)
	}
	mustPost(t, host, AnyLane, Head{}) // this one was closed
}

// A call goes to the lane that it wants, else to the one with the most free slots.
func TestChoiceOfALane(t *testing.T) {
	host, plugin := byHand(t, 6, 3)
	var calls []Ticket
	post := func(want, lane int) {
		t.Helper()
		ticket := mustPost(t, host, lane, Head{})
		if got := host.layout.lane(ticket.slot); got != want {
			t.Errorf("a call for lane %d went to %d, want %d", lane, got, want)
		}
		calls = append(calls, ticket)
	}
	giveBack := func() {
		t.Helper()
		for _, c := range calls {
			plugin.answer(c.slot)
			if err := c.Wait(t.Context(), time.Second, ignore); err != nil {
				t.Fatal(err)
			}
		}
		calls = nil
	}
	for _, want := range []int{0, 1, 2, 0, 1, 2} { // evenly
		post(want, AnyLane)
	}
	giveBack()
	post(0, 0)
	post(0, 0) // though the others have more
	post(1, 1)
	post(2, 0) // lane 0 has none, lane 1 fewer
	giveBack()
	post(2, 5) // there are three
	giveBack()
	for range 6 {
		mustPost(t, host, AnyLane, Head{}).Leave()
	}
	for i := range 6 {
		plugin.answer(i)
	}
	post(0, 0) // of late answers' slots as well
}

// Who waits for a slot gets one as soon as a call has ended, and one that its caller left soon after the late answer.
func TestWaitersForASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, plugin := byHand(t, 2, 1)
		first, second := mustPost(t, host, AnyLane, Head{}), mustPost(t, host, AnyLane, Head{})
		got := make(chan error, 3)
		ctx, cancel := context.WithCancel(t.Context())
		wait := func(ctx context.Context) {
			_, err := host.Post(ctx, AnyLane, Head{}, func([]byte) {})
			got <- err
		}
		expect := func(n int, when string) {
			t.Helper()
			if synctest.Wait(); len(got) != n {
				t.Fatalf("%s: %d are done, want %d", when, len(got), n)
			}
		}
		go wait(t.Context())
		go wait(t.Context())
		expect(0, "both slots taken")
		plugin.answer(first.slot)
		if err := first.Wait(t.Context(), time.Second, ignore); err != nil {
			t.Fatal(err)
		}
		expect(1, "one came back")
		second.Leave()
		time.Sleep(6 * time.Millisecond)
		expect(1, "the other is left and open")
		plugin.answer(second.slot)
		time.Sleep(2 * time.Millisecond)
		expect(2, "the late answer came 2 ms ago")
		go wait(ctx)
		expect(2, "both slots taken again")
		cancel()
		expect(3, "a waiter gives up")
		for _, want := range []error{nil, nil, context.Canceled} {
			if err := <-got; !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		}
	})
}

// Two slots that come back at once are one message, so whoever takes the first and sees the second tells the next.
func TestNewsOfFreeSlotsIsPassedOn(t *testing.T) {
	host, plugin := byHand(t, 3, 2)
	var calls []Ticket
	for range 3 {
		calls = append(calls, mustPost(t, host, AnyLane, Head{}))
	}
	for _, c := range calls {
		plugin.answer(c.slot)
		if err := c.Wait(t.Context(), time.Second, ignore); err != nil {
			t.Fatal(err)
		}
	}
	for left := 3; left >= 0; left-- {
		if got := len(host.freed); got != min(left, 1) {
			t.Fatalf("%d slots are left: %d messages", left, got)
		}
		if left > 0 {
			<-host.freed
			mustPost(t, host, AnyLane, Head{})
		}
	}
}

// sleepsOn starts a thread that sleeps on a word until it is woken.
func sleepsOn(t *testing.T, w *atomic.Uint32) (woken *atomic.Bool) {
	woken = new(atomic.Bool)
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() && !woken.Load() {
			ts := unix.NsecToTimespec(int64(5 * time.Millisecond))
			_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(w)), futexWaitOp, uintptr(w.Load()), uintptr(unsafe.Pointer(&ts)), 0, 0)
			woken.Store(errno == 0)
		}
	})
	t.Cleanup(func() {
		stop.Store(true)
		wg.Wait()
	})
	return woken
}

// pinned binds the thread of the test, which ends with it, to the core that it runs on.
func pinned(t testing.TB) unix.CPUSet {
	t.Helper()
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(Core())
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		t.Skip(err)
	}
	return set
}

// A post rings the bell of its slot's lane, and a lane that slept then is woken by Wake: one that is bound to the caller's core by
// Wake(true) only.
func TestWake(t *testing.T) {
	pinned(t)
	here := Core()
	host, plugin := byHand(t, 6, 3, here+1, here) // nobody says where the third is
	bell := func(lane int) *atomic.Uint32 { return word(plugin.req, reqBell+lane*line) }
	for _, lane := range []int{0, 2} {
		word(plugin.res, resSleeping+lane*line).Store(1)
	}
	for _, lane := range []int{1, 2, 2} {
		mustPost(t, host, lane, Head{})
	}
	if got := [3]uint32{bell(0).Load(), bell(1).Load(), bell(2).Load()}; got != [3]uint32{0, 1, 2} {
		t.Errorf("calls for the lanes 1, 2 and 2: their bells rang %v times", got)
	}
	if got := host.asleep.Load(); got != 1<<2 {
		t.Errorf("lanes 0 and 2 sleep, calls for 1 and 2: lanes %03b are to be woken", got)
	}
	mustPost(t, host, 0, Head{})
	if got := host.asleep.Load(); got != 1<<2|1<<0 {
		t.Errorf("then one for 0: lanes %03b are to be woken", got)
	}

	lanes := [3]*atomic.Bool{}
	for i := range lanes {
		lanes[i] = sleepsOn(t, bell(i))
	}
	until(t, "Wake(false) wakes the lanes 0 and 2", func() bool {
		host.asleep.Store(0b111)
		host.Wake(false)
		return lanes[0].Load() && lanes[2].Load()
	})
	for range 50 { // lane 1 has its chance to sleep first
		host.Wake(false)
		time.Sleep(100 * time.Microsecond)
	}
	if lanes[1].Load() {
		t.Error("Wake(false) woke the lane on the caller's core")
	}
	if got := host.asleep.Load(); got != 1<<1 {
		t.Errorf("after Wake(false) lanes %03b are to be woken, want lane 1", got)
	}
	until(t, "Wake(true) wakes lane 1", func() bool {
		host.asleep.Store(1 << 1)
		host.Wake(true)
		return lanes[1].Load()
	})
	if got := host.asleep.Load(); got != 0 {
		t.Errorf("after Wake(true) lanes %03b are to be woken", got)
	}
}

// Whoever turns to a call wakes the lanes that slept when it was posted, without looking for its answer first.
func TestWhoeverTurnsToACallWakesItsLane(t *testing.T) {
	host, plugin := byHand(t, 3, 1)
	word(plugin.res, resSleeping).Store(1)
	for name, turn := range map[string]func(Ticket){
		"Wait":    func(c Ticket) { c.Wait(gone(), 0, nil) },
		"Settled": func(c Ticket) { c.Settled(0) },
		"Leave":   func(c Ticket) { c.Leave() },
	} {
		turn(mustPost(t, host, AnyLane, Head{}))
		if got := host.asleep.Load(); got != 0 {
			t.Errorf("%s: lanes %b are still to be woken", name, got)
		}
	}
}

// A plugin that says that no lane sleeps has them woken all the same, by those who are about to sleep themselves.
func TestWaitWakesALaneThatSaysItIsAwake(t *testing.T) {
	host, plugin := byHand(t, 2, 2)
	call := mustPost(t, host, 1, Head{Rows: 1, Cols: longValues})
	other, lane := sleepsOn(t, word(plugin.req, reqBell)), sleepsOn(t, word(plugin.req, reqBell+line))
	until(t, "a long wait wakes its lane", func() bool {
		call.Settled(time.Millisecond)
		return lane.Load()
	})
	if other.Load() {
		t.Error("it woke another lane")
	}
}

// Who sleeps on an answer says so, as the plugin wakes nobody else.
func TestWaitSaysThatItSleeps(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(2, runtime.NumCPU())))
	host, plugin := byHand(t, 2, 1)
	mustPost(t, host, AnyLane, Head{})
	call := mustPost(t, host, AnyLane, Head{Rows: 1, Cols: longValues})
	ended := make(chan error, 1)
	go func() { ended <- call.Wait(t.Context(), 4*time.Second, ignore) }()
	until(t, "somebody says that he sleeps", func() bool {
		return word(plugin.req, host.layout.reqSlot(call.slot)+slotWaiting).Load() == 1 || len(ended) > 0
	})
	plugin.answer(call.slot)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestSettled(t *testing.T) {
	host, plugin := byHand(t, 2, 2)
	call := mustPost(t, host, AnyLane, Head{})
	if call.Settled(0) || call.Settled(time.Millisecond) {
		t.Error("settled without an answer")
	}
	plugin.answer(call.slot)
	if !call.Settled(0) {
		t.Error("not settled with an answer")
	}
	if err := call.Wait(t.Context(), time.Second, ignore); err != nil {
		t.Errorf("Settled took the answer: %v", err)
	}
	call = mustPost(t, host, AnyLane, Head{})
	host.Abort()
	if !call.Settled(time.Second) {
		t.Error("not settled though the process is gone")
	}
}

// Those who sleep on an answer do not wait until they look again by themselves.
func TestAbortWakesSleepers(t *testing.T) {
	host, plugin := byHand(t, 3, 1)
	var sleepers []*atomic.Bool
	for i := range 3 {
		sleepers = append(sleepers, sleepsOn(t, word(plugin.res, host.layout.resSlot(i)+slotDone)))
	}
	until(t, "all are woken", func() bool {
		host.Abort()
		return !slices.ContainsFunc(sleepers, func(s *atomic.Bool) bool { return !s.Load() })
	})
}

// After Close nothing touches the memory, which is gone.
func TestClosed(t *testing.T) {
	host, _ := byHand(t, 2, 1)
	call := mustPost(t, host, AnyLane, Head{})
	host.asleep.Store(1)
	host.Close()
	if err := call.Wait(t.Context(), time.Second, ignore); !errors.Is(err, ErrClosed) {
		t.Errorf("Wait: %v", err)
	}
	if !call.Settled(time.Second) {
		t.Error("not settled")
	}
	call.Leave()
	if _, ok, err := host.TryPost(AnyLane, Head{}, nil); ok || !errors.Is(err, ErrClosed) {
		t.Errorf("TryPost: %v, %v", ok, err)
	}
	if _, err := host.Post(t.Context(), AnyLane, Head{}, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Post: %v", err)
	}
	host.Wake(true)
	host.Abort()
}

// looker is the context of a wait under a clock that stands still: it is asked at each look at the clock, and does then what the
// test says. Looks are counted from 0.
type looker struct {
	context.Context
	look   func(n int) error
	looked int
	slept  int // how often the wait was about to sleep: it wants to know for how long then
}

func (l *looker) Err() error {
	l.looked++
	if l.looked > 1000 {
		return errors.New("the wait does not end")
	}
	return l.look(l.looked - 1)
}

func (l *looker) Deadline() (time.Time, bool) {
	l.slept++
	return time.Time{}, false
}

// A wait looks for the answer for a while before it sleeps, except where nothing comes so soon: of a long call, or on one core.
func TestWaitLooksFirst(t *testing.T) {
	defer func(was bool) { polls = was }(polls)
	for _, c := range []struct {
		rows, cols uint32
		polls      bool
		looks      bool
	}{
		{1, 1, true, true},
		{1, 1, false, false},
		{256, 255, true, true},
		{256, 256, true, false},
		{1 << 16, 1 << 16, true, false},
		{256, 256, false, false},
	} {
		polls = c.polls
		synctest.Test(t, func(t *testing.T) {
			host, plugin := byHand(t, 1, 1)
			call := mustPost(t, host, AnyLane, Head{Rows: c.rows, Cols: c.cols})
			var slept []int
			ctx := &looker{Context: t.Context()}
			ctx.look = func(n int) error {
				slept = append(slept, ctx.slept)
				switch n {
				case 1:
					time.Sleep(hostPolls - 1)
				case 2:
					time.Sleep(1)
				case 3:
					plugin.answer(call.slot)
				}
				return nil
			}
			if err := call.Wait(ctx, time.Second, ignore); err != nil {
				t.Errorf("%+v: %v", c, err)
			}
			want := []int{0, 1, 2, 3}
			if c.looks {
				want = []int{0, 0, 0, 1}
			}
			if !slices.Equal(slept, want) {
				t.Errorf("%+v: before each look it had slept %v times, want %v", c, slept, want)
			}
		})
	}
}

// A wait ends when more than its time is over, and sleeps no longer than that, but a little.
func TestWaitEndsWithItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, _ := byHand(t, 1, 1)
		call := mustPost(t, host, AnyLane, Head{Rows: 1, Cols: longValues})
		const limit = 3 * time.Millisecond
		var began unix.Timespec
		var sleeps []time.Duration
		ctx := &looker{Context: t.Context()}
		ctx.look = func(n int) error {
			var now unix.Timespec // the world's clock, which goes on
			unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
			if n > 1 {
				sleeps = append(sleeps, time.Duration(now.Nano()-began.Nano()))
			}
			switch n {
			case 1:
				time.Sleep(limit) // now it is just over
			case 7:
				time.Sleep(1)
			}
			unix.ClockGettime(unix.CLOCK_MONOTONIC, &began)
			return nil
		}
		if err := call.Wait(ctx, limit, ignore); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if ctx.looked != 8 {
			t.Fatalf("it ended at look %d, want the one after its time, 7", ctx.looked-1)
		}
		slices.Sort(sleeps)
		if sleeps[1] < minDoze || sleeps[1] > limit { // one may have been disturbed, and some may be late
			t.Errorf("at its end it slept %v, want %v", sleeps, minDoze)
		}
	})
}

// While a wait looks, other goroutines have their turn now and then, though not with every look, which wakes the runtime's threads.
func TestWaitLetsGoroutinesRun(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	defer func(was bool) { polls = was }(polls)
	polls = true
	seldom := false
	for range 100 {
		synctest.Test(t, func(t *testing.T) {
			host, plugin := byHand(t, 1, 1)
			call := mustPost(t, host, AnyLane, Head{})
			var ran atomic.Bool
			ctx := &looker{Context: t.Context(), look: func(n int) error {
				switch n {
				case 0:
					go ran.Store(true)
				case 1:
					seldom = seldom || !ran.Load()
				case 2 * goschedEvery / checkEvery: // at times the runtime chooses the same one again
					if !ran.Load() {
						t.Errorf("after %d rounds the other goroutine has not run", 2*goschedEvery)
					}
					plugin.answer(call.slot)
				}
				return nil
			}}
			if err := call.Wait(ctx, time.Second, ignore); err != nil {
				t.Error(err)
			}
		})
		if seldom {
			break
		}
	}
	if !seldom {
		t.Errorf("the other goroutine runs after %d rounds already", checkEvery)
	}
}

// While a wait looks, another thread that is ready on the same core has its turn: a lane's. The kernel may choose those of other
// processes first, so there is time for it; without yields it comes to two or three time slices of the kernel.
func TestWaitGivesTheCoreAway(t *testing.T) {
	const enough, most = 20, 400
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(2, runtime.NumCPU())))
	defer func(was bool) { polls = was }(polls)
	polls = true
	synctest.Test(t, func(t *testing.T) {
		core := pinned(t)
		host, plugin := byHand(t, 1, 1)
		call := mustPost(t, host, AnyLane, Head{})
		var turns, before int64
		var rounds atomic.Int64
		var stop atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			runtime.LockOSThread()
			if err := unix.SchedSetaffinity(0, &core); err != nil {
				t.Error(err)
			}
			for !stop.Load() {
				rounds.Add(1)
				yield()
			}
		})
		ctx := &looker{Context: t.Context(), look: func(n int) error {
			now := rounds.Load()
			if n%(goschedEvery/checkEvery) != 0 && now > before { // the runtime's scheduler has its turn before the others
				turns++
			}
			if before = now; turns == enough || n == most {
				plugin.answer(call.slot)
			}
			return nil
		}}
		for rounds.Load() == 0 {
			runtime.Gosched()
		}
		if err := call.Wait(ctx, time.Second, ignore); err != nil {
			t.Error(err)
		}
		stop.Store(true)
		wg.Wait()
		if turns < enough {
			t.Errorf("between %d looks at the clock, %d rounds apart, the other thread had its turn %d times, want %d", most, checkEvery, turns, enough)
		}
	})
}

// thread runs f on a thread of its own that ends with it, and waits for the thread's end. It is not the first one, which Go keeps.
func thread(t *testing.T, f func()) {
	t.Helper()
	number := make(chan int)
	var run func()
	run = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			go run()
			<-t.Context().Done() // holds the first thread
			runtime.UnlockOSThread()
			return
		}
		f()
		number <- unix.Gettid()
	}
	go run()
	task := fmt.Sprintf("/proc/self/task/%d", <-number)
	until(t, "the thread's end", func() bool { return unix.Access(task, unix.F_OK) != nil })
}

// The kernel says of a lane's thread that it has ended, unless the thread has said before that it goes.
func TestWill(t *testing.T) {
	_, plugin := byHand(t, 1, 1)
	plugin.wills = make([]will, 1)
	w := word(plugin.res, resThread)
	thread(t, func() {
		plugin.wills[0].make(w)
		if got := w.Load(); got != uint32(unix.Gettid()) {
			t.Errorf("the word is %#x, want the thread's number %#x", got, unix.Gettid())
		}
	})
	if w.Load() != ownerDied {
		t.Errorf("after the thread's end the word is %#x, want %#x", w.Load(), ownerDied)
	}
	thread(t, func() {
		plugin.wills[0].make(w)
		plugin.wills[0].revoke()
	})
	if w.Load() != 0 {
		t.Errorf("after the end of a thread that has revoked the word is %#x, want 0", w.Load())
	}
}

// An answer that was given before the lane's thread ended counts; a call without one fails at once, and so do all later ones.
func TestTheLanesThreadEnds(t *testing.T) {
	host, plugin := byHand(t, 3, 3)
	answered, lost, other := mustPost(t, host, 0, Head{}), mustPost(t, host, 1, Head{}), mustPost(t, host, 2, Head{})
	plugin.answer(answered.slot)
	if host.Ending() {
		t.Fatal("ending, when nobody has")
	}
	for lane := range 2 {
		word(plugin.res, resThread+lane*line).Store(ownerDied)
	}
	if err := answered.Wait(context.Background(), time.Second, ignore); err != nil || host.Ending() {
		t.Errorf("the answered call: %v, ending %v", err, host.Ending())
	}
	if lost.long = true; !lost.Settled(time.Minute) { // also when nobody looks: the word is read before every sleep
		t.Error("the call without an answer isn't settled")
	}
	if err := lost.Wait(context.Background(), time.Minute, ignore); !errors.Is(err, ErrEnding) || !host.Ending() {
		t.Errorf("the call without an answer: %v, ending %v", err, host.Ending())
	}
	if _, _, err := host.TryPost(2, Head{}, func([]byte) {}); !errors.Is(err, ErrEnding) {
		t.Errorf("posted later: %v", err)
	}
	plugin.answer(other.slot)
	if err := other.Wait(context.Background(), time.Second, ignore); err != nil {
		t.Errorf("the answer of another lane: %v", err)
	}
}

// A plugin that stops takes its threads' words back: its lanes end, and it goes on.
func TestStopIsNoEnd(t *testing.T) {
	host, plugin := ends(t, Spec{Slots: 2, Lanes: 2, MaxRows: 1, InBytesPerRow: 64, OutBytesPerRow: 64}, nil)
	defer host.Close()
	plugin.Serve(echo)
	for lane := range 2 {
		until(t, "the lane's thread has a number", func() bool { return word(host.res, resThread+lane*line).Load() != 0 })
	}
	if err := plugin.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	for lane := range 2 {
		if got := word(host.res, resThread+lane*line).Load(); got != 0 {
			t.Errorf("lane %d: %#x after the stop, want 0", lane, got)
		}
	}
}

// A plugin cleans up once after its start, not while calls come, and when a load of more than the host's own tests has ended.
func TestPace(t *testing.T) {
	for name, c := range map[string]struct {
		calls      []uint32 // in the time before each beat
		busy, rest string   // at which beats, from 0
	}{
		"nobody comes":                   {[]uint32{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, "[]", "[1]"},
		"the start's own calls":          {[]uint32{4, 0, 0}, "[]", "[1]"},
		"a load at once":                 {[]uint32{2, 900, 900, 1, 0, 0, 0, 0, 0, 0, 0, 0}, "[1 2]", "[3]"},
		"a load at once, for long":       {[]uint32{2, 900, 900, 900, 900, 900, 900, 900, 1, 0, 0, 0, 0, 0, 0}, "[1 2 3 4 5 6 7]", "[5 12]"},
		"a load later":                   {[]uint32{0, 0, 0, 900, 5, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0}, "[3 4]", "[1 9]"},
		"a short one":                    {[]uint32{0, 0, 127, 0, 0, 0, 0, 0, 0, 0, 0, 0}, "[2]", "[1]"},
		"a pause of the load":            {[]uint32{0, 0, 900, 0, 0, 0, 0, 900, 0, 0, 0, 0, 0, 0, 0}, "[2 7]", "[1 12]"},
		"the host's tests, for long":     {[]uint32{1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1}, "[]", "[1]"},
		"a second load after a long one": {[]uint32{0, 0, 900, 0, 0, 0, 0, 0, 0, 200, 0, 0, 0, 0, 0}, "[2 9]", "[1 7 14]"},
	} {
		p := pace{late: 6}
		var calls uint32
		busy, rest := []int{}, []int{}
		for i, n := range c.calls {
			calls += n
			b, r := p.beat(calls)
			if b {
				busy = append(busy, i)
			}
			if r {
				rest = append(rest, i)
			}
		}
		if fmt.Sprint(busy) != c.busy || fmt.Sprint(rest) != c.rest {
			t.Errorf("%s: busy at %v, rest at %v; want %s, %s", name, busy, rest, c.busy, c.rest)
		}
	}
}
