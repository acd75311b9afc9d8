package production

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/audit"
)

// site is a home, a folder of plugins and the facts of a host that may serve people.
type site struct {
	*testing.T
	dir string
	Facts
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) put(name, text string, mode os.FileMode) string {
	s.Helper()
	path := s.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		s.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		s.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		s.Fatal(err)
	}
	return path
}

// pin writes a catalogue of what lies in the folder of plugins.
func (s *site) pin(names ...string) {
	s.Helper()
	text := "plugins:\n"
	for _, n := range names {
		b, err := os.ReadFile(s.path("plugins/" + n))
		if err != nil {
			s.Fatal(err)
		}
		sum := sha256.Sum256(b)
		kind, name, _ := strings.Cut(strings.TrimPrefix(n, "pimoe-"), "-")
		text += "- {name: " + name + ", kind: " + kind + ", version: \"1\", sha256: " + hex.EncodeToString(sum[:]) + "}\n"
	}
	s.put("plugins/plugins.yaml", text, 0o600)
}

func (s *site) certificate(until time.Duration) {
	s.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: s.Now.Add(-time.Hour), NotAfter: s.Now.Add(until)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		s.Fatal(err)
	}
	s.put("tls/cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o644)
}

const needed = "pimoe-expert-cpu"

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{T: t, dir: t.TempDir()}
	c := config.Default()
	c.Home, c.Plugins.Dir, c.APIKey = s.path("home"), s.path("plugins"), "9f8Kq2Lw7Zr4Xn6Vb1Tm3Yc5Hd0Jg8As"
	c.Auth.Admin, c.Limits.TotalMemoryMB = "required", 64
	c.Limits.Rates = []config.Rate{{Requests: 60}}
	c.Web.Hosts = []string{"pimoe.example.com"}
	c.Server.Addr = "0.0.0.0:8443"
	c.Server.TLS.CertFile, c.Server.TLS.KeyFile = s.path("tls/cert.pem"), s.put("tls/key.pem", "key", 0o600)
	c.Encryption.KeyFile = s.put("seal/keys", "id:key", 0o600)
	s.put("home/keys.json", "{}", 0o600)
	s.put("plugins/"+needed, "program", 0o755)
	s.pin(needed)
	l := audit.Open(c.Audit.Path(c.Home), audit.Options{})
	if err := l.Record(audit.Record{Action: "test", Outcome: audit.Done}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c.Alerts.Webhook.URL = "https://pager.example.com/hook"
	s.Facts = Facts{
		Config: c, Needed: []string{needed}, Root: "/", Now: now, Backup: now.Add(-time.Hour),
		Live: &Live{
			Audit: true, Router: host.RouterStatus{Confinement: []client.Measure{{Name: "landlock", Applied: true}}},
			Experts: []host.Status{{Group: "e0", Health: "ready", Confinement: []client.Measure{{Name: "landlock", Applied: true}}}},
		},
	}
	s.certificate(90 * 24 * time.Hour)
	return s
}

func (s *site) verdict(item string) Verdict {
	s.Helper()
	for _, r := range Judge(s.Facts) {
		if r.Item == item {
			return r.Verdict
		}
	}
	s.Fatalf("no item %s", item)
	return Verdict{}
}

// machines are items about the machine that the test runs on.
var machines = map[string]bool{"disk space": true, "open files": true, "kernel": true, "clock": true, "memory limit": true}

func TestAHostThatMayServe(t *testing.T) {
	s := newSite(t)
	for _, r := range Judge(s.Facts) {
		t.Logf("%-5s %-20s %s", r.Status, r.Item, r.Why)
		switch {
		case r.Why == "":
			t.Errorf("%s says nothing", r.Item)
		case r.Status != OK && r.Fix == "":
			t.Errorf("%s does not say what to do", r.Item)
		case r.Status != OK && !machines[r.Item]:
			t.Errorf("%s: %+v", r.Item, r.Verdict)
		}
	}
}

func TestItems(t *testing.T) {
	year := 365 * 24 * time.Hour
	for name, c := range map[string]struct {
		item   string
		change func(*site)
		want   Status
		why    string
	}{
		"development":       {"mode", func(s *site) { s.Config.Mode = "development" }, Fail, "development"},
		"staging":           {"mode", func(s *site) { s.Config.Mode = "staging" }, Warn, "staging"},
		"nobody is asked":   {"credentials", func(s *site) { s.Config.APIKey = "" }, Fail, "let in"},
		"revoked keys only": {"credentials", func(s *site) { s.Config.APIKey, s.Keys = "", []access.Record{{Revoked: s.Now}} }, Fail, "let in"},
		"a key":             {"credentials", func(s *site) { s.Config.APIKey, s.Keys = "", []access.Record{{ID: "a", Role: "user"}} }, OK, "1 keys"},
		"damaged keys":      {"credentials", func(s *site) { s.KeysErr = os.ErrPermission }, Fail, "permission"},
		"a weak key":        {"keys", func(s *site) { s.Config.APIKey = "changeme" }, Fail, "characters"},
		"an endless admin":  {"keys", func(s *site) { s.Keys = []access.Record{{ID: "ab", Role: "admin"}} }, Warn, "ab"},
		"an endless user":   {"keys", func(s *site) { s.Keys = []access.Record{{ID: "ab", Role: "user"}} }, OK, ""},
		"a key that ends":   {"keys", func(s *site) { s.Keys = []access.Record{{ID: "ab", Role: "admin", Expires: s.Now.Add(time.Hour)}} }, Warn, "within 30 days"},
		"a key with time":   {"keys", func(s *site) { s.Keys = []access.Record{{ID: "ab", Role: "admin", Expires: s.Now.Add(year)}} }, OK, ""},
		"local admins":      {"admin listener", func(s *site) { s.Config.Auth.Admin = "local" }, Warn, "every program"},
		"no admin listener": {"admin listener", func(s *site) { s.Config.Server.AdminAddr = "off" }, OK, ""},
		"in the open":       {"transport", func(s *site) { s.Config.Server.TLS = config.TLS{} }, Fail, "0.0.0.0:8443 speaks HTTP"},
		"behind a proxy": {"transport", func(s *site) {
			s.Config.Server.TLS, s.Config.Server.Addr, s.Config.Web.TrustedProxies = config.TLS{}, "127.0.0.1:80", []string{"127.0.0.1"}
		}, OK, ""},
		"a proxy elsewhere":  {"transport", func(s *site) { s.Config.Server.TLS, s.Config.Web.TrustedProxies = config.TLS{}, []string{"10.0.0.1"} }, Warn, "over a network"},
		"loopback alone":     {"transport", func(s *site) { s.Config.Server.TLS, s.Config.Server.Addr = config.TLS{}, "localhost:80" }, Warn, "no proxy"},
		"ended":              {"certificate", func(s *site) { s.certificate(-time.Minute) }, Fail, "ended on"},
		"ends this week":     {"certificate", func(s *site) { s.certificate(48 * time.Hour) }, Fail, "within a week"},
		"ends this month":    {"certificate", func(s *site) { s.certificate(20 * 24 * time.Hour) }, Warn, "within 30 days"},
		"no certificate":     {"certificate", func(s *site) { s.put("tls/cert.pem", "x", 0o600) }, Fail, "holds no certificate"},
		"a clock behind":     {"certificate", func(s *site) { s.Now = s.Now.Add(-year) }, Fail, "begins on"},
		"any name":           {"host names", func(s *site) { s.Config.Web.Hosts = nil }, Warn, "any name"},
		"no rates":           {"rate limits", func(s *site) { s.Config.Limits.Rates = nil }, Warn, "empty"},
		"rates of some":      {"rate limits", func(s *site) { s.Config.Limits.Rates = []config.Rate{{Tenant: "a", Requests: 1}} }, Warn, "no row for everybody"},
		"more than there is": {"memory limit", func(s *site) { s.Config.Limits.TotalMemoryMB = 1 << 40 }, Fail, "the system gives"},
		"a limit":            {"memory limit", func(*site) {}, OK, "64 MiB"},
		"a writable plugin":  {"plugin folder", func(s *site) { os.Chmod(s.path("plugins/"+needed), 0o777) }, Fail, "others can write"},
		"a writable folder":  {"plugin folder", func(s *site) { os.Chmod(s.path("plugins"), 0o777) }, Fail, "others can write"},
		"a missing plugin":   {"plugin folder", func(s *site) { s.Needed = []string{"pimoe-expert-none"} }, Fail, "pimoe-expert-none"},
		"plugins.dev":        {"plugins pinned", func(s *site) { s.Config.Plugins.Dev = true }, Fail, "plugins.dev"},
		"no catalogue":       {"plugins pinned", func(s *site) { os.Remove(s.path("plugins/plugins.yaml")) }, Fail, "catalogue"},
		"another plugin":     {"plugins pinned", func(s *site) { s.put("plugins/"+needed, "evil", 0o755) }, Fail, "not the file"},
		"one that is unknown": {"plugins pinned", func(s *site) {
			s.put("plugins/pimoe-router-x", "x", 0o755)
			s.Needed = append(s.Needed, "pimoe-router-x")
		}, Fail, "kind router"},
		"nothing confined": {"confinement", func(s *site) { s.Config.Plugins.Confine = "off" }, Fail, "all rights"},
		"in process":       {"confinement", func(s *site) { s.Config.Experts.Isolation = "inproc" }, Fail, "within the host"},
		"not applied": {"confinement", func(s *site) {
			s.Live.Experts[0].Confinement = []client.Measure{{Name: "seccomp", Detail: "old kernel"}}
		}, Fail, "e0/0: seccomp (old kernel)"},
		"no cgroup": {"confinement", func(s *site) {
			s.Live.Router.Confinement = []client.Measure{{Name: client.MeasureCgroup, Detail: "not ours"}}
		}, Warn, "not ours"},
		"nobody to ask":     {"confinement", func(s *site) { s.Live, s.NotLive = nil, "refused" }, Warn, "refused"},
		"no audit":          {"audit log", func(s *site) { s.Config.Audit.File = "off" }, Fail, "not recorded"},
		"an edited audit":   {"audit log", func(s *site) { s.put("home/audit/audit.jsonl", "{}\n", 0o600) }, Fail, "not as it was written"},
		"no log yet":        {"audit log", func(s *site) { s.Config.Audit.File = s.path("none.jsonl") }, Warn, "no server has run"},
		"an audit disk":     {"audit log", func(s *site) { s.Live.Audit = false }, Fail, "can't write"},
		"nothing sealed":    {"encryption at rest", func(s *site) { s.Config.Encryption.KeyFile = "" }, Warn, "as they are"},
		"nothing kept":      {"encryption at rest", func(s *site) { s.Config.Encryption.KeyFile, s.Config.State.File = "", "off" }, OK, "nothing"},
		"no key file":       {"encryption at rest", func(s *site) { s.Config.Encryption.KeyFile = s.path("none") }, Fail, "none"},
		"readable keys":     {"file permissions", func(s *site) { os.Chmod(s.path("home/keys.json"), 0o644) }, Fail, "keys.json"},
		"a readable key":    {"file permissions", func(s *site) { os.Chmod(s.path("tls/key.pem"), 0o604) }, Fail, "key.pem"},
		"a writable home":   {"file permissions", func(s *site) { os.Chmod(s.path("home"), 0o770) }, Fail, "others can write"},
		"no home":           {"file permissions", func(s *site) { s.Config.Home = s.path("none") }, Fail, "none"},
		"debug":             {"log level", func(s *site) { s.Config.Log.Level = "debug" }, Warn, "debug"},
		"nothing masked":    {"log masking", func(s *site) { s.Config.Log.Mask = nil }, Warn, "only 0"},
		"chaos":             {"chaos", func(s *site) { s.Config.Chaos.Enabled = true }, Fail, "kill"},
		"pprof":             {"profiles", func(s *site) { s.Live.Profiles = true }, Warn, "pprof"},
		"open metrics":      {"metrics", func(s *site) { s.Live.Open = true }, Fail, "everybody"},
		"nobody is told":    {"alerts", func(s *site) { s.Config.Alerts.Webhook.URL = "" }, Warn, "nobody is told"},
		"no alerts":         {"alerts", func(s *site) { s.Config.Alerts.Enabled = false }, Warn, "no rule"},
		"no backup":         {"backup", func(s *site) { s.Backup = time.Time{} }, Fail, "no backup"},
		"an old backup":     {"backup", func(s *site) { s.Backup = s.Now.Add(-8 * 24 * time.Hour) }, Fail, "the last backup"},
		"yesterday's":       {"backup", func(s *site) { s.Backup = s.Now.Add(-30 * time.Hour) }, Warn, "the last backup"},
		"not ready":         {"running host", func(s *site) { s.Live.Ready = "503" }, Fail, "503"},
		"one in quarantine": {"running host", func(s *site) { s.Live.Experts[0].Health = "quarantined" }, Warn, "e0/0 is quarantined"},
		"no host":           {"running host", func(s *site) { s.Live, s.NotLive = nil, "refused" }, Warn, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			c.change(s)
			if got := s.verdict(c.item); got.Status != c.want || !strings.Contains(got.Why, c.why) || (got.Status != OK) != (got.Fix != "") {
				t.Errorf("%+v", got)
			}
		})
	}
}

// The guide lists the items as they are.
func TestTheGuideListsEveryItem(t *testing.T) {
	b, err := os.ReadFile("../../../../../docs/production.md")
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for _, name := range Items() {
		i := strings.Index(string(b[at:]), "\n| "+name+" | ")
		if i < 0 {
			t.Fatalf("docs/production.md does not list %s, or not in this place", name)
		}
		at += i + 1
	}
}

func TestFailures(t *testing.T) {
	if n := Failures([]Result{{"a", ok("x")}, {"b", fail("x", "y")}, {"c", warn("x", "y")}}); n != 1 {
		t.Error(n)
	}
}
