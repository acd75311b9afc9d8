package plane

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/sdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ends makes both ends in one process, as two mappings of the same memory. Nobody serves yet.
func ends(t testing.TB, spec Spec, cores []int) (*Host, *Plugin) {
	t.Helper()
	host, err := NewHost(spec, cores)
	if err != nil {
		t.Fatal(err)
	}
	req, res := host.Files()
	plugin, err := Attach(host.Layout(), nil, req, res)
	if err != nil {
		t.Fatal(err)
	}
	host.CloseFiles()
	return host, plugin
}

// pair makes both ends, and lanes that serve.
func pair(t testing.TB, spec Spec, h Handler) (*Host, *Plugin) {
	t.Helper()
	host, plugin := ends(t, spec, nil)
	plugin.Serve(h)
	t.Cleanup(func() {
		if err := plugin.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		host.Close()
	})
	return host, plugin
}

// echo answers with the request's number, and with its own payload.
func echo(_ context.Context, h Head, in, out []byte) Reply {
	copy(out, in[:8])
	return Reply{Rows: h.Rows, Cols: h.Cols}
}

func roundTrip(ctx context.Context, h *Host, n uint64) error {
	t, err := h.Post(ctx, AnyLane, Head{Op: OpForward, Rows: uint32(n), Cols: 7}, func(b []byte) { binary.LittleEndian.PutUint64(b, n) })
	if err != nil {
		return err
	}
	return t.Wait(ctx, time.Minute, func(r Reply, b []byte) error {
		if got := binary.LittleEndian.Uint64(b); got != n || r.Rows != uint32(n) || r.Cols != 7 {
			return fmt.Errorf("call %d got the answer %d of %d rows", n, got, r.Rows)
		}
		return nil
	})
}

// Calls that are left before anybody looks for their answers give their slots back, though the lane slept when they came.
func TestLeftUnseen(t *testing.T) {
	host, plugin := pair(t, Spec{Slots: 2, MaxRows: 1, InBytesPerRow: 64, OutBytesPerRow: 64}, echo)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for n := range uint64(20) {
		for word(plugin.res, resSleeping).Load() == 0 {
			if !sleepFor(ctx, time.Millisecond) {
				t.Fatal("the lane does not sleep")
			}
		}
		ticket, err := host.Post(ctx, AnyLane, Head{Op: OpForward, Rows: 1, Cols: 7}, func([]byte) {})
		if err != nil {
			t.Fatalf("call %d: %v", n, err)
		}
		ticket.Leave()
	}
	if err := roundTrip(ctx, host, 3); err != nil {
		t.Error(err)
	}
}

func sleepFor(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// Many callers, few slots: every answer belongs to its call, also when callers give up at random.
func TestAnswersMeetTheirCalls(t *testing.T) {
	const callers, slots = 6, 3
	left := int64(0)
	for _, c := range []struct {
		name             string
		processors, each int
	}{
		// Both ends share one runtime here, and whoever dozes keeps its processor. With fewer of them than goroutines most of the
		// time goes by with waiting for one; but then the lanes sleep at once instead of looking, so some calls go that way.
		{"a processor for everybody", callers + slots, 9000},
		{"two processors", 2, 1000},
	} {
		if testing.Short() {
			c.each /= 10
		}
		t.Run(c.name, func(t *testing.T) {
			before := runtime.GOMAXPROCS(c.processors)
			t.Cleanup(func() { runtime.GOMAXPROCS(before) })
			left += answersMeetTheirCalls(t, callers, slots, c.each)
		})
	}
	if left == 0 {
		t.Error("nobody gave up: the test shows less than it says")
	}
}

func answersMeetTheirCalls(t *testing.T, callers, slots, each int) (left int64) {
	host, _ := pair(t, Spec{Slots: slots, MaxRows: 1, InBytesPerRow: 64, OutBytesPerRow: 64}, func(ctx context.Context, h Head, in, out []byte) Reply {
		if h.Rows%97 == 0 {
			time.Sleep(200 * time.Microsecond) // longer than some callers wait
		}
		return echo(ctx, h, in, out)
	})
	var gaveUp atomic.Int64
	var wg sync.WaitGroup
	for g := range callers {
		wg.Go(func() {
			for i := range each {
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if i%13 == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(i%3)*50*time.Microsecond) // some at once
				}
				err := roundTrip(ctx, host, uint64(g*each+i+1))
				cancel()
				switch {
				case errors.Is(err, context.DeadlineExceeded) && i%13 == 0:
					gaveUp.Add(1)
				case err != nil:
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return gaveUp.Load()
}

func TestAbortWakesEverybody(t *testing.T) {
	release := make(chan struct{})
	host, _ := pair(t, Spec{Slots: 2, MaxRows: 1, InBytesPerRow: 64, OutBytesPerRow: 64}, func(ctx context.Context, h Head, in, out []byte) Reply {
		<-release
		return Reply{}
	})
	errs := make(chan error, 5)
	for i := range 5 { // two wait for an answer, three for a slot
		go func() { errs <- roundTrip(context.Background(), host, uint64(i)) }()
	}
	for free := 2; free > 0; {
		host.mu.Lock()
		free = len(host.free[0]) + len(host.free[1])
		host.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	host.Abort()
	for range 5 {
		if err := <-errs; !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	}
	if took := time.Since(began); took > 500*time.Millisecond {
		t.Errorf("took %v", took)
	}
	if err := roundTrip(t.Context(), host, 1); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	close(release)
	host.Close()
	if _, ok := host.Beat(); ok {
		t.Error("a closed plane beats")
	}
	if err := host.Close(); err != nil {
		t.Error(err)
	}
}

func TestBeat(t *testing.T) {
	host, _ := pair(t, Spec{Slots: 1, MaxRows: 1, InBytesPerRow: 8, OutBytesPerRow: 8}, echo)
	first, _ := host.Beat()
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		if now, ok := host.Beat(); ok && now > first {
			return
		}
		if time.Since(began) > 5*BeatEvery {
			t.Fatal("no heartbeat")
		}
	}
}

// The plugin's context ends with the call's time, and when its caller has given up.
func TestContextOfACall(t *testing.T) {
	ended := make(chan error, 1)
	host, _ := pair(t, Spec{Slots: 1, MaxRows: 1, InBytesPerRow: 8, OutBytesPerRow: 8}, func(ctx context.Context, h Head, in, out []byte) Reply {
		select {
		case <-ctx.Done():
			ended <- ctx.Err()
		case <-time.After(10 * time.Second):
			ended <- nil
		}
		return Reply{}
	})
	ticket, err := host.Post(t.Context(), AnyLane, Head{Op: OpForward, Timeout: 20000}, func([]byte) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := ticket.Wait(t.Context(), time.Minute, func(Reply, []byte) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != context.DeadlineExceeded {
		t.Errorf("timeout: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if ticket, err = host.Post(t.Context(), AnyLane, Head{Op: OpForward}, func([]byte) {}); err != nil {
		t.Fatal(err)
	}
	if err := ticket.Wait(ctx, time.Minute, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled wait: %v", err)
	}
	if err := <-ended; err != context.Canceled {
		t.Errorf("cancel: %v", err)
	}
	if ticket, err = host.Post(t.Context(), AnyLane, Head{Op: OpForward}, func([]byte) {}); err != nil {
		t.Fatal(err)
	}
	if err := ticket.Wait(t.Context(), 20*time.Millisecond, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("limit: %v", err)
	}
	<-ended
}

// A plugin maps nothing that could shrink under it or be written by others.
func TestAttachRefuses(t *testing.T) {
	host, err := NewHost(Spec{Slots: 1, MaxRows: 4, InBytesPerRow: 8, OutBytesPerRow: 8}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	req, res := host.Files()
	plain := memfd(t, host.Layout().RequestBytes())
	l := host.Layout()
	larger := l
	larger.Slots++
	odd := l
	odd.InCap++
	huge := l
	huge.InCap = 1 << 40
	for name, try := range map[string]func() (*Plugin, error){
		"unsealed requests": func() (*Plugin, error) { return Attach(l, nil, plain, res) },
		"unsealed results":  func() (*Plugin, error) { return Attach(l, nil, req, plain) },
		"results for both":  func() (*Plugin, error) { return Attach(l, nil, res, res) },
		"another geometry":  func() (*Plugin, error) { return Attach(larger, nil, req, res) },
		"an odd geometry":   func() (*Plugin, error) { return Attach(odd, nil, req, res) },
		"a huge geometry":   func() (*Plugin, error) { return Attach(huge, nil, req, res) },
		"no slots":          func() (*Plugin, error) { return Attach(Layout{}, nil, req, res) },
	} {
		if _, err := try(); !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range []Spec{{Slots: 65, InBytesPerRow: 1, OutBytesPerRow: 1}, {Slots: -1, InBytesPerRow: 1, OutBytesPerRow: 1},
		{MaxRows: 1 << 21, InBytesPerRow: 1, OutBytesPerRow: 1}, {InBytesPerRow: 0, OutBytesPerRow: 1}, {InBytesPerRow: 1, OutBytesPerRow: 1 << 29}} {
		if _, err := NewHost(bad, nil); !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func memfd(t *testing.T, size int) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("plain", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "plain")
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(int64(size)); err != nil {
		t.Fatal(err)
	}
	return f
}

// Rows never promises more than a slot holds.
func TestRowsFitTheirSlot(t *testing.T) {
	for _, s := range []Spec{{Slots: 1, MaxRows: 1, InBytesPerRow: 4, OutBytesPerRow: 4}, {Slots: 2, MaxRows: 256, InBytesPerRow: 8192, OutBytesPerRow: 8192}, {Slots: 64, MaxRows: 3, InBytesPerRow: 516, OutBytesPerRow: 24}} {
		l, err := s.Layout()
		if err != nil {
			t.Fatal(err)
		}
		if rows := l.Rows(s.InBytesPerRow, s.OutBytesPerRow); rows != s.MaxRows {
			t.Errorf("%+v: %d rows", s, rows)
		}
		for in := 4; in < 100000; in += 97 {
			rows := l.Rows(in, in)
			if rows > s.MaxRows || rows > 0 && (rows*in+(8*rows+63)&^63 > l.InCap || rows*in > l.OutCap) {
				t.Fatalf("%+v: %d rows of %d bytes", s, rows, in)
			}
		}
	}
}

// A call leaves no garbage on either side.
func TestCallsAllocateNothing(t *testing.T) {
	host, _ := pair(t, Spec{Slots: 2, MaxRows: 1, InBytesPerRow: 64, OutBytesPerRow: 64}, func(ctx context.Context, h Head, in, out []byte) Reply {
		if ctx.Err() != nil {
			return Reply{Status: 1}
		}
		return echo(ctx, h, in, out)
	})
	if n := testing.AllocsPerRun(500, func() {
		ticket, err := host.Post(t.Context(), 1, Head{Op: OpForward, Rows: 5, Cols: 7, Timeout: 1e6}, func(b []byte) { b[0] = 9 })
		if err == nil {
			err = ticket.Wait(t.Context(), time.Minute, func(r Reply, b []byte) error {
				if b[0] != 9 || r.Rows != 5 || r.Status != 0 {
					return fmt.Errorf("answer %d, %+v", b[0], r)
				}
				return nil
			})
		}
		if err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a call", n)
	}
}

// Every lane serves its own slots, and a call for a lane goes to it as long as it has a free one.
func TestLanes(t *testing.T) {
	release := make(chan struct{})
	host, _ := pair(t, Spec{Slots: 4, Lanes: 2, MaxRows: 1, InBytesPerRow: 64, OutBytesPerRow: 64}, func(_ context.Context, h Head, in, out []byte) Reply {
		if h.K == 1 {
			<-release
		}
		return Reply{}
	})
	post := func(lane int, k uint32) Ticket {
		t.Helper()
		ticket, ok, err := host.TryPost(lane, Head{Op: OpForward, K: k}, func([]byte) {})
		if err != nil || !ok {
			t.Fatalf("lane %d: posted %v, %v", lane, ok, err)
		}
		host.Wake(false)
		host.Wake(true)
		return ticket
	}
	wait := func(ticket Ticket) {
		t.Helper()
		if err := ticket.Wait(t.Context(), 10*time.Second, func(Reply, []byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	stuck := post(0, 1)
	for range 100 {
		wait(post(1, 0)) // the other lane works on
	}
	behind := post(0, 0)
	if lanes := [2]int{host.layout.lane(stuck.slot), host.layout.lane(behind.slot)}; lanes != [2]int{0, 0} {
		t.Errorf("calls for lane 0 went to %v", lanes)
	}
	over := post(0, 0) // lane 0 has no slot left
	if lane := host.layout.lane(over.slot); lane != 1 {
		t.Errorf("a call without room went to lane %d", lane)
	}
	wait(over)
	close(release)
	wait(stuck)
	wait(behind)
}
