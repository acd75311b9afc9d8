package host

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
)

// guestComes is how long a host waits for a guest whose place it has been asked for.
const guestComes = time.Minute

// DefaultGuestPatience is how long a call waits for a guest that stands at a breakpoint before the former processes answer it.
const DefaultGuestPatience = 10 * time.Second

var errGuestLeft = fmt.Errorf("the attached plugin has ended: %w", sdk.ErrUnsupported)

// group is own, for those who would replace it: while a guest has its place nobody does.
func (s *seat) group() (*group, error) {
	if _, ok := s.table.Load().current.(*lent); ok {
		return nil, fmt.Errorf("expert group %s: a plugin is attached; let it end first: %w", s.name, sdk.ErrInvalid)
	}
	return s.own(), nil
}

// own is the group of the host's processes, also while a guest has their place or the former ones stand behind them; nil for
// experts in the host's own process.
func (s *seat) own() *group {
	switch m := s.table.Load().current.(type) {
	case *group:
		return m
	case *backed:
		return m.group
	case *lent:
		return m.back
	}
	return nil
}

// Lend makes a socket, for this user alone, at which client.Attach gets a group's place for a plugin that its author has started.
// As long as it stays, the former processes go on: they take the calls that it leaves unanswered, and its place when it ends.
// It may be stopped at a breakpoint for as long as it likes. Its answers may differ, since that is what it is debugged for.
func (h *Host) Lend(name string, patience time.Duration) (socket string, err error) {
	if h.fleet == nil {
		return "", fmt.Errorf("attach: the experts run in the host's own process: %w", sdk.ErrUnsupported)
	}
	s := h.seat(name)
	if s == nil {
		return "", fmt.Errorf("attach to %q: %w", name, errUnknownGroup)
	}
	if _, err := s.group(); err != nil {
		return "", err
	}
	path := filepath.Join(h.launch.runtimeDir, "attach"+strconv.FormatUint(h.lent.Add(1), 10))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return "", fmt.Errorf("attach to %s: %w", name, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return "", fmt.Errorf("attach to %s: %w", name, err)
	}
	l.SetDeadline(time.Now().Add(guestComes))
	h.fleet.wg.Go(func() {
		defer context.AfterFunc(h.fleet.life, func() { l.Close() })()
		conn, err := l.AcceptUnix()
		l.Close()
		if err != nil {
			h.log.Warn("no plugin was attached", "group", name, "err", err)
			return
		}
		defer conn.Close()
		if err := h.host(s, conn, patience); err != nil && h.fleet.life.Err() == nil {
			h.log.Warn("a plugin was not attached", "group", name, "err", err)
			tell(conn, "not attached: "+err.Error())
		}
	})
	return path, nil
}

// tell says something to the person at the other end.
func tell(conn *net.UnixConn, note string) {
	b, err := json.Marshal(map[string]string{"note": note})
	if err == nil {
		conn.Write(append(b, '\n'))
	}
}

// host gives a guest the seat and takes it back when the guest has ended.
func (h *Host) host(s *seat, conn *net.UnixConn, patience time.Duration) error {
	l, d, old, err := h.welcome(s, conn, patience)
	if err != nil {
		return err
	}
	h.log.Warn("a plugin is attached", "group", s.name, "to", l.group.title(), "same_bits", d.Same, "relative", d.Relative)
	tell(conn, fmt.Sprintf("attached to %s: class %s, same bits as before: %v, relative difference %.3g", s.name, l.group.class(), d.Same, d.Relative))

	l.ended(h.fleet.life)
	l.left.Store(true)
	h.changing.Lock()
	old = append(old, h.editions.shift(one(s, l.back, d.Same))...)
	h.changing.Unlock()
	h.fleet.dismiss(l.group)
	h.log.Warn("the attached plugin has ended; the former processes have its place again", "group", s.name)
	if err := h.editions.drained(h.fleet.life, s, old); h.fleet.life.Err() == nil {
		return err
	}
	return nil
}

// welcome starts a guest, tests it and gives it the seat. It tells how its answers differ, and the editions that end.
func (h *Host) welcome(s *seat, conn *net.UnixConn, patience time.Duration) (*lent, Difference, []uint64, error) {
	h.changing.Lock()
	defer h.changing.Unlock()
	if err := h.untried(s); err != nil {
		return nil, Difference{}, nil, err
	}
	back, err := s.group()
	if err != nil {
		return nil, Difference{}, nil, err
	}
	fresh, err := h.prepare(h.fleet.life, s, back, func(g *GroupSpec) error {
		g.Guest, g.Backend, g.Path, g.Packed, g.Replicas, g.Standby, g.Remote = &visit{conn: conn}, "attached", "attached", nil, 1, 0, nil
		return nil
	})
	if err != nil {
		return nil, Difference{}, nil, err
	}
	d, err := compare(back.answers, fresh.answers)
	if err != nil { // it may say what it likes
		d = Difference{}
	}
	l := &lent{group: fresh, back: back, patience: patience}
	return l, d, h.editions.shift(one(s, l, d.Same)), nil
}

// visit is a guest's one try: whoever is started again later is another guest.
type visit struct {
	conn *net.UnixConn
	used atomic.Bool
}

// lent is a seat while a guest has it.
type lent struct {
	*group
	back     *group // whose seat it is
	patience time.Duration
	left     atomic.Bool
}

// ended returns when the guest's process is there no more.
func (l *lent) ended(life context.Context) {
	for {
		changed := l.changed.wait()
		if inc, _, _ := l.replicas[0].ready(); inc == nil {
			return
		}
		select {
		case <-changed:
		case <-life.Done():
			return
		}
	}
}

// Start implements moe.Group. A guest that stands still is not asked.
func (l *lent) Start(ctx context.Context, call *expert.Call) expert.Pending {
	return l.start(ctx, call, false)
}

// StartNow implements moe.Impatient.
func (l *lent) StartNow(ctx context.Context, call *expert.Call) expert.Pending {
	return l.start(ctx, call, true)
}

// start makes a call on the guest, which the former processes answer if it does not, whatever it says.
func (l *lent) start(ctx context.Context, call *expert.Call, now bool) expert.Pending {
	inc, _, _ := l.replicas[0].ready()
	if l.left.Load() || inc == nil || inc.proc.Stopped() {
		return l.back.begun(ctx, call, now)
	}
	limited, cancel := context.WithTimeout(ctx, l.patience)
	return &backedCall{
		front: l.group.begun(limited, call, now), behind: l.back, ctx: ctx, call: call, now: now, spent: cancel,
		forgives: func(error) bool { return true },
	}
}

// available implements member: the former processes are always there.
func (l *lent) available() error { return l.back.available() }

// Available implements moe.Availability.
func (l *lent) Available() error { return l.back.available() }

// Hopeless implements moe.Availability.
func (l *lent) Hopeless() error { return l.back.hopeless() }

// status implements member.
func (l *lent) status() []Status {
	out := l.group.status()
	for _, st := range l.back.status() {
		st.Aside = true
		out = append(out, st)
	}
	return out
}

var (
	_ member           = (*lent)(nil)
	_ moe.Impatient    = (*lent)(nil)
	_ moe.Availability = (*lent)(nil)
)
