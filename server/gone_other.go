//go:build !unix

package server

import "syscall"

// hungUp can't tell on this platform: a gone client is noticed by a failed write.
func hungUp(syscall.RawConn) bool { return false }

func cutOff(raw syscall.RawConn) bool { return hungUp(raw) }
