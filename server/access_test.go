package server

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/logging"
	"github.com/pimoe/pimoe/server/ws"
)

// gate is a configuration with a file of keys and an issuer of tokens.
type gate struct {
	cfg    config.Config
	file   *access.KeyFile
	signer ed25519.PrivateKey
}

func newGate(t *testing.T) *gate {
	t.Helper()
	dir := t.TempDir()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	set := filepath.Join(dir, "jwks.json")
	text := fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":%q}]}`, base64.RawURLEncoding.EncodeToString(public))
	if err := os.WriteFile(set, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(dir)
	cfg.Auth.Admin = "required"
	cfg.Auth.JWT.Issuer, cfg.Auth.JWT.Audience, cfg.Auth.JWT.JWKSFile, cfg.Auth.JWT.TenantClaim = "https://issuer", "pimoe", set, "org"
	return &gate{cfg, access.NewKeyFile(cfg.Auth.KeysPath(dir), time.Now), private}
}

// key makes an API key.
func (g *gate) key(t *testing.T, role access.Role, scopes ...string) (access.Record, string) {
	t.Helper()
	r, key, err := g.file.Create(access.Template{Role: role, Tenant: "acme", Scopes: scopes})
	if err != nil {
		t.Fatal(err)
	}
	return r, key
}

// token signs claims.
func (g *gate) token(claims map[string]any) string {
	all := map[string]any{"iss": "https://issuer", "aud": "pimoe", "sub": "ann", "org": "acme", "exp": time.Now().Add(time.Hour).Unix()}
	for k, v := range claims {
		all[k] = v
	}
	body, err := json.Marshal(all)
	if err != nil {
		panic(err)
	}
	enc := base64.RawURLEncoding.EncodeToString
	input := enc([]byte(`{"alg":"EdDSA","kid":"a","typ":"JWT"}`)) + "." + enc(body)
	return input + "." + enc(ed25519.Sign(g.signer, []byte(input)))
}

// walk calls f for every row of the table of rules with a real URL.
func walk(t *testing.T, r *running, f func(rule access.Rule, method, url string)) {
	t.Helper()
	public := map[string]bool{}
	for _, rt := range r.publicRoutes() {
		public[rt.name()] = true
	}
	for _, rule := range r.table.Rules() {
		method, path, _ := strings.Cut(rule.Route, " ")
		if method == grpcMethod || method == "WS" { // walked in rpc_test.go, and in TestEveryMessageWithEveryRole
			continue
		}
		path = strings.NewReplacer(":model", "fake", ":version", "0123456789ab", ":group", "none", "*", "cmdline").Replace(path)
		base := "http://" + r.AdminAddr()
		if public[rule.Route] {
			base = r.url
		}
		f(rule, method, base+path)
	}
}

// Every route is asked with every role, by key and by token, and without, with an ended and with a revoked credential.
// Each cell is checked: 401 without a valid credential, 403 below the route's role, and neither from it on.
func TestEveryRouteWithEveryRole(t *testing.T) {
	g := newGate(t)
	credentials := map[string]string{"none": ""}
	roles := map[string]access.Role{}
	for _, name := range access.Roles() {
		role, err := access.ParseRole(name)
		if err != nil {
			t.Fatal(err)
		}
		_, credentials[name] = g.key(t, role)
		credentials[name+" token"] = g.token(map[string]any{"roles": []string{name}})
		roles[name], roles[name+" token"] = role, role
	}
	credentials["token without role"] = g.token(nil)
	roles["token without role"] = access.NoRole
	revoked, key := g.key(t, access.Admin)
	credentials["revoked"] = key
	expired, key := g.key(t, access.Admin)
	credentials["expired"] = key
	credentials["expired token"] = g.token(map[string]any{"roles": []string{"admin"}, "exp": time.Now().Add(-time.Hour).Unix()})
	credentials["wrong"] = "pimoe_wrong"
	if _, err := g.file.Revoke(revoked.ID); err != nil {
		t.Fatal(err)
	}
	if _, _, err := g.file.Rotate(expired.ID, 0); err != nil {
		t.Fatal(err)
	}
	r := serveConfig(t, fakeService(&fakeEngine{script: fails(0, context.Canceled)}), g.cfg, nil, Pprof())
	cells, routes := 0, 0
	walk(t, r, func(rule access.Rule, method, url string) {
		routes++
		for who, credential := range credentials {
			cells++
			var headers []string
			if credential != "" {
				headers = []string{"Authorization", "Bearer " + credential}
			}
			a := do(t, method, url, "{}", headers...)
			role, valid := roles[who]
			switch {
			case rule.Open():
				if a.status == 401 || a.status == 403 {
					t.Errorf("%s with %s: %d on an open route", rule.Route, who, a.status)
				}
			case !valid:
				if a.status != 401 {
					t.Errorf("%s with %s: %d, want 401", rule.Route, who, a.status)
				}
			case (role < rule.Role) != (a.status == 403) || a.status == 401:
				t.Errorf("%s with %s: %d; it needs %s", rule.Route, who, a.status, rule.Role)
			}
		}
	})
	if want := routes * len(credentials); cells != want || len(credentials) != 14 {
		t.Errorf("%d cells of %d", cells, want)
	}
	t.Logf("%d routes, %d kinds of credentials, %d cells", routes, len(credentials), cells)
}

// The table and the routes of both listeners are the same set; a route that is not in the table ends the start.
func TestTheTableIsComplete(t *testing.T) {
	r := serve(t, fakeService(&fakeEngine{}), nil)
	routes := map[string]bool{"GET " + profilesPath: true}
	for _, rt := range append(r.publicRoutes(), r.adminRoutes()...) {
		routes[rt.name()] = true
	}
	for _, m := range r.methods() {
		routes[m.name()] = true
	}
	for _, t := range ws.Types {
		routes["WS "+string(t)] = true
	}
	routes["WS subscribe "+ws.SystemExperts], routes["WS subscribe "+ws.SystemStats] = true, true
	for _, rule := range r.table.Rules() {
		if !routes[rule.Route] {
			t.Errorf("%s is in the table and nowhere else", rule.Route)
		}
		delete(routes, rule.Route)
	}
	for name := range routes {
		t.Errorf("%s is not in the table", name)
	}
	if _, err := r.app([]route{{method: http.MethodGet, path: "/new", handle: r.health}}, false); err == nil || !strings.Contains(err.Error(), "GET /new") {
		t.Errorf("a route without a rule: %v", err)
	}
}

func TestScopesNarrowARole(t *testing.T) {
	g := newGate(t)
	_, key := g.key(t, access.Admin, "stats", "metrics")
	r := serveConfig(t, fakeService(&fakeEngine{}), g.cfg, nil)
	for _, credential := range []string{key, g.token(map[string]any{"roles": "admin", "scope": "openid pimoe:stats pimoe:metrics"})} {
		walk(t, r, func(rule access.Rule, method, url string) {
			want := rule.Open() || rule.Scope == "stats" || rule.Scope == "metrics"
			if a := do(t, method, url, "{}", "Authorization", "Bearer "+credential); rule.Scope != "profiles" && want != (a.status != 403) {
				t.Errorf("%s: %d", rule.Route, a.status)
			}
		})
	}
}

// Without anything to check a credential with, everybody on loopback is a user; one key ends that, without a restart.
func TestAKeyEndsAnonymity(t *testing.T) {
	cfg := testConfig(t.TempDir())
	r := serveConfig(t, fakeService(&fakeEngine{}), cfg, nil)
	who := func(headers ...string) map[string]any { return r.get("/auth/session", headers...).json(t) }
	if w := who(); w["id"] != "anonymous" || w["role"] != "user" {
		t.Errorf("without keys: %v", w)
	}
	if w := do(t, "GET", "http://"+r.AdminAddr()+"/admin/experts", ""); w.status != 200 {
		t.Errorf("admin listener: %d", w.status)
	}
	record, key, err := access.NewKeyFile(cfg.Auth.KeysPath(cfg.Home), time.Now).Create(access.Template{Role: access.Viewer, Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the key guards", func() bool { return r.get("/v1/models").status == 401 })
	if w := who("Authorization", "Bearer "+key); w["id"] != "key:"+record.ID || w["role"] != "viewer" || w["tenant"] != "acme" {
		t.Errorf("with the key: %v", w)
	}
	admin := "http://" + r.AdminAddr() + "/admin/experts"
	if a := do(t, "GET", admin, ""); a.status != 200 {
		t.Errorf("admin listener with auth.admin local: %d", a.status)
	}
	if a := do(t, "POST", admin+"/none/release", "{}", "Authorization", "Bearer "+key); a.status != 403 {
		t.Errorf("a viewer's key on the admin listener: %d", a.status)
	}
	if a := do(t, "GET", admin, "", "Authorization", "Bearer wrong"); a.status != 401 {
		t.Errorf("a wrong key on the admin listener: %d", a.status)
	}
}

func TestBeyondLoopbackNeedsACredential(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Server.Addr = "0.0.0.0:0"
	open := func() error {
		s, err := newServer(*fakeService(&fakeEngine{}), cfg, slog.New(slog.DiscardHandler))
		if err == nil {
			err = s.Close()
		}
		return err
	}
	if err := open(); err == nil || !strings.Contains(err.Error(), "pimoe keys create") {
		t.Errorf("without any: %v", err)
	}
	if err := os.WriteFile(cfg.Auth.KeysPath(cfg.Home), []byte(`{"version":1,"keys":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open(); err == nil {
		t.Error("a file without a key is enough")
	}
	if _, _, err := access.NewKeyFile(cfg.Auth.KeysPath(cfg.Home), time.Now).Create(access.Template{Role: access.User, Tenant: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := open(); err != nil {
		t.Errorf("with a key: %v", err)
	}
}

// The engine gets the tenant, and each sees only its own use.
func TestTenants(t *testing.T) {
	g := newGate(t)
	e := &tenantEngine{fakeEngine: fakeEngine{script: func(_ context.Context, n int) (engine.Token, error) {
		return engine.Token{ID: 1, Text: "x", HasToken: true, Finish: engine.FinishLength}, nil
	}}}
	svc := fakeService(&e.fakeEngine)
	svc.engine = e
	r := serveConfig(t, svc, g.cfg, nil)
	auth := func(tenant, role string) string {
		return "Bearer " + g.token(map[string]any{"org": tenant, "roles": role})
	}
	for _, tenant := range []string{"acme", "globex"} {
		if a := r.post("/v1/completions", `{"model":"fake","prompt":"abc","max_tokens":1}`, "Authorization", auth(tenant, "user")); a.status != 200 {
			t.Fatalf("%s: %d %s", tenant, a.status, a.body)
		}
		if got := e.last.Load(); got != tenant {
			t.Errorf("the engine got tenant %v, want %s", got, tenant)
		}
	}
	stats := func(tenant, role string) map[string]any {
		return at(t, r.get("/api/v1/stats", "Authorization", auth(tenant, role)).json(t), "tenants").(map[string]any)
	}
	eventually(t, 10*time.Second, "the count", func() bool { return len(stats("ops", "operator")) >= 2 })
	if own := stats("acme", "viewer"); len(own) != 1 || own["acme"] == nil {
		t.Errorf("acme sees %v", own)
	}
	if m := string(r.get("/metrics", "Authorization", auth("acme", "user")).body); strings.Contains(m, "globex") {
		t.Error("a user's metrics name another tenant")
	}
	if m := string(r.get("/metrics", "Authorization", auth("ops", "operator")).body); !strings.Contains(m, `pimoe_tenant_tokens_total{tenant="globex",model="fake",kind="prompt"} 3`) {
		t.Errorf("an operator's metrics lack the tenants: %s", m)
	}
	most := config.Default().Metrics.Tenants
	for i := range 2 * most {
		r.get("/v1/models", "Authorization", auth(fmt.Sprint("t", i), "viewer"))
	}
	if n := len(stats("ops", "operator")); n > most+1 {
		t.Errorf("%d tenants are counted apart", n)
	}
}

// tenantEngine notes the tenant of the last request.
type tenantEngine struct {
	fakeEngine
	last atomic.Value
}

func (e *tenantEngine) Submit(ctx context.Context, r engine.Request) (engine.Stream, error) {
	e.last.Store(r.Tenant)
	return e.fakeEngine.Submit(ctx, r)
}

// docs/secure.md has the table of rules as it is.
func TestTheTableIsDocumented(t *testing.T) {
	b, err := os.ReadFile("../docs/secure.md")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	table, err := Rules()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range table.Rules() {
		role, scope := r.Role.String(), "`"+r.Scope+"`"
		if r.Open() {
			role, scope = "open", ""
		}
		fmt.Fprintf(&want, "| `%s` | %s | %s |\n", r.Route, role, scope)
	}
	got := regexp.MustCompile(`(?s)<!-- rules -->\n.*?\|---\|---\|---\|\n(.*?)<!-- /rules -->`).FindSubmatch(b)
	if got == nil || string(got[1]) != want.String() {
		t.Errorf("docs/secure.md, between <!-- rules --> and <!-- /rules -->: want\n%s", want.String())
	}
}

// Secrets in a dozen places reach neither log nor metrics nor an answer.
func TestSecretsStayInside(t *testing.T) {
	g := newGate(t)
	var canaries []string
	canary := func(place string) string {
		c := fmt.Sprintf("cnry%02dXq7vT9mKz4Lw%s", len(canaries), strings.ReplaceAll(place, " ", ""))
		canaries = append(canaries, c)
		return c
	}
	provider := "http://127.0.0.1:1" // nobody there: every login fails
	g.cfg.APIKey = canary("configured key")
	o := &g.cfg.Auth.OIDC
	o.Issuer, o.ClientID, o.ClientSecret, o.RedirectURL = provider, "pimoe", canary("client secret"), "http://127.0.0.1:8080/auth/callback"
	_, key := g.key(t, access.Viewer)
	canaries = append(canaries, key[len("pimoe_")+9:])
	tok := g.token(map[string]any{"roles": "viewer", "secret": canary("claim")})
	canaries = append(canaries, strings.Split(tok, ".")[2])

	var log bytes.Buffer
	r := serveConfig(t, fakeService(&fakeEngine{script: fails(0, fmt.Errorf("broken"))}), g.cfg, nil)
	var answers strings.Builder
	ask := func(method, path, body string, headers ...string) {
		a := do(t, method, r.url+path, body, headers...)
		fmt.Fprintf(&answers, "%d %v %s\n", a.status, a.header, a.body)
	}
	const v1 = "/v1/completions"
	configured := "Bearer " + g.cfg.APIKey
	for _, auth := range []string{configured, configured + "x", "Basic " + canary("basic"), "Bearer " + key, "Bearer " + key + "x", "Bearer " + tok, "Bearer " + tok + "x", "Bearer " + strings.Replace(tok, ".", ".A", 1), canary("bare header")} {
		for _, path := range []string{"/v1/models", "/v1/models/none", "/nothing", "/api/v1/stats", "/metrics", "/auth/session"} {
			ask("GET", path, "", "Authorization", auth)
		}
		ask("POST", v1, `{"model":"fake","prompt":"abc"}`, "Authorization", auth)
	}
	ask("GET", "/v1/models?api_key="+canary("query")+"&%zz", "", "Authorization", configured)
	ask("GET", "/auth/callback?code="+canary("code")+"&state="+canary("state"), "", "Cookie", "pimoe-login="+canary("login cookie"))
	ask("GET", "/auth/login", "")
	ask("GET", "/v1/models", "", "Cookie", "pimoe-session="+canary("session cookie"))
	ask("POST", v1, `{"model":"fake","prompt":"`+canary("prompt")+`"}`, "Authorization", configured)
	ask("POST", v1, `{"model":"fake","prompt":{"password":"`+canary("body of a wrong shape")+`"}}`, "Authorization", configured)
	ask("POST", v1, `{"model":"fake","user":"`+canary("user")+`","prompt":"x`, "Authorization", configured)
	ask("GET", "/v1/models", "", "Authorization", configured, "X-Secret", canary("other header"))

	bad := func(name string, set config.Setting, environ ...string) {
		_, warnings, err := config.Load(config.LoadOptions{Environ: environ, Flags: []config.Setting{set}})
		fmt.Fprintf(&answers, "%s: %v %v\n", name, warnings, err)
		if err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	short := canary("environment")
	bad("key with a space", config.Setting{}, "PIMOE_API_KEY="+short+" x")
	bad("key on the command line", config.Setting{Key: "api_key", Value: canary("flag"), Flag: "--set"})
	bad("password in a URL", config.Setting{Key: "auth.jwt.jwks_url", Value: "https://u:" + canary("url password") + "@host/jwks", Flag: "--set"}, "PIMOE_AUTH__JWT__ISSUER=x", "PIMOE_AUTH__JWT__AUDIENCE=x")
	bad("password in the issuer", config.Setting{Key: "auth.oidc.issuer", Value: "redis://:" + canary("redis password") + "@host/0", Flag: "--set"}, "PIMOE_AUTH__OIDC__CLIENT_ID=x")
	weak := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(weak, []byte(canary("secret file")[:24]), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := g.cfg
	cfg.Auth.JWT.JWKSFile, cfg.Auth.JWT.SecretFile = "", weak
	if _, err := newServer(*fakeService(&fakeEngine{}), cfg, logging.New(&log, config.Log{Level: "trace", Format: "json"}, false, false)); err == nil {
		t.Error("a short HMAC secret is taken")
	} else {
		fmt.Fprintln(&answers, err)
	}
	canaries[len(canaries)-1] = canaries[len(canaries)-1][:24]
	printed, err := g.cfg.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if len(canaries) < 12 {
		t.Fatalf("%d canaries", len(canaries))
	}
	if !strings.Contains(r.log.String(), "access refused") || !strings.Contains(answers.String(), "key:configured") {
		t.Error("nothing was logged or answered: the test looks at nothing")
	}
	for where, text := range map[string]string{"log": r.log.String() + log.String(), "answers, metrics and stats": answers.String(), "printed configuration": string(printed)} {
		for _, c := range canaries {
			if strings.Contains(text, c) {
				i := strings.Index(text, c)
				t.Errorf("%s: %s is in it: ...%q", where, c, text[max(0, i-120):i+len(c)])
			}
		}
	}
	t.Logf("%d secrets", len(canaries))
}
