package access

import (
	"encoding/base64"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
)

func TestSessionsEnd(t *testing.T) {
	now := noon
	s := newSessions(10*time.Minute, time.Hour, func() time.Time { return now })
	idle, busy := s.begin(Principal{ID: "a"}), s.begin(Principal{ID: "b"})
	for range 11 {
		now = now.Add(5 * time.Minute)
		if v, err := s.of(busy); err != nil || v.principal.ID != "b" {
			t.Errorf("in use: %v %v", v.principal, err)
		}
	}
	if _, err := s.of(idle); !errors.Is(err, ErrExpired) {
		t.Errorf("idle: %v", err)
	}
	now = now.Add(5 * time.Minute)
	if _, err := s.of(busy); !errors.Is(err, ErrExpired) {
		t.Errorf("after the longest time: %v", err)
	}
	if _, err := s.of(busy); !errors.Is(err, ErrInvalid) {
		t.Errorf("it is still kept: %v", err)
	}
}

func TestSessionsAreBounded(t *testing.T) {
	now := noon
	s := newSessions(time.Hour, time.Hour, func() time.Time { return now })
	first := s.begin(Principal{ID: "first"})
	second := s.begin(Principal{ID: "second"})
	now = now.Add(time.Second)
	if _, err := s.of(first); err != nil {
		t.Fatal(err)
	}
	for range maxSessions - 1 {
		s.begin(Principal{ID: "x"})
	}
	if _, err := s.of(second); !errors.Is(err, ErrInvalid) || len(s.all) > maxSessions {
		t.Errorf("the one that was idle longest: %v; %d sessions", err, len(s.all))
	}
	if _, err := s.of(first); err != nil {
		t.Errorf("one that was used later: %v", err)
	}
}

// With https a cookie can't come from another host or by http.
func TestCookiesOfHTTPS(t *testing.T) {
	cfg := config.Default()
	cfg.Home = t.TempDir()
	cfg.Auth.KeysFile = filepath.Join(cfg.Home, "keys.json")
	cfg.Auth.OIDC.Issuer, cfg.Auth.OIDC.ClientID, cfg.Auth.OIDC.RedirectURL = "https://issuer", "pimoe", "https://pimoe.example"+CallbackPath
	g, err := New(cfg, Options{Now: time.Now, Warn: func(string, ...any) {}})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	c := g.cookie("session", "v", time.Minute)
	for _, want := range []string{"__Host-pimoe-session=v", "; Secure", "; HttpOnly", "; SameSite=Lax", "; Path=/", "; Max-Age=60"} {
		if !strings.Contains(c, want) {
			t.Errorf("%s lacks %s", c, want)
		}
	}
	if strings.Contains(c, "Domain") {
		t.Errorf("%s is for other hosts, too", c)
	}
}

// Who only looks does not use a session: a connection that is held open does not keep its person logged in.
func TestLookingIsNotUsing(t *testing.T) {
	now := noon
	s := newSessions(10*time.Minute, time.Hour, func() time.Time { return now })
	cookie := s.begin(Principal{ID: "a"})
	for range 9 {
		now = now.Add(time.Minute)
		if _, err := s.find(cookie, false); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(time.Minute)
	if _, err := s.find(cookie, false); !errors.Is(err, ErrExpired) {
		t.Errorf("after its idle time: %v", err)
	}
}

func TestExpiry(t *testing.T) {
	enc := base64.RawURLEncoding.EncodeToString
	token := func(claims string) string { return enc([]byte(`{"alg":"none"}`)) + "." + enc([]byte(claims)) + ".x" }
	if at, ok := Expiry(token(`{"exp":1700000000.5}`)); !ok || at.Unix() != 1700000000 {
		t.Errorf("%v %v", at, ok)
	}
	for _, bad := range []string{"", "pimoe_a_b", "a.b.c", token(`{}`), token(`{"exp":"1"}`), token(`{"exp":-1}`), token(`{"exp":1e300}`), token(`[]`)} {
		if at, ok := Expiry(bad); ok {
			t.Errorf("%q expires at %v", bad, at)
		}
	}
}
