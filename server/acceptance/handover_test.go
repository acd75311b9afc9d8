package acceptance

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/coretest"
)

// successor starts another server with the same command line, which takes over. env is added to its environment.
func (p *program) successor(t *testing.T, args []string, env ...string) *program {
	t.Helper()
	s := &program{stderr: &safeBuffer{}, exited: make(chan struct{}), url: p.url, admin: p.admin}
	s.cmd = exec.Command(p.cmd.Path, append(append(p.cmd.Args[1:len(p.cmd.Args):len(p.cmd.Args)], args...), "--take-over")...)
	s.cmd.Env = append(p.cmd.Env[:len(p.cmd.Env):len(p.cmd.Env)], env...)
	s.cmd.Stdout, s.cmd.Stderr = s.stderr, s.stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.err = s.cmd.Wait(); close(s.exited) }()
	t.Cleanup(func() { s.cmd.Process.Kill(); <-s.exited })
	return s
}

// ended waits for a clean end.
func (p *program) ended(t *testing.T, why string) {
	t.Helper()
	http.DefaultClient.CloseIdleConnections() // it waits for them
	select {
	case <-p.exited:
		if p.err != nil {
			t.Fatalf("%s: %v\n%s", why, p.err, p.stderr)
		}
	case <-time.After(60 * time.Second):
		t.Fatalf("%s: still there after a minute\n%s", why, p.stderr)
	}
}

// TestHandOver replaces a host by a new one under load, time and again: clients with kept connections, clients with a new
// connection for each request, and streams. No request is refused or lost, each has the right text, and every host that has
// handed over ends with exit code 0. PIMOE_HANDOVERS says how often.
func TestHandOver(t *testing.T) {
	p := launch(t, home(t))
	p.ready(t)
	want, err := p.complete(false)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	var clients sync.WaitGroup
	stop := make(chan struct{})
	fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for c := range 4 {
		clients.Go(func() {
			for n := c / 2; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				ask := p.complete
				if c%2 == 0 {
					ask = func(stream bool) (string, error) { return p.completeWith(fresh, stream) }
				}
				text, err := ask(n%2 == 0)
				asked.Add(1)
				if err != nil || text != want {
					t.Errorf("a request during the hand-overs: error %v, text %q", err, text)
					return
				}
			}
		})
	}
	times := rounds("PIMOE_HANDOVERS", 3)
	var slowest time.Duration
	for range times {
		before := asked.Load()
		began := time.Now()
		next := p.successor(t, nil)
		p.ended(t, "the host that handed over")
		slowest = max(slowest, time.Since(began))
		if !strings.Contains(next.stderr.String(), "took over the listeners") {
			t.Fatalf("nothing was taken over:\n%s", next.stderr)
		}
		p.cmd, p.stderr, p.exited = next.cmd, next.stderr, next.exited
		wait(t, "requests", func() bool { return asked.Load() > before+4 || t.Failed() })
	}
	close(stop)
	clients.Wait()
	if r, err := http.Get(p.admin + "/admin/config"); err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("the admin API: %v", err)
	}
	if err := p.terminate(); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(envOf(p, "PIMOE_HOME"), "run", "*-*")); len(left) > 0 {
		t.Errorf("left in the runtime folder: %v", left)
	}
	t.Logf("measured: %d hand-overs under %d requests, the slowest took %v", times, asked.Load(), slowest)
}

func envOf(p *program, name string) string {
	value := ""
	for _, e := range p.cmd.Env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			value = v
		}
	}
	return value
}

// completeWith is complete with another client.
func (p *program) completeWith(client *http.Client, stream bool) (string, error) {
	resp, err := client.Post(p.url+"/v1/completions", "application/json", strings.NewReader(fmt.Sprintf(completion, stream)))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	return completed(resp, stream)
}

// TestHandOverFails: a successor that can't start, that is killed on its way or that is no host at all changes
// nothing, and the next one takes over.
func TestHandOverFails(t *testing.T) {
	p := launch(t, home(t))
	p.ready(t)
	want, err := p.complete(false)
	if err != nil {
		t.Fatal(err)
	}
	fine := func(after string) {
		t.Helper()
		if text, err := p.complete(true); err != nil || text != want {
			t.Fatalf("after %s: error %v, text %q", after, err, text)
		}
	}
	broken := p.successor(t, []string{"--router", "no-such-router"})
	<-broken.exited
	if broken.err == nil {
		t.Error("a host with a router that does not exist ended well")
	}
	fine("a successor that can't start")
	for range 3 {
		s := p.successor(t, nil)
		time.Sleep(60 * time.Millisecond) // somewhere in its start
		s.cmd.Process.Kill()
		<-s.exited
		select {
		case <-p.exited:
			t.Skip("the successor was faster than the kill")
		default:
		}
		fine("a successor that was killed")
	}
	paths, err := filepath.Glob(filepath.Join(envOf(p, "PIMOE_HOME"), "run", "take-*"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("sockets %v, %v", paths, err)
	}
	if st, err := os.Stat(paths[0]); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", st.Mode(), err)
	}
	for _, words := range []string{"", "give me\n", "take\n", "take\nno\n"} {
		c, err := net.Dial("unix", paths[0])
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, words)
		c.Close()
		fine(fmt.Sprintf("a peer that says %q", words))
	}
	next := p.successor(t, nil)
	p.ended(t, "the host that handed over")
	p.cmd, p.stderr, p.exited = next.cmd, next.stderr, next.exited
	fine("the hand-over")
	if err := p.terminate(); err != nil {
		t.Error(err)
	}
}

// TestSuccession: SIGUSR2 has a host start its successor.
func TestSuccession(t *testing.T) {
	p := launch(t, home(t))
	p.ready(t)
	want, err := p.complete(false)
	if err != nil {
		t.Fatal(err)
	}
	old := p.cmd.Process.Pid
	if err := p.cmd.Process.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	// The successor has this one's output, whose end Wait would wait for; so look for the process.
	wait(t, "the end of the first host", func() bool {
		http.DefaultClient.CloseIdleConnections() // it waits for them
		return gone(old)
	})
	if text, err := p.complete(false); err != nil || text != want {
		t.Errorf("after the succession: error %v, text %q", err, text)
	}
	hosts := 0
	for _, pid := range children(t) {
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.HasPrefix(string(args), filepath.Join(coretest.Binaries(t), "pimoe")+"\x00") {
			hosts++
			syscall.Kill(pid, syscall.SIGTERM)
		}
	}
	if hosts != 1 {
		t.Errorf("%d hosts run", hosts)
	}
	http.DefaultClient.CloseIdleConnections()
	wait(t, "the end of the successor", func() bool { return len(children(t)) == 0 })
}

// gone reports whether a process has ended; one that nobody has waited for yet has.
func gone(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}
