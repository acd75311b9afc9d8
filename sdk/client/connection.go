package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/internal/tlsfiles"
)

// TLSFiles are the PEM files of one end of a connection to another machine.
type TLSFiles = tlsfiles.Files

// Certificates are the host's own for connections to other machines, and the authorities that it trusts there. They follow
// their files.
type Certificates struct{ store *tlsfiles.Store }

// OpenCertificates reads the files. note takes a line for people when they have changed; it may be nil.
func OpenCertificates(f TLSFiles, note func(string)) (*Certificates, error) {
	s, err := tlsfiles.Open(f, note)
	if err != nil {
		return nil, err
	}
	return &Certificates{s}, nil
}

// loopback reports whether a host can only be this machine.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

func dial(ctx context.Context, host string, o RemoteOptions) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", o.Address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", sdk.ErrUnavailable, err)
	}
	if o.Certificates == nil {
		return c, nil
	}
	name := o.ServerName
	if name == "" {
		name = host
	}
	secure := tls.Client(c, o.Certificates.store.Client(name))
	if err := secure.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, handshakeError(err)
	}
	ahead, err := greeting(ctx, secure)
	if err != nil {
		c.Close()
		return nil, handshakeError(err)
	}
	return &greeted{Conn: secure, ahead: ahead}, nil
}

// greeting reads the first bytes that the server sends by itself. In TLS 1.3 a client is done before the server has judged its
// certificate; whoever writes first may find the connection broken and never learn why.
func greeting(ctx context.Context, c net.Conn) ([]byte, error) {
	if d, ok := ctx.Deadline(); ok {
		c.SetReadDeadline(d)
	}
	b := make([]byte, 512)
	n, err := c.Read(b)
	if err != nil {
		return nil, err
	}
	return b[:n], c.SetReadDeadline(time.Time{})
}

// greeted is a connection of which some bytes were read ahead.
type greeted struct {
	*tls.Conn
	ahead []byte
}

// Read implements net.Conn.
func (g *greeted) Read(b []byte) (int, error) {
	if len(g.ahead) > 0 {
		n := copy(b, g.ahead)
		g.ahead = g.ahead[n:]
		return n, nil
	}
	return g.Conn.Read(b)
}

// handshakeError tells a refusal, which only a person can mend, from a connection that broke.
func handshakeError(err error) error {
	var foreign *tls.CertificateVerificationError
	var told *net.OpError
	if errors.As(err, &foreign) || errors.As(err, &told) && told.Op == "remote error" { // an alert
		return fmt.Errorf("%w: %w: %w", ErrUntrusted, sdk.ErrUnsupported, err)
	}
	return fmt.Errorf("tls: %w: %w", sdk.ErrUnavailable, err)
}

// watchedConn remembers why it ended.
type watchedConn struct {
	net.Conn
	first atomic.Pointer[error]
}

func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.note(err)
	return n, err
}

func (c *watchedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.note(err)
	return n, err
}

// Close ends the connection without the courtesy of TLS, which would wait for room to say goodbye in.
func (c *watchedConn) Close() error {
	err := net.ErrClosed
	c.first.CompareAndSwap(nil, &err)
	if secure, ok := c.Conn.(*greeted); ok {
		return secure.NetConn().Close()
	}
	return c.Conn.Close()
}

func (c *watchedConn) note(err error) {
	if err != nil {
		c.first.CompareAndSwap(nil, &err)
	}
}

// cause is the first error; nil while the connection stands.
func (c *watchedConn) cause() error {
	if p := c.first.Load(); p != nil {
		return *p
	}
	return nil
}
