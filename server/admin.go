package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/pprof"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/strictjson"
	"github.com/pimoe/pimoe/server/web"
)

// adminApp is the app of the admin listener. Whoever reaches it is on this machine; besides what the table of rules asks
// for, it asks for a local Host header, so that no web page that a local browser has open can read it through a name of its own.
func (s *Server) adminApp(profiles bool) (*fiber.App, error) {
	app, err := s.app(nil, true)
	if err != nil {
		return nil, err
	}
	app.Use(func(c *fiber.Ctx) error {
		if web.Local(string(c.Request().Host())) { // not c.Hostname, which believes X-Forwarded-Host, and a page can send that
			return c.Next()
		}
		x := s.begin(c, route{method: c.Method()})
		rep := (&fault{status: http.StatusForbidden, code: "foreign_host", message: "the admin API answers to local names only"}).reply(problemShape, x.req.id)
		x.write(c, rep)
		x.end(rep.status)
		return nil
	})
	if err := s.add(app, s.adminRoutes(), true); err != nil || !profiles {
		return app, err
	}
	rule, err := s.table.Of(http.MethodGet + " " + profilesPath)
	if err != nil {
		return nil, err
	}
	app.Use("/debug/pprof", s.profiles(route{method: http.MethodGet, path: profilesPath, rule: rule, admin: true}))
	return app, nil
}

// profiles serves Go's profiles, which write their answers themselves, to whom the route's rule lets in.
func (s *Server) profiles(rt route) fiber.Handler {
	serve := pprof.New()
	return func(c *fiber.Ctx) error {
		x := s.begin(c, rt)
		if err := x.authorise(c); err != nil {
			rep := x.refuse(err)
			x.write(c, rep)
			x.end(rep.status)
			return nil
		}
		err := serve(c)
		x.end(c.Response().StatusCode())
		return err
	}
}

// experts is GET /admin/experts: one entry for each process and for each group, and the router's.
func (s *Server) experts(ctx context.Context, _ *request) (*reply, error) {
	if s.service.devices != nil {
		s.service.devices(ctx)
	}
	return &reply{status: http.StatusOK, contentType: mimeJSON, body: mustJSON(map[string]any{"experts": s.service.experts(), "groups": s.service.groups(), "router": s.service.router()})}, nil
}

// release is POST /admin/experts/{group}/release: it lets a group's replicas out of quarantine, or the one that the body
// names, {"replica": 1}. Its answer is how many were in it. It takes JSON only, so that no page of a local browser can ask for
// it without the browser's asking first.
func (s *Server) release(_ context.Context, r *request) (*reply, error) {
	replica, err := readRelease(r.body)
	if err != nil {
		return nil, err
	}
	n, err := s.service.release(r.group, replica)
	if errors.Is(err, sdk.ErrNotFound) {
		return nil, &fault{status: http.StatusNotFound, code: "not_found", message: "there is no such expert group or replica"}
	}
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", r.group, err)
	}
	s.log.Info("replicas released from quarantine", "group", r.group, "replica", replica, "released", n)
	return &reply{status: http.StatusOK, contentType: mimeJSON, body: mustJSON(map[string]int{"released": n})}, nil
}

// readRelease is the replica that a body names, -1 for all.
func readRelease(body []byte) (int, error) {
	replica := -1
	err := strictjson.Fields{"replica": replicaField(&replica)}.Read(body)
	return replica, err
}
