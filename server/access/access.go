// Package access decides who a request comes from and what it may do: API keys from a file, JWTs, sessions of people who
// have logged in by OpenID Connect, and one table of rules, in which a route that is not listed is refused.
//
// server asks a Guard for the Principal of each request and a Table for its right; the command's keys subcommands change
// the file of keys. It refuses to know HTTP frameworks, to keep a secret in a form that could be printed, and to say more
// to a client than that its credential was not taken: the cause is for the log.
package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pimoe/pimoe/sdk"
)

// Role is what a principal may do; each includes those before it. The zero value may do nothing.
type Role int

// The roles.
const (
	NoRole   Role = iota
	Viewer        // sees models, state and documentation
	User          // runs the model
	Operator      // changes expert groups and sees all tenants
	Admin         // everything
)

var roleNames = []string{"none", "viewer", "user", "operator", "admin"}

func (r Role) String() string { return roleNames[r] }

// Roles are the names that ParseRole takes, the weakest first.
func Roles() []string { return slices.Clone(roleNames[Viewer:]) }

// ParseRole reads a role's name.
func ParseRole(name string) (Role, error) {
	if i := slices.Index(roleNames, name); i >= int(Viewer) {
		return Role(i), nil
	}
	return NoRole, fmt.Errorf("role %q: want one of %s: %w", name, strings.Join(Roles(), ", "), sdk.ErrInvalid)
}

// Kind is how a principal has shown who it is.
type Kind string

// The kinds.
const (
	Anonymous Kind = "anonymous" // on loopback, without a credential
	APIKey    Kind = "key"
	Token     Kind = "token" // a JWT
	Session   Kind = "session"
	// Certificate is a client's, that an authority of the configuration has signed.
	Certificate Kind = "certificate"
)

// Principal is who a request comes from. It holds no secret and may be logged.
type Principal struct {
	ID     string // such as key:ab12cd34; unique within its kind
	Kind   Kind
	Tenant string
	Role   Role
	Scopes []string // of the role's rights only these; empty = all
}

// DefaultTenant is the tenant of principals whose credential names none.
const DefaultTenant = "default"

// checkTenant keeps a tenant's name fit for logs, labels and cache keys.
func checkTenant(name string) error {
	if !tenantName.MatchString(name) {
		return fmt.Errorf("tenant: want 1 to 64 letters, digits and . _ - with a letter or digit first: %w", sdk.ErrInvalid)
	}
	return nil
}

type contextKey struct{}

// With puts the principal of a request into its context.
func With(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, contextKey{}, p)
}

// From is the principal of a request's context; the zero value, which may do nothing, where there is none.
func From(ctx context.Context) Principal {
	p, _ := ctx.Value(contextKey{}).(Principal)
	return p
}

// The classes of refusals. Their texts are for clients; an error that wraps one says more, for the log.
var (
	ErrMissing   = errors.New("a credential is required: send the header Authorization: Bearer KEY")
	ErrInvalid   = errors.New("the credential is wrong")
	ErrExpired   = errors.New("the credential has expired")
	ErrForbidden = errors.New("the credential does not allow this")
	ErrForgery   = errors.New("the request does not show that it comes from this server's own pages")
	// ErrUnknowable is no verdict: the keys that would check the credential can't be had.
	ErrUnknowable = errors.New("the credential can't be checked at the moment")
)

// refuse is an error of a class with its cause for the log. The cause must not quote the credential.
func refuse(class error, cause string, args ...any) error {
	return fmt.Errorf("%w: "+cause, append([]any{class}, args...)...)
}
