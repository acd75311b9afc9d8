//go:build linux && (amd64 || arm64)

// Command escape is a plugin that tries to get out: its first argument says how. The tests of sdk/client start it confined
// and read on its standard error what each try gave. It refuses to be part of any release.
//
// Modes: probe (everything that an attacker would like to do, once each), calls (every system call number but those
// given), call (one number), matrix (what it can do to the processes given), and hogs of memory, descriptors and threads.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/internal/bootstrap"
	"github.com/pimoe/pimoe/sdk/serve"
)

func main() {
	e := &escape{}
	if os.Getenv(bootstrap.CookieKey) != "" {
		e.inherit()
	}
	serve.Expert(e)
}

// escape is an expert that answers with its input and attacks while it loads.
type escape struct {
	requests, results, shard int // duplicates of the descriptors that it is given
	target                   target
	shared                   int64 // bytes
}

// Share implements expert.Sharing: what it is told of is what Devices tells.
func (e *escape) Share(calls, answers []byte) (release func() error) {
	e.shared = int64(len(calls) + len(answers))
	return func() error {
		fmt.Fprintln(os.Stderr, "shared memory is released")
		return nil
	}
}

// Devices implements expert.Reporting.
func (e *escape) Devices() []expert.Device { return []expert.Device{{ID: "0", MemoryBytes: e.shared}} }

// target is what the test names to attack.
type target struct {
	host, sibling int    // process numbers
	socket        string // the sibling's
	secret        string // a file
}

func (e *escape) inherit() {
	doc := peek()
	dup := func(fd int) int {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return -1
		}
		return n
	}
	e.requests, e.results, e.shard = -1, -1, -1
	if doc.Plane != nil {
		e.requests, e.results = dup(doc.Plane.Requests), dup(doc.Plane.Results)
	}
	if len(doc.Shards) > 0 {
		e.shard = dup(doc.Shards[0])
	}
}

func (e *escape) Info() sdk.Info { return sdk.Info{Name: "escape", Version: "1"} }

func (e *escape) Close() error { return nil }

func (e *escape) Forward(_ context.Context, c *expert.Call) error {
	for r := range c.X.Rows {
		copy(c.Y.Row(r), c.X.Row(r))
	}
	return nil
}

// Load attacks. Params say what.
func (e *escape) Load(_ context.Context, s expert.Spec) error {
	number := func(key string) int {
		n, _ := strconv.Atoi(s.Params[key])
		return n
	}
	e.target = target{number("host"), number("sibling"), s.Params["socket"], s.Params["secret"]}
	switch s.Params["mode"] {
	case "probe":
		e.probe()
	case "calls":
		e.calls(strings.Fields(s.Params["skip"]))
	case "call":
		nr := number("number")
		fmt.Fprintln(os.Stderr, "result", nr, outcome(raw(nr)))
	case "execveat":
		unix.Syscall6(unix.SYS_EXECVEAT, uintptr(e.results), 0, 0, 0, unix.AT_EMPTY_PATH, 0)
	case "matrix":
		e.matrix(s.Params["others"])
	case "hog-memory":
		go hogMemory()
	case "hog-files":
		hogFiles()
	case "hog-threads":
		hogThreads()
	}
	fmt.Fprintln(os.Stderr, "end of", s.Params["mode"])
	return nil
}

// outcome is an errno's name, or that there was none.
func outcome(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) && errno != 0 {
		return unix.ErrnoName(errno)
	}
	if err != nil && !errors.As(err, &errno) {
		return err.Error()
	}
	return "ALLOWED"
}

// raw makes a system call with arguments that no call accepts.
func raw(nr int) error {
	const no = ^uintptr(0)
	_, _, errno := unix.RawSyscall6(uintptr(nr), no, no, no, no, no, no)
	return errno
}

// lastNumber is beyond the last system call of every kernel so far.
const lastNumber = 480

func (e *escape) calls(skip []string) {
	skipped := map[string]bool{}
	for _, s := range skip {
		skipped[s] = true
	}
	for nr := range lastNumber {
		if !skipped[strconv.Itoa(nr)] {
			fmt.Fprintln(os.Stderr, "result", nr, outcome(raw(nr)))
		}
	}
}

// matrix tries to read, to signal and to connect to each of "PID:SOCKET PID:SOCKET ...".
func (e *escape) matrix(others string) {
	for _, o := range strings.Fields(others) {
		pid, socket, _ := strings.Cut(o, ":")
		n, _ := strconv.Atoi(pid)
		for name, err := range map[string]error{
			"environ": open("/proc/" + pid + "/environ"), "maps": open("/proc/" + pid + "/maps"), "mem": open("/proc/" + pid + "/mem"),
			"read": vmRead(n), "signal": unix.Kill(n, 0), "stop": unix.Kill(n, unix.SIGSTOP), "ptrace": ptrace(n), "pidfd": pidfd(n),
			"connect": connect(unix.AF_UNIX, &unix.SockaddrUnix{Name: socket}), "socket": open(socket), "unlink": unix.Unlinkat(unix.AT_FDCWD, socket, 0),
			"affinity": unix.SchedSetaffinity(n, &unix.CPUSet{1}), "idle": idle(n), "limit": unix.Prlimit(n, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1, Max: 1}, nil),
		} {
			fmt.Fprintln(os.Stderr, "result", pid, name, outcome(err))
		}
	}
}

func hogMemory() {
	var kept [][]byte
	for {
		b := make([]byte, 16<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		kept = append(kept, b)
		runtime.KeepAlive(kept)
	}
}

func hogFiles() {
	for n := 0; ; n++ {
		if _, err := unix.Eventfd(0, 0); err != nil {
			fmt.Fprintln(os.Stderr, "result", n, outcome(err))
			break
		}
	}
}

// hogThreads holds one thread after the other until the system refuses, which ends a Go program.
func hogThreads() {
	for range 5000 {
		held := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(held)
			select {}
		}()
		<-held
	}
	fmt.Fprintln(os.Stderr, "result threads ALLOWED")
}
