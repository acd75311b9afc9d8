package nemesis

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/schedule"
)

const (
	// slowFor is how long a process is slow, and slowRuns how long it may run between two stops.
	slowFor  = 300 * time.Millisecond
	slowRuns = 2 * time.Millisecond
	// corruptFor is how long answers are overwritten: many calls of a busy process.
	corruptFor = 200 * time.Millisecond
	// oomWithin is how long the successor of a killed process is waited for.
	oomWithin = 2 * time.Second
)

// strike does what a fault says to a process. n.mu is held.
func (n *Nemesis) strike(ctx context.Context, f schedule.Fault, t target) (struck, error) {
	// The number of a process that has ended may be another's; its descriptor is not.
	fd, err := unix.PidfdOpen(t.pid, 0)
	if err != nil {
		return struck{}, fmt.Errorf("process %d: %w", t.pid, err)
	}
	send := func(sig unix.Signal) error { return unix.PidfdSendSignal(fd, sig, nil, 0) }
	switch f.Kind {
	case schedule.Slow:
		stop := time.Duration(2+f.Draw>>32%30) * time.Millisecond
		n.wg.Go(func() { defer unix.Close(fd); slow(ctx, send, stop) })
		return struck{fmt.Sprintf("%v of every %v stopped", stop, stop+slowRuns), slowFor}, nil
	case schedule.Corrupt:
		defer unix.Close(fd)
		return n.corrupt(ctx, f.Draw>>32, t.pid)
	case schedule.OOM:
		defer unix.Close(fd)
		before := n.server.Members()
		if err := send(unix.SIGKILL); err != nil {
			return struck{}, fmt.Errorf("kill process %d: %w", t.pid, err)
		}
		n.wg.Go(func() { n.starve(ctx, before) })
		return struck{note: "its successor is refused memory"}, nil
	}
	defer unix.Close(fd)
	sig := unix.SIGKILL
	if f.Kind == schedule.Stop {
		sig = unix.SIGSTOP
	}
	if err := send(sig); err != nil {
		return struck{}, fmt.Errorf("%s process %d: %w", f.Kind, t.pid, err)
	}
	return struck{}, nil
}

// slow stops a process again and again. It always goes on at the end, unless it is dead.
func slow(ctx context.Context, send func(unix.Signal) error, stop time.Duration) {
	defer send(unix.SIGCONT)
	for began := time.Now(); time.Since(began) < slowFor && ctx.Err() == nil; time.Sleep(slowRuns) {
		if send(unix.SIGSTOP) != nil {
			return
		}
		time.Sleep(stop)
		if send(unix.SIGCONT) != nil {
			return
		}
	}
}

// starve refuses memory to the next process of the server: the runtime of a program that can't reserve any ends it.
func (n *Nemesis) starve(ctx context.Context, before []int) {
	for began := time.Now(); time.Since(began) < oomWithin && ctx.Err() == nil; time.Sleep(time.Millisecond) {
		for _, pid := range n.server.Members() {
			if !slices.Contains(before, pid) && unix.Prlimit(pid, unix.RLIMIT_AS, &unix.Rlimit{Cur: 1, Max: 1}, nil) == nil {
				return
			}
		}
	}
}

// The part of the shared memory's layout that sdk/proto/README.md tells authors in other languages.
const (
	page      = 4096 // the header of a region, and of each slot in it
	slotsAt   = 12   // u32 in the header of requests
	outCapAt  = 24   // u64 beside it: bytes of a slot's payload in results
	replyAt   = 64   // of a slot in results: generation, status, rows, columns
	replySize = 20
	maxSlots  = 64
)

// corrupt writes over the answers of a process, as if itself did: no numbers over their values, or nonsense over their
// headers.
func (n *Nemesis) corrupt(ctx context.Context, draw uint64, pid int) (struck, error) {
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return struck{}, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	slots, err := resultSlots(mem, pid)
	if err != nil {
		return struck{}, errors.Join(err, mem.Close())
	}
	note, at, junk := "NaN over its answers", int64(page), make([]byte, page)
	for i := 0; i < page; i += 4 {
		binary.LittleEndian.PutUint32(junk[i:], math.Float32bits(float32(math.NaN())))
	}
	if draw%2 == 1 {
		note, at, junk = "nonsense over its answers' headers", replyAt, junk[:replySize]
		for i := range junk {
			junk[i] = 0xfe
		}
	}
	n.wg.Go(func() {
		defer mem.Close()
		for began := time.Now(); time.Since(began) < corruptFor && ctx.Err() == nil; time.Sleep(20 * time.Microsecond) {
			for _, slot := range slots {
				if _, err := mem.WriteAt(junk, slot+at); err != nil {
					return // it has been replaced
				}
			}
		}
	})
	return struck{note, corruptFor}, nil
}

// resultSlots are the addresses of a process's answers.
func resultSlots(mem *os.File, pid int) ([]int64, error) {
	requests, results, err := regions(pid)
	if err != nil {
		return nil, err
	}
	head := make([]byte, page)
	if _, err := mem.ReadAt(head, requests); err != nil {
		return nil, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	count, size := binary.LittleEndian.Uint32(head[slotsAt:]), binary.LittleEndian.Uint64(head[outCapAt:])
	if count < 1 || count > maxSlots || size < page || size > 1<<36 {
		return nil, fmt.Errorf("process %d: %d slots of %d bytes: %w", pid, count, size, sdk.ErrUnsupported)
	}
	slots := make([]int64, count)
	for i := range slots {
		slots[i] = results + page + int64(i)*(page+int64(size))
	}
	return slots, nil
}

// regions are the addresses of the two shared memories of a process.
func regions(pid int) (requests, results int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("maps of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(b)) {
		from, _, _ := strings.Cut(line, "-")
		at, err := strconv.ParseInt(from, 16, 64)
		switch {
		case err != nil:
		case strings.Contains(line, "/memfd:pimoe-requests"):
			requests = at
		case strings.Contains(line, "/memfd:pimoe-results"):
			results = at
		}
	}
	if requests == 0 || results == 0 {
		return 0, 0, fmt.Errorf("process %d has no shared memory: %w", pid, sdk.ErrUnsupported)
	}
	return requests, results, nil
}
