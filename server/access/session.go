package access

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"sync"
	"time"
)

// maxSessions bounds the memory of sessions; with one more, the one that was idle longest ends.
const maxSessions = 10_000

// session is a person who has logged in.
type session struct {
	principal Principal
	csrf      string
	began     time.Time
	active    time.Time
}

// sessions are kept in memory, under hashes of their cookies: a restart ends them, and a picture of the memory logs
// nobody in.
type sessions struct {
	idle, longest time.Duration
	now           func() time.Time

	mu  sync.Mutex // guards all
	all map[[sha256.Size]byte]*session
}

func newSessions(idle, longest time.Duration, now func() time.Time) *sessions {
	return &sessions{idle: idle, longest: longest, now: now, all: map[[sha256.Size]byte]*session{}}
}

// random is 256 random bits as text.
func random() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// begin makes a session and returns the value of its cookie.
func (s *sessions) begin(p Principal) string {
	cookie, now := random(), s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) >= maxSessions {
		s.makeRoom()
	}
	s.all[sha256.Sum256([]byte(cookie))] = &session{principal: p, csrf: random(), began: now, active: now}
	return cookie
}

// makeRoom ends what is over, or the session that was idle longest.
func (s *sessions) makeRoom() {
	var oldest [sha256.Size]byte
	var since time.Time
	for k, v := range s.all {
		if s.over(v) {
			delete(s.all, k)
		} else if since.IsZero() || v.active.Before(since) {
			oldest, since = k, v.active
		}
	}
	if len(s.all) >= maxSessions {
		delete(s.all, oldest)
	}
}

func (s *sessions) over(v *session) bool {
	now := s.now()
	return now.Sub(v.active) >= s.idle || now.Sub(v.began) >= s.longest
}

// of is the session of a cookie, and counts as its use.
func (s *sessions) of(cookie string) (session, error) { return s.find(cookie, true) }

// find is the session of a cookie.
func (s *sessions) find(cookie string, use bool) (session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := sha256.Sum256([]byte(cookie))
	v, ok := s.all[k]
	if !ok {
		return session{}, refuse(ErrInvalid, "there is no such session")
	}
	if s.over(v) {
		delete(s.all, k)
		return session{}, refuse(ErrExpired, "the session of %s is over", v.principal.ID)
	}
	if use {
		v.active = s.now()
	}
	return *v, nil
}

// end ends the session of a cookie.
func (s *sessions) end(cookie string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, sha256.Sum256([]byte(cookie)))
}

// checkForgery refuses a request that changes something and that another site's page could have made a browser send: a
// browser sends cookies along by itself, so a cookie shows who, but not that this person meant it.
func (s session) checkForgery(c Credentials, origin string) error {
	switch c.Method {
	case "GET", "HEAD", "OPTIONS":
		return nil
	}
	switch {
	case c.FetchSite == "" && c.Origin == "":
		return refuse(ErrForgery, "neither Sec-Fetch-Site nor Origin")
	case c.FetchSite != "" && c.FetchSite != "same-origin":
		return refuse(ErrForgery, "Sec-Fetch-Site is not same-origin")
	case c.Origin != "" && c.Origin != origin:
		return refuse(ErrForgery, "a foreign Origin")
	case subtle.ConstantTimeCompare([]byte(c.CSRF), []byte(s.csrf)) != 1:
		return refuse(ErrForgery, "X-CSRF-Token is not the session's")
	}
	return nil
}
