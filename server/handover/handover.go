// Package handover gives the listening sockets of a running host to its successor, so that a host is replaced by a new one
// without a connection refused, reset or lost: the kernel's queue belongs to the socket, and the socket lives on.
//
// The old host makes an Offer on a private Unix socket; the new one, once it is ready, takes the listeners from it and says that
// it serves them. Until then nothing has happened, and a successor that fails has changed nothing. server/cmd/pimoe uses it. The
// package refuses peers of another user, and it knows nothing of requests: whoever has handed over drains them itself.
package handover

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"path/filepath"
	"time"
)

// Path is where the host that was configured with a public address offers its listeners, inside a private folder.
func Path(dir, addr string) string {
	sum := sha256.Sum256([]byte(addr))
	return filepath.Join(dir, "take-"+hex.EncodeToString(sum[:4]))
}

// Listener is a listening socket under the address that it was configured with.
type Listener struct {
	Name string       `json:"name"` // public, admin or grpc
	Addr string       `json:"addr"`
	Net  net.Listener `json:"-"`
}

// ErrNobody says that no host offers anything: there is nothing to take over.
var ErrNobody = errors.New("no running host offers its listeners")

// patience bounds each step of the talk. Both sides only wait for the other's few instructions.
const patience = 10 * time.Second

// The words of the talk: the successor asks when it is ready, is sent the sockets with the list of their addresses, and
// confirms when it accepts connections.
const (
	wordTake    = "take\n"
	wordServing = "serving\n"
	maxList     = 4096 // bytes of the list
	maxSockets  = 8
)
