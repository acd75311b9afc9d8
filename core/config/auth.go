package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// Auth are the ways in beside APIKey.
type Auth struct {
	// Admin is "local" (default): whoever reaches the admin listener, which is on loopback, is an admin if no credential
	// is sent; or "required": a credential is asked for there, too.
	Admin string `koanf:"admin"`
	// PublicAdmin serves the admin API on the public listener, too, to credentials with the role only. Default false.
	PublicAdmin bool `koanf:"public_admin"`
	// KeysFile is the file of "pimoe keys". Empty = keys.json in Home.
	KeysFile string `koanf:"keys_file"`
	// Roles are values of role claims, such as groups, and the role of each: viewer, user, operator, admin.
	Roles map[string]string `koanf:"roles"`
	JWT   JWT               `koanf:"jwt"`
	OIDC  OIDC              `koanf:"oidc"`
}

// KeysPath is the file of API keys.
func (a Auth) KeysPath(home string) string {
	if a.KeysFile != "" {
		return a.KeysFile
	}
	return filepath.Join(home, "keys.json")
}

// JWT is the issuer of tokens that are taken as bearer credentials. An empty Issuer takes none.
type JWT struct {
	Issuer   string `koanf:"issuer"`   // value of iss, exactly
	Audience string `koanf:"audience"` // value that aud must have
	// Algorithms are the signatures that are taken. Empty = HS256 with SecretFile, else RS256, PS256, ES256 and EdDSA.
	Algorithms []string `koanf:"algorithms"`
	JWKSURL    string   `koanf:"jwks_url"`    // of a key set; one of these three
	JWKSFile   string   `koanf:"jwks_file"`   // file with a key set; read again every 15 minutes
	SecretFile string   `koanf:"secret_file"` // file with an HMAC secret of at least 32 bytes
	// Leeway is how far clocks may differ. Default 30 s, at most 60 s.
	Leeway      time.Duration `koanf:"leeway"`
	RoleClaim   string        `koanf:"role_claim"`   // path of the claim with roles; default "roles"
	TenantClaim string        `koanf:"tenant_claim"` // path of the claim with the tenant; empty = all are of one
}

// Allowed are the algorithms in force.
func (j JWT) Allowed() []string {
	switch {
	case len(j.Algorithms) > 0:
		return j.Algorithms
	case j.SecretFile != "":
		return []string{"HS256"}
	}
	return []string{"RS256", "PS256", "ES256", "EdDSA"}
}

// OIDC is the provider where people log in. An empty Issuer offers no login.
type OIDC struct {
	Issuer       string `koanf:"issuer"`
	ClientID     string `koanf:"client_id"`
	ClientSecret string `koanf:"client_secret" secret:"true"` // empty = a public client
	// RedirectURL is this server's /auth/callback as browsers reach it, exactly as the provider has it.
	RedirectURL string        `koanf:"redirect_url"`
	Scopes      []string      `koanf:"scopes"`       // default openid
	RoleClaim   string        `koanf:"role_claim"`   // of the ID token; default "roles"
	TenantClaim string        `koanf:"tenant_claim"` // of the ID token; empty = all are of one
	SessionIdle time.Duration `koanf:"session_idle"` // after so long without a request a session ends; default 30 min
	SessionMax  time.Duration `koanf:"session_max"`  // and after so long in any case; default 8 h
}

func defaultAuth() Auth {
	return Auth{
		Admin: "local", Roles: map[string]string{},
		JWT:  JWT{Algorithms: []string{}, Leeway: 30 * time.Second, RoleClaim: "roles"},
		OIDC: OIDC{Scopes: []string{"openid"}, RoleClaim: "roles", SessionIdle: 30 * time.Minute, SessionMax: 8 * time.Hour},
	}
}

var (
	roleNames  = []string{"viewer", "user", "operator", "admin"}
	algorithms = []string{"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
	claimPath  = regexp.MustCompile(`^[\x21-\x7e]{1,256}$`)
)

// guarded reports whether a setting asks for credentials, or a file of keys is there. Whether the file has a key is seen
// when the server opens it.
func (c Config) guarded() bool {
	if c.APIKey != "" || c.Auth.JWT.Issuer != "" || c.Auth.OIDC.Issuer != "" {
		return true
	}
	_, err := os.Stat(c.Auth.KeysPath(c.Home))
	return err == nil
}

func (v *validator) auth(c Config) {
	if c.APIKey != "" && !strings.ContainsFunc(c.APIKey, unprintable) {
		if why := WeakSecret(c.APIKey); why != "" {
			v.bad("api_key", "", "a secret that can't be guessed: this one "+why+"; make one with: pimoe keys create, or openssl rand -base64 32")
		}
	}
	for value, role := range c.Auth.Roles {
		if !slices.Contains(roleNames, role) {
			v.bad("auth.roles", role, "for "+value+" one of "+strings.Join(roleNames, ", "))
		}
	}
	v.jwt(c.Auth.JWT)
	v.oidc(c.Auth.OIDC)
	if c.Auth.Admin == "required" && !c.guarded() {
		v.bad("auth.admin", "required", "local while no key, issuer or file of keys is set")
	}
	if c.Auth.PublicAdmin && !c.guarded() {
		v.bad("auth.public_admin", "true", "false while no key, issuer or file of keys is set: nobody could show to be an admin")
	}
}

func (v *validator) jwt(j JWT) {
	if j.Issuer == "" {
		for key, set := range map[string]string{"audience": j.Audience, "jwks_url": j.JWKSURL, "jwks_file": j.JWKSFile, "secret_file": j.SecretFile} {
			if set != "" {
				v.bad("auth.jwt."+key, "", "auth.jwt.issuer to be set, too")
			}
		}
		return
	}
	if j.Audience == "" {
		v.bad("auth.jwt.audience", "(empty)", "the name of this server in tokens: without it a token for any other service of the issuer would be taken")
	}
	sources := 0
	for _, s := range []string{j.JWKSURL, j.JWKSFile, j.SecretFile} {
		if s != "" {
			sources++
		}
	}
	if sources != 1 {
		v.bad("auth.jwt", "", fmt.Sprintf("exactly one of jwks_url, jwks_file and secret_file, not %d", sources))
	}
	for i, a := range j.Algorithms {
		if key := fmt.Sprintf("auth.jwt.algorithms[%d]", i); !slices.Contains(algorithms, a) {
			v.bad(key, a, "one of "+strings.Join(algorithms, ", "))
		} else if strings.HasPrefix(a, "HS") != (j.SecretFile != "") {
			v.bad(key, a, "HS algorithms with secret_file, and no others; a key set has keys that everybody may know")
		}
	}
	if j.JWKSURL != "" {
		v.url("auth.jwt.jwks_url", j.JWKSURL)
	}
	v.claim("auth.jwt.role_claim", j.RoleClaim, true)
	v.claim("auth.jwt.tenant_claim", j.TenantClaim, false)
}

func (v *validator) oidc(o OIDC) {
	if o.Issuer == "" {
		for key, set := range map[string]string{"client_id": o.ClientID, "client_secret": o.ClientSecret, "redirect_url": o.RedirectURL} {
			if set != "" {
				v.bad("auth.oidc."+key, "", "auth.oidc.issuer to be set, too")
			}
		}
		return
	}
	for key, text := range map[string]string{"client_id": o.ClientID, "redirect_url": o.RedirectURL} {
		if text == "" {
			v.bad("auth.oidc."+key, "(empty)", "what the provider has for this server")
		}
	}
	v.url("auth.oidc.issuer", o.Issuer)
	if o.RedirectURL != "" {
		v.url("auth.oidc.redirect_url", o.RedirectURL)
		if u, err := url.Parse(o.RedirectURL); err == nil && (u.Path != CallbackPath || u.RawQuery != "") {
			v.bad("auth.oidc.redirect_url", "", "a URL that ends in "+CallbackPath)
		}
	}
	if !slices.Contains(o.Scopes, "openid") {
		v.bad("auth.oidc.scopes", strings.Join(o.Scopes, " "), "a list with openid")
	}
	if o.SessionIdle > o.SessionMax {
		v.bad("auth.oidc.session_idle", o.SessionIdle.String(), "at most auth.oidc.session_max")
	}
	v.claim("auth.oidc.role_claim", o.RoleClaim, true)
	v.claim("auth.oidc.tenant_claim", o.TenantClaim, false)
}

// CallbackPath is where the provider sends people back to.
const CallbackPath = "/auth/callback"

func (v *validator) url(key, text string) {
	if err := CheckURL(text); err != nil {
		v.bad(key, "", strings.TrimSuffix(strings.TrimPrefix(err.Error(), "want "), ": "+sdk.ErrInvalid.Error()))
	}
}

func (v *validator) claim(key, path string, needed bool) {
	if path == "" && !needed {
		return
	}
	if !claimPath.MatchString(path) {
		v.bad(key, orEmpty(path), "the name of a claim, with dots where it is inside another")
	}
}

// CheckURL refuses addresses of issuers that others could answer for or read: anything but https, except on loopback.
// Its errors don't quote the address, which may hold a password.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Fragment != "":
		return fmt.Errorf("want a URL such as https://HOST/PATH: %w", sdk.ErrInvalid)
	case u.User != nil:
		return fmt.Errorf("want a URL without user and password: %w", sdk.ErrInvalid)
	case u.Scheme == "https" || u.Scheme == "http" && local(u.Hostname()):
		return nil
	}
	return fmt.Errorf("want https: what travels there decides who is let in: %w", sdk.ErrInvalid)
}

func local(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
