package access

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/pimoe/pimoe/sdk"
)

var tenantName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Rule is what a route asks of its principal.
type Rule struct {
	Route string // "METHOD /path", as it is registered
	// Role is the least role. NoRole leaves the route open to everybody, and then it has no scope.
	Role  Role
	Scope string // that a principal with scopes must have
}

// Open reports whether the route asks for nothing.
func (r Rule) Open() bool { return r.Role == NoRole }

// Allow reports whether p may use the route; its error is ErrForbidden with the cause.
func (r Rule) Allow(p Principal) error {
	switch {
	case r.Open():
		return nil
	case p.Role < r.Role:
		return refuse(ErrForbidden, "%s needs role %s, %s has %s", r.Route, r.Role, p.ID, p.Role)
	case len(p.Scopes) > 0 && !slices.Contains(p.Scopes, r.Scope):
		return refuse(ErrForbidden, "%s needs scope %s, %s has %s", r.Route, r.Scope, p.ID, strings.Join(p.Scopes, " "))
	}
	return nil
}

// Table is the rules of all routes. What is not in it is refused.
type Table struct {
	rules map[string]Rule
	order []Rule
}

// NewTable refuses routes that are listed twice, open routes with a scope and guarded ones without.
func NewTable(rules []Rule) (*Table, error) {
	t := &Table{rules: map[string]Rule{}, order: slices.Clone(rules)}
	for _, r := range rules {
		if _, twice := t.rules[r.Route]; twice {
			return nil, fmt.Errorf("route %s is in the table of rules twice: %w", r.Route, sdk.ErrInvalid)
		}
		if r.Open() != (r.Scope == "") {
			return nil, fmt.Errorf("route %s: want a role and a scope, or neither: %w", r.Route, sdk.ErrInvalid)
		}
		t.rules[r.Route] = r
	}
	return t, nil
}

// Of is the rule of a route; an error for one that is not listed.
func (t *Table) Of(route string) (Rule, error) {
	r, ok := t.rules[route]
	if !ok {
		return Rule{}, fmt.Errorf("route %s is not in the table of rules: nobody may use it: %w", route, sdk.ErrInvalid)
	}
	return r, nil
}

// Rules are all rules in their order.
func (t *Table) Rules() []Rule { return slices.Clone(t.order) }

// Scopes are the scopes of all rules, sorted.
func (t *Table) Scopes() []string {
	var out []string
	for _, r := range t.order {
		if r.Scope != "" {
			out = append(out, r.Scope)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
