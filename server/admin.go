package server

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/pprof"
)

// adminApp is the app of the admin listener. Whoever reaches it is on this machine, so it asks for no key; it asks for a
// local Host header instead, so that no web page that a local browser has open can read it through a name of its own.
func (s *Server) adminApp(profiles bool) *fiber.App {
	routes := s.adminRoutes()
	app := s.app(nil)
	app.Use(func(c *fiber.Ctx) error {
		if localHost(c.Hostname()) {
			return c.Next()
		}
		x := s.begin(c, route{method: c.Method()})
		rep := (&fault{status: http.StatusForbidden, code: "foreign_host", message: "the admin API answers to local names only"}).reply(problemShape, x.req.id)
		x.write(c, rep)
		x.end(rep.status)
		return nil
	})
	s.add(app, routes)
	if profiles {
		app.Use(pprof.New())
	}
	return app
}

// localHost reports whether a Host header names this machine.
func localHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.Unmap().IsLoopback()
}

// experts is GET /admin/experts: one entry for each process, and the router's.
func (s *Server) experts(context.Context, *request) (*reply, error) {
	return &reply{status: http.StatusOK, contentType: mimeJSON, body: mustJSON(map[string]any{"experts": s.service.experts(), "router": s.service.router()})}, nil
}
