package access

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	maxToken    = 12 << 10 // bytes: a request's whole header may have 16 KiB
	maxAudience = 16
	maxSubject  = 256
	lastSecond  = 253402300799 // of the year 9999; beyond it a NumericDate is a slip or an attack on arithmetic
)

// verifier checks JWTs of one issuer. golang-jwt checks signature, times, issuer and audience; what is around it here
// are the refusals that the library leaves to its caller: size, spelling, duplicate names, headers that try to bring their
// own key, types of tokens, and which key may check which algorithm.
type verifier struct {
	source keySource
	types  []string // values of typ; absent always passes: many issuers set none
	parser *jwt.Parser
}

// expect is what a verifier asks of tokens.
type expect struct {
	issuer, audience string
	algs             []string
	types            []string
	leeway           time.Duration
	now              func() time.Time
}

func newVerifier(source keySource, e expect) *verifier {
	return &verifier{source: source, types: e.types, parser: jwt.NewParser(
		jwt.WithValidMethods(e.algs), jwt.WithIssuer(e.issuer), jwt.WithAudience(e.audience), jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(), jwt.WithLeeway(e.leeway), jwt.WithTimeFunc(e.now), jwt.WithStrictDecoding(),
	)}
}

// claims are a token's, after every check.
type claims jwt.MapClaims

// verify checks a token. Its errors are ErrInvalid, ErrExpired or ErrUnknowable; none quotes the token.
func (v *verifier) verify(ctx context.Context, token string) (claims, error) {
	if err := v.shape(token); err != nil {
		return nil, refuse(ErrInvalid, "token: %v", err)
	}
	parsed := jwt.MapClaims{}
	_, err := v.parser.ParseWithClaims(token, parsed, func(t *jwt.Token) (any, error) { return v.key(ctx, t) })
	switch {
	case err == nil:
		return claims(parsed), nil
	case errors.Is(err, ErrUnknowable):
		return nil, err
	case errors.Is(err, jwt.ErrTokenExpired) && !errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return nil, refuse(ErrExpired, "token: %v", err)
	}
	return nil, refuse(ErrInvalid, "token: %v", err)
}

// key finds the key, and asks the issuer again, as often as its source allows, where it does not know the kid.
func (v *verifier) key(ctx context.Context, t *jwt.Token) (any, error) {
	kid, named := t.Header["kid"].(string)
	set, err := v.source.keys(ctx, false)
	if err != nil {
		return nil, err
	}
	k, err := set.find(kid, named, t.Method.Alg())
	if !errors.Is(err, errUnknownKey) {
		return k, err
	}
	if set, err = v.source.keys(ctx, true); err != nil {
		return nil, err
	}
	return set.find(kid, named, t.Method.Alg())
}

// forbidden are header parameters that bring or name a key of the token's own, change what is signed, or wrap another
// token; crit asks for an extension, and there is none here.
var forbidden = []string{"jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc", "cty", "apu", "apv", "epk"}

// shape checks all that can be checked without a key.
func (v *verifier) shape(token string) error {
	if len(token) > maxToken {
		return fmt.Errorf("longer than %d bytes", maxToken)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return errors.New("want three parts")
	}
	for i, name := range []string{"header", "claims", "signature"} {
		b, err := decodeSegment(parts[i])
		if err == nil && len(b) == 0 {
			err = errors.New("empty")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		switch i {
		case 0:
			err = v.header(b)
		case 1:
			err = checkClaims(b)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// header and checkClaims return errors without the values they are about: those may be a secret sent by mistake.
func (v *verifier) header(b []byte) error {
	m, err := members(b)
	if err != nil {
		return errors.New("no strict JSON object")
	}
	for name := range m {
		// Other readers of the same token may not care about case: a parameter has one spelling.
		if lower := strings.ToLower(name); lower != name && slices.Contains([]string{"alg", "typ", "kid"}, lower) || slices.Contains(forbidden, lower) {
			return errors.New("a parameter that is refused")
		}
	}
	if kid := m["kid"]; kid.Exists() {
		if text, err := kid.Text(); err != nil || len(text) > maxKeyName || text == "" {
			return errors.New("kid: want a short text")
		}
	}
	if _, err := m["alg"].Text(); err != nil {
		return errors.New("alg: want a text")
	}
	if typ := m["typ"]; typ.Exists() {
		if text, err := typ.Text(); err != nil || !slices.Contains(v.types, strings.TrimPrefix(strings.ToLower(text), "application/")) {
			return errors.New("typ: another kind of token")
		}
	}
	return nil
}

func checkClaims(b []byte) error {
	m, err := members(b)
	if err != nil {
		return errors.New("no strict JSON object")
	}
	for _, name := range []string{"exp", "nbf", "iat"} {
		if v := m[name]; v.Exists() {
			if _, err := v.Float(0, lastSecond); err != nil {
				return fmt.Errorf("%s: want a time", name)
			}
		}
	}
	for _, name := range []string{"iss", "sub"} {
		if text, err := m[name].Text(); err != nil || text == "" || len(text) > maxSubject {
			return fmt.Errorf("%s: want a text of 1 to %d bytes", name, maxSubject)
		}
	}
	aud := m["aud"]
	if !aud.IsArray() {
		if _, err := aud.Text(); err != nil {
			return errors.New("aud: want a text or a list")
		}
		return nil
	}
	list, err := aud.Array()
	if err != nil || len(list) > maxAudience {
		return fmt.Errorf("aud: want at most %d", maxAudience)
	}
	for _, v := range list {
		if _, err := v.Text(); err != nil {
			return errors.New("aud: want texts")
		}
	}
	return nil
}

// at finds a claim by its name, or by a path with dots, such as realm_access.roles.
func (c claims) at(path string) any {
	if v, ok := c[path]; ok { // names of claims that are URLs have dots, too
		return v
	}
	var v any = map[string]any(c)
	for name := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

// text is a claim that is a text.
func (c claims) text(path string) string {
	s, _ := c.at(path).(string)
	return s
}

// words are a claim's texts: a list, or one text with spaces between words.
func (c claims) words(path string) []string {
	switch v := c.at(path).(type) {
	case string:
		return strings.Fields(v)
	case []any:
		var out []string
		for _, e := range v {
			if s, ok := e.(string); ok {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}

// Mapping says how claims become a principal.
type Mapping struct {
	RoleClaim   string            // path of the claim with roles or groups
	TenantClaim string            // path of the claim with the tenant; empty = everybody is of DefaultTenant
	Roles       map[string]string // value of the role claim: role; a value that is a role's own name needs no entry
}

// role is the strongest role that the claims give.
func (m Mapping) role(c claims) Role {
	best := NoRole
	for _, word := range c.words(m.RoleClaim) {
		if to, ok := m.Roles[word]; ok {
			word = to
		}
		if r, err := ParseRole(word); err == nil {
			best = max(best, r)
		}
	}
	return best
}

// scopePrefix marks the scopes that are meant for this server; issuers put others beside them.
const scopePrefix = "pimoe:"

// principal is who the claims are about.
func (m Mapping) principal(c claims, kind Kind) (Principal, error) {
	p := Principal{ID: string(kind) + ":" + c.text("sub"), Kind: kind, Tenant: DefaultTenant, Role: m.role(c)}
	if m.TenantClaim != "" {
		p.Tenant = c.text(m.TenantClaim)
	}
	if err := checkTenant(p.Tenant); err != nil {
		return Principal{}, refuse(ErrInvalid, "claim %s: %v", m.TenantClaim, err)
	}
	for _, s := range c.words("scope") {
		if name, ours := strings.CutPrefix(s, scopePrefix); ours {
			p.Scopes = append(p.Scopes, name)
		}
	}
	return p, nil
}

// Expiry is when a JWT that has been verified expires; false for any other credential.
func Expiry(token string) (time.Time, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, false
	}
	var c struct {
		Exp float64 `json:"exp"`
	}
	if json.Unmarshal(b, &c) != nil || c.Exp <= 0 || c.Exp > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(int64(c.Exp), 0), true
}
