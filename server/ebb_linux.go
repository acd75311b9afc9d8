package server

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// noHandshake is a socket filter, run on the TCP header of whatever arrives for a listening socket: it drops a segment
// that begins a handshake (SYN without ACK) and lets pass what belongs to one that has begun.
var noHandshake = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13}, // the flags
	{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0x12},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0x02, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
}

// settled is in how many looks, a millisecond apart, the queue must be empty: a handshake that has begun, but whose last
// segment is still to come, can't be seen.
const settled = 5

// ebb empties a listener's queue before it closes: no new handshake begins, and those who are in the queue are accepted
// by whoever serves the listener. A close with a connection in the queue would reset it, and its client could not know
// whether its request ran; one whose first segment is dropped here asks again and is plainly refused by the kernel, or
// accepted by the next server at this address. It waits for at most within.
func ebb(ln net.Listener, within time.Duration) {
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	program := unix.SockFprog{Len: uint16(len(noHandshake)), Filter: &noHandshake[0]}
	until, empty := time.Now().Add(within), 0
	for ; empty < settled && time.Now().Before(until); time.Sleep(time.Millisecond) {
		if err := raw.Control(func(fd uintptr) {
			if program.Len != 0 {
				_ = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program) // without it the queue may fill again
				program.Len = 0
			}
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			if err == nil && info.Unacked > 0 { // of a listening socket: the length of its queue
				empty = 0
			}
		}); err != nil {
			return
		}
		empty++
	}
}
