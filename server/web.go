package server

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/server/web"
)

// useWeb takes a configuration's origins, names and proxies over, at the start and at every reload.
func (s *Server) useWeb(cfg config.Config) error {
	p, err := web.New(cfg.Web)
	if err == nil {
		s.web.Store(p)
	}
	return err
}

// allowedOrigin reports whether web.origins lists an origin. For a WebSocket ask fromOwnPage, too: a page of this server
// needs no entry.
func (s *Server) allowedOrigin(origin string) bool { return s.web.Load().AllowedOrigin(origin) }

// fromOwnPage reports whether a request's Origin is the one that the server's own pages have.
func (s *Server) fromOwnPage(c *fiber.Ctx, origin string) bool {
	return web.OwnOrigin(origin, string(c.Request().Host()), c.Context().IsTLS())
}

// clientIP is the address that a connection's request counts for; forwarded are its headers X-Forwarded-For.
func (s *Server) clientIP(remote net.Addr, forwarded []string) netip.Addr {
	return s.web.Load().ClientIP(remote, forwarded)
}

// clientOf is the address that a request counts for.
func (s *Server) clientOf(c *fiber.Ctx) netip.Addr {
	var forwarded []string
	for _, v := range c.Request().Header.PeekAll(fiber.HeaderXForwardedFor) {
		forwarded = append(forwarded, string(v))
	}
	return s.clientIP(c.Context().RemoteAddr(), forwarded)
}

// around is what a request's answer depends on beside the request itself.
type around struct {
	host   string
	origin string // of the page that sent it, if web.origins lists it
	cors   bool   // some origins are listed, so answers differ by origin
	secure bool
}

func (s *Server) around(c *fiber.Ctx) around {
	a := around{host: string(c.Request().Host()), cors: s.web.Load().HasOrigins(), secure: c.Context().IsTLS()}
	if origin := c.Get(fiber.HeaderOrigin); a.cors && s.allowedOrigin(origin) {
		a.origin = strings.Clone(origin)
	}
	return a
}

var errForeignHost = &fault{status: http.StatusMisdirectedRequest, code: "foreign_host", message: "this server does not answer to the name in the header Host; see web.hosts"}

// checkHost refuses names that are not this server's. The open routes answer to any: a platform that asks how the host is uses its address.
func (x *exchange) checkHost() error {
	if x.route.admin || x.route.rule.Open() && x.route.rule.Route != "" || x.s.web.Load().TrustedHost(x.around.host, x.s.anonymity(false) == anyUser) {
		return nil
	}
	return errForeignHost
}

// exposed are the headers of answers that a page of another origin may read.
const exposed = "X-Request-Id, Retry-After, Pimoe-Status, Pimoe-Degraded, Pimoe-Model-Digest, Pimoe-Numeric-Class, Pimoe-Plugins, Pimoe-Routing"

// headers sets what depends on where the request came from. Cookies are for this server's own pages: no answer allows
// a browser to send them along from another origin.
func (a around) headers(h *fasthttp.ResponseHeader) {
	if a.secure && !web.Local(a.host) { // a developer's other servers on localhost speak HTTP
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
	if a.cors {
		h.Add(fiber.HeaderVary, fiber.HeaderOrigin)
	}
	if a.origin != "" {
		h.Set(fiber.HeaderAccessControlAllowOrigin, a.origin)
		h.Set(fiber.HeaderAccessControlExposeHeaders, exposed)
	}
}

// preflight answers a browser that asks whether a page of another origin may send a request; nil for every other request. It says
// the same for each path, and it needs no credential: browsers send none.
func (x *exchange) preflight(c *fiber.Ctx) *reply {
	if c.Method() != http.MethodOptions || x.around.origin == "" || c.Get(fiber.HeaderAccessControlRequestMethod) == "" || x.checkHost() != nil {
		return nil
	}
	header := map[string]string{
		fiber.HeaderAccessControlAllowMethods: "GET, HEAD, POST, PUT, PATCH, DELETE", fiber.HeaderAccessControlMaxAge: "600",
		fiber.HeaderVary: "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
	}
	if wanted := c.Get(fiber.HeaderAccessControlRequestHeaders); len(wanted) <= 2048 { // the official clients send a dozen of their own
		header[fiber.HeaderAccessControlAllowHeaders] = strings.Clone(wanted)
	}
	return &reply{status: http.StatusNoContent, contentType: mimeText, header: header}
}
