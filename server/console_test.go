package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/audit"
	"github.com/pimoe/pimoe/server/live"
)

// The page and its files come with their types, are asked for again at no cost, and need nothing from elsewhere.
func TestConsoleFiles(t *testing.T) {
	r := serve(t, fakeService(&fakeEngine{}), nil)
	files, err := fs.ReadDir(os.DirFS("console/page"), ".")
	if err != nil || len(files) < 10 {
		t.Fatal(err, len(files))
	}
	elsewhere := regexp.MustCompile(`(?i)https?://(www\.w3\.org/2000/svg)?|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(`)
	for _, base := range []string{r.url, "http://" + r.AdminAddr()} {
		for _, f := range files {
			path := "/console/" + f.Name()
			if f.Name() == "index.html" {
				path = "/console"
			}
			a := do(t, "GET", base+path, "")
			if a.status != 200 || len(a.body) < 100 || a.header.Get("ETag") == "" || a.header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s: %d %v", path, a.status, a.header)
			}
			want := map[string]string{"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}[f.Name()[strings.LastIndex(f.Name(), ".")+1:]]
			if !strings.HasPrefix(a.header.Get("Content-Type"), want) {
				t.Errorf("%s: %s", path, a.header.Get("Content-Type"))
			}
			for _, part := range []string{"default-src 'none'", "script-src 'self';", "style-src 'self';", "trusted-types 'none'"} {
				if !strings.Contains(a.header.Get("Content-Security-Policy"), part) {
					t.Errorf("%s: policy %s", path, a.header.Get("Content-Security-Policy"))
				}
			}
			for _, found := range elsewhere.FindAllString(string(a.body), -1) {
				if !strings.HasSuffix(found, "svg") && f.Name() != "markdown.js" { // which tells links by their beginning
					t.Errorf("%s has %s in it", path, found)
				}
			}
			again := do(t, "GET", base+path, "", "If-None-Match", a.header.Get("ETag"))
			if again.status != http.StatusNotModified || len(again.body) > 0 {
				t.Errorf("%s again: %d", path, again.status)
			}
		}
	}
	page := string(r.get("/console").body)
	for _, m := range regexp.MustCompile(`(?:src|href)="(/[^"]+)"`).FindAllStringSubmatch(page, -1) {
		if a := r.get(m[1]); a.status != 200 {
			t.Errorf("the page wants %s: %d", m[1], a.status)
		}
	}
	if strings.Contains(page, "style=") || regexp.MustCompile(`\son\w+=`).MatchString(page) || regexp.MustCompile(`<script[^>]*>[^<]`).MatchString(page) {
		t.Error("the page has inline code or styles, which its policy forbids")
	}
	for _, path := range []string{"/console/none.js", "/console/..%2fconsole.go", "/console/"} {
		if a := r.get(path); a.status == 200 && path != "/console/" {
			t.Errorf("%s: %d", path, a.status)
		}
	}
	if v := r.get("/console/setup.json").json(t); v["admin_listener"] != false || v["changes"] != false || v["chaos"] != false || v["login"] != false {
		t.Errorf("setup of the public listener: %v", v)
	}
	if v := do(t, "GET", "http://"+r.AdminAddr()+"/console/setup.json", "").json(t); v["admin_listener"] != true || v["changes"] != true {
		t.Errorf("setup of the admin listener: %v", v)
	}
}

// watching reads /api/v1/live.
type watching struct {
	t     *testing.T
	lines *bufio.Scanner
}

func watchLive(t *testing.T, url string, headers ...string) *watching {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	req, err := http.NewRequestWithContext(ctx, "GET", url+livePath, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); resp.Body.Close() })
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != mimeEvents {
		t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	w := &watching{t, bufio.NewScanner(resp.Body)}
	w.lines.Buffer(nil, 1<<20)
	return w
}

// next is the next event of a kind; nil at the end.
func (w *watching) next(kind string) map[string]any {
	w.t.Helper()
	for now := ""; w.lines.Scan(); {
		if k, ok := strings.CutPrefix(w.lines.Text(), "event: "); ok {
			now = k
		}
		if data, ok := strings.CutPrefix(w.lines.Text(), "data: "); ok && now == kind {
			var v map[string]any
			if err := json.Unmarshal([]byte(data), &v); err != nil {
				w.t.Fatal(err)
			}
			return v
		}
	}
	return nil
}

// between are the events, the last one by kind, up to the next one of a kind.
func (w *watching) between(kind string) map[string]map[string]any {
	w.t.Helper()
	out := map[string]map[string]any{}
	for now := ""; w.lines.Scan(); {
		if k, ok := strings.CutPrefix(w.lines.Text(), "event: "); ok {
			if now = k; now == kind {
				break
			}
		}
		if data, ok := strings.CutPrefix(w.lines.Text(), "data: "); ok {
			var v map[string]any
			if err := json.Unmarshal([]byte(data), &v); err != nil {
				w.t.Fatal(err)
			}
			out[now] = v
		}
	}
	return out
}

// Operators see processes, others sums, and those with the right to ask for alerts see them, too; a change is told; a stream ends by itself and at the server's end, without holding it up.
func TestLive(t *testing.T) {
	g := newGate(t)
	_, viewer := g.key(t, access.Viewer)
	_, operator := g.key(t, access.Operator)
	_, narrow := g.key(t, access.Operator, "live")
	svc := fakeService(&fakeEngine{})
	svc.release = func(string, int) (int, error) { return 1, nil }
	svc.live = live.Source{Model: "fake", Processes: func() []host.Status { return []host.Status{{Group: "e0", PID: 7, State: "ready"}} }, Groups: func() []host.GroupStatus { return nil }}
	r := serveConfig(t, svc, g.cfg, func(s *Server) { s.limits.watching = time.Minute })
	own := watchLive(t, r.url, "Authorization", "Bearer "+operator)
	for key, alerts := range map[string]bool{viewer: true, narrow: false} {
		w := watchLive(t, r.url, "Authorization", "Bearer "+key)
		if v := w.next("hello"); v["processes"] != false || v["alerts"] != alerts || v["model"] != "fake" {
			t.Errorf("hello: %v", v)
		}
		if v := w.next("state"); v["processes"] != nil || at(t, v, "groups", 0, "ready") != 1.0 {
			t.Errorf("state: %v", v)
		}
		told := w.between("state")["alerts"]
		if (told != nil) != alerts {
			t.Errorf("alerts for a key that may see them, %v: %v", alerts, told)
		}
	}
	if v := own.next("state"); at(t, v, "processes", 0, "pid") != 7.0 {
		t.Errorf("state: %v", v)
	}
	admin := "http://" + r.AdminAddr()
	if a := do(t, "POST", admin+"/admin/experts/e0/release", "{}", "Authorization", "Bearer "+operator); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if v := own.next("event"); v["what"] != "experts.release" || v["object"] != "e0" || !strings.HasPrefix(v["who"].(string), "key:") {
		t.Errorf("event: %v", v)
	}
	r.limits.watching = 50 * time.Millisecond
	short := watchLive(t, r.url, "Authorization", "Bearer "+viewer)
	if v := short.next("bye"); v["why"] != "again" {
		t.Errorf("the end of a stream: %v", v)
	}
	began := time.Now()
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if v := own.next("bye"); v["why"] != "stopping" {
		t.Errorf("the server's end: %v", v)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("who watches held the stop up for %v", took)
	}
}

// fakeChanges is what the routes of replicas call.
type fakeChanges struct {
	changesAPI
	called string
	err    error
}

func (f *fakeChanges) Restart(_ context.Context, group string, replica int) error {
	f.called = strings.Join([]string{"restart", group, string(rune('1' + replica))}, " ")
	return f.err
}

func (f *fakeChanges) Drain(group string, replica int) (*host.GroupStatus, error) {
	f.called = strings.Join([]string{"drain", group, string(rune('1' + replica))}, " ")
	return &host.GroupStatus{Group: group}, f.err
}

func (f *fakeChanges) Hurt(group string, replica int, fault string) (int, error) {
	f.called = strings.Join([]string{fault, group, string(rune('1' + replica))}, " ")
	return 42, f.err
}

func TestReplicaRoutes(t *testing.T) {
	for _, c := range []struct {
		chaos              bool
		path, body, called string
		status             int
	}{
		{false, "restart", `{}`, "restart e0 0", 200}, {false, "restart", `{"replica":1}`, "restart e0 2", 200}, {false, "restart", `{"fault":"kill"}`, "", 422},
		{false, "drain", `{"replica":0}`, "drain e0 1", 200}, {false, "drain", `{}`, "", 422}, {false, "drain", `{"replica":-1}`, "", 422},
		{false, "chaos", `{"fault":"kill"}`, "", 409}, {true, "chaos", `{"fault":"stop","replica":2}`, "stop e0 3", 200}, {true, "chaos", `{}`, "kill e0 1", 200}, {true, "chaos", `[]`, "", 422},
	} {
		f := &fakeChanges{}
		svc := fakeService(&fakeEngine{})
		svc.changes = f
		cfg := testConfig("")
		cfg.Chaos.Enabled = c.chaos
		r := serveConfig(t, svc, cfg, nil)
		a := do(t, "POST", "http://"+r.AdminAddr()+"/admin/experts/e0/"+c.path, c.body)
		if a.status != c.status || f.called != c.called {
			t.Errorf("%s %s: %d %s, called %q", c.path, c.body, a.status, a.body, f.called)
		}
		if c.status != 200 {
			continue
		}
		f.err = fmt.Errorf("none: %w", sdk.ErrNotFound)
		if a := do(t, "POST", "http://"+r.AdminAddr()+"/admin/experts/e9/"+c.path, c.body); a.status != 404 {
			t.Errorf("%s of no group: %d %s", c.path, a.status, a.body)
		}
	}
}

// With auth.public_admin the admin API is on the public listener, for credentials with the role only; without it, it is not there.
func TestPublicAdmin(t *testing.T) {
	g := newGate(t)
	path := t.TempDir() + "/audit.jsonl"
	l := audit.Open(path, audit.Options{})
	keys := map[access.Role]string{}
	for _, role := range []access.Role{access.Viewer, access.User, access.Operator, access.Admin} {
		_, keys[role] = g.key(t, role)
	}
	without := serveConfig(t, fakeService(&fakeEngine{}), g.cfg, nil)
	g.cfg.Auth.PublicAdmin = true
	with := serveConfig(t, fakeService(&fakeEngine{}), g.cfg, nil, Audit(l))
	cells := 0
	for _, rt := range with.changeRoutes() {
		rule, err := with.table.Of(rt.name())
		if err != nil || rule.Open() {
			t.Fatal(rt.name(), err)
		}
		url := strings.Replace(rt.path, ":group", "none", 1)
		for role, key := range keys {
			cells++
			a := do(t, rt.method, with.url+url, "{}", "Authorization", "Bearer "+key)
			if (a.status == 403) != (role < rule.Role) || a.status == 401 {
				t.Errorf("%s with %s: %d", rt.name(), role, a.status)
			}
		}
		if a := do(t, rt.method, with.url+url, "{}"); a.status != 401 {
			t.Errorf("%s without a credential: %d", rt.name(), a.status)
		}
		if a := do(t, rt.method, without.url+url, "{}", "Authorization", "Bearer "+keys[access.Admin]); a.status != 404 {
			t.Errorf("%s without the setting: %d", rt.name(), a.status)
		}
	}
	if cells < 60 {
		t.Errorf("only %d cells", cells)
	}
	if err := with.stop(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	all, err := audit.Read(path)
	if err != nil || len(all) < 10 {
		t.Fatal(err, len(all))
	}
	for _, rec := range all {
		if rec.Actor.Address != "public" {
			t.Errorf("record %+v", rec)
		}
	}

	// While no key exists everybody on loopback is a user, but not for these routes.
	cfg := testConfig(t.TempDir())
	cfg.Auth.PublicAdmin = true
	var problems config.Problems
	if err := cfg.Validate(); !errors.As(err, &problems) || !strings.Contains(err.Error(), "auth.public_admin") {
		t.Errorf("without a way to show who one is: %v", err)
	}
	open := serveConfig(t, fakeService(&fakeEngine{}), cfg, nil)
	if a := open.get("/admin/experts"); a.status != 401 {
		t.Errorf("nobody: %d", a.status)
	}
}
