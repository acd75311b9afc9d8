package redisdb_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/redisdb"
	"github.com/pimoe/pimoe/server/redisdb/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open is a DB with a timeout that a busy test machine meets.
func open(t *testing.T, addr string, change func(*config.Redis)) *redisdb.DB {
	t.Helper()
	c := config.Default().Redis
	c.URL, c.Timeout = "redis://"+addr+"/0", 100*time.Millisecond
	if change != nil {
		change(&c)
	}
	d, err := redisdb.Open(redisdb.Options{Config: c, Metrics: metrics.New(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return d
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

func TestValuesAndScripts(t *testing.T) {
	d := open(t, redistest.Start(t).Addr, nil)
	waitFor(t, "healthy", d.Healthy)
	ctx := t.Context()
	if _, err := d.Get(ctx, "a"); !errors.Is(err, redisdb.ErrMissing) || !errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("no key: %v", err)
	}
	value := []byte("a\r\n$5\r\n\x00\xff")
	if err := d.Set(ctx, "a", value, time.Minute); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Get(ctx, "a"); err != nil || !bytes.Equal(got, value) {
		t.Errorf("%q %v", got, err)
	}
	if err := d.Set(ctx, "b", value, 0); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("a value for good: %v", err)
	}
	if err := d.Set(ctx, "b", value, 20*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the end of b", func() bool { _, err := d.Get(ctx, "b"); return errors.Is(err, redisdb.ErrMissing) })
	count := redisdb.NewScript("redis.call('incrby', KEYS[1], ARGV[1]); return {KEYS[1], tonumber(redis.call('get', KEYS[1]))}")
	for i := range 3 {
		got, err := d.Eval(ctx, count, []string{"n"}, 5)
		if want := fmt.Sprintf("[pimoe:n %d]", 5*(i+1)); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%v %v, want %s", got, err, want)
		}
	}
	if got, err := d.Eval(ctx, redisdb.NewScript("return false"), nil); got != nil || err != nil {
		t.Errorf("a script that returns nothing: %v %v", got, err)
	}
	if _, err := d.Eval(ctx, redisdb.NewScript("return redis.call('nonsense')"), nil); !errors.Is(err, sdk.ErrUnavailable) || !d.Healthy() {
		t.Errorf("a script that fails: %v", err)
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := d.Get(over, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that has gone: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if _, err := d.Get(ctx, "a"); !errors.Is(err, sdk.ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
}

func TestPassword(t *testing.T) {
	s := redistest.Start(t, "--requirepass", "right-one", "--user", "pimoe", "on", ">acl-one", "~pimoe:*", "+get", "+set", "+ping", "+hello")
	right := open(t, s.Addr, func(c *config.Redis) { c.Password = "right-one" })
	waitFor(t, "healthy with the password", right.Healthy)
	acl := open(t, s.Addr, func(c *config.Redis) { c.Username, c.Password = "pimoe", "acl-one" })
	waitFor(t, "healthy as a user", acl.Healthy)
	if err := acl.Set(t.Context(), "x", []byte("1"), time.Minute); err != nil {
		t.Error(err)
	}
	foreign := open(t, s.Addr, func(c *config.Redis) { c.Username, c.Password, c.Prefix = "pimoe", "acl-one", "other:" })
	waitFor(t, "healthy", foreign.Healthy)
	if err := foreign.Set(t.Context(), "x", []byte("1"), time.Minute); !errors.Is(err, sdk.ErrUnavailable) || !foreign.Healthy() {
		t.Errorf("a key that the user has no right to: %v", err)
	}
	wrong := open(t, s.Addr, func(c *config.Redis) { c.Password = "wrong-one" })
	if _, err := wrong.Get(t.Context(), "x"); !errors.Is(err, redisdb.ErrDown) || wrong.Healthy() {
		t.Errorf("with a wrong password: %v", err)
	}
}

// A server that is dead, frozen or slow costs a few calls at most, each no longer than the timeout, and is found again.
func TestFaultsCostLittle(t *testing.T) {
	s := redistest.Start(t)
	p := redistest.NewProxy(t, s.Addr, 1)
	d := open(t, p.Addr, func(c *config.Redis) { c.Timeout = 20 * time.Millisecond })
	if err := d.Set(t.Context(), "k", []byte("v"), time.Minute); err == nil {
		t.Log("found before the first call")
	}
	for name, f := range map[string]redistest.Fault{
		"refuse": {Refuse: true}, "freeze": {Freeze: true}, "2 s late": {Delay: 2 * time.Second}, "cut": {Cut: 3},
		"flipped": {Flip: 0.2}, "foreign": {Answer: []byte("$7\r\nforeign\r\n")}, "a bomb": {Answer: []byte("$2147483647\r\n")},
		"a list of lists": {Answer: []byte("*2000000000\r\n")}, "a line without end": {Answer: bytes.Repeat([]byte("+"), 100<<10)},
		"lists in lists": {Answer: bytes.Repeat([]byte("*1\r\n"), 1<<20)}, "lists beside numbers": {Answer: bytes.Repeat([]byte("*2\r\n:1\r\n"), 1<<19)},
	} {
		t.Run(name, func(t *testing.T) {
			p.Set(redistest.Fault{})
			waitFor(t, "healthy", d.Healthy)
			p.Set(f)
			failed, slowest := 0, time.Duration(0)
			for range 200 {
				began := time.Now()
				_, err := d.Get(t.Context(), "k")
				slowest = max(slowest, time.Since(began))
				if err != nil && !errors.Is(err, redisdb.ErrDown) && !errors.Is(err, redisdb.ErrMissing) {
					failed++
				}
			}
			if slowest > time.Second {
				t.Errorf("a call took %s", slowest)
			}
			if name != "flipped" && name != "foreign" && (failed > 4 || d.Healthy()) {
				t.Errorf("%d calls of 200 failed before the breaker opened; healthy: %v", failed, d.Healthy())
			}
		})
	}
	p.Set(redistest.Fault{Split: true})
	waitFor(t, "healthy although replies come byte by byte", d.Healthy)
	if err := d.Set(t.Context(), "k", []byte("v"), time.Minute); err != nil {
		t.Error(err)
	}
	if got, err := d.Get(t.Context(), "k"); err != nil || string(got) != "v" {
		t.Errorf("%q %v", got, err)
	}
	s.Freeze()
	for range 5 {
		_, _ = d.Get(t.Context(), "k")
	}
	if d.Healthy() {
		t.Error("healthy while the process is stopped")
	}
	s.Thaw()
	p.Set(redistest.Fault{})
	waitFor(t, "healthy after it goes on", d.Healthy)
	s.Kill()
	for range 5 {
		_, _ = d.Get(t.Context(), "k")
	}
	if _, err := d.Get(t.Context(), "k"); !errors.Is(err, redisdb.ErrDown) {
		t.Errorf("killed: %v", err)
	}
	s.Restart(t)
	waitFor(t, "healthy after a restart", d.Healthy)
}

// Keys and values from outside are never commands: S34.
func TestOnlyExpectedCommands(t *testing.T) {
	s := redistest.Start(t)
	p := redistest.NewProxy(t, s.Addr, 1)
	d := open(t, p.Addr, func(c *config.Redis) { c.Timeout = time.Second })
	waitFor(t, "healthy", d.Healthy)
	echo := redisdb.NewScript("return {KEYS[1], ARGV[1]}")
	for i, bad := range hostileTexts() {
		if err := d.Set(t.Context(), bad, []byte(bad), time.Minute); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		got, err := d.Get(t.Context(), bad)
		if err != nil || string(got) != bad {
			t.Fatalf("%d: %q came back as %q: %v", i, bad, got, err)
		}
		back, err := d.Eval(t.Context(), echo, []string{bad}, bad)
		if list, ok := back.([]any); err != nil || !ok || len(list) != 2 || list[0] != "pimoe:"+bad || list[1] != bad {
			t.Fatalf("%d: %q came back from a script as %q: %v", i, bad, back, err)
		}
	}
	seen := p.Commands()
	for name := range seen {
		switch name {
		case "HELLO", "PING", "GET", "SET", "EVALSHA", "EVAL":
		default:
			t.Errorf("command %.60q came through, %d times", name, seen[name])
		}
	}
	if want := len(hostileTexts()); seen["GET"] != want || seen["SET"] != want || seen["EVAL"] != 1 || seen["EVALSHA"] != want {
		t.Errorf("commands %v, want %d of each", seen, want)
	}
}

// hostileTexts are keys and values that would be commands if they were pasted into one, and mixtures of them.
func hostileTexts() []string {
	parts := []string{"\r\nFLUSHALL\r\n", "*1\r\n$8\r\nFLUSHALL\r\n", "$-1\r\n", "\x00", "' redis.call('flushall') '", "]] redis.call('flushall') --[[", "k EX 1", "{a}", "\xff\xfe", "\n", "+OK", "x"}
	out := append([]string{strings.Repeat("k", 1<<16)}, parts...)
	for i, a := range parts {
		for j, b := range parts {
			out = append(out, a+b, b+parts[(i*7+j*3)%len(parts)]+a)
		}
	}
	seen, unique := map[string]bool{}, out[:0]
	for _, s := range out {
		if !seen[s] {
			unique = append(unique, s)
		}
		seen[s] = true
	}
	return unique
}

func TestTLSIsVerified(t *testing.T) {
	dir := t.TempDir()
	cert, key := certificate(t, dir)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	_ = ln.Close()
	redistest.Start(t, "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no")
	secure := func(host, ca string) func(*config.Redis) {
		return func(c *config.Redis) { c.URL, c.CAFile = "rediss://"+host+":"+port, ca }
	}
	known := open(t, "", secure("127.0.0.1", cert))
	waitFor(t, "healthy over TLS", known.Healthy)
	if err := known.Set(t.Context(), "a", []byte("b"), time.Minute); err != nil {
		t.Error(err)
	}
	stranger := open(t, "", secure("127.0.0.1", ""))
	other := open(t, "", secure("localhost", cert)) // the certificate has the address alone
	time.Sleep(300 * time.Millisecond)
	if stranger.Healthy() || other.Healthy() {
		t.Errorf("a certificate that nobody has signed: %v; of another name: %v", stranger.Healthy(), other.Healthy())
	}
	c := config.Redis{URL: "rediss://localhost", CAFile: filepath.Join(dir, "none")}
	if _, err := redisdb.Open(redisdb.Options{Config: c}); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("no such file: %v", err)
	}
}

// certificate writes a self-signed certificate of 127.0.0.1.
func certificate(t *testing.T, dir string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, b := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func TestCallsAreBounded(t *testing.T) {
	s := redistest.Start(t)
	p := redistest.NewProxy(t, s.Addr, 1)
	d := open(t, p.Addr, func(c *config.Redis) { c.Timeout = time.Second })
	waitFor(t, "healthy", d.Healthy)
	p.Set(redistest.Fault{Freeze: true})
	var calls sync.WaitGroup
	var mu sync.Mutex
	busy := 0
	for range 100 {
		calls.Go(func() {
			if _, err := d.Get(context.Background(), "a"); err != nil && strings.Contains(err.Error(), "under way") {
				mu.Lock()
				busy++
				mu.Unlock()
			}
		})
	}
	calls.Wait()
	if busy < 50 {
		t.Errorf("%d of 100 calls at once were turned away", busy)
	}
}

// TestSlowToConnect: where a connection takes longer than a call may, those that the probe has made serve the first calls, and a
// call that finds none leaves the one that it began to those that come later.
func TestSlowToConnect(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := certificate(t, dir)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	s := redistest.Start(t)
	var made atomic.Int32
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		made.Add(1)
		time.Sleep(600 * time.Millisecond)
		return &cert, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	var both sync.WaitGroup
	t.Cleanup(func() { ln.Close(); both.Wait() })
	both.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			both.Go(func() { forward(c, s.Addr) })
		}
	})
	d := open(t, "", func(c *config.Redis) {
		c.URL, c.CAFile, c.Timeout = "rediss://"+ln.Addr().String(), certFile, 300*time.Millisecond
	})
	waitFor(t, "healthy", d.Healthy)
	first := made.Load()
	if first < 2 {
		t.Errorf("the probe has made %d connections", first)
	}
	for range 20 {
		if err := d.Set(t.Context(), "k", []byte("v"), time.Minute); err != nil {
			t.Fatalf("beside idle connections: %v", err)
		}
	}
	var calls sync.WaitGroup
	for range 12 {
		calls.Go(func() { d.Get(t.Context(), "k") })
	}
	calls.Wait()
	waitFor(t, "healthy after more calls at once than connections", func() bool {
		_, err := d.Get(t.Context(), "k")
		return err == nil
	})
	if n := made.Load(); n > 16+2*4 { // a pool, and what two probes may make
		t.Errorf("%d connections were made", n)
	}
}

// forward joins a connection with one to addr until either ends.
func forward(c net.Conn, addr string) {
	defer c.Close()
	to, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() { io.Copy(c, to); c.Close() })
	io.Copy(to, c)
	to.Close()
	back.Wait()
}
