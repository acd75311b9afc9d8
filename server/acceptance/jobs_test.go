package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pimoe/pimoe/server/seal"
)

// again starts the same command line once more, with nobody to take over from.
func (p *program) again(t *testing.T) *program {
	t.Helper()
	s := &program{stderr: &safeBuffer{}, exited: make(chan struct{}), url: p.url, admin: p.admin}
	args := slices.DeleteFunc(slices.Clone(p.cmd.Args[1:]), func(arg string) bool { return arg == "--take-over" })
	s.cmd = exec.Command(p.cmd.Path, args...)
	s.cmd.Env = p.cmd.Env
	s.cmd.Stdout, s.cmd.Stderr = s.stderr, s.stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.err = s.cmd.Wait(); close(s.exited) }()
	t.Cleanup(func() { s.cmd.Process.Kill(); <-s.exited })
	return s
}

// unkept makes a connection for each request, so that a host that hands over has none to wait for.
var unkept = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// errAgain is an answer, or none, after which the same request may be sent again.
var errAgain = errors.New("try again")

// ask sends a request; what a host that dies or stops gives is errAgain.
func (p *program) ask(method, path, key, body string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, p.url+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	r, err := unkept.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", errAgain, err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", errAgain, err)
	}
	if r.StatusCode == http.StatusServiceUnavailable || r.StatusCode == http.StatusConflict && r.Header.Get("Retry-After") != "" {
		return r.StatusCode, b, fmt.Errorf("%w: %s", errAgain, b)
	}
	return r.StatusCode, b, nil
}

// book is what clients have been told: whatever happens to the host, it must stay so.
type book struct {
	mu      sync.Mutex
	jobs    map[string]string // by idempotency key: the job's id
	answers map[string][]byte // by idempotency key: a completion, whole
	results map[string][]byte // by job
	keys    int               // that were sent, answered or not
}

// told notes what a client has been told, and says if it is something else than before.
func told[V any](b *book, m map[string]V, name string, v V, same func(a, b V) bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if old, is := m[name]; is && !same(old, v) {
		return fmt.Errorf("%s: told %v, before that %v", name, v, old)
	}
	m[name] = v
	return nil
}

func equal(a, b string) bool { return a == b }

const jobBody = `{"kind":"completion","request":{"model":"pimoe-tiny","prompt":"Once upon a time","max_tokens":24,"temperature":0,"ignore_eos":true}}`

// client makes jobs and completions under keys of its own, sending each again until it is answered, and reads results.
func (b *book) client(t *testing.T, p func() *program, name string, stop <-chan struct{}) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		key := fmt.Sprintf("%s-%d", name, n)
		path, body := "/api/v1/jobs", jobBody
		if n%3 == 2 {
			path, body = "/v1/completions", fmt.Sprintf(completion, n%2 == 0)
		}
		b.mu.Lock()
		b.keys++
		b.mu.Unlock()
		for {
			status, answer, err := p().ask(http.MethodPost, path, key, body)
			if errors.Is(err, errAgain) {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			if err == nil && path == "/v1/completions" {
				if status != http.StatusOK {
					err = fmt.Errorf("%d %s", status, answer)
				} else {
					err = told(b, b.answers, key, answer, bytes.Equal)
				}
			} else if err == nil {
				var job struct{ ID string }
				if err = json.Unmarshal(answer, &job); status != http.StatusAccepted || job.ID == "" {
					err = fmt.Errorf("%d %s", status, answer)
				} else {
					err = told(b, b.jobs, key, job.ID, equal)
				}
			}
			if err != nil {
				t.Errorf("%s %s: %v", path, key, err)
				return
			}
			break
		}
		b.mu.Lock()
		var id string
		for _, id = range b.jobs { // any of them
			break
		}
		b.mu.Unlock()
		if status, result, err := p().ask(http.MethodGet, "/api/v1/jobs/"+id+"/result", "", ""); err == nil && id != "" {
			if status != http.StatusOK {
				t.Errorf("result of %s: %d %s", id, status, result)
				return
			}
			if err := told(b, b.results, id, result, bytes.Equal); err != nil {
				t.Error(err)
				return
			}
		}
	}
}

// settle waits for all jobs and compares all that was told with what there is: every job is there once and has the one right
// result, every kept answer is the same again.
func (b *book) settle(t *testing.T, p *program) (attempts int) {
	t.Helper()
	type job struct {
		ID, State string
		Attempts  int
		Error     any
	}
	all := map[string]job{}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		clear(all)
		waiting, cursor := 0, ""
		for {
			status, body, err := p.ask(http.MethodGet, "/api/v1/jobs?limit=100&cursor="+cursor, "", "")
			if cursor == "" {
				status, body, err = p.ask(http.MethodGet, "/api/v1/jobs?limit=100", "", "")
			}
			if err != nil || status != http.StatusOK {
				t.Fatalf("list: %d %s, %v", status, body, err)
			}
			var page struct {
				Jobs []job
				Next *string `json:"next_cursor"`
			}
			if err := json.Unmarshal(body, &page); err != nil {
				t.Fatal(err)
			}
			for _, j := range page.Jobs {
				all[j.ID] = j
				if j.State == "queued" || j.State == "running" {
					waiting++
				}
			}
			if page.Next == nil {
				break
			}
			cursor = *page.Next
		}
		if waiting == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d jobs are not over after two minutes", waiting)
		}
	}
	want, err := p.complete(false)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for key, id := range b.jobs {
		j, is := all[id]
		if !is || j.State != "done" {
			t.Errorf("job %s of %s: %+v", id, key, j)
			continue
		}
		if other, twice := seen[id]; twice {
			t.Errorf("job %s is that of %s and of %s", id, key, other)
		}
		seen[id] = key
		attempts += j.Attempts
		_, result, err := p.ask(http.MethodGet, "/api/v1/jobs/"+id+"/result", "", "")
		if err == nil {
			err = told(b, b.results, id, result, bytes.Equal)
		}
		var c chunk
		if err != nil || json.Unmarshal(result, &c) != nil || len(c.Choices) != 1 || !strings.HasPrefix(want, c.Choices[0].Text) || c.Choices[0].Text == "" {
			t.Errorf("result of %s: %.300s, %v", id, result, err)
		}
	}
	if len(all) != len(b.jobs) {
		t.Errorf("%d jobs are there, %d were asked for", len(all), len(b.jobs))
	}
	for key, answer := range b.answers {
		stream := bytes.HasPrefix(answer, []byte("data: "))
		if _, again, err := p.ask(http.MethodPost, "/v1/completions", key, fmt.Sprintf(completion, stream)); err != nil || !bytes.Equal(again, answer) {
			t.Errorf("answer of %s: %.100s, %v; before %.100s", key, again, err, answer)
		}
	}
	return attempts
}

// keeping launches a host that seals what it keeps, and clients that write down what they are told.
func keeping(t *testing.T) (p *program, dir string) {
	t.Helper()
	dir = home(t)
	keys := filepath.Join(dir, "seal.keys")
	if _, err := seal.Create(keys); err != nil {
		t.Fatal(err)
	}
	p = launch(t, dir, "--set", "encryption.key_file="+keys, "--set", "jobs.max_attempts=100", "--set", "jobs.max_per_tenant=100000")
	p.ready(t)
	return p, dir
}

func newBook() *book {
	return &book{jobs: map[string]string{}, answers: map[string][]byte{}, results: map[string][]byte{}}
}

// TestJobsSurviveKills kills the host with SIGKILL in the middle of jobs, time and again, while clients make jobs and
// completions with idempotency keys and send again what was not answered: nothing that a client was told is lost or becomes
// something else, nothing is made twice, and all jobs end with the right result. Nothing of it can be read on the disk.
// PIMOE_JOB_KILLS says how often.
func TestJobsSurviveKills(t *testing.T) {
	var mu sync.Mutex
	p, dir := keeping(t)
	now := func() *program { mu.Lock(); defer mu.Unlock(); return p }
	b, stop := newBook(), make(chan struct{})
	var clients sync.WaitGroup
	for c := range 4 {
		clients.Go(func() { b.client(t, now, fmt.Sprint("client", c), stop) })
	}
	kills := rounds("PIMOE_JOB_KILLS", 3)
	for k := range kills {
		time.Sleep(time.Duration(rand.IntN(600)) * time.Millisecond)
		old := now()
		if err := old.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-old.exited
		next := old.again(t)
		if k%4 != 3 || k == kills-1 { // some die while they start
			next.ready(t)
		}
		mu.Lock()
		p = next
		mu.Unlock()
		if t.Failed() {
			break
		}
	}
	time.Sleep(200 * time.Millisecond)
	close(stop)
	clients.Wait()
	attempts := b.settle(t, now())
	if attempts < len(b.jobs) || len(b.jobs) == 0 || len(b.answers) == 0 {
		t.Errorf("%d attempts for %d jobs, %d answers", attempts, len(b.jobs), len(b.answers))
	}
	t.Logf("%d kills: %d keys, %d jobs in %d attempts, %d answers, %d results read meanwhile", kills, b.keys, len(b.jobs), attempts, len(b.answers), len(b.results))
	file, err := os.ReadFile(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"Once upon a time", "pimoe-tiny", "client0-0"} {
		if bytes.Contains(file, []byte(secret)) {
			t.Errorf("%q can be read in the database", secret)
		}
	}
}

// TestJobsAreHandedOver replaces the host under load: the successor goes on with the jobs, and no keyed request is lost or
// computed twice. PIMOE_JOB_HANDOVERS says how often.
func TestJobsAreHandedOver(t *testing.T) {
	var mu sync.Mutex
	p, _ := keeping(t)
	now := func() *program { mu.Lock(); defer mu.Unlock(); return p }
	b, stop := newBook(), make(chan struct{})
	var clients sync.WaitGroup
	for c := range 4 {
		clients.Go(func() { b.client(t, now, fmt.Sprint("client", c), stop) })
	}
	for range rounds("PIMOE_JOB_HANDOVERS", 1) {
		time.Sleep(300 * time.Millisecond)
		next := now().successor(t, nil)
		now().ended(t, "handed over")
		mu.Lock()
		p = next
		mu.Unlock()
	}
	time.Sleep(300 * time.Millisecond)
	close(stop)
	clients.Wait()
	attempts := b.settle(t, now())
	t.Logf("%d keys, %d jobs in %d attempts, %d answers", b.keys, len(b.jobs), attempts, len(b.answers))
	if len(b.jobs) == 0 || len(b.answers) == 0 {
		t.Error("nothing was asked")
	}
}
