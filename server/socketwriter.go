package server

import (
	"errors"
	"net"
	"time"

	"github.com/gofiber/contrib/websocket"

	"github.com/pimoe/pimoe/server/ws"
)

// This file is the writing half of a socket: what is left here for its writer, and the writer.

// push leaves a message for the writer.
func (c *socket) push(kind string, id ws.ID, data []byte) {
	c.Deliver(ws.Frame{Bytes: ws.Append(nil, kind, id, 0, data)})
}

// Deliver implements ws.Subscriber.
func (c *socket) Deliver(f ws.Frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deliver(f)
}

// deliver has a frame written. Who has too much waiting is cut off: it does not read, and a close frame would wait, too. mu is held.
func (c *socket) deliver(f ws.Frame) {
	if c.gone || c.closing != nil {
		return
	}
	if c.out.Push(f) != nil {
		c.cut(ws.Slow)
		return
	}
	c.kick()
}

// wake is called by a journal that is read here.
func (c *socket) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.woken = true
	c.kick()
}

// kick starts the writer if it does not run. mu is held.
func (c *socket) kick() {
	if c.gone || c.writing {
		return
	}
	c.writing = true
	c.hub.running.Add(1) // the reader is counted until gone is set, so the count is not zero
	go func() {
		defer c.hub.running.Done()
		c.write()
	}()
}

// turn is what the writer does next.
type turn struct {
	ping  bool
	frame *ws.Frame
	reads []*reading
	close *ws.Close
}

// next is the writer's next turn; false ends it. What was asked for goes before the events of generations, so that an
// answer to a ping does not wait for them.
func (c *socket) next() (t turn, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t.ping, c.ping = c.ping, false
	if f, ok := c.out.Pop(); ok {
		t.frame = &f
	} else if c.woken && (c.closing == nil || *c.closing == ws.GoingAway) {
		t.reads, c.woken = append(t.reads, c.reads...), false
	}
	if t.frame == nil && t.reads == nil {
		t.close = c.closing
	}
	if c.gone || c.said || !t.ping && t.frame == nil && t.reads == nil && t.close == nil {
		c.writing = false
		return t, false
	}
	return t, true
}

// write writes what there is.
func (c *socket) write() {
	for {
		t, ok := c.next()
		if !ok {
			return
		}
		if err := c.take(t); err != nil {
			c.mu.Lock()
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() && c.closing == nil {
				c.cut(ws.Slow)
			} else {
				_ = c.conn.NetConn().SetDeadline(time.Unix(1, 0)) // the reader ends the rest
			}
			c.writing, c.gone = false, true
			c.mu.Unlock()
			return
		}
	}
}

func (c *socket) take(t turn) error {
	if t.ping {
		if err := c.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(c.hub.limits.stalled)); err != nil {
			return err
		}
	}
	if t.frame != nil {
		return c.writeFrame(*t.frame)
	}
	if t.close != nil {
		return c.farewell(*t.close)
	}
	return c.events(t.reads)
}

// writeFrame gives a frame the time that its size needs.
func (c *socket) writeFrame(f ws.Frame) error {
	kind := websocket.TextMessage
	if f.Binary {
		kind = websocket.BinaryMessage
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(c.hub.limits.stalled * time.Duration(1+len(f.Bytes)/smallMessage))) // never fails
	return c.conn.WriteMessage(kind, f.Bytes)
}

// farewell writes the close frame and leaves the client a moment to answer it.
func (c *socket) farewell(how ws.Close) error {
	err := c.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(how.Code, how.Text), time.Now().Add(c.hub.limits.stalled))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said = true
	_ = c.conn.SetReadDeadline(time.Now().Add(c.hub.limits.farewell))
	return err
}

// events writes one event of each generation that has one.
func (c *socket) events(reads []*reading) error {
	more := false
	for _, r := range reads {
		e, ok, over := r.journal.Next(r.turn, r.last)
		r.ended = ok && (e.Kind == eventDone || e.Kind == eventError)
		if over || r.ended { // before the client knows, who may use the id again at once
			c.finished(r)
		}
		if ok {
			if err := c.writeFrame(ws.Frame{Bytes: ws.Append(nil, e.Kind, r.id, e.Number, e.Data)}); err != nil {
				return err
			}
			r.last, more = e.Number, true
		}
	}
	if more {
		c.mu.Lock()
		c.woken = true
		c.mu.Unlock()
	}
	return nil
}

var _ ws.Subscriber = (*socket)(nil)
