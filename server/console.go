package server

import (
	"context"
	"net/http"

	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/console"
)

const (
	consolePath = "/console"
	assetPath   = consolePath + "/:asset"
	setupAsset  = "setup.json" // made here; the other ones are files
)

// consoleRoutes are the page's. It is open, since it is where people log in; what it shows asks for their rights.
func (s *Server) consoleRoutes(admin bool) []route {
	return []route{
		{method: http.MethodGet, path: consolePath, handle: s.console},
		{method: http.MethodGet, path: assetPath, handle: func(ctx context.Context, r *request) (*reply, error) {
			if r.asset == setupAsset {
				return s.consoleSetup(admin)
			}
			return s.consoleAsset(r, r.asset)
		}},
	}
}

// console is GET /console.
func (s *Server) console(_ context.Context, r *request) (*reply, error) {
	return s.consoleAsset(r, console.Index)
}

// consoleAsset is a file of the page. Browsers keep it and ask whether it is still the same.
func (s *Server) consoleAsset(r *request, name string) (*reply, error) {
	a, ok := console.Get(name)
	if !ok {
		return nil, &fault{status: http.StatusNotFound, code: "not_found", message: "the console has no such file"}
	}
	rep := &reply{status: http.StatusOK, contentType: a.Type, body: a.Body, header: map[string]string{
		"ETag": a.ETag, "Cache-Control": "no-cache", "Content-Security-Policy": console.Policy,
	}}
	if matches(r.known, a.ETag) {
		rep.status, rep.body = http.StatusNotModified, nil
	}
	return rep, nil
}

// consoleSetup is GET /console/setup.json: what the page has to know before it knows who looks at it.
func (s *Server) consoleSetup(admin bool) (*reply, error) {
	return jsonReply(map[string]any{
		"admin_listener": admin,
		"changes":        admin || s.cfg.Auth.PublicAdmin, // the admin API is here
		"chaos":          s.cfg.Chaos.Enabled,
		"login":          !admin && s.guard.HasLogin(),
		"login_path":     access.LoginPath,
		"version":        s.build.Version,
	}), nil
}
