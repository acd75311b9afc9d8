package dashboard

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/plugins/experts/ffn"
	modelrouter "github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/server"
	"github.com/pimoe/pimoe/server/alert"
	"github.com/pimoe/pimoe/server/instance"
)

// within is how long anything here may take; all together takes seconds.
const within = time.Minute

// secured is a configuration of a server for TLS whose certificate ends tomorrow, with every part on that prints metrics.
func secured(t *testing.T) config.Config {
	t.Helper()
	home, err := os.MkdirTemp("", "pimoe-dashboard") // a short path: sockets live below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Home, cfg.Plugins.Dir = home, coretest.Binaries(t)
	cfg.Policy = "renormalise" // so that rows without their expert are counted
	cfg.Server.Addr, cfg.Server.AdminAddr = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Server.TLS.CertFile, cfg.Server.TLS.KeyFile = filepath.Join(home, "cert.pem"), filepath.Join(home, "key.pem")
	for name, block := range map[string]*pem.Block{cfg.Server.TLS.CertFile: {Type: "CERTIFICATE", Bytes: der}, cfg.Server.TLS.KeyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Limits.RequestTimeout = 500 * time.Millisecond // so that a long answer fails
	cfg.Alerts.Interval = 100 * time.Millisecond
	return cfg
}

// serve opens the embedded model with an expert in every process, and serves it until the test ends.
func serve(t *testing.T, cfg config.Config) (*instance.Instance, *server.Server) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	inst, err := instance.Open(t.Context(), instance.Options{Config: cfg, Log: log, Builtin: instance.Builtin{
		Expert: func(string) (expert.Expert, error) { return ffn.New(cpu.New(), ffn.Options{}), nil },
		Router: func(string) (router.Router, error) { return modelrouter.New(), nil },
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, inst.Close()) })
	state, err := server.OpenState(cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, state.Close()) })
	s, err := server.New(inst, cfg, log, server.State(state))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); closed(t, <-done) })
	return inst, s
}

func closed(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// load asks for short answers, the same twice, for calls of experts, and for answers too long for their time, until stopped.
func load(t *testing.T, base string) (stop func()) {
	client := &http.Client{Timeout: within, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // of this test's own server
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	post := func(path, body string) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+path, strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			if ctx.Err() == nil {
				t.Error(err)
			}
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	go func() {
		defer close(done)
		for n := 0; ctx.Err() == nil; n++ {
			for range 2 {
				post("/v1/completions", fmt.Sprintf(`{"model":"pimoe-tiny","prompt":"Once upon a time there was a fox number %d","max_tokens":8,"temperature":0}`, n))
			}
			post("/api/v1/process", `{"input_tensor":[[[`+strings.Repeat("0.5,", 255)+`0.5]]],"expected_experts":[[[0]]]}`)
			post("/v1/completions", `{"model":"pimoe-tiny","prompt":"Once","max_tokens":1900,"seed":1,"ignore_eos":true}`)
		}
	}()
	return func() {
		cancel()
		<-done
		client.CloseIdleConnections()
	}
}

// prometheus scrapes a server once a second with the rules of server/alert, and returns its address.
func prometheus(t *testing.T, target string) string {
	t.Helper()
	tool, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("needs prometheus (Debian: prometheus)")
	}
	dir := t.TempDir()
	rules, err := alert.Prometheus(alert.Rules(config.Default().Alerts), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	scrape := "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [rules.yml]\nscrape_configs:\n  - job_name: pimoe\n    static_configs: [{targets: [" + target + "]}]\n"
	for name, data := range map[string][]byte{"prometheus.yml": []byte(scrape), "rules.yml": rules} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	var log bytes.Buffer
	cmd := exec.Command(tool, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr, "--log.level=warn")
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &log, &log, 10*time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("prometheus: %.4000s", log.String())
		}
	})
	return "http://" + addr
}

// ask runs a query with Grafana's variables filled in, and returns how many series it has.
func ask(base, expr string) (int, error) {
	expr = strings.NewReplacer("$__rate_interval", "10s", "$instance", ".*").Replace(expr)
	resp, err := http.Get(base + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return 0, err
	}
	if answer.Status != "success" {
		return 0, errors.New(answer.Error)
	}
	n := 0
	for _, r := range answer.Data.Result {
		if r.Value[1] != "NaN" {
			n++
		}
	}
	return n, nil
}

// Every query of every page returns data from a Prometheus that has scraped a real server under load, some of whose processes
// were killed; the host and Prometheus alike say that they were.
func TestEveryQueryReturnsData(t *testing.T) {
	inst, s := serve(t, secured(t))
	admin := "http://" + s.AdminAddr()
	base := prometheus(t, s.AdminAddr())
	defer http.DefaultClient.CloseIdleConnections()
	defer load(t, "https://"+s.Addr())()

	open := map[string]string{Instances: "the variable instance"}
	for _, d := range All() {
		for _, q := range d.Queries() {
			open[q.Expr] = d.Title
		}
	}
	if readable, _ := filepath.Glob("/sys/class/powercap/intel-rapl:*/energy_uj"); len(readable) == 0 { // of virtual machines, mostly
		maps.DeleteFunc(open, func(expr, _ string) bool { return strings.Contains(expr, "pimoe_energy_joules_total") })
	}
	all := len(open)
	for _, name := range []string{"PimoeCertificateExpires", "PimoeExpertCrashLoop", "PimoeStandInUsed"} {
		open[fmt.Sprintf(`ALERTS{alertname=%q,alertstate="firing"}`, name)] = "alerts in Prometheus"
		open[name] = "alerts in the host"
	}
	began := time.Now()
	killed := 0
	told := func() bool { // whether Prometheus has heard of all that was done
		for _, where := range open {
			if strings.HasPrefix(where, "alerts") {
				return false
			}
		}
		return true
	}
	for len(open) > 0 {
		if time.Since(began) > within {
			for expr, where := range open {
				n, err := ask(base, expr)
				t.Errorf("%s: no data for %s (%d, %v)", where, expr, n, err)
			}
			return
		}
		if open[Instances] == "" && killed < 60 && !told() { // Prometheus has seen the counters before: it counts what is added to them
			killed++
			kill(t, inst.Host.RouterStatus().PID)
			kill(t, inst.Host.Status()[3].PID)
		}
		here := get(t, admin+"/admin/alerts")
		for expr, where := range open {
			if where == "alerts in the host" {
				if strings.Contains(here, `"rule":"`+expr+`"`) && strings.Contains(here, `"firing"`) {
					delete(open, expr)
				}
				continue
			}
			if n, err := ask(base, expr); err == nil && n > 0 {
				delete(open, expr)
			}
		}
		time.Sleep(300 * time.Millisecond)
	}
	t.Logf("measured: %d queries after %.1f s", all, time.Since(began).Seconds())
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if pid == 0 {
		return // it is being restarted
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Error(err)
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %s, %v", url, resp.Status, b, err)
	}
	return string(b)
}

func TestMain(m *testing.M) {
	code := m.Run()
	coretest.RemoveBinaries()
	os.Exit(code)
}
