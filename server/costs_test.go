package server

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/cost"
	"github.com/pimoe/pimoe/server/durable"
)

// accounts is a ledger on a machine that has used two seconds for a tenant.
func accounts(t *testing.T) *cost.Ledger {
	t.Helper()
	used := time.Second
	l := cost.New(cost.Options{Read: func() cost.Reading {
		return cost.Reading{Parts: []cost.Part{{Name: "e0", PID: 1, CPU: used, Bytes: 7}}, Busy: used, Energy: map[string]int64{"package-0": int64(used / 1000)}}
	}})
	l.Begin()
	l.Rows("acme", 500)
	l.End()
	used = 3 * time.Second
	l.Look()
	return l
}

func TestReports(t *testing.T) {
	svc := fakeService(&fakeEngine{})
	svc.costs = accounts(t)
	svc.load = func(limit int64) cost.Load {
		return cost.Load{Cores: 2, MemoryLimit: limit, Pages: 10, Groups: []cost.GroupLoad{{Name: "e0", Replicas: 1}}}
	}
	r := serve(t, svc, nil)
	var report cost.Report
	a := do(t, http.MethodGet, "http://"+r.AdminAddr()+reportCostPath, "")
	if err := json.Unmarshal(a.body, &report); err != nil || a.status != 200 {
		t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	if len(report.Tenants) != 2 || report.Tenants[0].Name != "acme" || report.Total.CPUSeconds != 2 || *report.Total.Joules != 2 || report.Tenants[0].Per1000.CPUSeconds != 4 {
		t.Errorf("%s", a.body)
	}
	a = do(t, http.MethodGet, "http://"+r.AdminAddr()+reportSizePath, "")
	if a.status != 200 || !strings.Contains(string(a.body), `"what":"replicas of e0"`) || !strings.Contains(string(a.body), `"advice"`) {
		t.Errorf("%d %s", a.status, a.body)
	}
	m := string(do(t, http.MethodGet, "http://"+r.AdminAddr()+metricsPath, "").body)
	for _, want := range []string{tenantCPU + `{tenant="acme",model="fake"} 2`, tenantRead + `{tenant="acme",model="fake"} `, energyJoules + `{domain="package-0"} 2`} {
		if !strings.Contains(m, want) {
			t.Errorf("no %s", want)
		}
	}
}

// Without a ledger there is no report, and the metrics go on.
func TestNoReports(t *testing.T) {
	r := serve(t, fakeService(&fakeEngine{}), nil)
	for _, path := range []string{reportCostPath, reportSizePath} {
		if a := do(t, http.MethodGet, "http://"+r.AdminAddr()+path, ""); a.status != 404 {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if a := do(t, http.MethodGet, "http://"+r.AdminAddr()+metricsPath, ""); a.status != 200 || strings.Contains(string(a.body), tenantCPU) {
		t.Errorf("%d", a.status)
	}
}

// What tenants cost is for operators' eyes.
func TestTenantsCostsAreOperators(t *testing.T) {
	s := &Server{service: service{id: "m", costs: accounts(t)}}
	var viewer, operator strings.Builder
	s.writeCosts(&viewer, access.Principal{Role: access.Viewer})
	s.writeCosts(&operator, access.Principal{Role: access.Operator})
	if strings.Contains(viewer.String(), "acme") || !strings.Contains(operator.String(), "acme") {
		t.Errorf("viewer:\n%soperator:\n%s", &viewer, &operator)
	}
}

// A copy of the database can be opened while the server has the original.
func TestSnapshot(t *testing.T) {
	home := t.TempDir()
	r := serveState(t, fakeService(&fakeEngine{}), testConfig(home))
	url := "http://" + r.AdminAddr() + backupPath
	if a := do(t, http.MethodPost, url, `{"file":"/etc/passwd"}`); a.status != 422 {
		t.Errorf("a body with something in it: %d", a.status)
	}
	a := do(t, http.MethodPost, url, "{}")
	path := filepath.Join(home, "state.db.backup")
	if a.status != 200 || !strings.Contains(string(a.body), path) {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st, err)
	}
	if err := CheckState(path); err != nil {
		t.Error(err)
	}
	if err := durable.Check(path, nil); err == nil {
		t.Error("a version that knows no jobs would take it")
	}
	if left, _ := filepath.Glob(filepath.Join(home, "*.part")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestNoSnapshot(t *testing.T) {
	r := serve(t, fakeService(&fakeEngine{}), nil)
	if a := do(t, http.MethodPost, "http://"+r.AdminAddr()+backupPath, "{}"); a.status != 200 || !strings.Contains(string(a.body), `"file":""`) {
		t.Errorf("%d %s", a.status, a.body)
	}
}
