package lookout

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/server/alert"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "0c6f2b7d9e1a4835"

// buffer is a log.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// scene is a Watch over a registry whose one gauge the test sets, with a clock of the test's.
type scene struct {
	*Watch
	registry *metrics.Registry
	log      buffer
	mu       sync.Mutex
	now      time.Time
	value    float64
}

var hot = alert.Rule{Name: "Hot", Value: alert.Series{Name: "heat"}, Fire: 1, Clear: 1, Severity: alert.Critical, Unit: alert.Count, Summary: "it is {value}"}

func watching(t *testing.T, o WebhookOptions) *scene {
	s := &scene{registry: metrics.New(), now: time.Unix(1_700_000_000, 0)}
	s.Watch = Start(Options{
		Rules: []alert.Rule{hot}, Every: time.Hour, Metrics: s.registry, Log: slog.New(slog.NewJSONHandler(&s.log, nil)), Webhook: o,
		Read: func(w io.Writer) {
			s.mu.Lock()
			defer s.mu.Unlock()
			fmt.Fprintf(w, "heat %v\n", s.value)
		},
		Now: func() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return s.now },
	})
	t.Cleanup(s.Close)
	return s
}

// look goes on by a second, with a value.
func (s *scene) look(value float64) {
	s.mu.Lock()
	s.value, s.now = value, s.now.Add(time.Second)
	s.mu.Unlock()
	s.Look()
}

func (s *scene) metrics() string {
	var b strings.Builder
	s.registry.Write(&b)
	return b.String()
}

// eventually waits for something that another goroutine does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("not within 20 s: " + what)
		}
	}
}

// receiver takes messages and answers what the test wants.
type receiver struct {
	mu       sync.Mutex
	answers  []int // 200 after the last
	messages []message
	bad      []string
	tries    int
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	stamp := strings.TrimPrefix(strings.Split(req.Header.Get("Pimoe-Signature"), ",")[0], "t=")
	at, err := strconv.ParseInt(stamp, 10, 64)
	if age := time.Since(time.Unix(at, 0)); err != nil || age > time.Minute || Sign(secret, time.Unix(at, 0), body) != req.Header.Get("Pimoe-Signature") {
		r.bad = append(r.bad, req.Header.Get("Pimoe-Signature"))
	}
	status := http.StatusOK
	if r.tries < len(r.answers) {
		status = r.answers[r.tries]
	}
	r.tries++
	if status == http.StatusFound {
		w.Header().Set("Location", "/elsewhere")
	}
	w.WriteHeader(status)
	var m message
	if err := json.Unmarshal(body, &m); err == nil && status == http.StatusOK {
		r.messages = append(r.messages, m)
	}
}

func (r *receiver) got() (messages []message, tries int, bad []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.messages, r.tries, r.bad
}

func (r *receiver) serve(t *testing.T) WebhookOptions {
	srv := httptest.NewServer(r)
	t.Cleanup(srv.Close)
	return WebhookOptions{URL: srv.URL, Secret: secret, Timeout: 5 * time.Second, Source: "tiny", Pause: time.Millisecond}
}

// An alert is told in the log, to the webhook after two failures, by the gauge and in the list; so is its end.
func TestTold(t *testing.T) {
	r := &receiver{answers: []int{500, 429}}
	s := watching(t, r.serve(t))
	s.look(0)
	s.look(2)
	eventually(t, "the message that it fires", func() bool { m, _, _ := r.got(); return len(m) == 1 })
	if st := s.Status(); len(st.Alerts) != 1 || st.Alerts[0].State != alert.Firing || len(st.Over) != 0 {
		t.Errorf("status %+v", st)
	}
	if m := s.metrics(); !strings.Contains(m, `pimoe_alerts_firing{severity="critical"} 1`) || !strings.Contains(m, `pimoe_alerts_firing{severity="info"} 0`) {
		t.Errorf("metrics %s", m)
	}
	s.look(0)
	eventually(t, "the message that it is over", func() bool { m, _, _ := r.got(); return len(m) == 2 })
	messages, tries, bad := r.got()
	if tries != 4 || len(bad) > 0 {
		t.Errorf("%d tries, bad signatures %q", tries, bad)
	}
	first, last := messages[0], messages[1]
	if first.Version != "4" || first.Status != "firing" || last.Status != "resolved" || first.Alerts[0].Fingerprint != last.Alerts[0].Fingerprint ||
		first.Alerts[0].Labels["alertname"] != "Hot" || first.Alerts[0].Labels["source"] != "tiny" || first.Alerts[0].Annotations["summary"] != "it is 2" ||
		!first.Alerts[0].EndsAt.IsZero() || last.Alerts[0].EndsAt.IsZero() {
		t.Errorf("messages %+v", messages)
	}
	log := s.log.String()
	if !strings.Contains(log, `"level":"ERROR","msg":"alert_firing","alert":"Hot"`) || !strings.Contains(log, `"level":"INFO","msg":"alert_resolved","alert":"Hot"`) {
		t.Errorf("log %s", log)
	}
	if st := s.Status(); len(st.Alerts) != 0 || len(st.Over) != 1 {
		t.Errorf("status %+v", st)
	}
	if m := s.metrics(); !strings.Contains(m, `pimoe_alert_notifications_total{outcome="sent"} 2`) {
		t.Errorf("metrics %s", m)
	}
}

// A receiver that refuses is not asked again; neither is one that sends elsewhere.
func TestRefused(t *testing.T) {
	r := &receiver{answers: []int{403, 302}}
	s := watching(t, r.serve(t))
	s.look(2)
	s.look(0)
	eventually(t, "both refusals", func() bool {
		return strings.Contains(s.metrics(), `pimoe_alert_notifications_total{outcome="failed"} 2`)
	})
	if _, tries, _ := r.got(); tries != 2 {
		t.Errorf("%d tries", tries)
	}
	if strings.Contains(s.log.String(), secret) {
		t.Error("the secret is in the log")
	}
}

// A receiver that hangs holds up nobody: messages are dropped when as many wait as may, and the end waits two seconds.
func TestHangingReceiver(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(srv.Close)
	t.Cleanup(func() { close(release) }) // before the server waits for its handlers
	s := watching(t, WebhookOptions{URL: srv.URL, Timeout: time.Minute, Source: "tiny"})
	for range waiting {
		s.look(2)
		s.look(0)
	}
	eventually(t, "a message that finds no place", func() bool {
		return !strings.Contains(s.metrics(), `pimoe_alert_notifications_total{outcome="dropped"} 0`)
	})
	if st := s.Status(); len(st.Over) != kept {
		t.Errorf("%d alerts that are over are kept", len(st.Over))
	}
	began := time.Now()
	s.Close()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the end took %s", took)
	}
}

// Other rules and another period hold at once, without a look in between.
func TestUse(t *testing.T) {
	s := watching(t, WebhookOptions{})
	warm := hot
	warm.Name, warm.Fire, warm.Clear = "Warm", 0.5, 0.5
	s.mu.Lock()
	s.value = 0.7
	s.mu.Unlock()
	s.Use([]alert.Rule{warm}, time.Millisecond)
	eventually(t, "the other rule", func() bool {
		s.mu.Lock()
		s.now = s.now.Add(time.Second)
		s.mu.Unlock()
		st := s.Status()
		return len(st.Alerts) == 1 && st.Alerts[0].Rule == "Warm"
	})
}
