//go:build !linux

package server

import (
	"net"
	"time"
)

// ebb does nothing here: only Linux can stop handshakes and count a listener's queue.
func ebb(net.Listener, time.Duration) {}
