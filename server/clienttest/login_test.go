package clienttest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
)

// person is a browser with somebody before it.
type person struct {
	t    *testing.T
	http http.Client
	url  string // of the server
}

func newPerson(t *testing.T, url string) *person {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &person{t: t, url: url, http: http.Client{Jar: jar, Timeout: 30 * time.Second}}
	p.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	t.Cleanup(p.http.CloseIdleConnections)
	return p
}

// page is an answer that was read to its end.
type page struct {
	*http.Response
	text string
}

func (p *person) do(method, address, body string, headers ...string) page {
	p.t.Helper()
	req, err := http.NewRequest(method, address, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := p.http.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return page{resp, string(text)}
}

var form = regexp.MustCompile(`<form[^>]*action="([^"]+)"`)

// callback logs in at the provider and returns the address that the provider sends the browser to, not yet followed.
func (p *person) callback(account string) *url.URL {
	p.t.Helper()
	a := p.do("GET", p.url+"/auth/login", "")
	for range 20 {
		if location := a.Header.Get("Location"); location != "" {
			next, err := a.Request.URL.Parse(location)
			if err != nil {
				p.t.Fatal(err)
			}
			if next.Path == "/auth/callback" {
				return next
			}
			a = p.do("GET", next.String(), "")
			continue
		}
		action := form.FindStringSubmatch(a.text)
		if action == nil {
			p.t.Fatalf("neither a redirect nor a form: %s %s", a.Status, a.text)
		}
		next, err := a.Request.URL.Parse(action[1])
		if err != nil {
			p.t.Fatal(err)
		}
		fields := "prompt=consent"
		if strings.Contains(a.text, `value="login"`) {
			fields = "prompt=login&login=" + account + "&password=x"
		}
		a = p.do("POST", next.String(), fields, "Content-Type", "application/x-www-form-urlencoded")
	}
	p.t.Fatal("the provider goes round in circles")
	return nil
}

// session is who the server says one is.
func (p *person) session() (status int, s struct {
	ID, Kind, Tenant, Role string
	Token                  string `json:"csrf_token"`
}) {
	p.t.Helper()
	a := p.do("GET", p.url+"/auth/session", "")
	if err := json.Unmarshal([]byte(a.text), &s); err != nil {
		p.t.Fatal(err)
	}
	return a.StatusCode, s
}

// startProvider runs provider.mjs.
func startProvider(t *testing.T, redirect, secret string) (issuer string) {
	t.Helper()
	cache := filepath.Join(coretest.Repo(t), ".cache", "clients")
	if _, err := os.Stat(filepath.Join(cache, "node_modules", "oidc-provider")); errors.Is(err, os.ErrNotExist) {
		t.Skip("the provider is not installed: run server/clienttest/setup.sh (make test does)")
	}
	b, err := os.ReadFile("provider.mjs")
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(cache, "provider.mjs") // Node looks for modules beside the program
	if err := os.WriteFile(script, b, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", script, redirect, secret)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("provider: %v\n%s", err, log.String())
		}
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "http://") {
			return lines.Text()
		}
	}
	t.Fatalf("the provider did not start: %s", log.String())
	return ""
}

// TestLogin logs people in at a real provider, and attacks each step.
func TestLogin(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()
	const secret = "Vq9xT2mLw8Rz4Kp7Vq9xT2mLw8Rz4Kp7"
	redirect := "http://" + addr + "/auth/callback"
	issuer := startProvider(t, redirect, secret)
	base := serveWith(t, func(c *config.Config) {
		c.Server.Addr = addr
		c.Auth.OIDC.Issuer, c.Auth.OIDC.ClientID, c.Auth.OIDC.ClientSecret, c.Auth.OIDC.RedirectURL = issuer, "pimoe", secret, redirect
		c.Auth.OIDC.RoleClaim, c.Auth.OIDC.TenantClaim, c.Auth.Roles = "groups", "org", map[string]string{"boss": "admin"}
	})
	deny := func(name string, a page, status int) {
		t.Helper()
		if a.StatusCode != status {
			t.Errorf("%s: %s %s, want %d", name, a.Status, a.text, status)
		}
		for _, c := range a.Cookies() {
			if strings.Contains(c.Name, "session") && c.MaxAge >= 0 {
				t.Errorf("%s: there is a session", name)
			}
		}
	}

	ann := newPerson(t, base)
	if status, _ := ann.session(); status != http.StatusUnauthorized {
		t.Errorf("before the login: %d", status)
	}
	a := ann.do("GET", ann.callback("boss").String(), "")
	if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/console" {
		t.Fatalf("callback: %s %s", a.Status, a.text)
	}
	for _, c := range a.Cookies() {
		if !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.Secure {
			t.Errorf("cookie %+v", c)
		}
	}
	status, s := ann.session()
	if status != 200 || s.ID != "session:boss" || s.Role != "admin" || s.Tenant != "acme" || s.Token == "" {
		t.Errorf("session: %d %+v", status, s)
	}
	if a := ann.do("GET", base+"/docs", ""); a.StatusCode != 200 {
		t.Errorf("/docs: %s", a.Status)
	}

	// A page of another site can make ann's browser send her cookie.
	body := `{"model":"pimoe-tiny","prompt":"Once","max_tokens":1}`
	origin := "http://" + addr
	for name, headers := range map[string][]string{
		"no token": {"Origin", origin}, "no origin": {"X-CSRF-Token", s.Token}, "wrong token": {"Origin", origin, "X-CSRF-Token", "x" + s.Token[1:]}, "empty token": {"Origin", origin, "X-CSRF-Token", ""},
		"foreign origin": {"Origin", "http://evil.example", "X-CSRF-Token", s.Token}, "origin null": {"Origin", "null", "X-CSRF-Token", s.Token}, "origin prefix": {"Origin", origin + ".evil", "X-CSRF-Token", s.Token},
		"cross-site": {"Sec-Fetch-Site", "cross-site", "Origin", origin, "X-CSRF-Token", s.Token}, "same site, another host": {"Sec-Fetch-Site", "same-site", "X-CSRF-Token", s.Token},
	} {
		deny("forged: "+name, ann.do("POST", base+"/v1/completions", body, append(headers, "Content-Type", "application/json")...), http.StatusForbidden)
	}
	own := []string{"Sec-Fetch-Site", "same-origin", "Origin", origin, "X-CSRF-Token", s.Token, "Content-Type", "application/json"}
	if a := ann.do("POST", base+"/v1/completions", body, own...); a.StatusCode != 200 {
		t.Errorf("her own page: %s %s", a.Status, a.text)
	}
	for name, c := range map[string]struct {
		origin string
		status int
	}{"her own page": {origin, 101}, "no origin": {"", 403}, "a foreign origin": {"http://evil.example", 403}, "origin null": {"null", 403}, "origin prefix": {origin + ".evil", 403}} {
		h := http.Header{"Cookie": {ann.cookies(base)}}
		if c.origin != "" {
			h.Set("Origin", c.origin)
		}
		ws, resp, err := websocket.DefaultDialer.Dial("ws://"+addr+"/ws", h)
		if err == nil {
			ws.Close()
		}
		if resp == nil || resp.StatusCode != c.status {
			t.Errorf("WebSocket from %s: %v %v", name, resp, err)
		}
	}
	if a := ann.do("GET", base+"/v1/models", "", "Authorization", "Bearer wrong"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("a wrong key beside a cookie: %s", a.Status)
	}

	deny("no role", newPerson(t, base).visit("nobody", nil), http.StatusForbidden)
	for name, change := range map[string]func(url.Values){
		"other state": func(q url.Values) { q.Set("state", "x"+q.Get("state")) }, "no state": func(q url.Values) { q.Del("state") }, "two states": func(q url.Values) { q.Add("state", "x") },
		"other issuer": func(q url.Values) { q.Set("iss", "http://evil.example") }, "no issuer": func(q url.Values) { q.Del("iss") }, "two codes": func(q url.Values) { q.Add("code", "x") },
		"no code": func(q url.Values) { q.Del("code") }, "made-up code": func(q url.Values) { q.Set("code", "x") }, "an error": func(q url.Values) { q.Set("error", "access_denied") },
	} {
		a := newPerson(t, base).visit("boss", change)
		if a.StatusCode != http.StatusUnauthorized && a.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %s %s", name, a.Status, a.text)
		}
		deny(name, a, a.StatusCode)
	}
	eve := newPerson(t, base)
	back := eve.callback("boss").String()
	deny("login of somebody else's browser", newPerson(t, base).do("GET", back, ""), http.StatusForbidden)
	bob := newPerson(t, base)
	bob.callback("boss")
	deny("another login's answer", bob.do("GET", back, ""), http.StatusForbidden)
	if a := eve.do("GET", back, ""); a.StatusCode != http.StatusSeeOther {
		t.Errorf("the browser it is for: %s", a.Status)
	}
	deny("the same answer again", eve.do("GET", back, ""), http.StatusForbidden)

	stolen := ann.cookies(base)
	if a := ann.do("POST", base+"/auth/logout", "{}", own...); a.StatusCode != 200 || !strings.Contains(a.text, "true") {
		t.Errorf("logout: %s %s", a.Status, a.text)
	}
	thief := newPerson(t, base)
	if a := thief.do("GET", base+"/auth/session", "", "Cookie", stolen); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("the cookie after the logout: %s", a.Status)
	}
}

// visit logs in and follows the provider's answer, changed.
func (p *person) visit(account string, change func(url.Values)) page {
	p.t.Helper()
	back := p.callback(account)
	if change != nil {
		q := back.Query()
		change(q)
		back.RawQuery = q.Encode()
	}
	return p.do("GET", back.String(), "")
}

func (p *person) cookies(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		p.t.Fatal(err)
	}
	var out []string
	for _, c := range p.http.Jar.Cookies(u) {
		out = append(out, fmt.Sprintf("%s=%s", c.Name, c.Value))
	}
	return strings.Join(out, "; ")
}
