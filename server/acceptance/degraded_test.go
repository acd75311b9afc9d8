package acceptance

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/profile"
	"github.com/pimoe/pimoe/server/instance"
)

// copyPlugins is a folder with the test's own copies of the plugins, which a test may spoil.
func copyPlugins(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	from := coretest.Binaries(t)
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, e.Name()), b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// crippled is a server one of whose expert groups has died and can't be started again.
type crippled struct {
	*program
	plugin string // the executable of the group that is gone
	client http.Client
}

// victim is the group that dies: expert 3 of every layer, on an executable of its own.
const victim = 3

// cripple starts a server under a policy. Its expert 3 runs an executable of its own, which kill makes unusable.
func cripple(t *testing.T, store string, settings ...string) *crippled {
	t.Helper()
	dir := copyPlugins(t)
	own := filepath.Join(dir, "own", "pimoe-expert-cpu")
	if err := os.MkdirAll(filepath.Dir(own), 0o755); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "pimoe-expert-cpu"))
	if err == nil {
		err = os.WriteFile(own, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--plugins", dir, "--dev", "--set", fmt.Sprintf("experts.overrides=[{layers: all, experts: %d, plugin: %s}]", victim, own)}
	for _, s := range settings {
		args = append(args, "--set", s)
	}
	c := &crippled{program: launch(t, store, args...), plugin: own, client: http.Client{Timeout: time.Minute}}
	c.ready(t)
	return c
}

// group is what the admin API says of a group's process.
func (c *crippled) group(t *testing.T, name string) (pid int, state string) {
	t.Helper()
	r, err := c.client.Get(c.admin + "/admin/experts")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var list struct {
		Experts []struct {
			Group, State string
			PID          int
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&list); err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Experts {
		if e.Group == name {
			return e.PID, e.State
		}
	}
	t.Fatalf("no group %s in %+v", name, list)
	return 0, ""
}

// kill ends expert 3 for good and waits until the host knows that.
func (c *crippled) kill(t *testing.T) {
	t.Helper()
	pid, _ := c.group(t, "e"+strconv.Itoa(victim))
	if err := os.Remove(c.plugin); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, state := c.group(t, "e"+strconv.Itoa(victim)); state == "failed" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the group has not failed\n%s", c.stderr)
		}
	}
}

// reply is an answer over HTTP.
type httpAnswer struct {
	status int
	header http.Header
	body   []byte
	json   struct {
		Choices []struct{ Text string }
		Meta    meta
		Error   struct{ Code, Message string }
	}
}

// meta is what a body says of its quality.
type meta struct {
	Status, Policy string
	Layers         int
	MaxDroppedMass float64 `json:"max_dropped_mass"`
	NumericClass   string  `json:"numeric_class"`
	Index          *int
}

// ask posts a completion; header is name, value pairs.
func (c *crippled) ask(t *testing.T, prompt, more string, header ...string) httpAnswer {
	t.Helper()
	r := c.post(t, prompt, more, header...)
	defer r.Body.Close()
	a := httpAnswer{status: r.StatusCode, header: r.Header}
	var err error
	if a.body, err = io.ReadAll(r.Body); err == nil {
		err = json.Unmarshal(a.body, &a.json)
	}
	if err != nil {
		t.Errorf("%v: %s", err, a.body)
	}
	return a
}

func (c *crippled) post(t *testing.T, prompt, more string, header ...string) *http.Response {
	t.Helper()
	body := fmt.Sprintf(`{"model":"pimoe-tiny","prompt":%q,"max_tokens":24,"temperature":0,"ignore_eos":true%s}`, prompt, more)
	q, err := http.NewRequest(http.MethodPost, c.url+"/v1/completions", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
	}
	r, err := c.client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var openings = []string{"Once upon a time, a little", "The dog and the lamp were", "12 + 3 =", "An old king lived in a"}

// TestDegraded loses an expert for good under each policy. Every answer says what it is, an exact request gets an exact
// answer or a 503, also in one batch with others, and nothing that was computed without the expert is used again.
func TestDegraded(t *testing.T) {
	for policy, c := range map[string]struct {
		settings       []string
		status, reason string // of answers after the death
	}{
		"strict":      {nil, "", ""},
		"fallback":    {[]string{"policy=fallback", "degraded.fallback.backend=int8"}, "fallback", "fallback"},
		"renormalise": {[]string{"policy=renormalise", "degraded.max_dropped_mass=1"}, "degraded", "renormalise"},
		"substitute":  {[]string{"policy=substitute", "degraded.substitutes={3: 5}"}, "degraded", "substitute"},
	} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			s := cripple(t, home(t), c.settings...)
			for _, p := range openings {
				a := s.ask(t, p, "")
				if a.status != http.StatusOK || a.header.Get("Pimoe-Status") != "exact" || a.json.Meta.Status != "exact" {
					t.Fatalf("before: %d %v %s", a.status, a.header, a.body)
				}
			}
			if c.status == "" {
				s.restarted(t)
			}
			rows := s.rows(t)
			s.kill(t)
			s.afterDeath(t, c.status, c.reason)
			s.sameRows(t, rows, c.status)
			if c.status != "" {
				s.stream(t, c.status)
				s.traced(t, c.status, c.reason)
				s.counted(t, c.status)
			}
		})
	}
}

// afterDeath asks plain, exact and seeded requests at the same time.
func (c *crippled) afterDeath(t *testing.T, status, policy string) {
	t.Helper()
	var wg sync.WaitGroup
	for _, p := range openings {
		for range 2 { // the second finds what the first has left in the cache
			wg.Go(func() {
				a := c.ask(t, p, "")
				if status == "" {
					c.expect503(t, "strict", a)
					return
				}
				c.expectFlag(t, a, status, policy)
			})
			wg.Go(func() { c.expect503(t, "exact", c.ask(t, p, "", "pimoe-accept", "exact")) })
			wg.Go(func() {
				a := c.ask(t, p, `,"seed":7`)
				if status == "" || policy == "renormalise" {
					c.expect503(t, "seeded", a)
					return
				}
				c.expectFlag(t, a, status, policy)
			})
		}
	}
	wg.Wait()
	if a := c.ask(t, openings[0], "", "pimoe-accept", "whatever"); a.status != http.StatusBadRequest || a.json.Error.Code != "invalid_header" {
		t.Errorf("an unknown pimoe-accept: %d %s", a.status, a.body)
	}
}

func (c *crippled) expect503(t *testing.T, what string, a httpAnswer) {
	t.Helper()
	if a.status != http.StatusServiceUnavailable || a.json.Error.Code != "expert_unavailable" ||
		!strings.Contains(a.json.Error.Message, "SIGKILL") || !strings.Contains(a.json.Error.Message, "executable is missing") {
		t.Errorf("%s: %d %s, want a 503 with the cause", what, a.status, a.body)
	}
}

func (c *crippled) expectFlag(t *testing.T, a httpAnswer, status, policy string) {
	t.Helper()
	m := a.json.Meta
	if a.status != http.StatusOK || a.header.Get("Pimoe-Status") != status || m.Status != status || m.Policy != policy || m.Layers < 1 || m.Layers > 6 {
		t.Errorf("%d %v %s, want %s by %s", a.status, a.header, a.body, status, policy)
	}
	want := ""
	if status == "degraded" {
		want = fmt.Sprintf("policy=%s; layers=%d; max-dropped-mass=%.2f", policy, m.Layers, m.MaxDroppedMass)
	}
	if got := a.header.Get("Pimoe-Degraded"); got != want {
		t.Errorf("pimoe-degraded %q, want %q", got, want)
	}
	class := "bf16w-f32"
	if status == "fallback" {
		class += ",int8g32"
	}
	if got := a.header.Get("Pimoe-Numeric-Class"); got != class || m.NumericClass != class {
		t.Errorf("numeric class %q and %q, want %q", got, m.NumericClass, class)
	}
}

// stream reads a degraded stream: the flag comes before the first text, and a summary before the end.
func (c *crippled) stream(t *testing.T, status string) {
	t.Helper()
	r := c.post(t, openings[0], `,"stream":true`)
	defer r.Body.Close()
	if got := r.Header.Get("Pimoe-Status"); got != "streamed" {
		t.Errorf("status of the stream %q", got)
	}
	var order []string
	kind := ""
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		line := lines.Text()
		if k, ok := strings.CutPrefix(line, "event: "); ok {
			kind = k
			continue
		}
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok || data == "[DONE]" {
			continue
		}
		var e struct {
			Choices []struct{ Text string }
			Meta    *meta
		}
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		switch {
		case kind != "":
			if e.Meta == nil || e.Meta.Status != status || (kind == "degraded") != (e.Meta.Index != nil) {
				t.Errorf("event %s: %s", kind, data)
			}
		case len(e.Choices) == 1 && e.Choices[0].Text != "":
			kind = "text"
		default:
			continue
		}
		if len(order) == 0 || order[len(order)-1] != kind {
			order = append(order, kind)
		}
		kind = ""
	}
	if got := strings.Join(order, " "); got != "degraded text summary" {
		t.Errorf("order of the events: %s", got)
	}
}

// row is one row of hidden states through the first layer, while all experts are there.
type row struct {
	body, output string
	hit          bool // it was routed to expert 3
}

// processed is an answer of /api/v1/process to one row.
type processed struct {
	Output json.RawMessage
	Info   struct{ Routes []struct{ Experts []int } } `json:"comprehensive_info"`
	Meta   meta
	Code   string
}

func (c *crippled) process(t *testing.T, body string) (status int, flag string, p processed) {
	t.Helper()
	r, err := c.client.Post(c.url+"/api/v1/process", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, r.Header.Get("Pimoe-Status"), p
}

// rows sends rows of hidden states through the first layer, each by itself.
func (c *crippled) rows(t *testing.T) []row {
	t.Helper()
	var out []row
	hits := 0
	rng := rand.New(rand.NewPCG(3, 4))
	for range 40 {
		x := make([]float64, 256)
		for i := range x {
			x[i] = rng.NormFloat64()
		}
		b, err := json.Marshal(map[string]any{"input_tensor": [][][]float64{{x}}, "return_comprehensive_info": true})
		if err != nil {
			t.Fatal(err)
		}
		status, flag, p := c.process(t, string(b))
		if status != http.StatusOK || flag != "exact" || p.Meta.Status != "exact" {
			t.Fatalf("before: %d %s %+v", status, flag, p)
		}
		hit := slices.Contains(p.Info.Routes[0].Experts, victim)
		if hit {
			hits++
		}
		out = append(out, row{string(b), string(p.Output), hit})
	}
	if hits == 0 || hits == len(out) {
		t.Fatalf("%d of %d rows go to expert %d: they prove nothing", hits, len(out), victim)
	}
	return out
}

// sameRows: a row that does not need the dead expert has the same bits and is exact under every policy; each other one is
// flagged, or refused under strict.
func (c *crippled) sameRows(t *testing.T, rows []row, status string) {
	t.Helper()
	for i, x := range rows {
		code, flag, p := c.process(t, x.body)
		switch {
		case !x.hit:
			if code != http.StatusOK || flag != "exact" || string(p.Output) != x.output {
				t.Errorf("row %d does not need the expert: %d %s, same bits: %v", i, code, flag, string(p.Output) == x.output)
			}
		case status == "":
			if code != http.StatusServiceUnavailable || p.Code != "expert_unavailable" {
				t.Errorf("row %d under strict: %d %+v", i, code, p)
			}
		case code != http.StatusOK || flag != status || p.Meta.Status != status || p.Meta.Layers != 1 || string(p.Output) == x.output:
			t.Errorf("row %d: %d %s %+v, same bits: %v", i, code, flag, p.Meta, string(p.Output) == x.output)
		}
	}
}

// counted holds the counters against what was asked.
func (c *crippled) counted(t *testing.T, status string) {
	t.Helper()
	r, err := c.client.Get(c.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{fmt.Sprintf("pimoe_answers_total{status=%q} 0\n", status), `pimoe_answers_total{status="exact"} 0` + "\n"} {
		if strings.Contains(string(b), line) || !strings.Contains(string(b), line[:len(line)-2]) {
			t.Errorf("metrics: %q, or no such series", line)
		}
	}
	if seriesSum(string(b), "pimoe_expert_fallback_rows_total") == 0 {
		t.Errorf("no rows were counted for which a policy was applied:\n%s", b)
	}
	if r, err := c.client.Get(c.url + "/readyz"); err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("readyz: %v %v", r.StatusCode, err)
	} else {
		r.Body.Close()
	}
}

// TestExactWaits: an exact request under a lenient policy waits for a restart, as under strict, and has the same text; the
// others beside it go on at once, flagged or exact.
func TestExactWaits(t *testing.T) {
	s := cripple(t, home(t), "policy=renormalise", "degraded.max_dropped_mass=1")
	want := s.ask(t, openings[0], "").json.Choices
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for done := false; !done; {
				select {
				case <-stop:
					done = true
				default:
				}
				a := s.ask(t, openings[0], "", "pimoe-accept", "exact")
				if a.status != http.StatusOK || a.header.Get("Pimoe-Status") != "exact" || len(want) != 1 || !strings.HasPrefix(want[0].Text, a.json.Choices[0].Text) {
					t.Errorf("%d %v %s, want the beginning of %v", a.status, a.header, a.body, want)
				}
			}
		})
		wg.Go(func() {
			for done := false; !done; {
				select {
				case <-stop:
					done = true
				default:
				}
				a := s.ask(t, openings[0], "")
				same := a.status == http.StatusOK && strings.HasPrefix(want[0].Text, a.json.Choices[0].Text)
				if status := a.header.Get("Pimoe-Status"); a.status != http.StatusOK || !same && status != "degraded" {
					t.Errorf("another text without a flag: %d %s %s", a.status, status, a.body)
				}
			}
		})
	}
	for range 20 {
		pid, _ := s.group(t, "e3")
		if pid != 0 {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) { // it may just have been replaced
				t.Error(err)
			}
		}
		time.Sleep(50 * time.Millisecond) // the load between two faults, not a wait for something
	}
	close(stop)
	wg.Wait()
}

// TestCriticalExpert: an expert that the model's profile calls critical is neither dropped nor replaced. Clients get sums,
// the operator's log names the expert.
func TestCriticalExpert(t *testing.T) {
	c := config.Default()
	c.Home = home(t)
	stored, err := instance.OpenModel(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	rec := profile.NewRecorder([]int{0, 1, 2, 3, 4, 5}, 8)
	for e := range 8 {
		rec.Add(4, e, 1, []float32{1})
	}
	rec.Add(4, victim, 1, []float32{100})
	if err := rec.Profile(stored.Digest(), 9).Write(stored.Profile()); err != nil {
		t.Fatal(err)
	}
	s := cripple(t, c.Home, "policy=renormalise", "degraded.max_dropped_mass=1")
	s.kill(t)
	refused, degraded := 0, 0
	for _, p := range openings {
		switch a := s.ask(t, p, ""); {
		case a.status == http.StatusServiceUnavailable && a.json.Error.Code == "degradation_refused":
			if refused++; strings.Contains(a.json.Error.Message, "expert 3") || strings.Contains(a.json.Error.Message, "e3") || !strings.Contains(a.json.Error.Message, "critical") {
				t.Errorf("clients read %s", a.body)
			}
		case a.status == http.StatusOK && a.header.Get("Pimoe-Status") != "exact":
			degraded++
		default:
			t.Errorf("%d %v %s", a.status, a.header, a.body)
		}
	}
	if refused == 0 || !strings.Contains(s.stderr.String(), "layer 4: policy renormalise refused for expert 3") {
		t.Errorf("%d refused, %d degraded; the log:\n%s", refused, degraded, s.stderr)
	}
	if err := os.WriteFile(stored.Profile(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = tryOpen(t, func(o *config.Config) { o.Home, o.Policy = c.Home, "renormalise" })
	if err == nil || !strings.Contains(err.Error(), "pimoe experts profile") {
		t.Errorf("a damaged profile: %v", err)
	}
}
