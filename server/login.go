package server

import (
	"context"
	"net/http"

	"github.com/pimoe/pimoe/server/access"
)

// home is where a browser goes after a login. It is a constant: an address from the request could lead anywhere.
const home = consolePath

var errNoLogin = &fault{status: http.StatusNotFound, code: "no_login", message: "this server has no login provider"}

// login is GET /auth/login: it sends a browser to the provider.
func (s *Server) login(ctx context.Context, _ *request) (*reply, error) {
	if !s.guard.HasLogin() {
		return nil, errNoLogin
	}
	location, cookie, err := s.guard.BeginLogin(ctx)
	if err != nil {
		return nil, err
	}
	return redirect(location, cookie), nil
}

// callback is GET /auth/callback, where the provider sends the browser back to.
func (s *Server) callback(ctx context.Context, r *request) (*reply, error) {
	if !s.guard.HasLogin() {
		return nil, errNoLogin
	}
	p, cookies, err := s.guard.FinishLogin(ctx, r.query, r.loginCookie)
	if err != nil {
		f := s.faultOf(err)
		s.meters.refused(f.code)
		s.log.Warn("login refused", "request", r.id, "error", err.Error())
		rep := f.reply(problemShape, r.id)
		rep.cookies = cookies
		return rep, nil
	}
	s.log.Info("login", "request", r.id, "principal", p.ID, "role", p.Role.String(), "tenant", p.Tenant)
	return redirect(home, cookies...), nil
}

// session is GET /auth/session: who one is, and the token that a page has to send as X-CSRF-Token with what changes
// something.
func (s *Server) session(_ context.Context, r *request) (*reply, error) {
	p := r.principal
	out := map[string]any{"id": p.ID, "kind": p.Kind, "tenant": p.Tenant, "role": p.Role.String(), "scopes": append([]string{}, p.Scopes...)}
	if p.Kind == access.Session {
		token, err := s.guard.Token(r.sessionCookie)
		if err != nil {
			return nil, err
		}
		out["csrf_token"] = token
	}
	return &reply{status: http.StatusOK, contentType: mimeJSON, body: mustJSON(out)}, nil
}

// logout is POST /auth/logout: it ends a session.
func (s *Server) logout(_ context.Context, r *request) (*reply, error) {
	rep := &reply{status: http.StatusOK, contentType: mimeJSON, body: mustJSON(map[string]bool{"logged_out": r.principal.Kind == access.Session})}
	if r.principal.Kind == access.Session {
		rep.cookies = []string{s.guard.Logout(r.sessionCookie)}
		s.log.Info("logout", "request", r.id, "principal", r.principal.ID)
	}
	return rep, nil
}

func redirect(location string, cookies ...string) *reply {
	return &reply{status: http.StatusSeeOther, contentType: mimeText, header: map[string]string{"Location": location}, cookies: cookies}
}
