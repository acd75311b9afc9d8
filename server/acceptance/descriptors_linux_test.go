package acceptance

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/coretest"
)

// X19: clients take all descriptors that they can get of a server that may have 256. New ones are refused, who is there is
// served, a dead expert is replaced, the accept loop sleeps, and when they go all is as before.
func TestDescriptorsRunOut(t *testing.T) {
	p := &program{stderr: &safeBuffer{}, exited: make(chan struct{})}
	addr, admin := "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t)
	p.url, p.admin = "http://"+addr, "http://"+admin
	p.cmd = exec.Command("sh", "-c", `ulimit -n 256 && exec "$0" "$@"`, filepath.Join(coretest.Binaries(t), "pimoe"), "serve", "--addr", addr, "--admin-addr", admin)
	p.cmd.Env = append(os.Environ(), "PIMOE_HOME="+t.TempDir())
	p.cmd.Stdout, p.cmd.Stderr = p.stderr, p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.exited) }()
	t.Cleanup(func() { p.cmd.Process.Kill(); <-p.exited })
	p.ready(t)

	old, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	kept := bufio.NewReader(old)
	ask := func() error {
		old.SetDeadline(time.Now().Add(30 * time.Second))
		body := fmt.Sprintf(completion, false)
		fmt.Fprintf(old, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		r, err := http.ReadResponse(kept, nil)
		if err != nil {
			return err
		}
		io.Copy(io.Discard, r.Body)
		if r.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", r.StatusCode)
		}
		return nil
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}

	var crowd []net.Conn
	defer func() {
		for _, c := range crowd {
			c.Close()
		}
	}()
	refused, told := 0, 0
	for len(crowd) < 600 && refused < 100 {
		c, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			refused++
			continue
		}
		crowd = append(crowd, c)
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) // who is let in hears nothing
		b := make([]byte, 64)
		if n, err := c.Read(b); n > 0 {
			refused++
			if strings.HasPrefix(string(b[:n]), "HTTP/1.1 503") {
				told++
			}
		} else if !os.IsTimeout(err) {
			refused++
		}
	}
	if refused < 100 || told == 0 {
		t.Fatalf("%d connections, %d refused, %d told so", len(crowd), refused, told)
	}
	if err := ask(); err != nil {
		t.Errorf("who was there before: %v", err)
	}
	before, began := cpuTime(t, p.cmd.Process.Pid), time.Now()
	time.Sleep(time.Second)
	if busy := (cpuTime(t, p.cmd.Process.Pid) - before).Seconds() / time.Since(began).Seconds(); busy > 0.5 {
		t.Errorf("the host takes %.0f %% of a core to do nothing", 100*busy)
	} else {
		t.Logf("measured: %d connections held, %d refused, %d of them told; the host then takes %.1f %% of a core", len(crowd)-refused, refused, told, 100*busy)
	}
	plugins := func() []int {
		return slices.DeleteFunc(children(t), func(pid int) bool { return pid == p.cmd.Process.Pid })
	}
	all := plugins()
	victim := all[0]
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(t, "the expert's successor", func() bool {
		now := plugins()
		return !slices.Contains(now, victim) && len(now) == len(all)
	})
	if err := ask(); err != nil {
		t.Errorf("after an expert was replaced: %v", err)
	}
	for _, c := range crowd {
		c.Close()
	}
	gone := time.Now()
	wait(t, "room", func() bool { _, err := p.complete(false); return err == nil })
	t.Logf("measured: served again %v after the crowd had gone", time.Since(gone).Round(time.Millisecond))
	select {
	case <-p.exited:
		t.Fatalf("the server has ended: %s", p.stderr)
	default:
	}
}

// cpuTime is what a process has used (proc(5), stat fields 14 and 15, in hundredths of a second).
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var ticks int
	for _, s := range f[11:13] {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
