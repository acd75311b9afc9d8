package acceptance

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
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
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/server/bundle"
)

// TestSecretsStayInside plants a secret in every place that one can come from, uses them all, and looks for them in everything that
// the host writes: the log at its finest level, metrics, errors, the audit log, the configuration that it shows, its own command
// line, and what its plugins were given.
func TestSecretsStayInside(t *testing.T) {
	store, dir := home(t), t.TempDir()
	canary := map[string]string{}
	plant := func(where string) string {
		b := make([]byte, 24)
		rand.Read(b) // never fails
		canary[where] = "cnry" + fmt.Sprintf("%x", b)
		return canary[where]
	}
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	create := exec.Command(filepath.Join(coretest.Binaries(t), "pimoe"), "keys", "create", "--name", "canary", "--role", "admin")
	create.Env = append(os.Environ(), "PIMOE_HOME="+store)
	made, err := create.Output()
	if err != nil {
		t.Fatal(err)
	}
	key := string(bytes.TrimSpace(made))
	canary["a key of pimoe keys"] = key[strings.LastIndexByte(key, '_')+1:]
	secret := plant("the HMAC file")
	token := hmacToken(secret, plant("a token's claims"))
	canary["a token"] = token[strings.LastIndexByte(token, '.')+1:]
	cert, keyFile, pool, inKey := certificate(t, dir)
	canary["the TLS key"] = inKey

	p := launch(t, store, "--set", "log.level=trace", "--set", "auth.jwt.issuer=https://issuer.example", "--set", "auth.jwt.audience=pimoe",
		"--set", "auth.jwt.secret_file="+file("hmac", secret), "--set", "auth.oidc.issuer=https://login.example", "--set", "auth.oidc.client_id=pimoe",
		"--set", "auth.oidc.redirect_url=https://localhost/auth/callback", "--set", "server.tls.cert_file="+cert, "--set", "server.tls.key_file="+keyFile,
		"--set", "audit.file="+filepath.Join(dir, "audit.jsonl"))
	_ = p.cmd.Process.Kill() // launch has no place for an environment: the same command line again, with one
	<-p.exited
	p = again(t, p, "PIMOE_API_KEY_FILE="+file("key", plant("the API key's file")), "PIMOE_AUTH__OIDC__CLIENT_SECRET="+plant("the OIDC secret"),
		"PIMOE_TRACING__ENDPOINT=http://127.0.0.1:9", "PIMOE_TRACING__HEADERS=authorization=Bearer-"+plant("the collector's key")+",x-scope="+plant("another header of exports"), "PIMOE_TRACING__SAMPLE_RATIO=1",
		"PIMOE_TEST_CANARY="+plant("the environment"), "AWS_SECRET_ACCESS_KEY="+plant("another program's variable"))
	p.url = strings.Replace(p.url, "http:", "https:", 1)
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	wait := time.Now().Add(30 * time.Second)
	for {
		if resp, err := client.Get(p.url + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(wait) {
			t.Fatalf("not ready\n%s", p.stderr)
		}
		time.Sleep(20 * time.Millisecond)
	}

	var written bytes.Buffer // all answers that are errors, and what operators see
	statuses := map[int]int{}
	ask := func(method, url, body string, headers ...string) {
		req, err := http.NewRequest(method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		statuses[resp.StatusCode]++
		if resp.StatusCode >= 400 || strings.Contains(url, "/metrics") || strings.Contains(url, "/admin/") {
			fmt.Fprintf(&written, "%s %v\n%s\n", resp.Status, resp.Header, b)
		}
	}
	chat := func(text, tool string) string {
		return fmt.Sprintf(`{"model":"pimoe-tiny","max_tokens":3,"messages":[{"role":"user","content":%q}],"tools":[{"type":"function","function":{"name":"f","description":%q,"parameters":{"type":"object","properties":{}}}}]}`, text, tool)
	}
	for _, credential := range []string{key, token, canary["the API key's file"], plant("a wrong credential"), "pimoe_abcdefgh_" + plant("a wrong key"), token[:len(token)-2] + "xx"} {
		auth := "Bearer " + credential
		ask("POST", p.url+"/v1/completions", fmt.Sprintf(`{"model":"pimoe-tiny","max_tokens":3,"prompt":%q}`, plant("a prompt of "+credential[:5])+" ann@example.org"), "Authorization", auth)
		ask("POST", p.url+"/v1/chat/completions", chat(plant("a message of "+credential[:5]), plant("a tool of "+credential[:5])), "Authorization", auth)
		ask("GET", p.url+"/v1/models?token="+plant("a query of "+credential[:5]), "", "Authorization", auth, "Cookie", "__Host-pimoe-session="+plant("a cookie of "+credential[:5]))
		ask("GET", p.url+"/v1/models/"+plant("a file name of "+credential[:5])+".txt", "", "Authorization", auth)
		ask("POST", p.url+"/v1/completions", `{"prompt": "`+plant("a broken body of "+credential[:5]), "Authorization", auth)
		ask("GET", p.url+"/auth/callback?code="+plant("a code of "+credential[:5])+"&state=x", "")
		ask("GET", p.url+"/"+plant("a path of "+credential[:5]), "", "Authorization", auth, "Referer", "https://x.example/"+plant("a referrer of "+credential[:5]), "User-Agent", plant("an agent of "+credential[:5]))
	}
	ask("GET", p.url+"/v1/models", "", "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("ann:"+plant("a password"))))
	ask("POST", p.admin+"/admin/experts/none/swap", `{"backend":"`+plant("a body for operators"))
	ask("POST", p.admin+"/admin/reload", "{}")
	ask("GET", p.admin+"/admin/config", "")
	ask("GET", p.admin+"/admin/experts", "")
	ask("GET", p.admin+"/metrics", "")
	if statuses[200] < 10 || statuses[401] < 5 || statuses[404] == 0 {
		t.Errorf("answers: %v", statuses)
	}

	given := map[string]string{"answers": written.String()}
	for name, text := range debugBundle(t, p, store, key, dir) {
		given["the bundle's "+name] = text
	}
	for _, pid := range append(children(t), p.cmd.Process.Pid) {
		base := fmt.Sprintf("/proc/%d/", pid)
		look(t, given, base+"cmdline")
		if pid != p.cmd.Process.Pid {
			look(t, given, base+"environ")
		}
		limits, err := os.ReadFile(base + "limits")
		if err != nil {
			t.Fatal(err)
		}
		core := strings.Fields(strings.TrimPrefix(string(limits[bytes.Index(limits, []byte("Max core")):]), "Max core file size"))
		if core[0] != "0" && core[0] != "1" || core[1] != core[0] && core[1] != "1" {
			t.Errorf("process %d may write a picture of its memory: %v", pid, core[:2])
		}
	}
	if len(given) < 4 {
		t.Errorf("only %d places were looked at", len(given))
	}
	p.cmd.Process.Signal(os.Interrupt)
	<-p.exited
	look(t, given, filepath.Join(dir, "audit.jsonl"))
	given["log"] = p.stderr.String()
	if !strings.Contains(given["log"], "access refused") {
		t.Error("the log does not say what was refused")
	}
	hits := 0
	for where, text := range given {
		for what, secret := range canary {
			if where == "answers" && strings.HasPrefix(what, "a file name") {
				continue // whoever asks for a model that is not there is told its name
			}
			if strings.Contains(text, secret) {
				hits++
				t.Errorf("%s is in %s: ...%s...", what, where, nearby(text, secret))
			}
		}
	}
	t.Logf("%d secrets, %d places, %d bytes of log, %d hits", len(canary), len(given), len(given["log"]), hits)
}

func nearby(text, secret string) string {
	i := strings.Index(text, secret)
	return text[max(0, i-80):min(len(text), i+len(secret)+20)]
}

func look(t *testing.T, given map[string]string, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	given[path] = string(b)
}

// debugBundle is what pimoe debug bundle collects from a server.
func debugBundle(t *testing.T, p *program, store, key, dir string) map[string]string {
	t.Helper()
	keyFile, out := filepath.Join(dir, "admin-key"), filepath.Join(dir, "bundle.tar.gz")
	if err := os.WriteFile(keyFile, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(coretest.Binaries(t), "pimoe"), "debug", "bundle", "--admin", p.admin, "-o", out)
	cmd.Env = append(os.Environ(), "PIMOE_HOME="+store, "PIMOE_ADMIN_KEY_FILE="+keyFile)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, text)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	files, err := bundle.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, f := range files {
		texts[f.Name] = string(f.Data)
	}
	for name, has := range map[string]string{
		"README.txt": "goroutines.txt", "version.json": "pimoe-tiny", "config.yaml": "tracing:", "stats.json": "production_config", "experts.json": `"router"`,
		"metrics.txt": "pimoe_build_info", "log.txt": "access refused", "goroutines.txt": "goroutine ", "host.txt": "PIMOE_TRACING__HEADERS", "doctor.json": "instruction sets", "command.json": "version",
	} {
		if !strings.Contains(texts[name], has) {
			t.Errorf("the bundle's %s has no %q: %.300s", name, has, texts[name])
		}
	}
	return texts
}

// again starts a program's command line with more variables.
func again(t *testing.T, p *program, env ...string) *program {
	t.Helper()
	n := &program{stderr: &safeBuffer{}, exited: make(chan struct{}), url: p.url, admin: p.admin}
	n.cmd = exec.Command(p.cmd.Path, p.cmd.Args[1:]...)
	n.cmd.Env = append(p.cmd.Env, env...)
	n.cmd.Stdout, n.cmd.Stderr = n.stderr, n.stderr
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { n.err = n.cmd.Wait(); close(n.exited) }()
	t.Cleanup(func() { n.cmd.Process.Kill(); <-n.exited })
	return n
}

// hmacToken is a JWT of the issuer in the test.
func hmacToken(secret, claim string) string {
	enc := base64.RawURLEncoding.EncodeToString
	text := enc([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + enc([]byte(fmt.Sprintf(`{"iss":"https://issuer.example","aud":"pimoe","sub":"ann","roles":["user"],"note":%q,"exp":%d}`, claim, time.Now().Add(time.Hour).Unix())))
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return text + "." + enc(mac.Sum(nil))
}

// certificate writes one for 127.0.0.1 and returns a line of its key.
func certificate(t *testing.T, dir string) (cert, key string, pool *x509.CertPool, line string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "tls-key.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for path, content := range map[string][]byte{cert: chain, key: text} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(chain)
	return cert, key, pool, strings.Split(string(text), "\n")[2]
}
