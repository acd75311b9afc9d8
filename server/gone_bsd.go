//go:build unix && !linux

package server

import "syscall"

// cutOff is hungUp: there is no call that sees an end behind bytes that wait. A client of TLS that leaves politely is noticed when
// the next bytes are written to it.
func cutOff(raw syscall.RawConn) bool { return hungUp(raw) }
