package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"
	"unicode/utf8"

	fast "github.com/fasthttp/websocket"
	"github.com/gofiber/contrib/websocket"

	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/ws"
)

// socket is one WebSocket. A goroutine reads it; another writes while there is something to write, and ends then, so
// that an idle connection has one. Whoever has something to say leaves it here and goes on.
//
// Locks: those of the broker and the store may be held when mu is taken, never the other way round.
type socket struct {
	hub    *sockets
	conn   *websocket.Conn
	client netip.Addr
	id     string // of the upgrade's request

	mu        sync.Mutex // guards all below
	state     ws.State
	proof     proof
	principal access.Principal
	out       ws.Outbox
	work      map[string]*work // by the ids of requests under way
	reads     []*reading
	woken     bool // a journal that is read has something new
	ping      bool // one is due
	writing   bool // the writer runs
	leaving   bool // the connection ends with what is under way
	closing   *ws.Close
	said      bool      // the close frame is written
	since     time.Time // it closes
	gone      bool      // nothing can be written any more
}

// reading is a generation whose events go to this connection. last belongs to the writer.
type reading struct {
	id      ws.ID
	journal *ws.Journal
	turn    int
	last    int
	ended   bool // its last event is written
}

// work is a request under way.
type work struct {
	cancel context.CancelCauseFunc
	keep   bool // it may go on without this connection
}

// read is the life of a connection.
func (c *socket) read() {
	code := c.messages()
	c.mu.Lock()
	c.gone = true
	c.out.Clear()
	known, topics, works, reads := c.state.Known(), c.state.Topics(), c.work, c.reads
	if c.closing != nil {
		code = c.closing.Code
	}
	c.work, c.reads = nil, nil
	c.mu.Unlock()
	c.hub.broker.Unsubscribe(c, topics...)
	for _, w := range works {
		if !w.keep || code == ws.Normal.Code { // who says goodbye does not come back for the rest
			w.cancel(errGone)
		}
	}
	for _, r := range reads {
		r.journal.Detach(r.turn, time.Now())
	}
	c.hub.left(c, known)
	c.hub.s.meters.socketClosed(code)
	_ = c.conn.Close() // also ends a write
}

// messages reads until the connection ends and returns the code of its end.
func (c *socket) messages() int {
	c.conn.SetPongHandler(func(string) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.state.Heard(time.Now())
		return nil
	})
	c.conn.SetPingHandler(func(data string) error {
		c.pause()
		return c.pong(data)
	})
	for {
		c.conn.SetReadLimit(int64(c.maxMessage()))
		kind, r, err := c.conn.NextReader()
		if err == nil {
			err = c.message(kind == websocket.BinaryMessage, r)
		}
		if err != nil {
			return codeOf(err)
		}
	}
}

// codeOf is the code of an end that the client or the protocol has brought about.
func codeOf(err error) int {
	var closed *fast.CloseError
	if errors.As(err, &closed) {
		return closed.Code
	}
	if errors.Is(err, fast.ErrReadLimit) {
		return ws.TooBig.Code
	}
	return websocket.CloseAbnormalClosure
}

func (c *socket) pong(data string) error {
	err := c.conn.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(c.hub.limits.stalled))
	if errors.Is(err, fast.ErrCloseSent) {
		return nil
	}
	return err
}

// pause takes one message out of the client's bucket. Nothing is read meanwhile.
func (c *socket) pause() {
	c.mu.Lock()
	wait := c.state.Take(time.Now())
	c.proof.used = true
	c.mu.Unlock()
	if wait > 0 {
		time.Sleep(wait) // 1/Rate at most
	}
}

func (c *socket) maxMessage() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.MaxMessage()
}

// smallMessage is what every connection may send at any time; the bytes of larger ones are booked.
const smallMessage = 64 << 10

// message reads a message and does what it says.
func (c *socket) message(binary bool, r io.Reader) error {
	c.deadline(c.hub.limits.fragments)
	var b bytes.Buffer
	if _, err := io.CopyN(&b, r, smallMessage); err == nil {
		done, ok := c.hub.hasRoom(int64(c.maxMessage()))
		if !ok {
			c.end(ws.Overloaded)
			return ws.ErrTooMuch
		}
		defer done()
		if _, err := b.ReadFrom(r); err != nil {
			return err
		}
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	c.deadline(0)
	c.pause()
	if !binary && !utf8.Valid(b.Bytes()) {
		c.end(ws.NotText)
		return nil
	}
	c.receive(binary, b.Bytes())
	return nil
}

// deadline bounds the next reads; 0 = not at all. One that closes keeps the bound of its farewell.
func (c *socket) deadline(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.said:
	case d == 0:
		_ = c.conn.SetReadDeadline(time.Time{}) // fails only on a closed connection, where the read fails too
	default:
		_ = c.conn.SetReadDeadline(time.Now().Add(d))
	}
}

// receive does what one message says. A panic ends this message alone.
func (c *socket) receive(binary bool, frame []byte) {
	defer func() {
		if v := recover(); v != nil {
			c.refuse(ws.ID{}, "WS", fmt.Errorf("panic: %v\n%s", v, debug.Stack()))
		}
	}()
	m, err := ws.Parse(binary, frame)
	c.mu.Lock()
	closing := c.closing != nil
	if err == nil {
		err = c.state.Allow(m.Type)
	}
	known := c.state.Known()
	c.mu.Unlock()
	if closing {
		return
	}
	c.hub.s.meters.socketMessage(m.Type, err)
	if err == nil {
		err = c.obey(m)
	}
	if err == nil {
		return
	}
	c.refuse(m.ID, "WS "+string(m.Type), err)
	if !known {
		c.end(ws.Unauthorised)
	}
}

// obey runs one message; what takes time goes to goroutines of its own.
func (c *socket) obey(m ws.Message) error {
	rule, err := c.hub.s.table.Of("WS " + string(m.Type))
	if err != nil {
		return err
	}
	if err := rule.Allow(c.who()); err != nil {
		return err
	}
	switch m.Type {
	case ws.Auth:
		return c.authenticate(m)
	case ws.Ping:
		c.push("pong", m.ID, mustJSON(map[string]any{"timestamp": timestamp(time.Now())}))
	case ws.Process:
		return c.process(m)
	case ws.Generate:
		return c.generate(m, 0)
	case ws.Resume:
		return c.resume(m)
	case ws.Cancel:
		return c.cancel(m)
	case ws.Subscribe:
		return c.subscribe(m)
	case ws.Unsubscribe:
		return c.unsubscribe(m)
	case ws.Publish:
		return c.publish(m)
	}
	return nil // ws.Pong was a sign of life
}

// timestamp is seconds since 1970, as in /health.
func timestamp(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func (c *socket) who() access.Principal {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.principal
}

// authenticate takes the credential of the first message.
func (c *socket) authenticate(m ws.Message) error {
	token, err := m.Token()
	if err != nil {
		return err
	}
	s := c.hub.s
	cr := access.Credentials{Method: http.MethodGet, Authorization: []string{"Bearer " + token}}
	ctx, cancel := context.WithTimeout(s.base, c.hub.limits.AuthWithin)
	defer cancel()
	p, err := s.principalOf(ctx, cr, false)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.state.Authenticated()
	c.principal, c.proof.credentials = p, cr
	c.proof.checked(p, time.Now())
	c.mu.Unlock()
	c.hub.knows()
	c.ready()
	return nil
}

// ready tells the client who it is here and what it may do.
func (c *socket) ready() {
	p, l := c.who(), &c.hub.limits
	c.push("ready", ws.ID{}, mustJSON(map[string]any{
		"protocol": socketProtocol, "principal": p.ID, "tenant": p.Tenant, "role": p.Role.String(), "model": c.hub.s.service.id,
		"heartbeat_seconds": l.Heartbeat.Seconds(), "max_message_bytes": l.Message, "max_requests": l.Work, "max_topics": l.Subscriptions,
	}))
}

// proved is by what the connection has shown who it is, and who that was.
func (c *socket) proved() (p proof, who access.Principal, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.proof, c.principal, c.state.Known() && c.closing == nil
}

// name implements watched.
func (c *socket) name() string { return c.id }

// prove notes that the credential is still good.
func (c *socket) prove(who access.Principal, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.principal = who
	c.proof.checked(who, now)
}

// refuse tells the client of an error, and the log of what the client can't be told.
func (c *socket) refuse(id ws.ID, name string, err error) {
	s := c.hub.s
	f := s.faultOf(err)
	if faultOfAccess(err) != nil {
		s.meters.refused(f.code)
	}
	if faultOfAccess(err) != nil || f.status >= http.StatusInternalServerError {
		level := slog.LevelWarn
		if f.status == http.StatusInternalServerError {
			level = slog.LevelError
		}
		s.log.Log(context.Background(), level, "message refused", "request", c.id, "route", name, "code", f.code, "error", err.Error())
	}
	c.push("error", id, mustJSON(f.problem(c.id)))
}

// end closes the connection when all that waits is written.
func (c *socket) end(how ws.Close) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing == nil {
		c.closing, c.since = &how, time.Now()
		c.kick()
	}
}

// cutOff is cut for those who do not hold mu.
func (c *socket) cutOff(how ws.Close) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut(how)
}

// kernelSide is what can be set of a TCP connection's end in the kernel.
type kernelSide interface {
	SetLinger(seconds int) error
	SetWriteBuffer(bytes int) error
}

// kernelSideOf is that of the connection below framing and TLS; false where there is none.
func kernelSideOf(nc net.Conn) (kernelSide, bool) {
	for {
		if k, ok := nc.(kernelSide); ok {
			return k, true
		}
		wrapped, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			return nil, false
		}
		nc = wrapped.NetConn()
	}
}

// cut ends a connection that can't be written to. mu is held. Its socket's buffer is dropped with it.
func (c *socket) cut(how ws.Close) {
	if c.closing == nil {
		c.closing, c.since = &how, time.Now()
	}
	c.out.Clear()
	nc := c.conn.NetConn()
	if k, ok := kernelSideOf(nc); ok {
		_ = k.SetLinger(0)
	}
	_ = nc.SetDeadline(time.Unix(1, 0)) // ends the read, which ends the rest
}

// tick does what time asks for.
func (c *socket) tick(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing != nil {
		if now.Sub(c.since) > c.hub.limits.stalled+c.hub.limits.farewell {
			c.cut(*c.closing)
		}
		return
	}
	ping, end := c.state.Tick(now)
	if end != nil {
		c.closing, c.since = end, now
	}
	if c.ping = c.ping || ping; c.ping || end != nil {
		c.kick()
	}
}

// leave ends the connection as soon as nothing is under way.
func (c *socket) leave() {
	c.mu.Lock()
	first, idle := !c.leaving, c.state.Working() == 0
	c.leaving = true
	c.mu.Unlock()
	if idle {
		c.end(ws.GoingAway)
	} else if first {
		c.push("draining", ws.ID{}, nil)
	}
}
