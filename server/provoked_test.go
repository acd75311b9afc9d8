package server

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/plugins/experts/ffn"
	modelrouter "github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/server/alert"
	"github.com/pimoe/pimoe/server/audit"
	"github.com/pimoe/pimoe/server/instance"
)

// cause is something that really goes wrong and makes rules fire. A nil function does nothing; calm asks for an answer then.
type cause struct {
	rules   []string
	start   func(t *testing.T)
	trouble func(t *testing.T) // before each evaluation, until all rules fire
	mend    func(t *testing.T)
	calm    func(t *testing.T) // before each evaluation, until all rules are resolved
	long    bool               // what ends it is not in the test's hand: only where there is time
}

// TestEveryAlertIsProvoked does to a real server, with an expert in every process, what each rule of the host is about: the alert
// fires, and is resolved when that is mended; the admin API and a webhook say so. What is hard to bring about on any machine, such
// as a full disk, is a threshold that the machine is beyond. The minutes between two evaluations are the clock's.
// PIMOE_TEST_ALERTS=1 adds what takes longer (make alerts).
func TestEveryAlertIsProvoked(t *testing.T) {
	p := newPatient(t)
	causes := p.causes()
	for _, r := range alert.Rules(p.cfg.Alerts) {
		if !r.Outside && !slices.ContainsFunc(causes, func(c cause) bool { return slices.Contains(c.rules, r.Name) }) {
			t.Errorf("nothing provokes %s", r.Name)
		}
	}
	if os.Getenv("PIMOE_TEST_ALERTS") == "" {
		causes = slices.DeleteFunc(causes, func(c cause) bool { return c.long })
	}
	for _, c := range causes {
		t.Run(strings.Join(c.rules, " "), func(t *testing.T) { p.provoke(t, c) })
	}
}

// provoke goes through a cause.
func (p *patient) provoke(t *testing.T, c cause) {
	nothing := func(*testing.T) {}
	for _, f := range []*func(*testing.T){&c.start, &c.trouble, &c.mend} {
		if *f == nil {
			*f = nothing
		}
	}
	if c.calm == nil {
		c.calm = func(t *testing.T) { p.answered(t) }
	}
	p.until(t, c, "quiet", c.calm)
	before := p.at()
	c.start(t)
	p.until(t, c, alert.Firing, c.trouble)
	for _, a := range p.server.alerts.Status().Alerts {
		if slices.Contains(c.rules, a.Rule) {
			t.Logf("%s fires %s after its cause began: %s (%s, fires %s)", a.Rule, a.Fired.Sub(before), a.Summary, a.Reading, a.Limit)
		}
	}
	mended := p.at()
	c.mend(t)
	p.until(t, c, alert.Resolved, c.calm)
	for _, rule := range c.rules {
		t.Logf("%s was resolved within %s after that was mended", rule, p.at().Sub(mended))
		for _, state := range []string{"firing", "resolved"} {
			p.heard(t, rule+" "+state)
		}
	}
}

// patient is the server that something is done to.
type patient struct {
	server    *running
	inst      *instance.Instance
	authority *authority
	client    *http.Client
	own       string // the executable of expert 3 alone
	messages  chan string

	mu    sync.Mutex
	now   time.Time
	cfg   config.Config // what a reload reads
	asked int
	told  map[string]bool // by "RULE state"
}

func newPatient(t *testing.T) *patient {
	p := &patient{authority: newAuthority(t), now: time.Now(), messages: make(chan string, 4096), told: map[string]bool{}}
	hook := httptest.NewServer(http.HandlerFunc(p.hook))
	t.Cleanup(hook.Close)
	dir, err := os.MkdirTemp("", "pimoe-alerts") // a short path: sockets live below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p.cfg = testConfig(dir)
	p.cfg.Experts.Isolation = config.Default().Experts.Isolation
	p.cfg.Plugins.Dir, p.cfg.Plugins.Dev = coretest.Binaries(t), true
	p.own = filepath.Join(dir, "own", "pimoe-expert-cpu")
	p.install(t)
	p.cfg.Experts.Overrides = []config.Override{{Layers: "all", Experts: 3, Plugin: p.own}}
	p.cfg.Policy, p.cfg.Degraded.MaxDroppedMass = "renormalise", 1
	p.cfg.Limits.MaxConcurrentRequests = 1
	p.cfg.Metrics.Interval = 100 * time.Millisecond
	p.cfg.Server.TLS = config.TLS{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"), ClientAuth: "none"}
	p.certify(t, 1000*time.Hour)
	p.client = p.authority.client()
	a := &p.cfg.Alerts
	a.Interval = time.Hour // the test looks
	a.Webhook.URL = hook.URL
	a.P95, a.QueueAge, a.Restarts, a.Certificate, a.MinTokensPerSecond = 120*time.Millisecond, 20*time.Millisecond, 1, 2*time.Hour, 1
	a.CPUPercent, a.MemoryPercent, a.DiskFreePercent = 100, 100, 1
	for _, r := range alert.Rules(*a) {
		a.Overrides = append(a.Overrides, config.AlertOverride{Rule: r.Name, For: "0s"})
	}
	p.open(t)
	return p
}

// open starts the instance and its server.
func (p *patient) open(t *testing.T) {
	t.Helper()
	var err error
	p.inst, err = instance.Open(t.Context(), instance.Options{Config: p.cfg, Log: slog.New(slog.DiscardHandler), Builtin: instance.Builtin{
		Expert: func(string) (expert.Expert, error) { return ffn.New(cpu.New(), ffn.Options{}), nil },
		Router: func(string) (router.Router, error) { return modelrouter.New(), nil },
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.inst.Close(); err != nil {
			t.Error(err)
		}
	})
	l := audit.Open(p.trail(), audit.Options{Retry: 10 * time.Millisecond})
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	svc := serviceOf(p.inst)
	read := func() (config.Config, error) { p.mu.Lock(); defer p.mu.Unlock(); return p.cfg, nil }
	p.server = serveConfig(t, &svc, p.cfg, nil, Audit(l), Reloadable(read), func(o *options) { o.clock = p.at })
}

// causes has one for every rule. Those that leave something in the windows of others come late.
func (p *patient) causes() []cause {
	return []cause{
		{rules: []string{"PimoeFirstTokenSlow", "PimoeProcessSlow"}, trouble: p.stalled, calm: func(t *testing.T) { p.answered(t); p.processed(t) }},
		p.crowded(),
		{rules: []string{"PimoeThroughputLow"}, calm: func(t *testing.T) { p.ask(t, 90) }},
		p.beyond("PimoeMemoryHigh", func(t *testing.T, a *config.Alerts) {
			a.MemoryPercent = max(int(100*p.metric(t, "pimoe_system_memory_used_ratio"))-1, 1)
		}),
		p.beyond("PimoeDiskFull", func(t *testing.T, a *config.Alerts) {
			free := p.metric(t, "pimoe_system_disk_free_bytes") / p.metric(t, "pimoe_system_disk_total_bytes")
			a.DiskFreePercent = min(int(100*free)+1, 100)
		}),
		p.heated(),
		{
			rules: []string{"PimoeCertificateExpires"}, start: func(t *testing.T) { p.certify(t, time.Hour) }, trouble: p.handshake,
			mend: func(t *testing.T) { p.certify(t, 1000*time.Hour) }, calm: p.handshake,
		},
		p.unrecorded(),
		{rules: []string{"PimoeStandInUsed"}, trouble: func(t *testing.T) { strike(t, p.inst.Host.RouterStatus().PID); p.answered(t) }},
		{rules: []string{"PimoeExpertCrashLoop"}, trouble: func(t *testing.T) { p.crash(t, "e1") }},
		{
			rules: []string{"PimoeErrorsHigh", "PimoeBudgetBurnsFast", "PimoeBudgetBurns", "PimoeAnswersDegraded"},
			start: p.cripple, mend: p.heal,
			trouble: func(t *testing.T) {
				if status := p.ask(t, 8, "pimoe-accept", "exact"); status != http.StatusServiceUnavailable {
					t.Errorf("an exact answer without expert 3: %d", status)
				}
				p.answered(t)
			},
		},
	}
}

// stalled asks while a process stands still for moments, too short for the host to take it for a hung one.
func (p *patient) stalled(t *testing.T) {
	stop := func(s syscall.Signal) {
		if pid := p.process(t, "e1").PID; pid != 0 {
			_ = syscall.Kill(pid, s)
		}
	}
	for _, f := range []func(*testing.T){p.answered, p.processed} {
		stop(syscall.SIGSTOP)
		done := make(chan struct{})
		go func() { defer close(done); f(t) }()
		for over := false; !over; {
			select {
			case <-done:
				over = true
			case <-time.After(150 * time.Millisecond):
			}
			stop(syscall.SIGCONT)
			if !over {
				time.Sleep(5 * time.Millisecond)
				stop(syscall.SIGSTOP)
			}
		}
		stop(syscall.SIGCONT)
	}
}

// crowded has more requests than the engine takes at a time.
func (p *patient) crowded() cause {
	var crowd sync.WaitGroup
	leave := func() {}
	return cause{
		rules: []string{"PimoeQueueOld"},
		start: func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			leave = cancel
			for range 3 {
				crowd.Go(func() {
					for ctx.Err() == nil {
						_, _ = p.post(ctx, "/v1/completions", completion("A crowd of people", 400))
					}
				})
			}
		},
		trouble: func(*testing.T) { time.Sleep(50 * time.Millisecond) },
		mend:    func(*testing.T) { leave(); crowd.Wait() },
	}
}

// beyond is a threshold that this machine is beyond at this moment, as an operator may set it.
func (p *patient) beyond(rule string, set func(t *testing.T, a *config.Alerts)) cause {
	before := p.cfg.Alerts
	return cause{
		rules: []string{rule},
		start: func(t *testing.T) { p.reload(t, func(a *config.Alerts) { set(t, a) }) },
		mend:  func(t *testing.T) { p.reload(t, func(a *config.Alerts) { *a = before }) },
	}
}

// heated keeps all processors busy. Others may do the same afterwards.
func (p *patient) heated() cause {
	stop := func() {}
	var heat sync.WaitGroup
	c := p.beyond("PimoeCPUHigh", func(_ *testing.T, a *config.Alerts) { a.CPUPercent = 50 })
	set, unset := c.start, c.mend
	c.long = true
	c.start = func(t *testing.T) {
		set(t)
		ctx, cancel := context.WithCancel(t.Context())
		stop = cancel
		for range runtime.NumCPU() {
			heat.Go(func() {
				for ctx.Err() == nil { //nolint:revive // it is meant to be busy
				}
			})
		}
	}
	c.mend = func(t *testing.T) { stop(); heat.Wait(); unset(t) }
	wait := func(*testing.T) { time.Sleep(100 * time.Millisecond) } // a measurement of the machine
	c.trouble, c.calm = wait, wait
	return c
}

// unrecorded puts a file where the audit log's folder was, and asks for a change.
func (p *patient) unrecorded() cause {
	folder := filepath.Dir(p.trail())
	aside := folder + ".aside"
	change := func(t *testing.T) {
		do(t, http.MethodPost, "http://"+p.server.AdminAddr()+"/admin/experts/e1/release", "{}")
	}
	return cause{
		rules: []string{"PimoeAuditUnwritable"},
		start: func(t *testing.T) {
			change(t)
			if err := os.Rename(folder, aside); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(folder, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		trouble: change,
		mend: func(t *testing.T) {
			if err := os.Remove(folder); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(aside, folder); err != nil {
				t.Fatal(err)
			}
		},
		calm: change,
	}
}

// crash ends a group's process and waits for the next one.
func (p *patient) crash(t *testing.T, group string) {
	before := p.process(t, group).PID
	strike(t, before)
	soon(t, group+" again", func() bool { s := p.process(t, group); return s.State == string(host.StateReady) && s.PID != before })
}

// cripple ends expert 3 for good.
func (p *patient) cripple(t *testing.T) {
	if err := os.Remove(p.own); err != nil {
		t.Fatal(err)
	}
	strike(t, p.process(t, "e3").PID)
	soon(t, "the end of e3", func() bool { return p.process(t, "e3").State == string(host.StateFailed) })
}

// heal gives expert 3 its executable again.
func (p *patient) heal(t *testing.T) {
	p.install(t)
	soon(t, "e3 again", func() bool { return p.process(t, "e3").State == string(host.StateReady) })
}

// install puts expert 3's executable in its place.
func (p *patient) install(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.cfg.Plugins.Dir, "pimoe-expert-cpu"))
	if err == nil {
		err = os.MkdirAll(filepath.Dir(p.own), 0o755)
	}
	if err == nil {
		err = os.WriteFile(p.own+".new", b, 0o755) //nolint:gosec // a program
	}
	if err == nil {
		err = os.Rename(p.own+".new", p.own)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// certify puts a certificate in place that ends so long after the clock's present time.
func (p *patient) certify(t *testing.T, left time.Duration) {
	t.Helper()
	c, k := p.authority.sign(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, NotAfter: p.at().Add(left)})
	replace(t, p.cfg.Server.TLS.KeyFile, keyPEM(t, k))
	replace(t, p.cfg.Server.TLS.CertFile, certPEM(c))
}

// handshake opens a connection: the server looks at its certificate then.
func (p *patient) handshake(t *testing.T) {
	p.client.CloseIdleConnections()
	p.answered(t)
}

// answered asks for a short answer.
func (p *patient) answered(t *testing.T) {
	if status := p.ask(t, 8); status != http.StatusOK {
		t.Errorf("an answer: %d", status)
	}
}

// ask asks for so many tokens, with another prompt each time, and returns the status.
func (p *patient) ask(t *testing.T, tokens int, header ...string) int {
	p.mu.Lock()
	p.asked++
	prompt := fmt.Sprintf("%d foxes and a lamp went to", p.asked)
	p.mu.Unlock()
	status, err := p.post(t.Context(), "/v1/completions", completion(prompt, tokens), header...)
	if err != nil {
		t.Error(err)
	}
	return status
}

func completion(prompt string, tokens int) string {
	return fmt.Sprintf(`{"model":"pimoe-tiny","prompt":%q,"max_tokens":%d,"temperature":0,"ignore_eos":true}`, prompt, tokens)
}

// processed sends hidden states through all layers.
func (p *patient) processed(t *testing.T) {
	rows := strings.Repeat("["+strings.Repeat("0.5,-1,", 127)+"1,2],", 4)
	status, err := p.post(t.Context(), "/api/v1/process", `{"input_tensor":[[`+strings.TrimSuffix(rows, ",")+`]],"all_layers":true}`)
	if err != nil || status != http.StatusOK {
		t.Errorf("hidden states: %d, %v", status, err)
	}
}

func (p *patient) post(ctx context.Context, path, body string, header ...string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+p.server.Addr()+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// process is the process of a group.
func (p *patient) process(t *testing.T, group string) host.Status {
	for _, s := range p.inst.Host.Status() {
		if s.Group == group {
			return s
		}
	}
	t.Errorf("no group %s", group)
	return host.Status{}
}

// strike is what an accident does to a process; 0 is one that is being started.
func strike(t *testing.T, pid int) {
	t.Helper()
	if pid == 0 {
		return
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
		t.Error(err)
	}
}

// reload changes the thresholds as an operator does.
func (p *patient) reload(t *testing.T, change func(a *config.Alerts)) {
	t.Helper()
	next := p.cfg.Alerts
	change(&next)
	p.mu.Lock()
	p.cfg.Alerts = next
	p.mu.Unlock()
	if _, err := p.server.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// metric is the first series of a name.
func (p *patient) metric(t *testing.T, name string) float64 {
	t.Helper()
	a := do(t, http.MethodGet, "http://"+p.server.AdminAddr()+"/metrics", "")
	found, err := alert.Parse(a.body, func(n string) bool { return n == name })
	if err != nil || len(found) == 0 {
		t.Fatalf("no %s in %s: %v", name, a.body, err)
	}
	return found[0].Value
}

// trail is where the audit log is.
func (p *patient) trail() string { return filepath.Join(p.cfg.Home, "audit", "audit.jsonl") }

// at is the clock.
func (p *patient) at() time.Time { p.mu.Lock(); defer p.mu.Unlock(); return p.now }

// until does something and evaluates the rules a minute later, again and again, until those of a cause have come to a state.
func (p *patient) until(t *testing.T, c cause, want alert.State, act func(*testing.T)) {
	t.Helper()
	patience := time.Minute
	if c.long {
		patience = 5 * time.Minute
	}
	var now, over map[string]alert.State
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		act(t)
		p.mu.Lock()
		p.now = p.now.Add(time.Minute)
		p.mu.Unlock()
		p.server.alerts.Look()
		now, over = alertsOf(t, p.server)
		if !slices.ContainsFunc(c.rules, func(rule string) bool {
			switch want {
			case alert.Firing:
				return now[rule] != want
			case alert.Resolved:
				return now[rule] != "" || over[rule] != want
			}
			return now[rule] != ""
		}) {
			return
		}
	}
	t.Fatalf("not all of %v are %s within %s: %v, over %v", c.rules, want, patience, now, over)
}

// hook is the receiver of the messages.
func (p *patient) hook(_ http.ResponseWriter, req *http.Request) {
	var m struct {
		Status       string
		CommonLabels map[string]string
	}
	if body, err := io.ReadAll(req.Body); err == nil && json.Unmarshal(body, &m) == nil {
		p.messages <- m.CommonLabels["alertname"] + " " + m.Status
	}
}

// heard waits for a message.
func (p *patient) heard(t *testing.T, want string) {
	t.Helper()
	for deadline := time.After(20 * time.Second); !p.told[want]; {
		select {
		case got := <-p.messages:
			p.told[got] = true
		case <-deadline:
			t.Fatalf("the webhook has not heard %q", want)
		}
	}
}

// soon waits for what another goroutine or process does.
func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}
