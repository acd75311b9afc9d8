package client

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/internal/wire"
)

// Reason says why a plugin did not start.
type Reason string

// The reasons.
const (
	ReasonMissing       Reason = "missing"        // no such file
	ReasonNotExecutable Reason = "not executable" // no permission, a folder, or no program for this machine
	ReasonExited        Reason = "exited"         // ended before the handshake
	ReasonNotOurs       Reason = "not ours"       // a go-plugin program of another host
	ReasonOutput        Reason = "output"         // printed something else on standard output
	ReasonProtocol      Reason = "protocol"       // another protocol version
	ReasonAddress       Reason = "address"        // named a socket that is not its own
	ReasonKind          Reason = "kind"           // a router where an expert is wanted, or the reverse
	ReasonTimeout       Reason = "timeout"        // silent until the start timeout
	ReasonControl       Reason = "control"        // shook hands, but does not answer on its socket
	ReasonUntrusted     Reason = "untrusted"      // a file that others can change, or not the one that was meant
	ReasonConfinement   Reason = "confinement"    // the process is not confined as it was told to be
)

// StartError is returned by Start when the plugin is to blame. It wraps sdk.ErrUnavailable, sdk.ErrUnsupported (another
// protocol or kind, an untrusted file) or sdk.ErrDeadline (silent).
type StartError struct {
	Path   string
	Reason Reason
	Text   string // what happened, for people
	Death  *Death // how the process ended, if it ended by itself
	class  error
	cause  error
}

func (e *StartError) Error() string { return "start plugin " + e.Path + ": " + e.Text }

// Unwrap gives the class and the cause.
func (e *StartError) Unwrap() []error {
	if e.cause == nil {
		return []error{e.class}
	}
	return []error{e.class, e.cause}
}

// Death is how a process ended.
type Death struct {
	Signal    string    // name of the signal that ended it, such as "SIGKILL"; empty if it exited
	ExitCode  int       // if it exited; -1 otherwise
	OOM       bool      // killed for lack of memory: as its cgroup says, else as far as it can be told
	OOMLimit  bool      // because it wanted more than its cgroup may have
	Asked     bool      // the host had told it to end
	Lost      string    // why the connection to it ended, if it ran on another machine; nothing is known of its process then
	LastLines []string  // the last lines on standard error, oldest first
	At        time.Time // when the host noticed
}

// String is one line without the last lines.
func (d Death) String() string {
	switch {
	case d.Lost != "":
		return d.Lost
	case d.OOM:
		return "killed because memory ran out (" + d.Signal + ")"
	case d.Signal != "":
		return "killed by " + d.Signal
	}
	return fmt.Sprintf("exit code %d", d.ExitCode)
}

// withLines is String with the last few lines.
func (d Death) withLines() string {
	if len(d.LastLines) == 0 {
		return d.String() + ", nothing on standard error"
	}
	last := d.LastLines[max(0, len(d.LastLines)-5):]
	if strings.HasPrefix(d.LastLines[0], "panic: ") || strings.HasPrefix(d.LastLines[0], "fatal error: ") {
		last = d.LastLines[:1] // what follows are stack traces
	}
	return d.String() + ", last on standard error: " + strings.Join(last, " / ")
}

// DeadError is the error of every call on a process that has ended, or that the kernel is taking down. It wraps sdk.ErrUnavailable.
type DeadError struct {
	Process *Process
	Death   Death
	Early   bool // it is only ending: how is not known yet. Process.Death waits for that
}

func (e *DeadError) Error() string {
	if e.Early {
		return fmt.Sprintf("plugin %s (pid %d) is ending", e.Process.name, e.Process.PID())
	}
	return fmt.Sprintf("plugin %s (pid %d) is dead: %s", e.Process.name, e.Process.PID(), e.Death)
}

// Unwrap gives the class.
func (e *DeadError) Unwrap() error { return sdk.ErrUnavailable }

// NotFinite reports whether a call has failed because a value of its answer is a NaN or an infinity.
func NotFinite(err error) bool {
	var value *wire.ValueError
	return errors.As(err, &value)
}
