package acceptance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/coretest"
)

// program is a running `pimoe serve`.
type program struct {
	cmd    *exec.Cmd
	url    string
	admin  string
	stderr *safeBuffer
	exited chan struct{}
	err    error // of Wait, after exited
}

// safeBuffer collects what the program prints while the test reads it.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

var address = regexp.MustCompile(`http://127\.0\.0\.1:\d+`)

// launch starts the program and does not wait for it to be ready.
func launch(t testing.TB, store string, args ...string) *program {
	t.Helper()
	p := &program{stderr: &safeBuffer{}, exited: make(chan struct{})}
	p.cmd = exec.Command(filepath.Join(coretest.Binaries(t), "pimoe"),
		append([]string{"serve", "--addr", "127.0.0.1:" + freePort(t), "--admin-addr", "127.0.0.1:" + freePort(t)}, args...)...)
	p.url, p.admin = "http://"+p.cmd.Args[3], "http://"+p.cmd.Args[5]
	p.cmd.Env = append(os.Environ(), "PIMOE_HOME="+store)
	p.cmd.Stdout, p.cmd.Stderr = p.stderr, p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.exited) }()
	t.Cleanup(func() { p.cmd.Process.Kill(); <-p.exited })
	return p
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()[strings.LastIndex(l.Addr().String(), ":")+1:]
}

// ready waits until the server says that it answers.
func (p *program) ready(t testing.TB) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		select {
		case <-p.exited:
			t.Fatalf("pimoe serve ended: %v\n%s", p.err, p.stderr)
		default:
		}
		if r, err := http.Get(p.url + "/readyz"); err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("not ready after 20 s\n%s", p.stderr)
}

// children are the living processes that run a plugin of ours out of the test's own folder.
func children(t *testing.T) []int {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cmdline") // what a plugin executes is a copy without a path
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, l := range links {
		args, err := os.ReadFile(l)
		exe, _, _ := strings.Cut(string(args), "\x00")
		if err != nil || !strings.HasPrefix(filepath.Base(exe), "pimoe") || filepath.Dir(exe) != coretest.Binaries(t) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(l, "/")[2])
		if err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// rounds is a number of repetitions that the long run raises.
func rounds(variable string, usual int) int {
	if n, err := strconv.Atoi(os.Getenv(variable)); err == nil {
		return n
	}
	return usual
}

// TestHostKilled kills the host with SIGKILL at random moments, also during its start: within two seconds no process
// of it is left, and the next start is clean.
func TestHostKilled(t *testing.T) {
	store := home(t)
	var ends []time.Duration
	for range rounds("PIMOE_HOST_KILLS", 12) {
		p := launch(t, store)
		if rand.IntN(2) == 0 {
			p.ready(t)
			go http.Post(p.url+"/v1/completions", "application/json", strings.NewReader(`{"model":"pimoe-tiny","prompt":"Once","max_tokens":200}`))
		}
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond) // the fault's random moment
		p.cmd.Process.Kill()
		began := time.Now()
		<-p.exited
		for len(children(t)) > 0 {
			if time.Since(began) > 2*time.Second {
				t.Fatalf("processes %v are left 2 s after the host", children(t))
			}
			time.Sleep(time.Millisecond)
		}
		ends = append(ends, time.Since(began))
	}
	t.Logf("measured: %d kills: all gone after %s", len(ends), quantiles(ends))
	p := launch(t, store)
	p.ready(t)
	left, _ := filepath.Glob(filepath.Join(store, "run", "h*"))
	if len(left) != 1 {
		t.Errorf("%d runtime folders, want the running host's own: %v", len(left), left)
	}
	if err := p.terminate(); err != nil {
		t.Error(err)
	}
}

// terminate sends SIGTERM and waits for a clean end.
func (p *program) terminate() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	http.DefaultClient.CloseIdleConnections() // else the server lingers for their next request
	select {
	case <-p.exited:
	case <-time.After(40 * time.Second):
		return fmt.Errorf("still there 40 s after SIGTERM\n%s", p.stderr)
	}
	if p.err != nil {
		return fmt.Errorf("exit after SIGTERM: %w\n%s", p.err, p.stderr)
	}
	return nil
}

// TestTerminate ends the host with SIGTERM under load: every accepted request gets its whole answer, readiness goes
// first, the exit code is 0, and no process is left.
func TestTerminate(t *testing.T) {
	store := home(t)
	want := ""
	for round := range rounds("PIMOE_TERMINATIONS", 6) {
		p := launch(t, store)
		p.ready(t)
		const clients = 6
		texts := make(chan string, clients)
		errs := make(chan error, clients)
		for c := range clients {
			go func() {
				text, err := p.complete(c%2 == 0)
				if err != nil {
					errs <- err
					return
				}
				texts <- text
			}()
		}
		for p.running(t) < clients {
			time.Sleep(time.Millisecond)
		}
		if err := p.terminate(); err != nil {
			t.Fatal(err)
		}
		for range clients {
			select {
			case err := <-errs:
				t.Fatalf("round %d: an accepted request was lost: %v", round, err)
			case text := <-texts:
				if want == "" {
					want = text
				}
				if text != want {
					t.Fatalf("round %d: text %q, want %q", round, text, want)
				}
			}
		}
		if left := children(t); len(left) > 0 {
			t.Fatalf("processes %v are left after the host", left)
		}
	}
}

const completion = `{"model":"pimoe-tiny","prompt":"Once upon a time","max_tokens":96,"temperature":0,"ignore_eos":true,"stream":%v}`

// complete asks for a continuation, streamed or not.
func (p *program) complete(stream bool) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+"/v1/completions", strings.NewReader(fmt.Sprintf(completion, stream)))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	return completed(r, stream)
}

// completed is the text of an answer.
func completed(r *http.Response, stream bool) (string, error) {
	if r.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(r.Body)
		return "", fmt.Errorf("%s: %s", r.Status, b)
	}
	if stream {
		return streamed(r.Body)
	}
	var body chunk
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return "", err
	}
	return body.Choices[0].Text, nil
}

type chunk struct {
	Choices []struct {
		Text   string  `json:"text"`
		Finish *string `json:"finish_reason"`
	} `json:"choices"`
}

// streamed reads server-sent events up to [DONE].
func streamed(body io.Reader) (string, error) {
	text, finished := "", false
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		switch {
		case !ok:
		case data == "[DONE]":
			if !finished {
				return "", fmt.Errorf("stream ended without a finish reason after %q", text)
			}
			return text, nil
		default:
			var c chunk
			if err := json.Unmarshal([]byte(data), &c); err != nil {
				return "", fmt.Errorf("event %q: %w", data, err)
			}
			for _, choice := range c.Choices {
				text += choice.Text
				finished = finished || choice.Finish != nil
			}
			if len(c.Choices) == 0 {
				return "", fmt.Errorf("event %q", data)
			}
		}
	}
	return "", fmt.Errorf("stream broke off after %q: %v", text, lines.Err())
}

var runningGauge = regexp.MustCompile(`(?m)^pimoe_engine_running (\d+)`)

// running is how many requests the engine works on.
func (p *program) running(t *testing.T) int {
	t.Helper()
	m := runningGauge.FindStringSubmatch(p.metrics(t))
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

func (p *program) metrics(t *testing.T) string {
	t.Helper()
	r, err := http.Get(p.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestSecondSignal ends a draining host at once, and leaves nothing.
func TestSecondSignal(t *testing.T) {
	p := launch(t, home(t))
	p.ready(t)
	go http.Post(p.url+"/v1/completions", "application/json", strings.NewReader(`{"model":"pimoe-tiny","prompt":"Once","max_tokens":900,"ignore_eos":true}`))
	for p.running(t) == 0 {
		time.Sleep(time.Millisecond)
	}
	for range 2 {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond) // two signals at once would be one to the kernel
	}
	select {
	case <-p.exited:
	case <-time.After(3 * time.Second):
		t.Fatal("still there 3 s after the second signal")
	}
	for began := time.Now(); len(children(t)) > 0; time.Sleep(time.Millisecond) {
		if time.Since(began) > 2*time.Second {
			t.Fatalf("processes %v are left", children(t))
		}
	}
}

// TestStartUp: the server says where it listens, which processes serve and how to ask, within five seconds.
func TestStartUp(t *testing.T) {
	began := time.Now()
	p := launch(t, home(t))
	p.ready(t)
	t.Logf("measured: ready after %v, the import of the embedded model included", time.Since(began))
	out := ""
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) { // it says so when it is ready
		out = p.stderr.String()
		if _, line, ok := strings.Cut(out, "curl "); ok && strings.Contains(line, "\n") && address.MatchString(out) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("start-up says neither an address nor a curl line:\n%s", out)
		}
	}
	if n := len(children(t)); n != 8+1+1 {
		t.Errorf("%d processes of ours, want host, router and 8 experts", n)
	}
	for g := range 8 {
		if !strings.Contains(out, fmt.Sprintf("e%d", g)) {
			t.Errorf("start-up does not name the process of group e%d:\n%s", g, out)
		}
	}
	line := ""
	for l := range strings.Lines(out) {
		if at := strings.Index(l, "curl "); at >= 0 {
			line = strings.TrimSpace(l[at:])
		}
	}
	answer, err := exec.Command("sh", "-c", line).Output()
	if err != nil || !json.Valid(bytes.TrimSpace(answer)) && !bytes.Contains(answer, []byte("data: [DONE]")) {
		t.Errorf("the printed line %q answers %q, %v", line, answer, err)
	}
	if err := p.terminate(); err != nil {
		t.Error(err)
	}
}
