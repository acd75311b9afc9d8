package server

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/handover"
)

// authority signs certificates for a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	n    int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// sign fills in a template and signs it.
func (a *authority) sign(c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.n++
	c.SerialNumber, c.NotBefore = big.NewInt(a.n), time.Now().Add(-time.Hour)
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(24 * time.Hour)
	}
	parent, by := a.cert, a.key
	if parent == nil {
		parent, by = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return out, key
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func keyPEM(t *testing.T, k *ecdsa.PrivateKey) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// server writes a certificate for this machine and returns it.
func (a *authority) server(certFile, keyFile string) *x509.Certificate {
	a.t.Helper()
	c, k := a.sign(&x509.Certificate{DNSNames: []string{"localhost", "pimoe.example.com"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	replace(a.t, certFile, certPEM(c))
	replace(a.t, keyFile, keyPEM(a.t, k))
	return c
}

// replace puts a whole file in the place of another, as those do who renew certificates.
func replace(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// client trusts the authority.
func (a *authority) client() *http.Client {
	c := &tls.Config{RootCAs: x509.NewCertPool()}
	c.RootCAs.AddCert(a.cert)
	tr := &http.Transport{TLSClientConfig: c}
	a.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

// secured is a configuration with a certificate.
func (a *authority) secured() (config.Config, *x509.Certificate) {
	dir := a.t.TempDir()
	cfg := testConfig(dir)
	cfg.Server.TLS = config.TLS{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"), ClientAuth: "none"}
	return cfg, a.server(cfg.Server.TLS.CertFile, cfg.Server.TLS.KeyFile)
}

func fetchOver(t *testing.T, c *http.Client, method, url, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if req.Header.Set(headers[i], headers[i+1]); headers[i] == "Host" {
			req.Host = headers[i+1]
		}
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func TestTLS(t *testing.T) {
	a := newAuthority(t)
	cfg, cert := a.secured()
	r := serveConfig(t, fakeService(&fakeEngine{script: fails(3, io.ErrUnexpectedEOF)}), cfg, nil)
	secure := "https://" + r.Addr()
	resp, body := fetchOver(t, a.client(), "GET", secure+"/livez", "", "Host", "pimoe.example.com")
	if resp.StatusCode != 200 || body != "ok\n" || resp.TLS.Version != tls.VersionTLS13 || resp.TLS.PeerCertificates[0].SerialNumber.Cmp(cert.SerialNumber) != 0 {
		t.Errorf("%d %q, TLS %x", resp.StatusCode, body, resp.TLS.Version)
	}
	if h := resp.Header.Get("Strict-Transport-Security"); h != "max-age=31536000" {
		t.Errorf("HSTS %q", h)
	}
	if resp, _ := fetchOver(t, a.client(), "GET", secure+"/livez", ""); resp.Header.Get("Strict-Transport-Security") != "" {
		t.Error("localhost is told to speak TLS only")
	}
	if resp, _ := fetchOver(t, http.DefaultClient, "GET", "http://"+r.AdminAddr()+"/livez", ""); resp.StatusCode != 200 || resp.TLS != nil {
		t.Error("the admin listener does not speak HTTP")
	}
	_, metrics := fetchOver(t, a.client(), "GET", secure+"/metrics", "")
	if !strings.Contains(metrics, "pimoe_tls_certificate_expires_seconds 8") {
		t.Error("the metrics don't say when the certificate expires")
	}
	for name, c := range map[string]*tls.Config{
		"TLS 1.1": {MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "CBC": {MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}},
		"no forward secrecy": {MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}}, "only HTTP/2": {NextProtos: []string{"h2"}},
	} {
		c.InsecureSkipVerify = true //nolint:gosec // what is looked at is the handshake
		if conn, err := tls.Dial("tcp", r.Addr(), c); err == nil {
			conn.Close()
			t.Errorf("%s: the handshake succeeds", name)
		}
	}
	if got, closed := send(t, r.Addr(), "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", 5*time.Second); strings.Contains(got, "200") || !closed {
		t.Errorf("plain HTTP is answered: %q", got)
	}
}

// A client of TLS that goes away frees its slot, although its goodbye waits to be read.
func TestGoneClientOfTLS(t *testing.T) {
	a := newAuthority(t)
	cfg, _ := a.secured()
	for _, body := range []string{whole, streaming} {
		f := &fakeEngine{script: hangs(3)}
		r := serveConfig(t, fakeService(f), cfg, nil)
		c, err := tls.Dial("tcp", r.Addr(), a.client().Transport.(*http.Transport).TLSClientConfig)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		eventually(t, 5*time.Second, "the request runs", func() bool { return f.slots.Load() == 1 })
		c.Close()
		eventually(t, 5*time.Second, "the slot is free", func() bool { return f.slots.Load() == 0 })
	}
}

// A renewed certificate is used by the next connection, a bad one by none, and no request notices either.
func TestCertificatesAreFollowed(t *testing.T) {
	a := newAuthority(t)
	cfg, _ := a.secured()
	r := serveConfig(t, fakeService(&fakeEngine{script: fails(0, io.ErrUnexpectedEOF)}), cfg, nil)
	url := "https://" + r.Addr() + "/livez"
	kept := a.client() // one connection over all renewals
	fetchOver(t, kept, "GET", url, "")
	stop, failures, requests := make(chan struct{}), atomic.Int64{}, atomic.Int64{}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c := a.client()
		c.Transport.(*http.Transport).DisableKeepAlives = true
		for {
			select {
			case <-stop:
				return
			default:
			}
			resp, err := c.Get(url)
			if requests.Add(1); err != nil || resp.StatusCode != 200 {
				failures.Add(1)
				continue
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}()
	serial := func() string {
		c := a.client()
		defer c.CloseIdleConnections()
		resp, _ := fetchOver(t, c, "GET", url, "")
		return resp.TLS.PeerCertificates[0].SerialNumber.String()
	}
	files := cfg.Server.TLS
	next := a.server(files.CertFile, files.KeyFile)
	eventually(t, 10*time.Second, "the new certificate is used", func() bool { return serial() == next.SerialNumber.String() })

	expired, itsKey := a.sign(&x509.Certificate{DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(-time.Minute)})
	for why, content := range map[string][]byte{"does not match": certPEM(a.cert), "failed to find": []byte("nothing"), "has expired": certPEM(expired)} {
		if why == "has expired" { // the date is looked at where the key is right
			replace(t, files.KeyFile, keyPEM(t, itsKey))
		}
		replace(t, files.CertFile, content)
		eventually(t, 10*time.Second, "the log says that it "+why, func() bool { serial(); return strings.Contains(r.log.String(), why) })
		if got := serial(); got != next.SerialNumber.String() {
			t.Errorf("after a certificate that %s: serial %s", why, got)
		}
	}
	last := a.server(files.CertFile, files.KeyFile)
	eventually(t, 10*time.Second, "a good one is used again", func() bool { return serial() == last.SerialNumber.String() })
	if resp, _ := fetchOver(t, kept, "GET", url, ""); resp.StatusCode != 200 {
		t.Errorf("the kept connection: %d", resp.StatusCode)
	}
	close(stop)
	<-ended
	if failures.Load() > 0 || requests.Load() == 0 {
		t.Errorf("%d of %d requests failed", failures.Load(), requests.Load())
	}
	if strings.Contains(r.log.String(), "PRIVATE KEY") {
		t.Error("the log has a key")
	}
}

// A wrong pair ends the start, with the key that is wrong.
func TestWrongCertificatesEndTheStart(t *testing.T) {
	a := newAuthority(t)
	for want, spoil := range map[string]func(*config.TLS){
		"cert_file: open":          func(c *config.TLS) { c.CertFile += "x" },
		"key_file: open":           func(c *config.TLS) { c.KeyFile += "x" },
		"can be written by others": func(c *config.TLS) { os.Chmod(c.KeyFile, 0o666) },
		"cert_file and key_file":   func(c *config.TLS) { c.CertFile = c.KeyFile },
		"client_ca_file: open":     func(c *config.TLS) { c.ClientCAFile, c.ClientAuth = "/none", "require" },
		"has no certificate":       func(c *config.TLS) { c.ClientCAFile, c.ClientAuth = c.KeyFile, "require" },
	} {
		cfg, _ := a.secured()
		spoil(&cfg.Server.TLS)
		s, err := newServer(*fakeService(&fakeEngine{}), cfg, slog.New(slog.DiscardHandler))
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// Certificates of clients: a gate, and a principal with the role that auth.roles gives to one of its names.
func TestClientCertificates(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	spiffe, err := url.Parse("spiffe://example.com/scraper")
	if err != nil {
		t.Fatal(err)
	}
	show := func(by *authority, c *x509.Certificate) *http.Client {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		cert, key := by.sign(c)
		client := a.client()
		client.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}
		return client
	}
	who := map[string]*http.Client{
		"none": a.client(), "stranger": show(stranger, &x509.Certificate{Subject: pkix.Name{CommonName: "ops"}}), "expired": show(a, &x509.Certificate{Subject: pkix.Name{CommonName: "ops"}, NotAfter: time.Now().Add(-time.Minute)}),
		"ops": show(a, &x509.Certificate{Subject: pkix.Name{CommonName: "ops"}}), "scraper": show(a, &x509.Certificate{URIs: []*url.URL{spiffe}}),
		"admin": show(a, &x509.Certificate{Subject: pkix.Name{CommonName: "admin"}, DNSNames: []string{"admin"}}), // the name of a role gives none
	}
	for mode, want := range map[string]map[string]string{
		"request": {"none": "401", "stranger": "refused", "expired": "refused", "ops": "operator", "scraper": "viewer", "admin": "401"},
		"require": {"none": "refused", "stranger": "refused", "expired": "refused", "ops": "operator", "scraper": "viewer", "admin": "401"},
	} {
		cfg, _ := a.secured()
		cfg.Server.TLS.ClientAuth, cfg.Server.TLS.ClientCAFile = mode, cfg.Server.TLS.CertFile+".ca"
		replace(t, cfg.Server.TLS.ClientCAFile, certPEM(a.cert))
		cfg.APIKey = "0123-abcd-4567-efgh-89"
		cfg.Auth.Roles = map[string]string{"ops": "operator", spiffe.String(): "viewer"}
		r := serveConfig(t, fakeService(&fakeEngine{}), cfg, nil)
		for name, expected := range want {
			resp, err := who[name].Get("https://" + r.Addr() + access.SessionPath)
			got := "refused"
			if err == nil {
				b, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if got = fmt.Sprint(resp.StatusCode); resp.StatusCode == 200 {
					_, rest, _ := bytes.Cut(b, []byte(`"role":"`))
					role, _, _ := bytes.Cut(rest, []byte(`"`))
					got = string(role)
				}
			}
			if got != expected {
				t.Errorf("%s, %s: %s, want %s", mode, name, got, expected)
			}
		}
	}
}

// A successor takes the socket over and ends TLS on it, with a certificate of its own.
func TestTLSAcrossAHandOver(t *testing.T) {
	a := newAuthority(t)
	cfg, first := a.secured()
	one := serveConfig(t, fakeService(&fakeEngine{}), cfg, nil)
	url := "https://" + one.Addr() + "/livez"
	before := a.client()
	if resp, _ := fetchOver(t, before, "GET", url, ""); resp.TLS.PeerCertificates[0].SerialNumber.Cmp(first.SerialNumber) != 0 {
		t.Fatal("another certificate")
	}
	list := one.Listeners()
	taken := make([]handover.Listener, len(list))
	for i, l := range list {
		f, err := l.Net.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		if taken[i].Net, err = net.FileListener(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		taken[i].Name, taken[i].Addr = l.Name, l.Addr
	}
	second := a.server(cfg.Server.TLS.CertFile, cfg.Server.TLS.KeyFile)
	serveConfig(t, fakeService(&fakeEngine{}), cfg, nil, Inherited(taken))
	one.Leave()
	if resp, _ := fetchOver(t, before, "GET", url, ""); resp.StatusCode != 200 {
		t.Errorf("the kept connection: %d", resp.StatusCode)
	}
	resp, _ := fetchOver(t, a.client(), "GET", url, "")
	if resp.StatusCode != 200 || resp.TLS.PeerCertificates[0].SerialNumber.Cmp(second.SerialNumber) != 0 {
		t.Errorf("after the hand-over: %d, serial %s", resp.StatusCode, resp.TLS.PeerCertificates[0].SerialNumber)
	}
}
