package server

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"strconv"

	"github.com/gofiber/fiber/v2"
)

// heldBuffer is what a held stream buffers of an event: the short ones, which are most. Longer ones are written past it.
const heldBuffer = 256

// holds reports whether a reply's stream takes the connection over.
func (x *exchange) holds(c *fiber.Ctx, rep *reply) bool {
	return rep.held && c.Method() == http.MethodGet
}

// hold is writeStream for a stream that lasts and says little. It takes the connection over, so that fasthttp's reader, writer, pipe
// and context, some 25 KiB, go back to their pools, and of its three goroutines one is left. The connection ends with the stream.
func (x *exchange) hold(c *fiber.Ctx, rep *reply) {
	x.head(c, rep)
	h := &c.Context().Response.Header
	h.Set("X-Accel-Buffering", "no")
	h.SetContentLength(-1)
	h.SetConnectionClose()
	head := bytes.Clone(h.Header())
	c.Context().HijackSetNoResponse(true)
	c.Context().Hijack(func(hijacked net.Conn) {
		conn := unwrap(hijacked)
		if !x.s.sockets.hold(conn, func() { x.runHeld(conn, head, rep) }) {
			conn.Close()
			x.ended(rep.status, errStopping)
		}
	})
}

// runHeld writes a stream to its end.
func (x *exchange) runHeld(conn net.Conn, head []byte, rep *reply) {
	x.writeDeadline(x.s.limits.event)
	_, err := conn.Write(head)
	if err == nil {
		w := &chunks{conn: conn}
		err = x.runStream(rep, &events{w: bufio.NewWriterSize(w, heldBuffer), before: func() { x.writeDeadline(x.s.limits.event) }})
		w.end()
	} else {
		err = errGone
	}
	x.ended(rep.status, err)
}

// chunks writes a body whose length nobody knows before its end: each Write is a chunk (RFC 9112, section 7.1).
type chunks struct{ conn net.Conn }

// Write implements io.Writer.
func (c *chunks) Write(p []byte) (int, error) {
	b := make([]byte, 0, len(p)+20)
	b = append(strconv.AppendInt(b, int64(len(p)), 16), "\r\n"...)
	b = append(append(b, p...), "\r\n"...)
	if _, err := c.conn.Write(b); err != nil {
		return 0, err
	}
	return len(p), nil
}

// end is the last chunk. Who is gone does not get it.
func (c *chunks) end() { _, _ = c.conn.Write([]byte("0\r\n\r\n")) }

// unwrap is the connection that fasthttp has handed over, without the reader that fasthttp keeps before it.
func unwrap(hijacked net.Conn) net.Conn {
	if u, ok := hijacked.(interface{ UnsafeConn() net.Conn }); ok {
		return u.UnsafeConn()
	}
	return hijacked
}
