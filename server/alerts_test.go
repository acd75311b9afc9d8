package server

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/server/alert"
)

// alertsOf are the states of the server's alerts by rule.
func alertsOf(t *testing.T, r *running) (now, over map[string]alert.State) {
	t.Helper()
	var list struct{ Alerts, Over []alert.Alert }
	a := do(t, http.MethodGet, "http://"+r.AdminAddr()+alertsPath, "")
	if err := json.Unmarshal(a.body, &list); err != nil || a.status != http.StatusOK {
		t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	now, over = map[string]alert.State{}, map[string]alert.State{}
	for _, x := range list.Alerts {
		now[x.Rule] = x.State
	}
	for _, x := range list.Over {
		over[x.Rule] = x.State
	}
	return now, over
}

// Requests that fail make an alert fire, which a webhook hears of, the admin API shows and watchers are told; when they no longer fail it is
// resolved. The hours in between are the clock's.
func TestFailingRequestsAlert(t *testing.T) {
	var mu sync.Mutex
	at := time.Now()
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return at }
	heard := make(chan string, 16)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		var m struct {
			Status       string
			CommonLabels map[string]string
		}
		body, _ := io.ReadAll(req.Body)
		if json.Unmarshal(body, &m) == nil {
			heard <- m.CommonLabels["alertname"] + " " + m.Status
		}
	}))
	t.Cleanup(hook.Close)
	var broken atomic.Bool
	broken.Store(true)
	failing := &fakeEngine{script: func(context.Context, int) (engine.Token, error) {
		if broken.Load() {
			return engine.Token{}, errors.New("broken")
		}
		return engine.Token{ID: 1, Text: "x", HasToken: true, Finish: engine.FinishLength}, nil
	}}
	cfg := testConfig("")
	cfg.Alerts.Interval = time.Hour // the test looks
	cfg.Alerts.Webhook.URL = hook.URL
	cfg.Alerts.Overrides = []config.AlertOverride{{Rule: "PimoeBudgetBurns", Off: true}, {Rule: "PimoeBudgetBurnsFast", Off: true}}
	r := serveConfig(t, fakeService(failing), cfg, func(s *Server) { s.limits.watching = time.Minute }, func(o *options) { o.clock = clock })
	watcher := watchLive(t, r.url)
	shown := func(list string) {
		t.Helper()
		for {
			v := watcher.next("alerts")
			if v == nil {
				t.Fatalf("no alert among those %s", list)
			}
			if all := v[list].([]any); len(all) > 0 && all[0].(map[string]any)["rule"] == "PimoeErrorsHigh" && all[0].(map[string]any)["limit"] == "above 10%" {
				return
			}
		}
	}
	ask := func(status int) {
		t.Helper()
		for range 5 {
			if a := r.post("/v1/completions", `{"model":"fake","prompt":"abc","max_tokens":1}`); a.status != status {
				t.Fatalf("%d %s", a.status, a.body)
			}
		}
		mu.Lock()
		at = at.Add(time.Minute)
		mu.Unlock()
		r.alerts.Look()
	}
	wait := func(want string) {
		t.Helper()
		select {
		case got := <-heard:
			if got != want {
				t.Errorf("heard %q, want %q", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("nobody heard %q", want)
		}
	}
	for range 4 {
		ask(http.StatusInternalServerError)
	}
	wait("PimoeErrorsHigh firing")
	if now, _ := alertsOf(t, r); now["PimoeErrorsHigh"] != alert.Firing {
		t.Errorf("alerts %v", now)
	}
	shown("alerts")
	broken.Store(false)
	for range 8 {
		ask(http.StatusOK)
	}
	wait("PimoeErrorsHigh resolved")
	if now, over := alertsOf(t, r); now["PimoeErrorsHigh"] != "" || over["PimoeErrorsHigh"] != alert.Resolved {
		t.Errorf("alerts %v, over %v", now, over)
	}
	shown("over")
}

// A certificate that ends soon makes an alert, and the renewed one ends it.
func TestEndingCertificateAlerts(t *testing.T) {
	a := newAuthority(t)
	cfg, _ := a.secured()
	cfg.Alerts.Interval, cfg.Alerts.Certificate = time.Hour, 2*time.Hour
	var ahead atomic.Int64
	r := serveConfig(t, fakeService(&fakeEngine{}), cfg, nil, func(o *options) {
		o.clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	look := func(at time.Duration) (now, over map[string]alert.State) {
		ahead.Store(int64(at))
		r.alerts.Look()
		return alertsOf(t, r)
	}
	if now, _ := look(time.Hour); len(now) > 0 {
		t.Errorf("alerts of a fresh certificate: %v", now)
	}
	if now, _ := look(23 * time.Hour); now["PimoeCertificateExpires"] != alert.Firing {
		t.Errorf("alerts of one that ends in an hour: %v", now)
	}
	c, k := a.sign(&x509.Certificate{DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, NotAfter: time.Now().Add(72 * time.Hour)})
	replace(t, cfg.Server.TLS.KeyFile, keyPEM(t, k))
	replace(t, cfg.Server.TLS.CertFile, certPEM(c))
	for n := 1; ; n++ {
		fetchOver(t, a.client(), http.MethodGet, "https://"+r.Addr()+"/livez", "")
		now, over := look(23*time.Hour + time.Duration(n)*time.Second)
		if len(now) == 0 && over["PimoeCertificateExpires"] == alert.Resolved {
			return
		}
		if n == 1000 {
			t.Fatalf("alerts of the renewed one: %v, %v", now, over)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
