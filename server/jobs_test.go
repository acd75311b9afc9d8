package server

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/durable"
	"github.com/pimoe/pimoe/server/jobs"
)

// openState opens a database for a server and closes it after it.
func openState(t testing.TB, cfg config.Config) *durable.DB {
	t.Helper()
	db, err := OpenState(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// serveState serves with a database: the shared instance, or a service of the test's own.
func serveState(t testing.TB, svc *service, cfg config.Config) *running {
	t.Helper()
	if svc == nil {
		own := serviceOf(openShared(t))
		own.engine, own.metrics = undrained{own.engine}, metrics.New() // a registry has one server
		svc = &own
	}
	return serveConfig(t, svc, cfg, nil, State(openState(t, cfg)))
}

// letter is a script that writes one letter and ends.
func letter(context.Context, int) (engine.Token, error) {
	return engine.Token{ID: 1, Text: "x", HasToken: true, Finish: engine.FinishLength}, nil
}

// settled waits until a job is over.
func (r *running) settled(id string, headers ...string) map[string]any {
	r.t.Helper()
	var j map[string]any
	eventually(r.t, time.Minute, "job "+id, func() bool {
		a := r.get(jobsPath+"/"+id, headers...)
		if a.status != http.StatusOK {
			r.t.Fatalf("%d %s", a.status, a.body)
		}
		j = a.json(r.t)
		return jobs.State(j["state"].(string)).Over()
	})
	return j
}

// A job's result is what its own route answers, for every kind, and all answers are as described.
func TestJobs(t *testing.T) {
	r := serveState(t, nil, testConfig(t.TempDir()))
	doc := loadDescription(t)
	for kind, request := range map[string]string{
		"completion": story + `,"temperature":0}`,
		"chat":       `{"model":"pimoe-tiny","messages":[{"role":"user","content":"Tell me a story."}],"max_tokens":6,"seed":3}`,
		"process":    `{"text":"Once","max_tokens":4,"temperature":0}`,
	} {
		path := strings.TrimPrefix(jobKinds[kind].route, "POST ")
		a := r.post(jobsPath, fmt.Sprintf(`{"kind":%q,"request":%s}`, kind, request))
		made := a.json(t)
		id, _ := made["id"].(string)
		if a.status != http.StatusAccepted || a.header.Get("Location") != jobsPath+"/"+id {
			t.Fatalf("%s: %d %v %s", kind, a.status, a.header, a.body)
		}
		if j := r.settled(id); j["state"] != "done" || j["attempts"] != 1.0 {
			t.Fatalf("%s: %v", kind, j)
		}
		got, want := r.get(jobsPath+"/"+id+"/result"), r.post(path, request)
		if got.status != want.status || got.header.Get("Content-Type") != want.header.Get("Content-Type") || got.header.Get("Pimoe-Status") != "exact" || text(t, got) != text(t, want) {
			t.Errorf("%s: %d %s\nwant %d %s", kind, got.status, got.body, want.status, want.body)
		}
		visit(t, doc.Components.Schemas["Job"], r.get(jobsPath+"/"+id).body)
	}
	page := r.get(jobsPath + "?limit=2&state=done")
	visit(t, doc.Components.Schemas["JobPage"], page.body)
	next, _ := page.json(t)["next_cursor"].(string)
	if list := at(t, r.get(jobsPath+"?cursor="+next).json(t), "jobs").([]any); len(list) != 1 {
		t.Errorf("the second page: %v", list)
	}
	failing := r.post(jobsPath, `{"kind":"chat","request":{"model":"pimoe-tiny","messages":[{"role":"user","content":"`+strings.Repeat("word ", 4000)+`"}]}}`).json(t)
	id := failing["id"].(string)
	j := r.settled(id)
	if at(t, j, "error", "code") != "context_length_exceeded" {
		t.Errorf("%v", j)
	}
	visit(t, doc.Components.Schemas["Job"], mustJSON(j))
	for contentType, want := range map[string]int{"": 409, "application/json": 409, "text/plain": 415} {
		req, err := http.NewRequest(http.MethodPost, r.url+jobsPath+"/"+id+"/cancel", nil)
		if err != nil {
			t.Fatal(err)
		}
		if contentType != "" {
			req.Header.Set("Content-Type", contentType)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("cancel what is over with content type %q: %d, want %d", contentType, resp.StatusCode, want)
		}
	}
	if a := r.get(jobsPath + "/" + id + "/result"); a.status != http.StatusUnprocessableEntity || a.json(t)["code"] != "context_length_exceeded" {
		t.Errorf("the result of a job that has failed: %d %s", a.status, a.body)
	}
	visit(t, doc.Components.Schemas["Stats"], r.get("/api/v1/stats").body)
	if a := do(t, http.MethodDelete, r.url+jobsPath+"/"+id, ""); a.status != http.StatusNoContent || len(a.body) != 0 {
		t.Errorf("delete: %d %s", a.status, a.body)
	}
	if a := r.get(jobsPath + "/" + id); a.status != http.StatusNotFound {
		t.Errorf("after delete: %d", a.status)
	}
	if n := at(t, r.get("/api/v1/stats").json(t), "state", "jobs", "done"); n != 3.0 {
		t.Errorf("stats: %v", n)
	}
}

// text is what an answer says, without ids and times.
func text(t testing.TB, a answer) string {
	t.Helper()
	v := a.json(t)
	if out, ok := v["output"]; ok {
		return fmt.Sprint(out)
	}
	choice := at(t, v, "choices", 0).(map[string]any)
	return fmt.Sprint(choice["text"], choice["message"], choice["finish_reason"])
}

// What a job's route would refuse is refused when the job is made, with the field named within the request.
func TestJobsAreChecked(t *testing.T) {
	r := serveState(t, fakeService(&fakeEngine{script: letter}), testConfig(t.TempDir()))
	for body, want := range map[string]struct {
		status      int
		code, field string
	}{
		`{`:                                  {400, "malformed_json", ""},
		`{}`:                                 {422, "invalid_value", "kind"},
		`{"kind":"poem","request":{}}`:       {422, "invalid_value", "kind"},
		`{"kind":"completion"}`:              {422, "missing_required_parameter", "request"},
		`{"kind":"completion","request":1}`:  {422, "invalid_value", "request"},
		`{"kind":"completion","request":{}}`: {422, "missing_required_parameter", "request.model"},
		`{"kind":"completion","request":{"model":"fake","prompt":5}}`:                                 {422, "invalid_value", "request.prompt"},
		`{"kind":"completion","request":{"model":"fake","prompt":"a","stream":true}}`:                 {422, "invalid_value", "request.stream"},
		`{"kind":"completion","request":{"model":"other","prompt":"a"}}`:                              {404, "model_not_found", ""},
		`{"kind":"chat","request":{"model":"fake","messages":[{"role":"user","content":"a"}],"x":1}}`: {422, "unknown_parameter", "request.x"},
		`{"kind":"process","request":{}}`:                                                             {422, "invalid_value", "request.input_tensor"},
		`{"kind":"process","request":{"text":"a"},"webhook":"http://x"}`:                              {422, "unknown_parameter", "webhook"},
		`{"kind":"process","request":{"text":"a"},"accept":"anything"}`:                               {422, "invalid_value", "accept"},
		`{"kind":"completion","kind":"chat","request":{"model":"fake","messages":["a"]}}`:             {422, "duplicate_parameter", "kind"},
	} {
		a := r.post(jobsPath, body)
		v := a.json(t)
		field := ""
		if list, ok := v["errors"].([]any); ok {
			field = at(t, list, 0, "field").(string)
		}
		if a.status != want.status || v["code"] != want.code || field != want.field {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
	for query, want := range map[string]int{"": 200, "?limit=100": 200, "?limit=0": 422, "?limit=101": 422, "?limit=x": 422, "?state=over": 422, "?cursor=x": 422, "?order=up": 422, "?limit=1&limit=2": 422, "?%zz": 400} {
		if a := r.get(jobsPath + query); a.status != want {
			t.Errorf("GET %s: %d %s", query, a.status, a.body)
		}
	}
	off := testConfig("")
	off.State.File = "off"
	without := serveConfig(t, fakeService(&fakeEngine{script: letter}), off, nil, State(openState(t, off)))
	for _, rt := range without.publicRoutes() {
		if strings.HasPrefix(rt.path, jobsPath) {
			if a := do(t, rt.method, without.url+strings.Replace(rt.path, ":job", "job_x", 1), "{}"); a.status != http.StatusNotFound || a.json(t)["code"] != "no_jobs" {
				t.Errorf("%s without a database: %d %s", rt.name(), a.status, a.body)
			}
		}
	}
	if a := without.post("/v1/completions", `{"model":"fake","prompt":"a"}`, onceHeader, "k"); a.status != http.StatusBadRequest || at(t, a.json(t), "error", "param") != onceHeader {
		t.Errorf("a key without a database: %d %s", a.status, a.body)
	}
}

// A tenant neither sees nor reaches another's jobs, whatever its role; a key needs the right of the job's kind, too.
func TestJobsBelongToTenants(t *testing.T) {
	g := newGate(t)
	r := serveState(t, fakeService(&fakeEngine{script: letter}), g.cfg)
	bearer := func(tenant string, role access.Role, scopes ...string) []string {
		_, key, err := g.file.Create(access.Template{Role: role, Tenant: tenant, Scopes: scopes})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, "the key", func() bool {
			return r.get("/v1/models", "Authorization", "Bearer "+key).status != http.StatusUnauthorized
		})
		return []string{"Authorization", "Bearer " + key}
	}
	const body = `{"kind":"completion","request":{"model":"fake","prompt":"a"}}`
	acme, other := bearer("acme", access.User), bearer("other", access.Admin)
	id := r.post(jobsPath, body, acme...).json(t)["id"].(string)
	r.settled(id, acme...)
	for _, rt := range r.publicRoutes() {
		if !strings.HasPrefix(rt.path, jobPath) {
			continue
		}
		url := r.url + strings.Replace(rt.path, ":job", id, 1)
		if a := do(t, rt.method, url, "{}", other...); a.status != http.StatusNotFound || strings.Contains(string(a.body), id) {
			t.Errorf("%s of another tenant: %d %s", rt.name(), a.status, a.body)
		}
		if a := do(t, rt.method, url, "{}", bearer("acme", access.Viewer)...); a.status != http.StatusForbidden {
			t.Errorf("%s by a viewer: %d", rt.name(), a.status)
		}
	}
	if list := at(t, r.get(jobsPath, other...).json(t), "jobs").([]any); len(list) != 0 {
		t.Errorf("another tenant's list: %v", list)
	}
	stolen := r.get(jobsPath+"?limit=1", acme...).json(t)
	if list := at(t, r.get(jobsPath+"?cursor="+url.QueryEscape(fmt.Sprint(stolen["next_cursor"])), other...).json(t), "code"); list != "invalid_value" {
		t.Errorf("no cursor: %v", list)
	}
	if a := r.post(jobsPath, body, bearer("acme", access.User, "jobs")...); a.status != http.StatusForbidden {
		t.Errorf("a key for jobs alone runs the model: %d %s", a.status, a.body)
	}
	if a := r.post(jobsPath, body, bearer("acme", access.User, "jobs", "generate")...); a.status != http.StatusAccepted {
		t.Errorf("a key for both: %d %s", a.status, a.body)
	}
	for key, want := range map[string]float64{"acme": 2, "other": 0} {
		headers := map[string][]string{"acme": acme}[key]
		if headers == nil {
			headers = bearer(key, access.User)
		}
		eventually(t, 10*time.Second, "the count of "+key, func() bool {
			return at(t, r.get("/api/v1/stats", headers...).json(t), "state", "jobs", "done") == want
		})
	}
	if a := r.get(jobsPath+"/"+id, acme...); a.status != http.StatusOK {
		t.Errorf("its own: %d", a.status)
	}
}

// A stop puts running jobs back, a hand-over also lets the database go at once, and the next server goes on with both.
func TestJobsOutliveTheServer(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Server.DrainTimeout = 300 * time.Millisecond
	path := filepath.Join(cfg.Home, "state.db")
	const body = `{"kind":"completion","request":{"model":"fake","prompt":"a"}}`
	var ids []string
	for _, leave := range []bool{false, true} {
		f := &fakeEngine{script: hangs(0)}
		r := serveState(t, fakeService(f), cfg)
		a := r.post(jobsPath, body, onceHeader, fmt.Sprint("key-", leave))
		ids = append(ids, a.json(t)["id"].(string))
		eventually(t, 10*time.Second, "all run", func() bool { return f.slots.Load() == int64(len(ids)) })
		if leave {
			next := openState(t, cfg)
			r.Leave()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			if err := next.Ready(ctx); err != nil {
				t.Fatalf("the successor does not get the database: %v", err)
			}
			cancel()
			if err := next.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		if err := r.state.db.Close(); err != nil {
			t.Fatal(err)
		}
		if f.slots.Load() != 0 {
			t.Errorf("%d jobs still run", f.slots.Load())
		}
	}
	r := serveState(t, fakeService(&fakeEngine{script: letter}), cfg)
	for i, id := range ids {
		if j := r.settled(id); j["state"] != "done" || j["attempts"] != float64(len(ids)+1-i) {
			t.Errorf("%v", j)
		}
	}
	if _, err := OpenState(config.Config{Home: cfg.Home, Encryption: config.Encryption{KeyFile: path}}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "encryption.key_file") {
		t.Errorf("a key file that is none: %v", err)
	}
}

// An overloaded engine is asked again; the attempts are bounded.
func TestJobsWaitForRoom(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Jobs.MaxAttempts = 2
	var refusals atomic.Int64
	f := &fakeEngine{script: letter}
	svc := fakeService(f)
	svc.engine = busy{f, &refusals}
	r := serveState(t, svc, cfg)
	refusals.Store(1)
	one := r.post(jobsPath, `{"kind":"completion","request":{"model":"fake","prompt":"a"}}`).json(t)["id"].(string)
	if j := r.settled(one); j["state"] != "done" || j["attempts"] != 2.0 {
		t.Errorf("%v", j)
	}
	refusals.Store(9)
	two := r.post(jobsPath, `{"kind":"completion","request":{"model":"fake","prompt":"a"}}`).json(t)["id"].(string)
	if j := r.settled(two); j["state"] != "failed" || at(t, j, "error", "code") != "overloaded" || j["attempts"] != 2.0 {
		t.Errorf("%v", j)
	}
	if a := r.get(jobsPath + "/" + two + "/result"); a.status != http.StatusServiceUnavailable {
		t.Errorf("%d %s", a.status, a.body)
	}
	var v any
	if err := json.Unmarshal(r.get(jobsPath).body, &v); err != nil {
		t.Error(err)
	}
}
