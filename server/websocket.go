package server

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	fast "github.com/fasthttp/websocket"
	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"

	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/web"
)

const (
	socketPath     = "/ws"
	socketProtocol = "pimoe.v1"
	bearerProtocol = "pimoe.bearer." // and the credential behind it, for browsers, which can't set headers here
)

// handshake is what a request for a WebSocket brings, copied.
type handshake struct {
	header      http.Header // of the upgrade itself
	origin      string
	ownOrigin   bool // it is that of the Host, and the Host may be believed
	credentials access.Credentials
	client      netip.Addr
}

// handshakeOf copies what the upgrade needs. Where nobody needs a credential, a page of any name that its owner has pointed
// at this machine would have the origin of its Host; so only names of this machine count there.
func (s *Server) handshakeOf(c *fiber.Ctx) *handshake {
	h := &handshake{header: http.Header{}, origin: strings.Clone(c.Get(fiber.HeaderOrigin)), credentials: s.credentials(c), client: s.clientOf(c)}
	for _, name := range []string{"Connection", "Upgrade", "Sec-Websocket-Version", "Sec-Websocket-Key", "Sec-Websocket-Protocol"} {
		for _, v := range c.Context().Request.Header.PeekAll(name) {
			h.header.Add(name, string(v))
		}
	}
	host := string(c.Request().Host())
	h.ownOrigin = s.fromOwnPage(c, h.origin) && (s.anonymity(false) == nobody || web.Local(host))
	return h
}

// socket is GET /ws: it decides who may have a WebSocket.
func (s *Server) socket(ctx context.Context, r *request) (*reply, error) {
	h := r.handshake
	if err := h.check(); err != nil {
		return nil, err
	}
	if s.drain.Load() || s.leaving.Load() {
		return nil, errStopping
	}
	if h.origin != "" && !h.ownOrigin && !s.allowedOrigin(h.origin) {
		return nil, &fault{status: http.StatusForbidden, code: "origin_not_allowed", message: "a page of this origin may not open a WebSocket here; see web.origins", param: "Origin"}
	}
	if err := h.takeBearer(); err != nil {
		return nil, err
	}
	cr := h.credentials
	if len(cr.Authorization) == 0 && cr.Cookie != "" && h.origin == "" {
		return nil, access.ErrForgery // a browser says where its page is from
	}
	p, err := s.principalOf(ctx, cr, false)
	known := err == nil
	if err != nil && !errors.Is(err, access.ErrMissing) {
		return nil, err
	}
	r.principal = p
	if !s.sockets.room(known) {
		return nil, &fault{status: http.StatusServiceUnavailable, code: "too_many_connections", message: "too many connections wait for their credential", retry: true}
	}
	return &reply{status: http.StatusSwitchingProtocols, hijack: func(conn net.Conn) { s.upgrade(conn, h, r, known) }}, nil
}

// check refuses what is no WebSocket handshake of version 13 (RFC 6455, section 4.2.1).
func (h *handshake) check() error {
	switch {
	case !hasToken(h.header, "Connection", "upgrade") || !hasToken(h.header, "Upgrade", "websocket"):
		return &fault{status: http.StatusUpgradeRequired, code: "upgrade_required", message: "this route is a WebSocket: see docs/websocket.md"}
	case h.header.Get("Sec-Websocket-Version") != "13":
		return &fault{status: http.StatusUpgradeRequired, code: "unsupported_version", message: "Sec-WebSocket-Version: expected 13", param: "Sec-WebSocket-Version"}
	}
	if key, err := base64.StdEncoding.DecodeString(h.header.Get("Sec-Websocket-Key")); err != nil || len(key) != 16 {
		return &fault{status: http.StatusBadRequest, code: "invalid_header", message: "Sec-WebSocket-Key: expected 16 bytes in base64", param: "Sec-WebSocket-Key"}
	}
	return nil
}

// takeBearer takes the credential out of the subprotocols, so that nothing can echo it, and keeps the one that is answered.
func (h *handshake) takeBearer() error {
	offered := tokens(h.header, "Sec-Websocket-Protocol")
	if len(offered) == 0 {
		return nil
	}
	h.header.Del("Sec-Websocket-Protocol")
	for _, p := range offered {
		credential, is := strings.CutPrefix(p, bearerProtocol)
		switch {
		case is && len(h.credentials.Authorization) > 0:
			return &fault{status: http.StatusBadRequest, code: "invalid_header", message: "Sec-WebSocket-Protocol: expected one credential, in a subprotocol or in Authorization", param: "Sec-WebSocket-Protocol"}
		case is:
			h.credentials.Authorization = []string{"Bearer " + credential}
		case p == socketProtocol:
			h.header.Set("Sec-Websocket-Protocol", p)
		}
	}
	if h.header.Get("Sec-Websocket-Protocol") == "" {
		return &fault{status: http.StatusBadRequest, code: "unsupported_subprotocol", message: "Sec-WebSocket-Protocol: expected " + socketProtocol + " among those offered", param: "Sec-WebSocket-Protocol"}
	}
	return nil
}

// tokens are the members of a header that is a list.
func tokens(h http.Header, name string) (out []string) {
	for _, line := range h.Values(name) {
		for t := range strings.SplitSeq(line, ",") {
			if t = strings.TrimSpace(t); t != "" {
				out = append(out, t)
			}
		}
	}
	return out
}

func hasToken(h http.Header, name, want string) bool {
	for _, t := range tokens(h, name) {
		if strings.EqualFold(t, want) {
			return true
		}
	}
	return false
}

// takeOver hands the connection to the reply. Nothing of the request stays behind: fasthttp's reader and context, some 20 KiB,
// go back to their pools.
func (x *exchange) takeOver(c *fiber.Ctx, rep *reply) {
	x.stop()
	c.Context().HijackSetNoResponse(true)
	c.Context().Hijack(rep.hijack)
	x.end(rep.status)
}

// socketBuffer is what a connection buffers of what it reads: headers of frames and small messages. Larger messages are
// read past it.
const socketBuffer = 256

// kernelBuffer bounds what the system keeps for a client that does not read. It still lets 2 MB/s through at 30 ms.
const kernelBuffer = 64 << 10

// upgrade answers the handshake and leaves the connection to the hub. It runs on a goroutine of fasthttp's, which ends
// with it.
//
// The upgrade is fasthttp/websocket's, on which contrib/websocket builds, rather than that of contrib's New: see the package's comment.
func (s *Server) upgrade(hijacked net.Conn, h *handshake, r *request, known bool) {
	conn := unwrap(hijacked)
	if early(hijacked, conn) {
		conn.Close()
		return
	}
	if k, ok := kernelSideOf(conn); ok {
		_ = k.SetWriteBuffer(kernelBuffer) // a larger one costs memory only
	}
	up := fast.Upgrader{
		HandshakeTimeout: s.limits.write, ReadBufferSize: socketBuffer, WriteBufferSize: socketBuffer, WriteBufferPool: &s.sockets.buffers,
		Subprotocols: []string{socketProtocol}, CheckOrigin: func(*http.Request) bool { return true }, // socket has
	}
	ws, err := up.Upgrade(&takenOver{conn: conn}, &http.Request{Method: http.MethodGet, Header: h.header}, http.Header{"X-Request-Id": {r.id}})
	if err != nil { // it has closed the connection
		s.log.Debug("upgrade failed", "request", r.id, "error", err.Error())
		return
	}
	s.sockets.serve(&websocket.Conn{Conn: ws}, h, r, known)
}

// early reports whether the client has sent something behind its request. It has to wait for the answer, and what it has
// sent sits in a reader that is given back.
func early(hijacked, conn net.Conn) bool {
	_ = conn.SetReadDeadline(time.Unix(1, 0)) // so that only what is buffered can be read
	n, _ := hijacked.Read(make([]byte, 1))
	_ = conn.SetReadDeadline(time.Time{})
	return n > 0
}

// takenOver is a connection as net/http would hand it over.
type takenOver struct {
	conn   net.Conn
	header http.Header
}

// Hijack implements http.Hijacker.
func (t *takenOver) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return t.conn, bufio.NewReadWriter(bufio.NewReaderSize(t.conn, 16), bufio.NewWriterSize(t.conn, 16)), nil
}

// Header, Write and WriteHeader are for refusals, which socket has made before.
func (t *takenOver) Header() http.Header {
	if t.header == nil {
		t.header = http.Header{}
	}
	return t.header
}

func (t *takenOver) Write(b []byte) (int, error) { return len(b), nil }

// WriteHeader implements http.ResponseWriter.
func (t *takenOver) WriteHeader(int) {}

var _ http.Hijacker = (*takenOver)(nil)
