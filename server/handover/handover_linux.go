package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/sdk"
)

// Offer is what a running host offers. Close it.
type Offer struct {
	ln     *net.UnixListener
	path   string
	own    os.FileInfo // of the socket's file
	list   []Listener
	log    *slog.Logger
	taken  chan struct{}
	closed sync.Once
	ended  chan struct{} // closed by Close
	served sync.WaitGroup
	mu     sync.Mutex // held while taken is closed
}

// New offers listeners at a path, in the place of whoever has offered there before. Each must be a *net.TCPListener.
func New(path string, list []Listener, log *slog.Logger) (*Offer, error) {
	// Made beside its place and moved there: the host before may still have its own.
	made := fmt.Sprintf("%s.%d", path, os.Getpid())
	os.Remove(made)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("offer the listeners: %w", err)
	}
	ln.SetUnlinkOnClose(false)
	o := &Offer{ln: ln, path: path, list: list, log: log, taken: make(chan struct{}), ended: make(chan struct{})}
	if err = os.Chmod(made, 0o600); err == nil {
		if o.own, err = os.Lstat(made); err == nil {
			err = os.Rename(made, path)
		}
	}
	if err != nil {
		ln.Close()
		os.Remove(made)
		return nil, fmt.Errorf("offer the listeners: %w", err)
	}
	o.served.Go(o.run)
	return o, nil
}

// Taken is closed when a successor accepts connections on the listeners.
func (o *Offer) Taken() <-chan struct{} { return o.taken }

// Close ends the offer.
func (o *Offer) Close() error {
	o.closed.Do(func() {
		close(o.ended)
		o.ln.Close()
		if now, err := os.Lstat(o.path); err == nil && os.SameFile(now, o.own) {
			os.Remove(o.path)
		}
	})
	o.served.Wait()
	return nil
}

// run talks with one successor after the other until one has taken the listeners.
func (o *Offer) run() {
	for {
		conn, err := o.ln.AcceptUnix()
		if err != nil {
			return // closed
		}
		gone := make(chan struct{})
		o.served.Go(func() { // a successor may take minutes to get ready, and another one must not wait for it
			defer close(gone)
			defer conn.Close()
			if err := o.give(conn); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
				o.log.Warn("a hand-over failed, this host goes on", "err", err)
			}
		})
		o.served.Go(func() { // Close ends the talks, too
			select {
			case <-gone:
			case <-o.ended:
				conn.Close()
			}
		})
	}
}

// give is the talk with one successor.
func (o *Offer) give(conn *net.UnixConn) error {
	if err := samePeer(conn); err != nil {
		return err
	}
	if err := expect(conn, wordTake); err != nil {
		return err
	}
	conn.SetDeadline(time.Now().Add(patience))
	text, err := json.Marshal(o.list)
	if err != nil {
		return err
	}
	if err := o.send(conn, text); err != nil {
		return fmt.Errorf("send the listeners: %w", err)
	}
	if err := expect(conn, wordServing); err != nil {
		return fmt.Errorf("the successor does not serve: %w", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case <-o.taken:
	default:
		close(o.taken)
	}
	return nil
}

// send sends the sockets. Their descriptors are used in place: a copy made by File would put them into blocking mode.
func (o *Offer) send(conn *net.UnixConn, text []byte) error {
	var fds []int
	var with func(left []Listener) error
	with = func(left []Listener) error {
		if len(left) == 0 {
			_, _, err := conn.WriteMsgUnix(text, unix.UnixRights(fds...), nil)
			return err
		}
		tcp, ok := left[0].Net.(*net.TCPListener)
		if !ok {
			return fmt.Errorf("%s listener: a %T can't be handed over: %w", left[0].Name, left[0].Net, sdk.ErrUnsupported)
		}
		raw, err := tcp.SyscallConn()
		if err != nil {
			return err
		}
		var inner error
		err = raw.Control(func(fd uintptr) {
			fds = append(fds, int(fd))
			inner = with(left[1:])
		})
		return errors.Join(err, inner)
	}
	return with(o.list)
}

// samePeer refuses the process of another user. The folder is private already; this also holds where somebody has opened it.
func samePeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var inner error
	if err := raw.Control(func(fd uintptr) { cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if inner != nil {
		return fmt.Errorf("credentials of the peer: %w", inner)
	}
	if int(cred.Uid) != os.Geteuid() && cred.Uid != 0 {
		return fmt.Errorf("process %d belongs to user %d, this one to %d: %w", cred.Pid, cred.Uid, os.Geteuid(), sdk.ErrUnsupported)
	}
	return nil
}

func expect(conn *net.UnixConn, word string) error {
	b := make([]byte, len(word))
	if _, err := io.ReadFull(conn, b); err != nil {
		return err
	}
	if string(b) != word {
		return fmt.Errorf("%q instead of %q: %w", b, word, sdk.ErrInvalid)
	}
	return nil
}

// Successor is the new host's side. Close it.
type Successor struct{ conn *net.UnixConn }

// Dial finds the host that offers its listeners at a path; ErrNobody if there is none.
func Dial(path string) (*Successor, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, ErrNobody
	}
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	if err := samePeer(conn); err != nil {
		conn.Close()
		return nil, fmt.Errorf("take over: %w", err)
	}
	return &Successor{conn}, nil
}

// Take gets the listeners. The old host goes on serving them until Serving. Where it has ended meanwhile, there is nothing to
// take: ErrNobody.
func (s *Successor) Take() ([]Listener, error) {
	s.conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(s.conn, wordTake); err != nil {
		return nil, ErrNobody
	}
	text, rights := make([]byte, maxList), make([]byte, unix.CmsgSpace(maxSockets*4))
	n, rn, flags, _, err := s.conn.ReadMsgUnix(text, rights)
	if err != nil || n == 0 {
		return nil, ErrNobody
	}
	fds, err := descriptors(rights[:rn])
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	var list []Listener
	if err = json.Unmarshal(text[:n], &list); err == nil && (len(list) != len(fds) || flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0) {
		err = fmt.Errorf("%d sockets for %d addresses: %w", len(fds), len(list), sdk.ErrInvalid)
	}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "listener")
		if err == nil {
			list[i].Net, err = net.FileListener(f)
		}
		f.Close() // FileListener has a copy
	}
	if err != nil {
		for _, l := range list {
			if l.Net != nil {
				l.Net.Close()
			}
		}
		return nil, fmt.Errorf("take over: %w", err)
	}
	return list, nil
}

// descriptors are the sockets of a message, which no child inherits.
func descriptors(rights []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var fds []int
	for i := range messages {
		got, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return nil, err
		}
		fds = append(fds, got...)
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	return fds, nil
}

// Serving tells the old host that connections are accepted here: it begins to leave.
func (s *Successor) Serving() error {
	s.conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(s.conn, wordServing); err != nil {
		return fmt.Errorf("tell the host before: %w", err)
	}
	return nil
}

// Close ends the talk.
func (s *Successor) Close() error { return s.conn.Close() }
