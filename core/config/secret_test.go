package config

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"testing"
)

func TestWeakSecrets(t *testing.T) {
	for _, weak := range []string{
		"", "short", "changeme", "changemechangeme", "passwordpassword123", "0123456789abcdef", "abcdefghijklmnopqrstuvwxyz", "aaaaaaaaaaaaaaaaaaaaaaaa",
		"sk-test-0123456789", "your-api-key-here", "PimoePimoePimoePimoe", "admin-secret-token-123456", "qwertyqwertyqwerty", "ababababababababab", "insert-your-secret-here", "9876543210987654",
	} {
		if WeakSecret(weak) == "" {
			t.Errorf("%q passes", weak)
		}
	}
	for range 2000 { // random ones pass, in each of the usual spellings
		b := make([]byte, 32)
		rand.Read(b)
		for _, strong := range []string{rand.Text(), hex.EncodeToString(b), base64.StdEncoding.EncodeToString(b), base64.RawURLEncoding.EncodeToString(b[:18])} {
			if why := WeakSecret(strong); why != "" {
				t.Errorf("%q %s", strong, why)
			}
		}
	}
}

func TestAuthProblems(t *testing.T) {
	jwt := func(change func(*JWT)) func(*Config) {
		return func(c *Config) {
			c.Auth.JWT.Issuer, c.Auth.JWT.Audience, c.Auth.JWT.JWKSURL = "https://issuer", "pimoe", "https://issuer/keys"
			change(&c.Auth.JWT)
		}
	}
	oidc := func(change func(*OIDC)) func(*Config) {
		return func(c *Config) {
			c.Auth.OIDC.Issuer, c.Auth.OIDC.ClientID, c.Auth.OIDC.RedirectURL = "https://issuer", "pimoe", "https://pimoe.example"+CallbackPath
			change(&c.Auth.OIDC)
		}
	}
	problems := func(change func(*Config)) []Problem {
		c := Default()
		c.Home = t.TempDir()
		change(&c)
		return c.problems()
	}
	for name, sound := range map[string]func(*Config){"none": func(*Config) {}, "jwt": jwt(func(*JWT) {}), "oidc": oidc(func(*OIDC) {}), "public with jwt": func(c *Config) { jwt(func(*JWT) {})(c); c.Server.Addr = "0.0.0.0:80" }} {
		if p := problems(sound); len(p) != 0 {
			t.Errorf("%s: %v", name, p)
		}
	}
	for key, change := range map[string]func(*Config){
		"auth.jwt.audience":      jwt(func(j *JWT) { j.Audience = "" }),
		"auth.jwt":               jwt(func(j *JWT) { j.SecretFile = "x" }),
		"auth.jwt.algorithms[0]": jwt(func(j *JWT) { j.Algorithms = []string{"HS256"} }),
		"auth.jwt.algorithms[1]": jwt(func(j *JWT) { j.Algorithms = []string{"RS256", "none"} }),
		"auth.jwt.jwks_url":      jwt(func(j *JWT) { j.JWKSURL = "http://issuer/keys" }),
		"auth.jwt.leeway":        jwt(func(j *JWT) { j.Leeway = 61e9 }),
		"auth.jwt.secret_file":   func(c *Config) { c.Auth.JWT.SecretFile = "x" },
		"auth.jwt.role_claim":    jwt(func(j *JWT) { j.RoleClaim = "" }),
		"auth.oidc.redirect_url": oidc(func(o *OIDC) { o.RedirectURL = "https://pimoe.example/other" }),
		"auth.oidc.issuer":       oidc(func(o *OIDC) { o.Issuer = "http://issuer" }),
		"auth.oidc.scopes":       oidc(func(o *OIDC) { o.Scopes = []string{"profile"} }),
		"auth.oidc.client_id":    oidc(func(o *OIDC) { o.ClientID = "" }),
		"auth.oidc.session_idle": oidc(func(o *OIDC) { o.SessionIdle = 24 * 3600e9 }),
		"auth.roles":             func(c *Config) { c.Auth.Roles = map[string]string{"staff": "root"} },
		"auth.admin":             func(c *Config) { c.Auth.Admin = "required" },
		"api_key":                func(c *Config) { c.APIKey = "changeme" },
	} {
		if p := problems(change); len(p) != 1 || p[0].Key != key {
			t.Errorf("%s: %v", key, p)
		}
	}
}
