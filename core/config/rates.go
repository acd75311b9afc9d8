package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Rate is what some principals may ask for. The conditions that are set must all hold.
type Rate struct {
	Key    string `koanf:"key"`    // id of a principal, as the log has it: key:ab12cd34; empty = any
	Tenant string `koanf:"tenant"` // empty = any
	Role   string `koanf:"role"`   // viewer, user, operator, admin; empty = any
	// Per is "principal" (default), or "tenant": the limits are then of all principals of a tenant together.
	Per        string `koanf:"per"`
	Requests   int    `koanf:"requests"`   // a minute; 0 = no limit
	Tokens     int    `koanf:"tokens"`     // a minute, of prompts and answers; 0 = no limit
	Concurrent int    `koanf:"concurrent"` // at the same time; 0 = no limit
}

const (
	// maxRates bounds the rows that each request is compared with.
	maxRates = 1000
	// maxWeight is the largest share of a tenant, in shares of one that is not listed.
	maxWeight = 1000
)

var tenantName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Weight is a tenant's share; 1 unless it is listed. The configuration must be valid.
func (l Limits) Weight(tenant string) int {
	n, err := strconv.Atoi(l.Weights[tenant])
	if err != nil {
		return 1
	}
	return n
}

func (v *validator) rates(l Limits) {
	if len(l.Rates) > maxRates {
		v.bad("limits.rates", strconv.Itoa(len(l.Rates)), fmt.Sprintf("at most %d rows", maxRates))
	}
	for i, r := range l.Rates {
		key := fmt.Sprintf("limits.rates[%d]", i)
		if r.Role != "" && !slices.Contains(roleNames, r.Role) {
			v.bad(key+".role", r.Role, "one of "+strings.Join(roleNames, ", "))
		}
		if r.Per != "" && r.Per != "principal" && r.Per != "tenant" {
			v.bad(key+".per", r.Per, "principal or tenant")
		}
		if r.Tenant != "" && !tenantName.MatchString(r.Tenant) {
			v.bad(key+".tenant", r.Tenant, tenantWords)
		}
		if r.Per == "tenant" && r.Key != "" {
			v.bad(key+".key", r.Key, "nothing with per: tenant, whose limits are of all principals of a tenant")
		}
	}
	for _, tenant := range slices.Sorted(maps.Keys(l.Weights)) {
		text := l.Weights[tenant]
		if !tenantName.MatchString(tenant) {
			v.bad("limits.weights", tenant, "names of tenants: "+tenantWords)
		}
		if n, err := strconv.Atoi(text); err != nil || n < 1 || n > maxWeight {
			v.bad("limits.weights", text, fmt.Sprintf("for %s a whole number from 1 to %d", tenant, maxWeight))
		}
	}
}

const tenantWords = "1 to 64 letters, digits and . _ - with a letter or digit first"
