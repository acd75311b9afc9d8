package server

import (
	"net"
	"net/netip"

	"github.com/gofiber/fiber/v2"

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
