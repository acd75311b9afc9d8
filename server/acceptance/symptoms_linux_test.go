package acceptance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/coretest"
)

// patient is a home that something is done to, and perhaps a server.
type patient struct {
	*testing.T
	dir, home string
	env       []string
	server    *program // nil = none runs
}

// run is pimoe with the patient's home; its exit code is what it is.
func (p *patient) run(args ...string) string {
	p.Helper()
	cmd := exec.Command(filepath.Join(coretest.Binaries(p.T), "pimoe"), args...)
	cmd.Dir, cmd.Env = p.dir, append(append(os.Environ(), "PIMOE_HOME="+p.home), p.env...)
	out, err := cmd.CombinedOutput()
	if _, ended := err.(*exec.ExitError); err != nil && !ended {
		p.Fatal(err)
	}
	return string(out)
}

func (p *patient) put(name, text string, mode os.FileMode) string {
	p.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		p.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		p.Fatal(err)
	}
	return path
}

// change edits a file.
func (p *patient) change(path, old, text string) {
	p.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		p.Fatal(err)
	}
	now := strings.Replace(string(b), old, text, 1)
	if now == string(b) {
		p.Fatalf("%s has no %q", path, old)
	}
	if err := os.WriteFile(path, []byte(now), 0o600); err != nil {
		p.Fatal(err)
	}
}

// ask has the server write some tokens.
func (p *patient) ask() {
	p.Helper()
	if _, err := p.server.complete(false); err != nil {
		p.Error(err)
	}
}

// provoked are the symptoms of docs/troubleshoot.md: what brings each about. The last word of those that need a server is the
// server's.
var provoked = map[string]func(*patient){
	"whoever comes is let in":  func(*patient) {},
	"nobody has made a backup": func(*patient) {},
	"nothing is answered":      func(p *patient) { p.env = append(p.env, "PIMOE_SERVER__ADDR=127.0.0.1:1") },
	"a setting has no effect": func(p *patient) {
		p.env = append(p.env, "PIMOE_CONFIG="+p.put("c.yaml", "limts: {threads: 2}\n", 0o600))
	},
	"a client that worked is refused with 401": func(p *patient) {
		p.run("keys", "create", "--role", "user", "--name", "web")
		id := strings.Fields(strings.Split(p.run("keys", "list"), "\n")[1])[0]
		p.run("keys", "revoke", id)
	},
	"the home or a secret can be read by others": func(p *patient) {
		p.run("keys", "create", "--role", "user")
		if err := os.Chmod(filepath.Join(p.home, "keys.json"), 0o644); err != nil {
			p.Fatal(err)
		}
	},
	"a plugin was changed": func(p *patient) {
		dir := filepath.Join(p.dir, "plugins")
		if err := os.Mkdir(dir, 0o700); err != nil {
			p.Fatal(err)
		}
		for _, name := range []string{"pimoe-expert-cpu", "pimoe-router-model", "plugins.yaml"} {
			if out, err := exec.Command("cp", filepath.Join(coretest.Binaries(p.T), name), dir).CombinedOutput(); err != nil {
				p.Fatalf("%v %s", err, out)
			}
		}
		f, err := os.OpenFile(filepath.Join(dir, "pimoe-expert-cpu"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			p.Fatal(err)
		}
		if _, err := f.WriteString("x"); err != nil {
			p.Fatal(err)
		}
		f.Close()
		p.env = append(p.env, "PIMOE_PLUGINS__DIR="+dir)
	},
	"browsers and clients refuse the certificate": func(p *patient) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			p.Fatal(err)
		}
		c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(1, 0), NotAfter: time.Now().Add(-time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
		if err != nil {
			p.Fatal(err)
		}
		cert := p.put("cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o600)
		p.env = append(p.env, "PIMOE_SERVER__TLS__CERT_FILE="+cert, "PIMOE_SERVER__TLS__KEY_FILE="+p.put("key.pem", "", 0o600))
	},
	"a backup can't be restored": func(p *patient) {
		p.run("keys", "create", "--role", "user")
		p.run("backup", "create", "FILE")
		path := filepath.Join(p.dir, "FILE")
		b, err := os.ReadFile(path)
		if err != nil {
			p.Fatal(err)
		}
		// Inside the compression, so that only the digest tells.
		if out, err := exec.Command("sh", "-c", `gzip -dc "$0" | sed 's/"role"/"rule"/' | gzip -c > "$0.bad" && mv "$0.bad" "$0"`, path).CombinedOutput(); err != nil || len(b) == 0 {
			p.Fatalf("%v %s", err, out)
		}
	},
	"a stream has stalled for a moment": func(p *patient) {
		p.ask()
		pids := children(p.T)
		if len(pids) == 0 {
			p.Fatal("no expert process")
		}
		for _, pid := range pids {
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(b), "pimoe-expert-") {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					p.Fatal(err)
				}
				break
			}
		}
		wait(p.T, "the restart", func() bool { return strings.Contains(p.run("experts"), "killed") })
	},
	"the processor is busy, and nobody knows for whom": (*patient).ask,
	"requests wait": func(p *patient) {
		var crowd sync.WaitGroup
		stop := make(chan struct{})
		for range 6 {
			crowd.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						p.ask()
					}
				}
			})
		}
		defer crowd.Wait()
		defer close(stop)
		wait(p.T, "a queue", func() bool { return !strings.Contains(p.run("report", "size"), " 0 waited") })
	},
	"somebody has changed the server": func(p *patient) { p.server.change(p.T, "e2", "restart", `{"replica":0}`) },
	"a second server does not start":  func(*patient) {},
	"the log of changes can't be trusted": func(p *patient) {
		if err := p.server.terminate(); err != nil {
			p.Fatal(err)
		}
		p.change(filepath.Join(p.home, "audit", "audit.jsonl"), "host.start", "host.stort")
	},
	"jobs and changes are refused, answers go on": nil, // see TestFullHome
}

// withServer are the symptoms that one server shows, in this order.
var withServer = []string{
	"the processor is busy, and nobody knows for whom", "requests wait", "a stream has stalled for a moment", "somebody has changed the server",
	"a second server does not start", "the log of changes can't be trusted",
}

type symptom struct{ name, command, says string }

// symptoms are those of the guide.
func symptoms(t *testing.T) (out []symptom) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(coretest.Repo(t), "docs", "troubleshoot.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), "\n| symptom | command | it says |\n|---|---|---|\n")
	text, _, _ = strings.Cut(text, "\n\n")
	for _, line := range strings.Split(text, "\n") {
		c := strings.Split(line, "|")
		if len(c) != 5 {
			t.Fatalf("a row of the guide: %q", line)
		}
		out = append(out, symptom{strings.TrimSpace(c[1]), strings.Trim(c[2], " `"), strings.TrimSpace(c[3])})
	}
	return out
}

// TestSymptoms brings each symptom of docs/troubleshoot.md about and runs the command that the guide names for it: what it
// prints has the cause.
func TestSymptoms(t *testing.T) {
	all, home := map[string]symptom{}, home(t)
	for _, s := range symptoms(t) {
		all[s.name] = s
		if _, known := provoked[s.name]; !known {
			t.Errorf("nothing brings %q about", s.name)
		}
	}
	if len(all) != len(provoked) {
		t.Errorf("the guide has %d symptoms, %d are provoked", len(all), len(provoked))
	}
	diagnose := func(p *patient, s symptom) {
		p.Helper()
		if out := p.run(strings.Fields(strings.TrimPrefix(s.command, "pimoe "))...); !strings.Contains(out, s.says) {
			p.Errorf("%s: %s prints\n%s\nwithout %q", s.name, s.command, out, s.says)
		}
	}
	server := launch(t, home, "--set", "limits.max_concurrent_requests=1")
	for name, provoke := range provoked {
		s := all[name]
		if provoke == nil || slices.Contains(withServer, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := &patient{T: t, dir: dir, home: filepath.Join(dir, "home"), env: []string{"PIMOE_PLUGINS__DIR=" + coretest.Binaries(t), "PIMOE_SERVER__ADMIN_ADDR=off"}}
			if err := os.Mkdir(p.home, 0o700); err != nil {
				t.Fatal(err)
			}
			provoke(p)
			diagnose(p, s)
		})
	}
	server.ready(t)
	args := server.cmd.Args
	for _, name := range withServer {
		t.Run(name, func(t *testing.T) {
			p := &patient{T: t, dir: t.TempDir(), home: home, server: server, env: []string{"PIMOE_SERVER__ADDR=" + args[3], "PIMOE_SERVER__ADMIN_ADDR=" + args[5]}}
			provoked[name](p)
			diagnose(p, all[name])
		})
	}
}

// metric is the value of a series of a server's metrics; empty where there is none.
func (p *program) metric(t *testing.T, name string) string {
	t.Helper()
	r, err := http.Get(p.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut("\n"+string(b), "\n"+name+" ")
	value, _, _ := strings.Cut(after, "\n")
	return value
}
