package server

import (
	"crypto/tls"
	"net"

	"github.com/gofiber/fiber/v2"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/server/certs"
	"github.com/pimoe/pimoe/server/framing"
)

// front is a listener as its app sees it: connections end TLS where there is some, and let no request through whose end
// is not clear. The listener below is what is handed over to a successor, which puts its own front around it.
type front struct {
	net.Listener
	tls *tls.Config // nil = HTTP
}

// front is the one of a listener of this server. The admin listener is on loopback and speaks HTTP.
func (s *Server) front(l *listener) net.Listener {
	f := &front{Listener: l.Listener}
	if l == s.public && s.certs != nil {
		f.tls = s.certs.Config()
	}
	return f
}

// Accept waits for the next connection. A handshake is left to who reads from it: a client that is slow with it keeps nobody waiting.
func (f *front) Accept() (net.Conn, error) {
	c, err := f.Listener.Accept()
	if err != nil || f.tls == nil {
		return framed(c, err)
	}
	t := tls.Server(c, f.tls)
	return &secureConn{framing.New(t), t}, nil
}

func framed(c net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	return framing.New(c), nil
}

// secureConn also has what fasthttp asks a TLS connection for.
type secureConn struct {
	*framing.Conn
	tls *tls.Conn
}

// Handshake ends the handshake.
func (c *secureConn) Handshake() error { return c.tls.Handshake() }

// ConnectionState is what was agreed on.
func (c *secureConn) ConnectionState() tls.ConnectionState { return c.tls.ConnectionState() }

// refusalOf is why a connection's stream was ended; empty if it was not.
func refusalOf(c net.Conn) string {
	if f, ok := c.(interface{ Refusal() error }); ok && f.Refusal() != nil {
		return f.Refusal().Error()
	}
	return ""
}

// useTLS opens the certificate where one is configured.
func (s *Server) useTLS(cfg config.Config) (err error) {
	if !cfg.Server.TLS.On() {
		return nil
	}
	if s.certs, err = certs.Open(cfg.Server.TLS, s.log, s.clock); err != nil {
		return err
	}
	s.service.metrics.Gauge("pimoe_tls_certificate_expires_seconds", func() float64 { return s.certs.Expires().Sub(s.clock()).Seconds() })
	return nil
}

// certificateNames are the names in the certificate that a request's client has shown.
func certificateNames(c *fiber.Ctx) []string {
	if state := c.Context().TLSConnectionState(); state != nil && len(state.VerifiedChains) > 0 {
		return certs.Names(state.PeerCertificates[0])
	}
	return nil
}
