package server

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/cost"
)

// The series of tenants, which only operators see.
const (
	tenantRequests = "pimoe_tenant_requests_total"
	tenantTokens   = "pimoe_tenant_tokens_total"
)

// chooseTenantsEvery is how often the tenants that are counted apart are chosen anew.
const chooseTenantsEvery = time.Minute

// use is what a tenant has asked for since the start.
type use struct {
	Requests         int64 `json:"requests"`
	PromptTokens     int64 `json:"prompt_tokens"`
	CompletionTokens int64 `json:"completion_tokens"`
}

// tenants counts requests and tokens by tenant. A token can name any tenant, so without a bound strangers could make the number of
// series as large as they like: the most active ones are counted apart, the rest together.
type tenants struct {
	model string
	now   func() time.Time
	top   *metrics.Top

	mu     sync.Mutex // guards turned
	turned time.Time
}

func newTenants(most int, model string, now func() time.Time) *tenants {
	return &tenants{model: model, now: now, top: metrics.NewTop(most, 3), turned: now()}
}

// count adds one request; those from nobody known are not counted.
func (t *tenants) count(tenant string, prompt, completion int) {
	if tenant == "" {
		return
	}
	t.top.Add(tenant, 1, float64(prompt), float64(completion))
	now := t.now()
	t.mu.Lock()
	turn := now.Sub(t.turned) >= chooseTenantsEvery
	if turn {
		t.turned = now
	}
	t.mu.Unlock()
	if turn {
		t.top.Turn()
	}
}

func useOf(values []float64) use {
	return use{int64(values[0]), int64(values[1]), int64(values[2])}
}

// visible is what a principal may see: its own tenant, or from operators on all.
func (t *tenants) visible(p access.Principal) map[string]use {
	out := map[string]use{}
	if p.Role >= access.Operator {
		t.top.Each(cost.Other, func(name string, values []float64) { out[name] = useOf(values) })
		return out
	}
	if values, known := t.top.Of(p.Tenant); known {
		out[p.Tenant] = useOf(values)
	}
	return out
}

// write adds the series of tenants to Prometheus text, for operators.
func (t *tenants) write(w io.Writer, p access.Principal) {
	if p.Role < access.Operator {
		return
	}
	t.top.Each(cost.Other, func(name string, values []float64) {
		u, labels := useOf(values), []string{"tenant", name, "model", t.model}
		fmt.Fprintf(w, "%s %d\n", metrics.Series(tenantRequests, labels...), u.Requests)
		fmt.Fprintf(w, "%s %d\n", metrics.Series(tenantTokens, append(labels, "kind", "prompt")...), u.PromptTokens)
		fmt.Fprintf(w, "%s %d\n", metrics.Series(tenantTokens, append(labels, "kind", "completion")...), u.CompletionTokens)
	})
}
