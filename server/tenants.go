package server

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/pimoe/pimoe/server/access"
)

// maxTenants bounds the names that are counted apart; the rest are counted together. A token can name any tenant, so
// without a bound strangers to this table could make it, and the number of series, as large as they like.
const (
	maxTenants   = 256
	otherTenants = "(other)" // no tenant can have this name
)

// The series of tenants, which only operators see.
const (
	tenantRequests = "pimoe_tenant_requests_total"
	tenantTokens   = "pimoe_tenant_tokens_total"
)

// use is what a tenant has asked for since the start.
type use struct {
	Requests         int64 `json:"requests"`
	PromptTokens     int64 `json:"prompt_tokens"`
	CompletionTokens int64 `json:"completion_tokens"`
}

// tenants counts requests and tokens by tenant.
type tenants struct {
	mu   sync.Mutex // guards used
	used map[string]use
}

func newTenants() *tenants { return &tenants{used: map[string]use{}} }

// count adds one request; those from nobody known are not counted.
func (t *tenants) count(tenant string, prompt, completion int) {
	if tenant == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.used[tenant]; !known && len(t.used) >= maxTenants {
		tenant = otherTenants
	}
	u := t.used[tenant]
	t.used[tenant] = use{u.Requests + 1, u.PromptTokens + int64(prompt), u.CompletionTokens + int64(completion)}
}

// visible is what a principal may see: its own tenant, or from operators on all.
func (t *tenants) visible(p access.Principal) map[string]use {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.Role >= access.Operator {
		return maps.Clone(t.used)
	}
	out := map[string]use{}
	if u, known := t.used[p.Tenant]; known {
		out[p.Tenant] = u
	}
	return out
}

// write adds the series of tenants to Prometheus text, for operators.
func (t *tenants) write(w io.Writer, p access.Principal) {
	if p.Role < access.Operator {
		return
	}
	used := t.visible(p)
	for _, name := range slices.Sorted(maps.Keys(used)) { // names need no escaping: see access.Principal
		u := used[name]
		fmt.Fprintf(w, "%s{tenant=%q} %d\n", tenantRequests, name, u.Requests)
		fmt.Fprintf(w, "%s{tenant=%q,kind=\"prompt\"} %d\n", tenantTokens, name, u.PromptTokens)
		fmt.Fprintf(w, "%s{tenant=%q,kind=\"completion\"} %d\n", tenantTokens, name, u.CompletionTokens)
	}
}
