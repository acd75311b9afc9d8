//go:build unix

package client

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/sdk"
)

// A guest is a plugin process that its author has started, perhaps under a debugger: a host lends it a place. What a child
// would inherit crosses a Unix socket, whose end is the end of the guest's stay.

// maxGift bounds the text beside the descriptors, and maxGiftFiles the kernel's own bound on descriptors in one message.
const (
	maxGift      = 64 << 10
	maxGiftFiles = 253
)

// gift is what a guest inherits: descriptors from 3 on, standard output and error first.
type gift struct {
	Env []string `json:"env"`
	Dir string   `json:"dir"`
}

// word is one line that a host and the program beside a guest exchange.
type word struct {
	PID    int    `json:"pid,omitempty"`    // the guest's starter has started this
	Signal int    `json:"signal,omitempty"` // from the host: pass it on; from the other side: what ended the guest
	Exited bool   `json:"exited,omitempty"`
	Code   int    `json:"code,omitempty"`
	Note   string `json:"note,omitempty"` // for people
}

// guest is the host's end.
type guest struct {
	conn *net.UnixConn
	in   *bufio.Reader
	pid  int // of what was started: the plugin, or a debugger
}

// sayWithin bounds the wait for room in a socket whose other end does not read.
const sayWithin = time.Second

func say(conn *net.UnixConn, w word) error {
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	conn.SetWriteDeadline(time.Now().Add(sayWithin))
	_, err = conn.Write(append(b, '\n'))
	return err
}

func hear(in *bufio.Reader) (w word, err error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return w, err
	}
	return w, json.Unmarshal(line, &w)
}

// give hands everything over and learns which process has been started with it.
func (g *guest) give(ctx context.Context, what gift, files []*os.File) error {
	if len(files) > maxGiftFiles {
		return fmt.Errorf("%d descriptors, at most %d cross a socket at once: %w", len(files), maxGiftFiles, sdk.ErrUnsupported)
	}
	text, err := json.Marshal(what)
	if err != nil {
		return err
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	head := binary.LittleEndian.AppendUint32(nil, uint32(len(text)))
	if d, ok := ctx.Deadline(); ok {
		g.conn.SetDeadline(d)
	}
	defer g.conn.SetDeadline(time.Time{})
	if _, _, err := g.conn.WriteMsgUnix(head, unix.UnixRights(fds...), nil); err != nil {
		return err
	}
	if _, err := g.conn.Write(text); err != nil {
		return err
	}
	w, err := hear(g.in)
	g.pid = w.PID
	if err == nil && w.Exited {
		err = fmt.Errorf("it was not started: %s", w.Note)
	}
	return err
}

// wait returns when the guest has ended, or its starter.
func (g *guest) wait() ending {
	for {
		w, err := hear(g.in)
		if err != nil {
			return ending{code: -1, signal: syscall.SIGHUP}
		}
		if w.Exited {
			return ending{code: w.Code, signal: syscall.Signal(w.Signal)}
		}
	}
}

// Attach runs a command as a guest of the host that listens at the socket, until it ends, the host ends its stay, or ctx does.
// The command prints the plugin's handshake on a line of its standard output; all its output goes to out, too. ready is called
// when the host has lent the guest its place, with what it says of it.
func Attach(ctx context.Context, socket string, command []string, out io.Writer, ready func(note string)) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return fmt.Errorf("attach: %w: %w", sdk.ErrUnavailable, err)
	}
	defer conn.Close()
	what, files, err := receive(conn)
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	if len(files) < 3 {
		return fmt.Errorf("attach: the host sent %d descriptors: %w", len(files), sdk.ErrInvalid)
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir, cmd.Env, cmd.ExtraFiles = what.Dir, append(os.Environ(), what.Env...), files[2:]
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stderr = io.MultiWriter(out, files[1])
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("attach: %w", err), say(conn, word{Exited: true, Code: -1, Note: err.Error()}))
	}
	for _, f := range files[2:] {
		f.Close() // the child's alone
	}
	if err := say(conn, word{PID: cmd.Process.Pid}); err != nil {
		cmd.Process.Kill()
	}
	stay, leave := context.WithCancel(ctx)
	defer leave()
	var told atomic.Bool
	go listen(conn, cmd.Process.Pid, func(note string) { told.Store(true); ready(note) }, leave)
	end := context.AfterFunc(stay, func() { farewell(cmd.Process.Pid) })
	defer end()
	pass(stdout, out, files[0])
	files[0].Close()
	err = cmd.Wait()
	state := cmd.ProcessState.Sys().(syscall.WaitStatus)
	w := word{Exited: true, Code: cmd.ProcessState.ExitCode()}
	if state.Signaled() {
		w.Signal = int(state.Signal())
	}
	left := stay.Err() != nil
	say(conn, w) // the host may have gone before
	if left {
		return nil // it was asked to end
	}
	if err == nil && !told.Load() {
		err = fmt.Errorf("attach: it ended before the host had lent it a place: %w", sdk.ErrUnavailable)
	}
	return err
}

// farewell ends the guest and its debugger.
func farewell(pid int) {
	unix.Kill(-pid, unix.SIGCONT) // a stopped one would not hear of it
	unix.Kill(-pid, unix.SIGTERM)
	time.Sleep(killAfter)
	unix.Kill(-pid, unix.SIGKILL)
}

// listen passes the host's signals on; the end of the connection is the end of the stay.
func listen(conn *net.UnixConn, pid int, ready func(string), leave func()) {
	defer leave()
	for in := bufio.NewReader(conn); ; {
		w, err := hear(in)
		if err != nil {
			return
		}
		if w.Signal != 0 {
			unix.Kill(-pid, syscall.Signal(w.Signal))
		}
		if w.Note != "" {
			ready(w.Note)
		}
	}
}

// handshakeLine tells the plugin's own line from what a debugger prints around it.
var handshakeLine = regexp.MustCompile(`^\d+\|\d+\|unix\|`)

// pass copies standard output, and from the handshake on also to the host.
func pass(from io.Reader, out io.Writer, host io.Writer) {
	shaken := false
	for lines := bufio.NewReader(from); ; {
		line, err := lines.ReadBytes('\n')
		if shaken = shaken || handshakeLine.Match(line); shaken {
			host.Write(line)
		}
		out.Write(line)
		if err != nil {
			return
		}
	}
}

func receive(conn *net.UnixConn) (what gift, files []*os.File, err error) {
	head, rights := make([]byte, 4), make([]byte, unix.CmsgSpace(4*maxGiftFiles))
	n, got, _, _, err := conn.ReadMsgUnix(head, rights)
	if err == nil && n != len(head) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return what, nil, fmt.Errorf("the host sent nothing: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:got])
	if err != nil {
		return what, nil, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return what, nil, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "inherited"))
		}
	}
	size := binary.LittleEndian.Uint32(head)
	if size > maxGift {
		return what, files, fmt.Errorf("%d bytes from the host: %w", size, sdk.ErrInvalid)
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(conn, text); err != nil {
		return what, files, err
	}
	return what, files, json.Unmarshal(text, &what)
}
