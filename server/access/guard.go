package access

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/sdk"
)

// Credentials are the parts of a request that tell who it is from.
type Credentials struct {
	Authorization []string // every header of this name
	Cookie        string   // value of the cookie SessionCookie
	Method        string
	Origin        string
	FetchSite     string // Sec-Fetch-Site
	CSRF          string // X-CSRF-Token
	// Certificate are the names in the certificate that the client's connection has shown and that was verified.
	Certificate []string
	Look        bool // only look: a session is not used by it
}

// Guard finds out who a request is from. Life: New, any number of calls from any goroutines, Close.
type Guard struct {
	now      func() time.Time
	static   *[sha256.Size]byte // of the key of the configuration; nil = there is none
	keys     *Keys
	tokens   *verifier         // nil = off
	mapping  Mapping           // of tokens
	roles    map[string]string // of the names in certificates
	login    *Login            // nil = off
	people   Mapping           // of logins
	sessions *sessions
	origin   string // of this server's own pages
	secure   bool   // they come by https
	client   *http.Client
}

// Options are what tests replace.
type Options struct {
	Now  func() time.Time
	Warn func(msg string, args ...any)
}

// New reads what a valid configuration names: the file of keys, a secret, a key set. It asks nobody over the network.
func New(cfg config.Config, o Options) (*Guard, error) {
	keys, err := OpenKeys(cfg.Auth.KeysPath(cfg.Home), o.Now, o.Warn)
	if err != nil {
		return nil, err
	}
	g := &Guard{now: o.Now, keys: keys, client: NewClient(), roles: cfg.Auth.Roles}
	if cfg.APIKey != "" {
		h := sha256.Sum256([]byte(cfg.APIKey))
		g.static = &h
	}
	if cfg.Auth.JWT.Issuer != "" {
		if err := g.useTokens(cfg.Auth, o); err != nil {
			return nil, err
		}
	}
	if cfg.Auth.OIDC.Issuer != "" {
		if err := g.useLogin(cfg.Auth, o); err != nil {
			return nil, err
		}
	}
	return g, nil
}

func (g *Guard) useTokens(a config.Auth, o Options) error {
	j := a.JWT
	source, err := g.source(j, o)
	if err != nil {
		return fmt.Errorf("auth.jwt: %w", err)
	}
	g.mapping = Mapping{RoleClaim: j.RoleClaim, TenantClaim: j.TenantClaim, Roles: a.Roles}
	g.tokens = newVerifier(source, expect{issuer: j.Issuer, audience: j.Audience, algs: j.Allowed(), types: []string{"jwt", "at+jwt"}, leeway: j.Leeway, now: o.Now})
	return nil
}

func (g *Guard) source(j config.JWT, o Options) (keySource, error) {
	algs := j.Allowed()
	switch {
	case j.SecretFile != "":
		b, err := os.ReadFile(j.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("secret_file: %w", err)
		}
		set, err := SecretKey([]byte(strings.TrimRight(string(b), "\r\n")), algs)
		if err != nil {
			return nil, fmt.Errorf("secret_file: %w", err)
		}
		return fixedKeys{set}, nil
	case j.JWKSFile != "":
		fetch := keysFromFile(j.JWKSFile, algs)
		if _, err := fetch(context.Background()); err != nil {
			return nil, fmt.Errorf("jwks_file: %w", err)
		}
		return &cachedKeys{cached[KeySet]{fetch: fetch, now: o.Now, warn: o.Warn, what: "keys of " + filepath.Base(j.JWKSFile)}}, nil
	}
	return &cachedKeys{cached[KeySet]{fetch: keysFromURL(g.client, j.JWKSURL, algs), now: o.Now, warn: o.Warn, what: "issuer's keys"}}, nil
}

func (g *Guard) useLogin(a config.Auth, o Options) (err error) {
	c := a.OIDC
	redirect, err := url.Parse(c.RedirectURL)
	if err != nil {
		return fmt.Errorf("auth.oidc.redirect_url: no URL: %w", sdk.ErrInvalid)
	}
	g.origin, g.secure = redirect.Scheme+"://"+redirect.Host, redirect.Scheme == "https"
	g.people = Mapping{RoleClaim: c.RoleClaim, TenantClaim: c.TenantClaim, Roles: a.Roles}
	g.sessions = newSessions(c.SessionIdle, c.SessionMax, o.Now)
	g.login, err = NewLogin(LoginOptions{
		Issuer: c.Issuer, ClientID: c.ClientID, ClientSecret: c.ClientSecret, RedirectURL: c.RedirectURL, Scopes: c.Scopes,
		Client: g.client, Now: o.Now, Warn: o.Warn,
	})
	return err
}

// Close ends idle connections and writes when keys were last used.
func (g *Guard) Close() {
	g.keys.Close()
	g.client.CloseIdleConnections()
}

// Configured reports whether there is anything that a credential could be checked with. Where there is not, everybody
// is anonymous, and only loopback may be listened on. A key that is made later is found at once.
func (g *Guard) Configured() bool {
	return g.static != nil || g.tokens != nil || g.login != nil || g.keys.Any()
}

// Authenticate is the principal of a request. The first credential that is there decides: a bearer credential in the
// Authorization header, which is one of our keys, the configured key or a JWT; else the cookie of a session; else the
// connection's certificate, if auth.roles has a name in it. Without any, the error is ErrMissing.
func (g *Guard) Authenticate(ctx context.Context, c Credentials) (Principal, error) {
	switch {
	case len(c.Authorization) > 1:
		return Principal{}, refuse(ErrInvalid, "more than one Authorization header")
	case len(c.Authorization) == 1 && c.Authorization[0] != "":
		return g.bearer(ctx, c.Authorization[0])
	case c.Cookie != "" && g.login != nil:
		s, err := g.sessions.find(c.Cookie, !c.Look)
		if err != nil {
			return Principal{}, err
		}
		return s.principal, s.checkForgery(c, g.origin)
	}
	return g.certificate(c.Certificate)
}

// certificate is the principal of a connection's certificate: the first of its names that auth.roles lists. The name of a role is
// none here: an authority that signs a host called admin has not made an admin.
func (g *Guard) certificate(names []string) (Principal, error) {
	for _, name := range names {
		if role, err := ParseRole(g.roles[name]); err == nil {
			return Principal{ID: "cert:" + name, Kind: Certificate, Tenant: DefaultTenant, Role: role}, nil
		}
	}
	return Principal{}, ErrMissing
}

func (g *Guard) bearer(ctx context.Context, header string) (Principal, error) {
	scheme, credential, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return Principal{}, refuse(ErrInvalid, "the scheme of Authorization is not Bearer")
	}
	credential = strings.TrimSpace(credential)
	if looksLikeKey(credential) {
		return g.keys.Authenticate(credential)
	}
	if g.static != nil {
		if h := sha256.Sum256([]byte(credential)); subtle.ConstantTimeCompare(h[:], g.static[:]) == 1 {
			return Principal{ID: "key:configured", Kind: APIKey, Tenant: DefaultTenant, Role: User}, nil
		}
	}
	if g.tokens == nil || strings.Count(credential, ".") != 2 {
		return Principal{}, refuse(ErrInvalid, "neither an API key nor a token")
	}
	got, err := g.tokens.verify(ctx, credential)
	if err != nil {
		return Principal{}, err
	}
	return g.mapping.principal(got, Token)
}

// The routes and cookies of logins.
const (
	LoginPath    = "/auth/login"
	CallbackPath = config.CallbackPath
	LogoutPath   = "/auth/logout"
	SessionPath  = "/auth/session"
)

// cookie is one with everything that keeps it here. __Host- makes browsers refuse it from other hosts and by http.
func (g *Guard) cookie(name, value string, life time.Duration) string {
	c := http.Cookie{
		Name: g.cookieName(name), Value: value, Path: "/", HttpOnly: true, Secure: g.secure,
		SameSite: http.SameSiteLaxMode, MaxAge: int(life.Seconds()), // Lax: the provider's redirect must bring it along
	}
	if life <= 0 {
		c.MaxAge = -1
	}
	return c.String()
}

func (g *Guard) cookieName(name string) string {
	if g.secure {
		return "__Host-pimoe-" + name
	}
	return "pimoe-" + name
}

// SessionCookie is the name of the cookie of sessions, LoginCookie of that of logins under way; empty without logins.
func (g *Guard) SessionCookie() string {
	if g.login == nil {
		return ""
	}
	return g.cookieName("session")
}

// LoginCookie is the name of the cookie of a login under way.
func (g *Guard) LoginCookie() string {
	if g.login == nil {
		return ""
	}
	return g.cookieName("login")
}

// HasLogin reports whether people can log in.
func (g *Guard) HasLogin() bool { return g.login != nil }

// BeginLogin is where a browser has to go, and the cookie to set.
func (g *Guard) BeginLogin(ctx context.Context) (location, setCookie string, err error) {
	location, value, err := g.login.Begin(ctx)
	if err != nil {
		return "", "", err
	}
	return location, g.cookie("login", value, loginTime), nil
}

// FinishLogin begins the session of whoever the provider's answer names; a person without a role gets none. The cookies
// are to be set in any case: the one of the login under way ends.
func (g *Guard) FinishLogin(ctx context.Context, answer url.Values, cookie string) (p Principal, setCookies []string, err error) {
	setCookies = []string{g.cookie("login", "", 0)}
	c, err := g.login.Finish(ctx, answer, cookie)
	if err != nil {
		return Principal{}, setCookies, err
	}
	if p, err = g.people.principal(c, Session); err != nil {
		return Principal{}, setCookies, err
	}
	if p.Role == NoRole {
		return Principal{}, setCookies, refuse(ErrForbidden, "%s has no role here", p.ID)
	}
	return p, append(setCookies, g.cookie("session", g.sessions.begin(p), g.sessions.longest)), nil
}

// Token is the CSRF token of a session's cookie.
func (g *Guard) Token(cookie string) (string, error) {
	s, err := g.sessions.of(cookie)
	return s.csrf, err
}

// Logout ends the session of a cookie and returns the cookie to set.
func (g *Guard) Logout(cookie string) string {
	g.sessions.end(cookie)
	return g.cookie("session", "", 0)
}
