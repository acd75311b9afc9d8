package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/durable"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long anything may take on a busy machine.
const patience = 30 * time.Second

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// host is Jobs with its database, as one host has them.
type host struct {
	*Jobs
	t     testing.TB
	clock *clock
	path  string
}

func limits() config.Jobs {
	l := config.Default().Jobs
	l.Timeout = patience
	return l
}

// echo is a Work that answers with the request.
func echo(_ context.Context, _ Job, request []byte) (Result, error) {
	return Result{Status: 200, ContentType: "text/plain", Header: map[string]string{"X": "y"}, Body: request}, nil
}

func start(t testing.TB, path string, l config.Jobs, work Work) *host {
	t.Helper()
	db, err := durable.Open(durable.Options{Path: path, Parts: []durable.Part{Part()}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	c := newClock()
	h := &host{New(Options{DB: db, Limits: l, Work: work, Log: slog.New(slog.DiscardHandler), Metrics: metrics.New(), Now: c.Now, Backoff: time.Nanosecond}), t, c, path}
	h.Start()
	t.Cleanup(h.end)
	return h
}

// end is a stop that gives running jobs no time.
func (h *host) end() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	h.Stop(ctx)
	if err := h.DB.Close(); err != nil {
		h.t.Error(err)
	}
}

// die copies the database as it is on the disk, which is what a host that is killed now leaves.
func (h *host) die() (path string) {
	h.t.Helper()
	path = filepath.Join(h.t.TempDir(), "state.db")
	if err := h.DB.Update(h.t.Context(), func(*durable.Tx) error { // no other transaction is under way
		b, err := os.ReadFile(h.path)
		return errors.Join(err, os.WriteFile(path, b, 0o600))
	}); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func owner(tenant string) access.Principal {
	return access.Principal{ID: "key:" + tenant, Kind: access.APIKey, Tenant: tenant, Role: access.User}
}

func (h *host) create(tenant, request string) Job {
	h.t.Helper()
	j, err := h.Create(h.t.Context(), Asked{Kind: "echo", Owner: owner(tenant), Request: []byte(request)})
	if err != nil {
		h.t.Fatal(err)
	}
	return j
}

// until waits for a state.
func (h *host) until(tenant, id string, want State) Job {
	h.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		j, err := h.Get(h.t.Context(), tenant, id)
		if err == nil && j.State == want {
			return j
		}
		if time.Now().After(end) || err != nil || j.State.Over() {
			h.t.Fatalf("job %s is %s (%v), %v; want %s", id, j.State, j.Failure, err, want)
		}
	}
}

func fresh(t testing.TB) string { return filepath.Join(t.TempDir(), "state.db") }

func TestLife(t *testing.T) {
	h := start(t, fresh(t), limits(), echo)
	made := h.create("acme", "hello")
	if made.State != Queued || made.Attempts != 0 || !strings.HasPrefix(made.ID, "job_") {
		t.Errorf("%+v", made)
	}
	j := h.until("acme", made.ID, Done)
	if j.Attempts != 1 || j.Finished.IsZero() || j.RequestBytes != 0 || j.ResultBytes == 0 {
		t.Errorf("%+v", j)
	}
	r, err := h.Result(t.Context(), "acme", made.ID)
	if err != nil || r.Status != 200 || r.ContentType != "text/plain" || r.Header["X"] != "y" || string(r.Body) != "hello" {
		t.Errorf("%+v, %v", r, err)
	}
	for name, try := range map[string]func(tenant, id string) error{
		"get":    func(tenant, id string) error { _, err := h.Get(t.Context(), tenant, id); return err },
		"result": func(tenant, id string) error { _, err := h.Result(t.Context(), tenant, id); return err },
		"cancel": func(tenant, id string) error { _, err := h.Cancel(t.Context(), tenant, id); return err },
		"delete": func(tenant, id string) error { return h.Delete(t.Context(), tenant, id) },
	} {
		for _, c := range [][2]string{{"other", made.ID}, {"acm", made.ID}, {"acme", made.ID + "x"}, {"acme", "job_AAAAAAAAAAAAAAAAAAAAAA"}, {"", made.ID}} {
			if err := try(c[0], c[1]); !errors.Is(err, sdk.ErrNotFound) {
				t.Errorf("%s of %q by %q: %v", name, c[1], c[0], err)
			}
		}
	}
	if _, err := h.Cancel(t.Context(), "acme", made.ID); !errors.Is(err, ErrOver) {
		t.Errorf("cancel what is over: %v", err)
	}
	if err := h.Delete(t.Context(), "acme", made.ID); err != nil {
		t.Error(err)
	}
	if _, err := h.Result(t.Context(), "acme", made.ID); !errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("after delete: %v", err)
	}
	if n := h.Count("acme", false); n[Done] != 0 || h.index.bytes != 0 || len(h.index.tenants) != 0 {
		t.Errorf("the index remembers %v, %d bytes", n, h.index.bytes)
	}
}

// TestCancel: a result that comes after the cancelling is dropped, whether or not the work listens.
func TestCancel(t *testing.T) {
	began, release := make(chan string), make(chan struct{})
	l := limits()
	l.Concurrency = 1
	h := start(t, fresh(t), l, func(ctx context.Context, j Job, request []byte) (Result, error) {
		began <- j.ID
		<-release
		if cause := context.Cause(ctx); cause == nil {
			t.Error("the work is not told")
		}
		return echo(ctx, j, request)
	})
	running := h.create("acme", "one")
	<-began
	waiting := h.create("acme", "two")
	for _, id := range []string{waiting.ID, running.ID} {
		if _, err := h.Result(t.Context(), "acme", id); !errors.Is(err, ErrNotOver) {
			t.Errorf("a result too early: %v", err)
		}
		if j, err := h.Cancel(t.Context(), "acme", id); err != nil || j.State != Cancelled || j.Finished.IsZero() {
			t.Errorf("%+v, %v", j, err)
		}
	}
	close(release)
	h.Stop(t.Context())
	for _, id := range []string{waiting.ID, running.ID} {
		if j, err := h.Get(t.Context(), "acme", id); err != nil || j.State != Cancelled {
			t.Errorf("%+v, %v", j, err)
		}
		if _, err := h.Result(t.Context(), "acme", id); !errors.Is(err, ErrOver) {
			t.Errorf("a result of a cancelled job: %v", err)
		}
	}
	if n := h.Count("acme", false); n[Cancelled] != 2 || n[Running]+n[Queued] != 0 {
		t.Errorf("%v", n)
	}
}

// TestDeath: what runs when the host dies is run again by the next one, and fails clearly when that has happened too often.
func TestDeath(t *testing.T) {
	l := limits()
	l.MaxAttempts = 3
	stuck := func(ctx context.Context, j Job, _ []byte) (Result, error) {
		<-ctx.Done()
		return Result{}, ctx.Err()
	}
	h := start(t, fresh(t), l, stuck)
	poison, good := h.create("acme", "poison"), h.create("acme", "good")
	for deaths := 1; deaths < l.MaxAttempts; deaths++ {
		h.until("acme", poison.ID, Running)
		h.until("acme", good.ID, Running)
		h = start(t, h.die(), l, stuck)
		if j := h.until("acme", poison.ID, Running); j.Attempts != deaths+1 || j.Strikes != deaths {
			t.Fatalf("after %d deaths: %+v", deaths, j)
		}
	}
	if err := h.Delete(t.Context(), "acme", good.ID); err != nil {
		t.Fatal(err)
	}
	good = h.create("acme", "good")
	h.until("acme", good.ID, Running)
	h = start(t, h.die(), l, echo)
	j := h.until("acme", poison.ID, Failed)
	if j.Failure.Code != "interrupted" || j.Attempts != 3 || j.Failure.Status != http.StatusServiceUnavailable {
		t.Errorf("%+v", j.Failure)
	}
	h.until("acme", good.ID, Done)
	if r, err := h.Result(t.Context(), "acme", good.ID); err != nil || string(r.Body) != "good" {
		t.Errorf("%q, %v", r.Body, err)
	}
}

// TestStop: a host that stops puts its jobs back without blaming them, and gives them the time that it has.
func TestStop(t *testing.T) {
	path := fresh(t)
	began := make(chan struct{}, 10)
	h := start(t, path, limits(), func(ctx context.Context, _ Job, _ []byte) (Result, error) {
		began <- struct{}{}
		<-ctx.Done()
		return Result{}, &Failure{Status: 503, Code: "cancelled", Message: "the host stops", Passing: true}
	})
	made := h.create("acme", "hello")
	<-began
	h.end()
	h = start(t, path, limits(), echo)
	if j := h.until("acme", made.ID, Done); j.Attempts != 2 || j.Strikes != 0 {
		t.Errorf("%+v", j)
	}
	h.end()
	release := make(chan struct{})
	h = start(t, path, limits(), func(ctx context.Context, j Job, request []byte) (Result, error) {
		began <- struct{}{}
		<-release
		return echo(ctx, j, request)
	})
	made = h.create("acme", "in time")
	<-began
	time.AfterFunc(10*time.Millisecond, func() { close(release) })
	h.Stop(t.Context())
	if j, err := h.Get(t.Context(), "acme", made.ID); err != nil || j.State != Done {
		t.Errorf("a job that had time to end: %+v, %v", j, err)
	}
	later := h.create("acme", "later") // taken, and run by the next host
	if j, err := h.Get(t.Context(), "acme", later.ID); err != nil || j.State != Queued {
		t.Errorf("%+v, %v", j, err)
	}
}

func TestFailures(t *testing.T) {
	l := limits()
	l.MaxAttempts = 3
	var calls sync.Map
	h := start(t, fresh(t), l, func(ctx context.Context, j Job, request []byte) (Result, error) {
		v, _ := calls.LoadOrStore(string(request), new(atomic.Int64))
		n := v.(*atomic.Int64).Add(1)
		switch string(request) {
		case "wrong":
			return Result{}, &Failure{Status: 422, Code: "invalid_value", Message: "temperature: want less", Param: "temperature"}
		case "busy twice":
			if n < 3 {
				return Result{}, &Failure{Status: 503, Code: "overloaded", Message: "busy", Passing: true}
			}
		case "always busy":
			return Result{}, &Failure{Status: 503, Code: "overloaded", Message: "busy", Passing: true}
		case "secret":
			return Result{}, errors.New("/secret/path")
		case "panic":
			panic("/secret/path")
		case "large":
			return Result{Status: 200, Body: make([]byte, maxResult)}, nil
		}
		return echo(ctx, j, request)
	})
	for request, want := range map[string]struct {
		state    State
		code     string
		attempts int
	}{
		"fine": {Done, "", 1}, "wrong": {Failed, "invalid_value", 1}, "busy twice": {Done, "", 3}, "always busy": {Failed, "overloaded", 3},
		"secret": {Failed, "internal_error", 1}, "panic": {Failed, "internal_error", 1}, "large": {Failed, "result_too_large", 1},
	} {
		made := h.create("acme", request)
		for !h.settled(made.ID) {
			h.clock.pass(time.Second)
			h.rouse()
			time.Sleep(time.Millisecond)
		}
		j := h.until("acme", made.ID, want.state)
		if j.Attempts != want.attempts || want.code != "" && (j.Failure.Code != want.code || strings.Contains(j.Failure.Message, "secret")) {
			t.Errorf("%s: %+v, %+v", request, j, j.Failure)
		}
		_, err := h.Result(t.Context(), "acme", made.ID)
		if f := (*Failure)(nil); want.code != "" && (!errors.As(err, &f) || f.Code != want.code) {
			t.Errorf("%s: result %v", request, err)
		}
	}
	for _, line := range []string{`pimoe_jobs{state="failed"} 5`, `pimoe_jobs_total{kind="echo",outcome="done"} 2`, `pimoe_job_attempts_total{kind="echo"} 11`, `pimoe_job_wait_seconds_count{kind="echo"} 7`} {
		says := func() bool { // what is known of a job is counted a moment later
			var b bytes.Buffer
			h.Metrics.Write(&b)
			return strings.Contains(b.String(), line)
		}
		for end := time.Now().Add(10 * time.Second); !says(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("metrics lack %s", line)
				break
			}
		}
	}
}

func (h *host) settled(id string) bool {
	j, err := h.Get(h.t.Context(), "acme", id)
	return err != nil || j.State.Over()
}

// However many attempts jobs.max_attempts allows, none waits for years or begins at once.
func TestBackoffIsBounded(t *testing.T) {
	last := time.Duration(0)
	for strikes := 1; strikes <= 100; strikes++ {
		wait := backoff(time.Second, strikes)
		if wait < last || wait > longestBackoff || strikes < 10 && wait != time.Second<<(strikes-1) {
			t.Fatalf("after %d strikes %v, before %v", strikes, wait, last)
		}
		last = wait
	}
}

// TestLimits: many at once do not get past the limits, and what was refused leaves nothing.
func TestLimits(t *testing.T) {
	l := limits()
	l.MaxPerTenant, l.MaxMBPerTenant, l.MaxMB = 10, 1, 2
	h := start(t, fresh(t), l, func(ctx context.Context, _ Job, _ []byte) (Result, error) {
		<-ctx.Done()
		return Result{}, ctx.Err()
	})
	ask := func(tenant string, size int) error {
		_, err := h.Create(t.Context(), Asked{Kind: "echo", Owner: owner(tenant), Request: make([]byte, size)})
		return err
	}
	var taken, refused atomic.Int64
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			switch err := ask("acme", 10); {
			case err == nil:
				taken.Add(1)
			case errors.Is(err, ErrFull):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if taken.Load() != 10 || refused.Load() != 40 {
		t.Errorf("%d taken, %d refused", taken.Load(), refused.Load())
	}
	for tenant, sizes := range map[string][]int{"b": {1 << 20}, "c": {1<<20 - 200}} { // with acme's 100 bytes, 2 MiB in all
		for _, n := range sizes {
			if err := ask(tenant, n); err != nil {
				t.Errorf("%s: %v", tenant, err)
			}
		}
		if err := ask(tenant, 1000); !errors.Is(err, ErrFull) {
			t.Errorf("%s has more than it may: %v", tenant, err)
		}
	}
	if err := ask("d", 1000); !errors.Is(err, ErrFull) {
		t.Errorf("all have more than they may: %v", err)
	}
	boom := errors.New("boom")
	before := h.index.bytes
	if _, err := h.Create(t.Context(), Asked{Kind: "echo", Owner: owner("e"), Request: []byte("x"), Also: func(*durable.Tx, Job) error { return boom }}); !errors.Is(err, boom) {
		t.Errorf("%v", err)
	}
	if page, _, err := h.List(t.Context(), "e", "", 10, ""); err != nil || len(page) != 0 || h.index.bytes != before {
		t.Errorf("what was not made is there: %v, %v", page, err)
	}
}

// TestTurns: one tenant's crowd does not keep another one's job waiting.
func TestTurns(t *testing.T) {
	l := limits()
	l.Concurrency = 1
	gate := make(chan struct{})
	var mu sync.Mutex
	var order []string
	h := start(t, fresh(t), l, func(ctx context.Context, j Job, request []byte) (Result, error) {
		<-gate
		mu.Lock()
		defer mu.Unlock()
		order = append(order, j.Owner.Tenant+string(request))
		return echo(ctx, j, request)
	})
	var ids []string
	for i := range 6 {
		ids = append(ids, h.create("crowd", fmt.Sprint(i)).ID)
	}
	one := h.create("one", "0")
	close(gate)
	h.until("one", one.ID, Done)
	for _, id := range ids {
		h.until("crowd", id, Done)
	}
	mu.Lock()
	defer mu.Unlock()
	if at := slices.Index(order, "one0"); at > 1 {
		t.Errorf("order %v", order)
	}
	if of := slices.DeleteFunc(slices.Clone(order), func(s string) bool { return s == "one0" }); !slices.IsSorted(of) {
		t.Errorf("a tenant's jobs change places: %v", order)
	}
}

func TestRetention(t *testing.T) {
	l := limits()
	l.Retention, l.Concurrency = time.Hour, 1
	block := make(chan struct{})
	h := start(t, fresh(t), l, func(ctx context.Context, j Job, request []byte) (Result, error) {
		if string(request) == "block" {
			select {
			case <-block:
			case <-ctx.Done():
			}
		}
		return echo(ctx, j, request)
	})
	old := h.create("acme", "old")
	h.until("acme", old.ID, Done)
	blocking := h.create("acme", "block")
	h.until("acme", blocking.ID, Running)
	waiting := h.create("acme", "waiting")
	h.clock.pass(time.Hour - time.Second)
	h.Sweep(t.Context())
	if _, err := h.Result(t.Context(), "acme", old.ID); err != nil {
		t.Errorf("a second too early: %v", err)
	}
	h.clock.pass(time.Second)
	h.Sweep(t.Context())
	if _, err := h.Get(t.Context(), "acme", old.ID); !errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("an old result: %v", err)
	}
	if j := h.until("acme", waiting.ID, Failed); j.Failure.Code != "expired" {
		t.Errorf("%+v", j.Failure)
	}
	close(block)
	h.until("acme", blocking.ID, Done) // however long it runs
}

// TestPages walks while jobs come and go: what was there before and stays is seen once.
func TestPages(t *testing.T) {
	h := start(t, fresh(t), limits(), echo)
	var ids []string
	for i := range 25 {
		ids = append(ids, h.create("acme", fmt.Sprint(i)).ID)
		h.create("acme2", "another tenant")
		h.create("acm", "another tenant")
	}
	slices.Reverse(ids)
	var seen []string
	cursor := ""
	for pages := 0; ; pages++ {
		page, next, err := h.List(t.Context(), "acme", "", 10, cursor)
		if err != nil || len(page) > 10 || pages > 3 {
			t.Fatalf("page %d: %d jobs, %v", pages, len(page), err)
		}
		for _, j := range page {
			seen = append(seen, j.ID)
		}
		h.create("acme", "new")
		if pages == 0 { // the cursor's own job goes
			if err := h.Delete(t.Context(), "acme", ids[9]); err != nil {
				t.Fatal(err)
			}
		}
		if cursor = next; next == "" {
			break
		}
	}
	if !slices.Equal(seen, ids) {
		t.Errorf("seen %v\nwant %v", seen, ids)
	}
	for _, id := range ids[10:] {
		h.until("acme", id, Done)
	}
	if page, _, err := h.List(t.Context(), "acme", Failed, 10, ""); err != nil || len(page) != 0 {
		t.Errorf("failed ones: %v, %v", page, err)
	}
	if page, next, err := h.List(t.Context(), "acme", Done, 100, ""); err != nil || len(page) < 15 || next != "" {
		t.Errorf("done ones: %d, %q, %v", len(page), next, err)
	}
	for _, bad := range []string{"x", cursorOf(make([]byte, 16)) + "A", strings.Repeat("A", 23), "AQGiJpkKzHH7kD-FKula1S=", "\x00"} {
		if _, _, err := h.List(t.Context(), "acme", "", 10, bad); !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("cursor %q: %v", bad, err)
		}
	}
}

// TestDamagedRecord: a record that no host has written is said to be so, and no job runs on a guess.
func TestDamagedRecord(t *testing.T) {
	path := fresh(t)
	h := start(t, path, limits(), echo)
	made := h.create("acme", "x")
	h.until("acme", made.ID, Done)
	id, err := parseID(made.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.DB.Update(t.Context(), func(tx *durable.Tx) error {
		return tx.Put(jobBucket, key("acme", id), []byte(`{"ID":"`+made.ID+`","State":"finished"}`))
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Get(t.Context(), "acme", made.ID); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("%v", err)
	}
	if _, _, err := h.List(t.Context(), "acme", "", 10, ""); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("%v", err)
	}
	h.end()
	h = start(t, path, limits(), echo)
	h.working.Wait()
	if _, err := h.Create(t.Context(), Asked{Kind: "echo", Owner: owner("acme")}); !errors.Is(err, sdk.ErrUnavailable) || !strings.Contains(err.Error(), "can't be read") {
		t.Errorf("%v", err)
	}
}

func FuzzRecords(f *testing.F) {
	j, _ := json.Marshal(Job{ID: "job_AaImmQqGfGelBSBQ2V9ToA", Kind: "chat", State: Failed, Owner: owner("acme"), Failure: &Failure{Code: "x"}})
	r, _ := Result{Status: 200, ContentType: "a", Body: []byte("b\nc")}.encode()
	f.Add(j)
	f.Add(r)
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, record []byte) {
		if j, err := parseJob(record); err == nil {
			again, err := json.Marshal(j)
			if err != nil {
				t.Fatalf("%s: %v", record, err)
			}
			if second, err := parseJob(again); err != nil || second.ID != j.ID || second.State != j.State {
				t.Errorf("%s became %s: %v", record, again, err)
			}
		}
		if r, err := parseResult(record); err == nil {
			again, err := r.encode()
			if err != nil {
				t.Fatal(err)
			}
			if second, err := parseResult(again); err != nil || !bytes.Equal(second.Body, r.Body) {
				t.Errorf("%q became %q: %v", record, again, err)
			}
		}
	})
}

// FuzzNames: an id or a cursor that is taken is the only way to write it.
func FuzzNames(f *testing.F) {
	f.Add("job_AaImmQqGfGelBSBQ2V9ToA")
	f.Add("AQGiJpkKzHH7kD-FKula1SE")
	f.Add("job_")
	f.Add("job_00000000\r0000\r00000000") // a decoder that skips line breaks
	f.Fuzz(func(t *testing.T, text string) {
		if id, err := parseID(text); err == nil && nameOf(id) != text {
			t.Errorf("%q is another name of %q", text, nameOf(id))
		}
		if id, err := parseCursor(text); err == nil && cursorOf(key("t", id)) != text {
			t.Errorf("%q is another cursor of %q", text, cursorOf(key("t", id)))
		}
		if p, err := placeOf([]byte(text)); err == nil && string(p.key()) != text {
			t.Errorf("%q is another key of %q", text, p.key())
		}
	})
}
