package nginx_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/server/deploy"
	"github.com/pimoe/pimoe/server/deploy/nginx"
)

func TestMain(m *testing.M) {
	code := m.Run()
	coretest.RemoveBinaries()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// program finds nginx, which is not on every user's path.
func program(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("nginx"); err == nil {
		return path
	}
	const usual = "/usr/sbin/nginx"
	if _, err := os.Stat(usual); err != nil {
		t.Skip("nginx is not installed (Debian: nginx-light)")
	}
	return usual
}

// certificate is a key and a certificate for localhost, in files.
func certificate(t *testing.T, dir string) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, b := range map[string][]byte{cert: certPEM, key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return cert, key, pool
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// TestSyntax: the real nginx takes what is rendered for every environment and profile, without a warning.
func TestSyntax(t *testing.T) {
	path := program(t)
	dir := t.TempDir()
	cert, key, _ := certificate(t, dir)
	for _, e := range deploy.Environments() {
		for _, p := range deploy.Profiles() {
			v := deploy.For(e, p)
			conf := nginx.Conf(v, nginx.Place{
				HTTP: freePort(t), HTTPS: freePort(t), Hosts: v.Upstreams(), GRPC: []string{"10.0.0.11:9000"}, Certificate: cert, Key: key,
				PID: filepath.Join(dir, "pid"), Temp: dir,
			})
			file := filepath.Join(dir, "nginx.conf")
			if err := os.WriteFile(file, conf, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(path, "-t", "-c", file, "-p", dir).CombinedOutput()
			if err != nil || strings.Contains(string(out), "[warn]") || strings.Contains(string(out), "[emerg]") {
				t.Errorf("%s, %s: %v\n%s", e, p, err, out)
			}
		}
	}
}

// stand is nginx before hosts.
type stand struct {
	url, plain string
	client     *http.Client
	http1      *http.Client
	tls        *tls.Config
	hosts      []*host
}

// host is a running `pimoe serve`.
type host struct {
	addr   string
	grpc   string
	admin  string
	home   string
	bin    string
	config string
	cmd    *exec.Cmd
	log    *bytes.Buffer
	exited chan struct{}
	err    error
}

const apiKey = "k9aB-3zQp-71Wx-rTfe-nginx"

func newHost(t *testing.T, v deploy.Values) *host {
	t.Helper()
	home, err := os.MkdirTemp("", "pimoe-ng-") // a short path: sockets live below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	h := &host{addr: fmt.Sprintf("127.0.0.1:%d", freePort(t)), grpc: fmt.Sprintf("127.0.0.1:%d", freePort(t)), admin: fmt.Sprintf("127.0.0.1:%d", freePort(t)), home: home, bin: filepath.Join(coretest.Binaries(t), "pimoe")}
	h.config = filepath.Join(home, "pimoe.yaml")
	if err := os.WriteFile(h.config, v.HostConfig(deploy.Place{Addr: h.addr, GRPC: h.grpc, Proxies: []string{"127.0.0.1"}}), 0o600); err != nil {
		t.Fatal(err)
	}
	h.start(t)
	t.Cleanup(func() { h.cmd.Process.Kill(); <-h.exited })
	return h
}

func (h *host) start(t *testing.T) {
	t.Helper()
	// Hosts that start and clients share these cores: requests wait for them instead of being refused for it.
	h.cmd = exec.Command(h.bin, "serve", "--config", h.config, "--admin-addr", h.admin, "--set", "limits.max_queue_time=0s")
	h.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + h.home, "PIMOE_HOME=" + h.home, "PIMOE_API_KEY=" + apiKey, "PIMOE_CACHE__ANSWERS=off"}
	h.log = &bytes.Buffer{}
	h.cmd.Stdout, h.cmd.Stderr = h.log, h.log
	h.exited = make(chan struct{})
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd, exited := h.cmd, h.exited
	go func() { h.err = cmd.Wait(); close(exited) }()
	eventually(t, "a host is ready", func() bool {
		select {
		case <-exited:
			t.Fatalf("pimoe serve: %v\n%s", h.err, h.log)
		default:
		}
		return answers("http://" + h.addr + "/readyz")
	})
}

// terminate stops it gracefully.
func (h *host) terminate(t *testing.T) {
	t.Helper()
	if err := h.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-h.exited:
	case <-time.After(40 * time.Second):
		t.Fatal("still there 40 s after SIGTERM")
	}
	if h.err != nil {
		t.Fatalf("exit after SIGTERM: %v\n%s", h.err, h.log)
	}
}

func answers(url string) bool {
	r, err := http.Get(url)
	if err != nil {
		return false
	}
	r.Body.Close()
	return r.StatusCode == http.StatusOK
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not after 30 s: %s", what)
		}
	}
}

// values are for a stand on this machine: nobody is refused for asking often.
func values() deploy.Values {
	v := deploy.For(deploy.Production, deploy.Standard)
	v.Host, v.Limits.RatePerMinute, v.Limits.BodyMB, v.Region = "localhost", 1_000_000, 1, "eu-test"
	return v
}

// newStand starts nginx before addresses, and before those of grpc for gRPC.
func newStand(t *testing.T, v deploy.Values, grpc []string, addrs ...string) *stand {
	t.Helper()
	path := program(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cert, key, pool := certificate(t, dir)
	at := nginx.Place{HTTP: freePort(t), HTTPS: freePort(t), Hosts: addrs, GRPC: grpc, Certificate: cert, Key: key, PID: filepath.Join(dir, "pid"), Temp: dir}
	if os.Geteuid() == 0 {
		at.User = "root" // its folder is this user's alone
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, nginx.Conf(v, at), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-c", file, "-p", dir, "-g", "daemon off;")
	log := &bytes.Buffer{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM) // the master ends its workers
		if cmd.Wait(); t.Failed() {
			t.Logf("nginx: %.4000s", log)
		}
	})
	s := &stand{url: fmt.Sprintf("https://localhost:%d", at.HTTPS), plain: fmt.Sprintf("http://localhost:%d", at.HTTP), tls: &tls.Config{RootCAs: pool}}
	s.client = &http.Client{Transport: &http.Transport{TLSClientConfig: s.tls.Clone(), ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 64}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	s.http1 = &http.Client{Transport: &http.Transport{TLSClientConfig: s.tls.Clone(), MaxIdleConnsPerHost: 64}}
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		s.http1.CloseIdleConnections()
		http.DefaultClient.CloseIdleConnections()
	})
	eventually(t, "nginx listens", func() bool { return answers(s.plain + "/proxyz") })
	return s
}

func (s *stand) do(t testing.TB, method, path, body string, header ...string) (*http.Response, []byte) {
	t.Helper()
	resp, b, err := s.try(s.client, method, path, body, header...)
	if err != nil {
		t.Fatal(err)
	}
	return resp, b
}

func (s *stand) try(c *http.Client, method, path, body string, header ...string) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+apiKey)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, b, err
}

const chat = `{"model":"pimoe-tiny","messages":[{"role":"user","content":"Tell me a story."}],"max_tokens":%d,"temperature":0,"stream":%v}`

// TestBeforeHosts asks two real hosts through the real nginx: what a client sees of HTTP/2, headers, streams, WebSockets,
// limits and errors; then one host is killed under load, and both are restarted one after the other.
func TestBeforeHosts(t *testing.T) {
	program(t)
	v := values()
	hosts := []*host{newHost(t, v), newHost(t, v)}
	s := newStand(t, v, []string{hosts[0].grpc, hosts[1].grpc}, hosts[0].addr, hosts[1].addr)
	s.hosts = hosts
	t.Run("answers", s.answers)
	t.Run("headers", s.headers)
	t.Run("stream", s.stream)
	t.Run("websocket", s.websocket)
	t.Run("grpc", s.rpc)
	t.Run("kill", s.kill)
	t.Run("rolling restart", s.roll)
}

func (s *stand) answers(t *testing.T) {
	resp, body := s.do(t, http.MethodPost, "/v1/chat/completions", fmt.Sprintf(chat, 4, false), "X-Request-Id", "mine-1")
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 || resp.Header.Get("X-Request-Id") != "mine-1" || !strings.Contains(string(body), `"finish_reason"`) {
		t.Errorf("%s %s %v\n%s", resp.Proto, resp.Status, resp.Header, body)
	}
	if got := resp.Header.Get("Pimoe-Region"); got != values().Region {
		t.Errorf("region %q", got)
	}
	resp, body = s.do(t, http.MethodPost, "/v1/chat/completions", `{"model":"nobody","messages":[{"role":"user","content":"x"}]}`) // the host's own errors come through
	if resp.StatusCode != http.StatusNotFound || !strings.Contains(string(body), "nobody") {
		t.Errorf("%s %s", resp.Status, body)
	}
	if resp, err := s.client.Get(s.plain + "/v1/models?x=1"); err != nil || resp.StatusCode != http.StatusPermanentRedirect || resp.Header.Get("Location") != s.url+"/v1/models?x=1" {
		t.Errorf("plain HTTP leads to %v, %v", resp, err)
	} else {
		resp.Body.Close()
	}
	before := counted(t, s.hosts)
	for range 8 {
		if resp, body := s.do(t, http.MethodPost, "/v1/chat/completions", fmt.Sprintf(chat, 2, false)); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s %s", resp.Status, body)
		}
	}
	after := counted(t, s.hosts)
	for i := range after {
		if after[i] == before[i] {
			t.Errorf("of eight requests host %d had none", i)
		}
	}
}

// counted is how many chats each host has answered.
func counted(t *testing.T, hosts []*host) []string {
	t.Helper()
	var out []string
	for _, h := range hosts {
		r, err := http.Get("http://" + h.admin + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		sum := ""
		for sc := bufio.NewScanner(r.Body); sc.Scan(); {
			if strings.HasPrefix(sc.Text(), "pimoe_http_requests_total") && strings.Contains(sc.Text(), "chat") {
				sum += sc.Text()
			}
		}
		r.Body.Close()
		out = append(out, sum)
	}
	return out
}

// headers: what nginx says itself has the safety headers of the host's answers, and the shape of its errors.
func (s *stand) headers(t *testing.T) {
	r, err := http.Get("http://" + s.hosts[0].addr + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	want := map[string]string{}
	for _, h := range nginx.Safety() {
		want[h.Name] = h.Value
	}
	for name, value := range r.Header {
		switch name {
		case "Content-Type", "Content-Length", "Date", "X-Request-Id", "Server":
			continue
		}
		if want[name] != value[0] {
			t.Errorf("the host sends %s: %s, nginx's own answers %q", name, value[0], want[name])
		}
	}
	for name, value := range want {
		if r.Header.Get(name) != value {
			t.Errorf("nginx's own answers have %s: %s, the host's %q", name, value, r.Header.Get(name))
		}
	}
	same := func(resp *http.Response) {
		t.Helper()
		for name, value := range want {
			if got := resp.Header.Values(name); len(got) != 1 || got[0] != value {
				t.Errorf("%s: %s %q, want %q once", resp.Request.URL.Path, name, got, value)
			}
		}
		if got := resp.Header.Values("Strict-Transport-Security"); len(got) != 1 || got[0] != "max-age=31536000" {
			t.Errorf("%s: HSTS %q", resp.Request.URL.Path, got)
		}
	}
	resp, _ := s.do(t, http.MethodGet, "/livez", "")
	same(resp)
	big := strings.Repeat(" ", 2<<20) // values has a limit of 1 MiB
	for path, kind := range map[string]string{"/v1/completions": "application/json", "/v2/models/x/infer": "application/json", "/api/v1/process": "application/problem+json"} {
		resp, body := s.do(t, http.MethodPost, path, big, "X-Request-Id", "big-1")
		same(resp)
		if resp.StatusCode != http.StatusRequestEntityTooLarge || len(resp.Header.Values("Content-Type")) != 1 || resp.Header.Get("Content-Type") != kind ||
			!json.Valid(body) || !strings.Contains(string(body), "body_too_large") || !strings.Contains(string(body), `"request_id":"big-1"`) {
			t.Errorf("%s: %s %q %s", path, resp.Status, resp.Header.Values("Content-Type"), body)
		}
	}
}

// stream: events come one by one, not when all are there.
func (s *stand) stream(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/v1/chat/completions", strings.NewReader(fmt.Sprintf(chat, 200, true)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+apiKey)
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	pieces, done := 0, false
	for buf := make([]byte, 64<<10); ; {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			pieces++
			done = done || strings.Contains(string(buf[:n]), "[DONE]")
		}
		if err != nil {
			break
		}
	}
	if !done || pieces < 10 {
		t.Errorf("the stream came in %d pieces, to its end: %v", pieces, done)
	}
}

// rpc: gRPC goes through, with its trailers.
func (s *stand) rpc(t *testing.T) {
	conn, err := grpc.NewClient(strings.TrimPrefix(s.url, "https://"), grpc.WithTransportCredentials(credentials.NewTLS(s.tls.Clone())))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil || answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", answer, err)
	}
	if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: "nobody"}); status.Code(err) != codes.NotFound {
		t.Errorf("the health of an unknown service: %v", err)
	}
}

func (s *stand) websocket(t *testing.T) {
	conn, err := tls.Dial("tcp", strings.TrimPrefix(s.url, "https://"), &tls.Config{RootCAs: s.tls.RootCAs, ServerName: "localhost", NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: %s\r\nAuthorization: Bearer %s\r\n\r\n",
		strings.TrimPrefix(s.url, "https://"), s.url, apiKey)
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v %v", resp, err)
	}
	ping := []byte(`{"type":"ping","request_id":"p1"}`)
	frame := append([]byte{0x81, 0x80 | byte(len(ping)), 0, 0, 0, 0}, ping...) // masked with zeros
	if _, err := conn.Write(frame); err != nil {
		t.Fatal(err)
	}
	for got := ""; !strings.Contains(got, `"pong"`); {
		b := make([]byte, 4096)
		n, err := br.Read(b)
		if err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
		got += string(b[:n])
	}
}
