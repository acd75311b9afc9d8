package server

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/audit"
)

// What changes something has a record: a new POST of the admin API can't forget it.
func TestEveryChangeHasARecord(t *testing.T) {
	r := serve(t, nil, nil)
	seen := map[string]bool{}
	for _, rt := range r.adminRoutes() {
		switch {
		case rt.work && rt.change == nil: // it runs on the model, for the console, and changes nothing
		case (rt.method == http.MethodGet) != (rt.change == nil):
			t.Errorf("%s changes something and has no record, or the other way round", rt.name())
		case rt.change != nil && seen[rt.change.action]:
			t.Errorf("%s: the action %s has another route already", rt.name(), rt.change.action)
		case rt.change != nil:
			seen[rt.change.action] = true
		}
	}
	if len(seen) < 6 {
		t.Errorf("only %v", seen)
	}
}

func TestChangesAreRecorded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := audit.Open(path, audit.Options{})
	svc := fakeService(&fakeEngine{})
	fails := false
	svc.release = func(group string, replica int) (int, error) {
		switch {
		case group == "none":
			return 0, sdk.ErrNotFound
		case fails:
			panic("in the handler")
		}
		return 1, nil
	}
	r := serve(t, svc, nil, Audit(l))
	admin := "http://" + r.AdminAddr() + "/admin/experts/"
	post := func(group, body string, want int) {
		t.Helper()
		if a := do(t, http.MethodPost, admin+group+"/release", body, "X-Request-Id", "r-"+group); a.status != want {
			t.Errorf("%s: %d %s", group, a.status, a.body)
		}
	}
	post("e3", `{"replica":1}`, 200)
	post("none", `{}`, 404)
	post("e4", `{"api_key":"sk-canary-1"}`, 422)
	post("e5", "sk-canary-2", 400)
	fails = true
	post("e6", `{}`, 500)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Verify(path, "", false); err != nil {
		t.Error(err)
	}
	all, err := audit.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range all {
		got = append(got, fmt.Sprint(a.Action, " ", a.Object, " ", a.Outcome, " ", a.Details))
		if a.Actor.Who != "local" || a.Actor.Role != "admin" || a.Actor.Address != "loopback" {
			t.Errorf("actor %+v", a.Actor)
		}
	}
	want := []string{
		"experts.release e3 asked map[replica:1 request:r-e3]", "experts.release e3 done map[request:r-e3]",
		"experts.release none asked map[request:r-none]", "experts.release none failed map[code:not_found request:r-none status:404]",
		"experts.release e4 asked map[request:r-e4]", "experts.release e4 failed map[code:unknown_parameter request:r-e4 status:422]",
		"experts.release e5 asked map[request:r-e5]", "experts.release e5 failed map[code:malformed_json request:r-e5 status:400]",
		"experts.release e6 asked map[request:r-e6]", "experts.release e6 failed map[code:panic request:r-e6]",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("recorded:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if text, err := os.ReadFile(path); err != nil || bytes.Contains(text, []byte("canary")) {
		t.Errorf("a secret is recorded: %v", err)
	}
}

// What can't be recorded isn't done; the rest of the server goes on, and so do changes once there is a place for records.
func TestUnwritableAuditLogRefusesChanges(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(folder, nil, 0o600); err != nil { // a file where the folder should be
		t.Fatal(err)
	}
	l := audit.Open(filepath.Join(folder, "audit.jsonl"), audit.Options{Retry: 10 * time.Millisecond})
	defer l.Close()
	released := atomic.Int64{}
	svc := fakeService(&fakeEngine{script: fails(1, nil)})
	svc.release = func(string, int) (int, error) { released.Add(1); return 1, nil }
	r := serve(t, svc, nil, Audit(l))
	url := "http://" + r.AdminAddr() + "/admin/experts/e3/release"
	a := do(t, http.MethodPost, url, "{}")
	if a.status != http.StatusServiceUnavailable || !strings.Contains(string(a.body), `"audit_unavailable"`) || a.header.Get("Retry-After") == "" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if strings.Contains(string(a.body), folder) {
		t.Errorf("the answer tells of the inside: %s", a.body)
	}
	if released.Load() != 0 {
		t.Error("it was done all the same")
	}
	if a := r.get("/metrics"); !strings.Contains(string(a.body), "pimoe_audit_writable 0") {
		t.Error("/metrics does not tell")
	}
	for _, path := range []string{"/health", "/v1/models"} {
		if a := r.get(path); a.status != 200 {
			t.Errorf("%s: %d", path, a.status)
		}
	}
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	if a := do(t, http.MethodPost, url, "{}"); a.status != 200 || released.Load() != 1 {
		t.Errorf("afterwards: %d %s", a.status, a.body)
	}
	if a := r.get("/metrics"); !strings.Contains(string(a.body), "pimoe_audit_writable 1") {
		t.Error("/metrics does not tell that it is over")
	}
}
