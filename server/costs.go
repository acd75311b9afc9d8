package server

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"

	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/cost"
)

// costAPI is the part of *instance.Instance that says what requests have cost and what the load asks for.
type costAPI interface {
	Report(model string) cost.Report
	Totals() (tenants map[string]cost.Used, domains map[string]int64)
}

// The series of what tenants have cost, which only operators see, and of energy.
const (
	tenantCPU    = "pimoe_tenant_cpu_seconds_total"
	tenantRead   = "pimoe_tenant_read_bytes_total"
	energyJoules = "pimoe_energy_joules_total"
)

const (
	reportCostPath = "/admin/report/cost"
	reportSizePath = "/admin/report/size"
)

// reportRoutes say what the host costs and which size would suit it.
func (s *Server) reportRoutes() []route {
	return []route{
		{method: http.MethodGet, path: reportCostPath, handle: s.reportCost},
		{method: http.MethodGet, path: reportSizePath, handle: s.reportSize},
	}
}

// reportCost is GET /admin/report/cost.
func (s *Server) reportCost(context.Context, *request) (*reply, error) {
	if s.service.costs == nil {
		return nil, errNoCosts
	}
	return &reply{status: http.StatusOK, contentType: mimeJSON, body: mustJSON(s.service.costs.Report(s.service.id))}, nil
}

// reportSize is GET /admin/report/size: the load as it was measured, and advice.
func (s *Server) reportSize(context.Context, *request) (*reply, error) {
	if s.service.load == nil {
		return nil, errNoCosts
	}
	load := s.service.load(s.memoryUse().Limit)
	return &reply{status: http.StatusOK, contentType: mimeJSON, body: mustJSON(map[string]any{
		"minutes": load.Minutes, "busiest_minute_cores": load.Peak.Cores, "peak": load.Levels, "groups": load.Groups, "advice": cost.Size(load),
	})}, nil
}

// errNoCosts is the answer where nobody keeps accounts.
var errNoCosts = &fault{status: http.StatusNotFound, code: "not_found", message: "this server keeps no accounts of what requests cost"}

// writeCosts adds what tenants have cost to Prometheus text, for operators, and energy for everybody who may read it.
func (s *Server) writeCosts(w io.Writer, p access.Principal) {
	if s.service.costs == nil {
		return
	}
	tenants, domains := s.service.costs.Totals()
	for _, d := range slices.Sorted(maps.Keys(domains)) {
		fmt.Fprintf(w, "%s{domain=%q} %g\n", energyJoules, d, float64(domains[d])/1e6)
	}
	if p.Role < access.Operator {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(tenants)) { // names need no escaping: see access.Principal
		u := tenants[name]
		fmt.Fprintf(w, "%s{tenant=%q,model=%q} %g\n", tenantCPU, name, s.service.id, float64(u.CPU)/1e9)
		fmt.Fprintf(w, "%s{tenant=%q,model=%q} %d\n", tenantRead, name, s.service.id, u.Bytes)
	}
}

var _ costAPI = (*cost.Ledger)(nil)
