// Package program runs `pimoe serve` as a child process and looks at it from outside, as an operator could: through its
// API, its metrics, and what the kernel says about its processes.
//
// The command chaos uses it. It refuses to reach into a server: everything it knows, any program on the machine could.
package program

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/sdk"
)

// Spec says how servers are started.
type Spec struct {
	Executable string // of pimoe
	Config     string // a configuration file; nothing else of the configuration reaches the server
	Log        *os.File
}

// Server is a running `pimoe serve`. Make it with Start; end it with Stop or Kill.
type Server struct {
	PID   int
	URL   string // both known after Ready
	Admin string

	cmd     *exec.Cmd
	began   time.Time
	said    chan [2]string // URL and Admin, once
	exited  chan struct{}
	exitErr error // after exited
	http    *http.Client
}

// Start starts a server with further configuration, as key=value. It does not wait for it to be ready.
func (s Spec) Start(settings ...string) (*Server, error) {
	args := []string{"serve", "--config", s.Config, "--addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--pprof",
		"--set", "auth.keys_file=" + s.Config + ".keys", // of the store's own keys none is known here
		"--set", "cache.answers=off"} // what is compared is computed
	for _, kv := range settings {
		args = append(args, "--set", kv)
	}
	p := &Server{said: make(chan [2]string, 1), exited: make(chan struct{}), http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}}
	p.cmd = exec.Command(s.Executable, args...)
	p.cmd.Env = environment()
	p.cmd.Stderr = s.Log
	p.cmd.SysProcAttr = attributes()
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Executable, err)
	}
	started := make(chan error)
	go func() {
		// The kernel ends the child with the thread that has made it, so the thread stays until the child has ended.
		runtime.LockOSThread()
		p.began = time.Now()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		announced(out, p.said)
		p.exitErr = p.cmd.Wait()
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Executable, err)
	}
	p.PID = p.cmd.Process.Pid
	return p, nil
}

// environment is this process's without settings: those are in the file.
func environment() []string {
	var out []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "PIMOE_") || strings.HasPrefix(e, "PIMOE_CPU=") {
			out = append(out, e)
		}
	}
	return out
}

var addresses = regexp.MustCompile(`on (http://[^ ]+) \(admin (http://[^ )]+)\)`)

// announced reads standard output to its end and tells where the server listens.
func announced(out io.Reader, said chan<- [2]string) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if m := addresses.FindStringSubmatch(lines.Text()); m != nil {
			said <- [2]string{m[1], m[2]}
			break
		}
	}
	io.Copy(io.Discard, out)
}

// Ready waits until the server says that it is ready and returns how long that took since its start.
func (p *Server) Ready(ctx context.Context) (time.Duration, error) {
	select {
	case urls := <-p.said:
		p.URL, p.Admin = urls[0], urls[1]
	case <-p.exited:
		return 0, fmt.Errorf("the server ended before it was ready: %w", p.exitErr)
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for the server: %w", ctx.Err())
	}
	for {
		_, err := p.get(ctx, p.Admin+"/readyz")
		if err == nil {
			return time.Since(p.began), nil
		}
		select {
		case <-p.exited:
			return 0, fmt.Errorf("the server ended before it was ready: %w", p.exitErr)
		case <-ctx.Done():
			return 0, fmt.Errorf("wait for the server: %w", errors.Join(ctx.Err(), err))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Kill ends the server with SIGKILL and waits for its own process; its children are the kernel's business.
func (p *Server) Kill() {
	p.cmd.Process.Kill()
	<-p.exited
	p.http.CloseIdleConnections()
}

// Stop ends the server as an operator does, with SIGTERM, and kills it where that takes longer than the limit. An exit
// code other than 0 is an error.
func (p *Server) Stop(limit time.Duration) error {
	p.http.CloseIdleConnections()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the server: %w", err)
	}
	select {
	case <-p.exited:
	case <-time.After(limit):
		p.Kill()
		return fmt.Errorf("the server was still there %v after SIGTERM: %w", limit, sdk.ErrDeadline)
	}
	if p.exitErr != nil {
		return fmt.Errorf("the server ended with: %w", p.exitErr)
	}
	return nil
}

// Exited is closed when the server has ended.
func (p *Server) Exited() <-chan struct{} { return p.exited }

// longest answer that is read.
const longest = 16 << 20

func (p *Server) get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := p.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, longest))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: %w", url, resp.Status, sdk.ErrUnavailable)
	}
	return b, err
}

// Alter changes the configuration file such that a server that reads it again gives all its groups new processes: those that stand by
// come or go.
func (s Spec) Alter() error {
	text, err := os.ReadFile(s.Config)
	if err != nil {
		return fmt.Errorf("alter the configuration: %w", err)
	}
	var c map[string]any
	if err := yaml.Unmarshal(text, &c); err != nil {
		return fmt.Errorf("alter the configuration: %w", err)
	}
	experts, ok := c["experts"].(map[string]any)
	if !ok {
		return fmt.Errorf("alter the configuration: it says nothing of experts: %w", sdk.ErrInvalid)
	}
	standby, _ := experts["standby"].(int)
	experts["standby"] = 1 - min(standby, 1)
	if text, err = yaml.Marshal(c); err == nil {
		err = os.WriteFile(s.Config, text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("alter the configuration: %w", err)
	}
	return nil
}

// Reload has the server take over its configuration file, and waits for it to do so.
func (p *Server) Reload(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.Admin+"/admin/reload", strings.NewReader("{}"))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := p.http.Do(r)
	if err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, longest))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("reload: %s: %.300s: %w", resp.Status, b, sdk.ErrUnavailable)
	}
	return err
}

// Status is what the server says about itself.
type Status struct {
	Goroutines int
	Class      string
	Model      string
	Experts    []host.Status
	Router     host.RouterStatus
}

// Status asks for it.
func (p *Server) Status(ctx context.Context) (Status, error) {
	body, err := p.get(ctx, p.URL+"/api/v1/stats")
	if err != nil {
		return Status{}, err
	}
	var in struct {
		System struct {
			Goroutines int
			Model      struct {
				ID    string
				Class string `json:"numeric_class"`
			}
		}
		Experts struct {
			Processes []host.Status
			Router    host.RouterStatus
		}
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return Status{}, fmt.Errorf("answer of the server: %w", err)
	}
	return Status{
		Goroutines: in.System.Goroutines, Class: in.System.Model.Class, Model: in.System.Model.ID,
		Experts: in.Experts.Processes, Router: in.Experts.Router,
	}, nil
}

// Counters is what changes when a process dies and is replaced. Keys are processes, such as "e3/0" and "router".
type Counters struct {
	Restarts map[string]uint64
	Ready    map[string]bool // of experts
}

// Counters asks for them. That is cheap enough to be done a hundred times a second.
func (p *Server) Counters(ctx context.Context) (Counters, error) {
	body, err := p.get(ctx, p.Admin+"/metrics")
	if err != nil {
		return Counters{}, err
	}
	return countersOf(body)
}

// countersOf finds them among metrics in text form. It is asked so often that expressions would cost a tenth of a processor.
func countersOf(text []byte) (Counters, error) {
	c := Counters{Restarts: map[string]uint64{}, Ready: map[string]bool{}}
	for line := range bytes.Lines(text) {
		if of, ok := bytes.CutPrefix(line, []byte(`pimoe_process_restarts_total{process="`)); ok {
			process, value, _ := bytes.Cut(of, []byte(`"} `))
			n, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 10, 64)
			if err != nil {
				return Counters{}, fmt.Errorf("metrics of the server: %w", err)
			}
			c.Restarts[string(process)] = n
		} else if of, ok := bytes.CutPrefix(line, []byte(`pimoe_expert_ready{group="`)); ok {
			group, rest, _ := bytes.Cut(of, []byte(`",replica="`))
			replica, value, _ := bytes.Cut(rest, []byte(`"} `))
			c.Ready[string(group)+"/"+string(replica)] = string(bytes.TrimSpace(value)) == "1"
		}
	}
	if len(c.Restarts) == 0 {
		return Counters{}, fmt.Errorf("the server's metrics name no process: %w", sdk.ErrUnsupported)
	}
	return c, nil
}

// Rest closes the connections that are idle, so that the server holds none but those of the next questions.
func (p *Server) Rest() { p.http.CloseIdleConnections() }

// Collect has the server collect its garbage, so that its memory can be compared.
func (p *Server) Collect(ctx context.Context) error {
	_, err := p.get(ctx, p.Admin+"/debug/pprof/heap?gc=1")
	return err
}

// Footprint is what a process holds.
type Footprint struct {
	RSS         int64 // bytes
	Descriptors int
	Mappings    int // files and memfds that are mapped; a runtime's own memory comes and goes
}
