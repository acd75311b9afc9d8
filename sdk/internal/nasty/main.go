//go:build linux

// Command nasty is a plugin that misbehaves on demand: its first argument says how. The tests of sdk/client start it to
// see that the host names the fault and that nothing is left afterwards. It refuses to be part of any release.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/internal/bootstrap"
	"github.com/pimoe/pimoe/sdk/serve"
)

func main() {
	mode := os.Args[1]
	if f, ok := early[mode]; ok {
		f()
		return
	}
	e := &nasty{mode: mode}
	if strings.HasPrefix(mode, "scribble") || mode == "seals" {
		e.inherit()
	}
	if mode == "pipes" {
		child := exec.Command("/bin/sleep", "300")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // out of the group that the host ends
		must(child.Start())
		fmt.Fprintln(os.Stderr, "child", child.Process.Pid)
	}
	if mode == "group" {
		child := exec.Command("/bin/sleep", "300")
		must(child.Start())
		fmt.Fprintln(os.Stderr, "child", child.Process.Pid)
	}
	serve.Expert(e)
}

// early are the modes that never come to serve.
var early = map[string]func(){
	"exit": func() {
		fmt.Fprintln(os.Stderr, "no such model")
		fmt.Fprintln(os.Stderr, "giving up")
		os.Exit(7)
	},
	"kill": func() {
		signalSelf(syscall.SIGKILL)
	},
	"print": func() {
		fmt.Println("hello from a plugin")
		forever()
	},
	"hang":   forever,
	"silent": func() { os.Stdout.Close(); forever() },
	"cookie": func() {
		goplugin.Serve(&goplugin.ServeConfig{HandshakeConfig: goplugin.HandshakeConfig{
			ProtocolVersion: 1, MagicCookieKey: "ANOTHER_HOST", MagicCookieValue: "x",
		}})
	},
	"version": func() { shake("1|99|unix|" + socket() + "|grpc|") },
	"core":    func() { shake("7|1|unix|" + socket() + "|grpc|") },
	"netrpc":  func() { shake("1|1|unix|" + socket() + "|netrpc|") },
	"tcp":     func() { shake("1|1|tcp|127.0.0.1:22|grpc|") },
	"foreign": func() { shake("1|1|unix|" + os.Args[2] + "|grpc|") },
	"link": func() { // a name in the own folder that leads elsewhere
		path := filepath.Join(os.Getenv(goplugin.EnvUnixSocketDir), "s")
		must(os.Symlink(os.Args[2], path))
		shake("1|1|unix|" + path + "|grpc|")
	},
	"other": func() { // a hard link to another process's socket: only the peer's number gives it away
		path := filepath.Join(os.Getenv(goplugin.EnvUnixSocketDir), "s")
		must(os.Link(os.Args[2], path))
		shake("1|1|unix|" + path + "|grpc|")
	},
	"mute": func() { // listens, accepts, says nothing
		path := socket()
		shake("1|1|unix|" + path + "|grpc|")
	},
	"bare": func() { // shakes hands and ends
		fmt.Println("1|1|unix|" + socket() + "|grpc|")
		fmt.Fprintln(os.Stderr, "that was all")
		os.Exit(4)
	},
}

func forever() {
	for {
		time.Sleep(time.Hour)
	}
}

func shake(line string) {
	fmt.Println(line)
	forever()
}

// socket listens in the process's own folder and never answers.
func socket() string {
	path := filepath.Join(os.Getenv(goplugin.EnvUnixSocketDir), "plugin1")
	l, err := net.Listen("unix", path)
	must(err)
	go func() {
		for {
			if _, err := l.Accept(); err != nil {
				return
			}
		}
	}()
	return path
}

func signalSelf(s syscall.Signal) {
	must(syscall.Kill(os.Getpid(), s))
	time.Sleep(time.Second)
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "nasty:", err)
		os.Exit(99)
	}
}

// nasty is an expert that doubles its input unless told otherwise.
type nasty struct {
	mode     string
	doc      bootstrap.Document
	requests int // duplicates of the plane's descriptors
	results  int
}

// inherit reads the bootstrap document before serve does and keeps the plane's descriptors.
func (n *nasty) inherit() {
	fd, err := strconv.Atoi(os.Getenv(bootstrap.FDKey))
	must(err)
	b := make([]byte, 1<<20)
	size, err := unix.Pread(fd, b, 0)
	must(err)
	must(json.Unmarshal(b[:size], &n.doc))
	n.requests, err = unix.FcntlInt(uintptr(n.doc.Plane.Requests), unix.F_DUPFD_CLOEXEC, 0)
	must(err)
	n.results, err = unix.FcntlInt(uintptr(n.doc.Plane.Results), unix.F_DUPFD_CLOEXEC, 0)
	must(err)
	if strings.HasPrefix(n.mode, "scribble") {
		go n.scribble()
	}
}

// scribble writes over the first slot's answer header again and again, as the layout in sdk/proto/README.md has it.
func (n *nasty) scribble() {
	b, err := unix.Mmap(n.results, 0, n.doc.Plane.ResultBytes(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	slot := b[4096:]
	at := map[string][]byte{"scribble-gen": slot[64:72], "scribble-rows": slot[76:80], "scribble-done": slot[0:4],
		"scribble-status": slot[72:76], "scribble-length": slot[84:88], "scribble-values": slot[4096:8192]}[n.mode]
	for i := 0; ; i++ {
		for j := range at {
			at[j] = 0xff
		}
		if i%1000 == 0 {
			time.Sleep(50 * time.Microsecond)
		}
	}
}

// seals tries what the seals forbid.
func (n *nasty) seals() error {
	var done []string
	for name, fd := range map[string]int{"requests": n.requests, "results": n.results} {
		if unix.Ftruncate(fd, 0) == nil {
			done = append(done, "shrink "+name)
		}
		if unix.Ftruncate(fd, 1<<30) == nil {
			done = append(done, "grow "+name)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); err == nil {
			done = append(done, "seal "+name)
		}
	}
	if _, err := unix.Mmap(n.requests, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		done = append(done, "map requests writable")
	}
	if _, err := unix.Pwrite(n.requests, []byte{1}, 0); err == nil {
		done = append(done, "write requests")
	}
	if unix.Fallocate(n.requests, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096) == nil {
		done = append(done, "punch requests")
	}
	if len(done) > 0 {
		return errors.New("possible: " + strings.Join(done, ", "))
	}
	return nil
}

func (n *nasty) Info() sdk.Info { return sdk.Info{Name: "nasty", Version: n.mode} }

func (n *nasty) Load(ctx context.Context, _ expert.Spec) error {
	switch n.mode {
	case "load-hang":
		forever()
	case "load-exit":
		fmt.Fprintln(os.Stderr, "out of luck")
		os.Exit(9)
	case "seals":
		return n.seals()
	}
	return nil
}

func (n *nasty) Forward(ctx context.Context, c *expert.Call) error {
	rows := c.X.Rows
	if n.mode == "forget" {
		rows-- // the last row stays as it was found
	}
	for r := range rows {
		x, y := c.X.Row(r), c.Y.Row(r)
		for i := range x {
			y[i] = 2 * x[i]
		}
	}
	last := c.Y.Row(c.Y.Rows - 1)
	switch n.mode {
	case "nan":
		last[len(last)-1] = float32(math.NaN())
	case "inf":
		last[0] = float32(math.Inf(-1))
	case "stop":
		signalSelf(syscall.SIGSTOP)
	case "exit-forward":
		fmt.Fprintln(os.Stderr, "assertion failed: rows")
		os.Exit(5)
	case "kill-forward":
		signalSelf(syscall.SIGKILL)
	case "exit-thread":
		syscall.RawSyscall(syscall.SYS_EXIT, 0, 0, 0) // the lane's, and the process lives on
	case "panic":
		panic("a bug in an expert")
	case "stuck":
		forever()
	case "slow":
		<-ctx.Done()
		fmt.Fprintln(os.Stderr, "cancelled:", ctx.Err())
		return ctx.Err()
	case "work": // as much as a small expert does
		for began := time.Now(); time.Since(began) < 100*time.Microsecond; {
		}
	case "eat":
		var kept [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			kept = append(kept, b)
		}
	case "late":
		if c.X.Row(0)[0] == 0 { // such calls answer long after anybody waits
			time.Sleep(300 * time.Millisecond)
		}
	case "flood":
		for range 20000 {
			fmt.Fprintln(os.Stderr, strings.Repeat("flood ", 20))
		}
		io.WriteString(os.Stderr, strings.Repeat("x", 1<<20)+"\n")
		fmt.Fprintln(os.Stderr, "end of flood")
	case "stdout":
		fmt.Println("1|1|unix|/tmp/evil|grpc|")
		fmt.Fprintln(os.NewFile(1, "native"), strings.Repeat("y", 1<<20)) // as native code would, without a limit
	case "classes":
		classes := []error{sdk.ErrInvalid, sdk.ErrNotFound, sdk.ErrOverloaded, sdk.ErrUnavailable, sdk.ErrUnsupported,
			sdk.ErrInvalidOutput, sdk.ErrDeadline, errors.New("no class")}
		return fmt.Errorf("row of expert %d: %w", c.Segments[0].Expert, classes[c.Segments[0].Expert])
	case "long":
		return fmt.Errorf("%s: %w", strings.Repeat("z", 100000), sdk.ErrInvalid)
	}
	return nil
}

func (n *nasty) Close() error { return nil }
