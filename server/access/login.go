package access

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/strictjson"
)

// Login is the code flow of OpenID Connect with PKCE: Begin sends a browser to the provider, Finish takes it back.
//
// What Begin has to remember (state, nonce, code verifier) travels in a cookie that only this process can read and make:
// a stranger who begins a thousand logins costs no memory, and an answer is only taken from the browser that asked.
type Login struct {
	o        LoginOptions
	seal     cipher.AEAD
	verifier *verifier
	keys     *cachedKeys
	provider *cached[provider]
}

// LoginOptions say who the provider is and what this server is to it.
type LoginOptions struct {
	Issuer, ClientID, ClientSecret string
	RedirectURL                    string // exactly as the provider has it
	Scopes                         []string
	Client                         *http.Client
	Now                            func() time.Time
	Warn                           func(msg string, args ...any)
}

// loginTime is how long a person may take at the provider.
const loginTime = 10 * time.Minute

// provider is what discovery says.
type provider struct {
	authorize, token, jwks string
	namesItself            bool // in every answer (RFC 9207)
}

// pending is what the cookie holds.
type pending struct {
	State, Nonce, Verifier string
	Expires                time.Time
}

// NewLogin asks nobody yet: the provider is looked up at the first login, so that its absence keeps no server down.
func NewLogin(o LoginOptions) (*Login, error) {
	key := make([]byte, 32)
	rand.Read(key) // never fails
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	seal, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	l := &Login{o: o, seal: seal}
	l.provider = &cached[provider]{fetch: l.discover, now: o.Now, warn: o.Warn, what: "login provider's description"}
	l.keys = &cachedKeys{cached[KeySet]{fetch: l.fetchKeys, now: o.Now, warn: o.Warn, what: "login provider's keys"}}
	l.verifier = newVerifier(l.keys, expect{issuer: o.Issuer, audience: o.ClientID, algs: Asymmetric, types: []string{"jwt"}, leeway: 30 * time.Second, now: o.Now})
	return l, nil
}

// Begin is where the browser has to go, and the cookie it has to bring back.
func (l *Login) Begin(ctx context.Context) (location, cookie string, err error) {
	p, err := l.provider.get(ctx, false)
	if err != nil {
		return "", "", err
	}
	w := pending{State: random(), Nonce: random(), Verifier: oauth2.GenerateVerifier(), Expires: l.o.Now().Add(loginTime)}
	location = l.config(p).AuthCodeURL(w.State, oauth2.SetAuthURLParam("nonce", w.Nonce), oauth2.S256ChallengeOption(w.Verifier))
	return location, l.encrypt(w), nil
}

func (l *Login) config(p provider) *oauth2.Config {
	return &oauth2.Config{
		ClientID: l.o.ClientID, ClientSecret: l.o.ClientSecret, RedirectURL: l.o.RedirectURL, Scopes: l.o.Scopes,
		Endpoint: oauth2.Endpoint{AuthURL: p.authorize, TokenURL: p.token},
	}
}

// Finish checks the provider's answer and returns the claims of the ID token.
func (l *Login) Finish(ctx context.Context, answer url.Values, cookie string) (claims, error) {
	w, err := l.decrypt(cookie)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(answer.Get("state")), []byte(w.State)) != 1 {
		return nil, refuse(ErrForgery, "state is not the one of this browser's login")
	}
	for name, values := range answer {
		if len(values) != 1 {
			return nil, refuse(ErrInvalid, "%.20q is there twice", name)
		}
	}
	p, err := l.provider.get(ctx, false)
	if err != nil {
		return nil, err
	}
	if iss := answer.Get("iss"); iss != l.o.Issuer && (iss != "" || p.namesItself) {
		return nil, refuse(ErrInvalid, "the answer is from another issuer")
	}
	if answer.Has("error") {
		return nil, refuse(ErrForbidden, "the provider says %.64q", answer.Get("error"))
	}
	if answer.Get("code") == "" {
		return nil, refuse(ErrInvalid, "no code")
	}
	return l.redeem(ctx, p, answer.Get("code"), w)
}

// redeem changes the code for an ID token.
func (l *Login) redeem(ctx context.Context, p provider, code string, w pending) (claims, error) {
	ctx = context.WithValue(ctx, oauth2.HTTPClient, l.o.Client)
	token, err := l.config(p).Exchange(ctx, code, oauth2.VerifierOption(w.Verifier))
	if err != nil {
		if answered := (*oauth2.RetrieveError)(nil); errors.As(err, &answered) { // its own text quotes the answer
			return nil, refuse(ErrInvalid, "the provider does not take the code: %.64q", answered.ErrorCode)
		}
		return nil, refuse(ErrUnknowable, "the provider can't be asked: %v", err)
	}
	id, _ := token.Extra("id_token").(string)
	c, err := l.verifier.verify(ctx, id)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(c.text("nonce")), []byte(w.Nonce)) != 1 {
		return nil, refuse(ErrInvalid, "the ID token is for another login")
	}
	if azp := c.at("azp"); azp != nil && azp != l.o.ClientID || azp == nil && len(c.words("aud")) > 1 {
		return nil, refuse(ErrInvalid, "the ID token is for another client")
	}
	return c, nil
}

func (l *Login) encrypt(w pending) string {
	plain, err := json.Marshal(w)
	if err != nil {
		panic("access: texts and a time do not become JSON")
	}
	nonce := make([]byte, l.seal.NonceSize())
	rand.Read(nonce) // never fails
	return base64.RawURLEncoding.EncodeToString(l.seal.Seal(nonce, nonce, plain, nil))
}

func (l *Login) decrypt(cookie string) (pending, error) {
	var w pending
	b, err := decodeSegment(cookie)
	if n := l.seal.NonceSize(); err == nil && len(b) > n {
		if b, err = l.seal.Open(nil, b[:n], b[n:], nil); err == nil {
			err = json.Unmarshal(b, &w)
		}
	} else {
		err = errors.New("too short")
	}
	if err != nil {
		return w, refuse(ErrForgery, "this browser has begun no login here")
	}
	if !l.o.Now().Before(w.Expires) {
		return w, refuse(ErrExpired, "the login took longer than %s", loginTime)
	}
	return w, nil
}

// discover reads the provider's description (OpenID Connect Discovery 1.0).
func (l *Login) discover(ctx context.Context) (provider, error) {
	b, err := fetchJSON(ctx, l.o.Client, strings.TrimSuffix(l.o.Issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return provider{}, err
	}
	m, err := members(b)
	if err != nil {
		return provider{}, err
	}
	if iss, err := m["issuer"].Text(); err != nil || iss != l.o.Issuer {
		return provider{}, fmt.Errorf("the description's issuer is not the configured one: %w", sdk.ErrInvalid)
	}
	var p provider
	for name, to := range map[string]*string{"authorization_endpoint": &p.authorize, "token_endpoint": &p.token, "jwks_uri": &p.jwks} {
		text, err := m[name].Text()
		if err == nil {
			err = config.CheckURL(text)
		}
		if err != nil {
			return provider{}, fmt.Errorf("%s: %w", name, err)
		}
		*to = text
	}
	if methods := m["code_challenge_methods_supported"]; methods.Exists() {
		list, err := methods.Array()
		if err != nil || !slices.ContainsFunc(list, func(v strictjson.Value) bool { s, err := v.Text(); return err == nil && s == "S256" }) {
			return provider{}, fmt.Errorf("the provider has no PKCE with S256: %w", sdk.ErrUnsupported)
		}
	}
	if v := m["authorization_response_iss_parameter_supported"]; v.Exists() {
		p.namesItself, err = v.Bool()
	}
	return p, err
}

func (l *Login) fetchKeys(ctx context.Context) (KeySet, error) {
	p, err := l.provider.get(ctx, false)
	if err != nil {
		return KeySet{}, err
	}
	return keysFromURL(l.o.Client, p.jwks, Asymmetric)(ctx)
}
