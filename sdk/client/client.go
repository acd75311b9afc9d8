// Package client is the host's half of the process boundary: it starts a plugin process, speaks to it, notices its
// death at once and leaves nothing behind when it ends.
//
// core/host and sdk/sdktest use it. Start gives a Process; its Expert and Router are the same interface values that an
// in-process implementation would be, so that callers can't tell (Local and LocalRouter wrap the latter). A Process
// never restarts itself: that is the supervisor's decision. The package trusts nothing that a plugin says: the address
// it names must be a socket in its own private folder whose owner is the child, both ends prove who they are with
// certificates that the host made, and every answer is checked before anybody sees it.
//
// Goroutines: each Process has a handful, all of which Stop waits for. One more starts all processes; it keeps its
// thread as long as any process lives, because the kernel ties a child's life to the thread that made it.
package client

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/internal/plane"
)

// Transport says how tensors travel. Control is always gRPC.
type Transport string

// The transports.
const (
	// TransportSHM is shared memory; on systems without it, and for a row that doesn't fit, gRPC takes its place.
	TransportSHM Transport = "shm"
	// TransportGRPC is what plugins in other languages can always do.
	TransportGRPC Transport = "grpc"
)

// PlaneSpec is the geometry of the shared memory. The zero value is allowed with TransportGRPC only.
type PlaneSpec struct {
	Slots          int // calls in flight at once; 0 = 4
	Lanes          int // threads of the process that serve them, at most Slots; 0 = one for each slot
	MaxRows        int // rows of one slot; larger calls are split by rows, in order; 0 = 256
	InBytesPerRow  int
	OutBytesPerRow int
}

// ExpertPlane is the geometry for an expert of a hidden width.
func ExpertPlane(maxRows, hidden, slots int) PlaneSpec {
	return PlaneSpec{Slots: slots, MaxRows: maxRows, InBytesPerRow: 4 * hidden, OutBytesPerRow: 4 * hidden}
}

// RouterPlane is the geometry for a router. hidden is the width of the hidden states for a router that asks for them;
// with 0 such a router is served over gRPC.
func RouterPlane(maxRows, experts, topK, hidden, slots int) PlaneSpec {
	return PlaneSpec{Slots: slots, MaxRows: maxRows, InBytesPerRow: 4*(experts+hidden) + 8, OutBytesPerRow: 8 * topK}
}

// Bytes is the shared memory that a process with this geometry has.
func (s PlaneSpec) Bytes() (int64, error) {
	l, err := plane.Spec(s).Layout()
	return l.Bytes(), err
}

// Command says what to start and how.
type Command struct {
	Path         string   // the executable; relative to the host's working folder
	Args         []string // without the program's name
	Kind         sdk.Kind // what it must be; empty = whatever it is
	RuntimeDir   string   // an existing folder of mode 0700; a private subfolder for sockets is made in it and removed afterwards
	Identity     *Identity
	Transport    Transport // empty = TransportSHM
	Plane        PlaneSpec
	Cores        []int         // the core that each lane of the plane is bound to; fewer than lanes = unbound
	Shards       []*os.File    // weights, by index; they stay the caller's and may be closed after Start
	Env          []string      // "KEY=value"; nothing else of the host's environment is passed on
	Log          func(string)  // one line of the plugin's output, cut at 8 KiB, raw: the receiver escapes it. Called from one goroutine of the process at a time and must not block; may be nil
	Confinement  *Confinement  // nil = one with the default options, for this start alone
	Profile      *Profile      // of a script, or of a program that needs more than others; nil = neither
	Guest        *net.UnixConn // who has called Attach, instead of a process that is started; the Process's own from Start on
	Program      *Program      // remembers what the first start has executed, for the next ones; nil = each executes what lies at Path
	StartTimeout time.Duration // until the plugin has shaken hands and told its Info; 0 = 10 s
}

// DefaultStartTimeout is used where a Command says 0. A plugin starts in some ten milliseconds; a busy machine with a
// cold disk needs seconds.
const DefaultStartTimeout = 10 * time.Second

// callLimit ends a call whose context has no deadline. It is far above any step of a model that is worth serving, and
// low enough that a plugin that lost a call doesn't hold a request for an hour.
const callLimit = 5 * time.Minute

// check fills in the defaults and refuses what can be refused before anything is made.
func (c *Command) check() error {
	if c.Identity == nil {
		return fmt.Errorf("no identity: %w", sdk.ErrInvalid)
	}
	if c.Kind != "" && c.Kind != sdk.KindExpert && c.Kind != sdk.KindRouter {
		return fmt.Errorf("unknown kind %q: %w", c.Kind, sdk.ErrInvalid)
	}
	switch c.Transport {
	case "":
		c.Transport = TransportSHM
	case TransportSHM, TransportGRPC:
	default:
		return fmt.Errorf("unknown transport %q: %w", c.Transport, sdk.ErrInvalid)
	}
	if c.StartTimeout <= 0 {
		c.StartTimeout = DefaultStartTimeout
	}
	st, err := os.Stat(c.RuntimeDir)
	if err != nil {
		return fmt.Errorf("runtime folder: %w: %w", err, sdk.ErrInvalid)
	}
	if !st.IsDir() || st.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("runtime folder %s: mode %v, want a folder of mode 0700: %w", c.RuntimeDir, st.Mode(), sdk.ErrInvalid)
	}
	if c.RuntimeDir, err = filepath.Abs(c.RuntimeDir); err != nil {
		return fmt.Errorf("runtime folder: %w", err)
	}
	if n := len(c.RuntimeDir); n > maxRuntimeDir {
		return fmt.Errorf("runtime folder %s: %d bytes, at most %d leave room for a socket's name: %w", c.RuntimeDir, n, maxRuntimeDir, sdk.ErrInvalid)
	}
	c.Path, err = filepath.Abs(c.Path)
	return err
}

// maxRuntimeDir: the name of a Unix socket has 103 bytes on every system that is meant (108 with the final zero on
// Linux, 104 elsewhere). "/p" and "/plugin" with up to ten digits each follow the folder.
const maxRuntimeDir = 103 - len("/p0123456789/plugin0123456789")
