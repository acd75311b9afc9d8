package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/contrib/websocket"

	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/ws"
)

// socketLimits bound all WebSockets and each of them; tests make them smaller.
type socketLimits struct {
	ws.Limits
	store     ws.StoreLimits
	frames    int           // that wait for one connection
	bytes     int           // of them
	payload   int           // bytes of a published message
	waiting   int64         // connections without a credential
	reading   int64         // bytes of large messages that arrive at the same time
	tick      time.Duration // between two looks at all connections
	tokens    time.Duration // between two checks of a JWT that has not expired
	farewell  time.Duration // for the client's answer to a close frame
	stalled   time.Duration // for one frame of 64 KiB to be written
	fragments time.Duration // for a message that has begun to arrive
}

var defaultSocketLimits = socketLimits{
	Limits: ws.Limits{
		AuthWithin: 10 * time.Second,
		Heartbeat:  25 * time.Second, // below the 30 s after which the strictest proxies forget an idle connection
		Silence:    60 * time.Second, // two pings without an answer
		Idle:       30 * time.Minute,
		Rate:       50, Burst: 200, // a person sends one in seconds, a program that asks for more can open more connections
		Work: 16, Subscriptions: 64,
		FirstMessage: 16 << 10, // the largest credential is a JWT of a few KiB
		Message:      generateBody,
	},
	store: ws.StoreLimits{
		Alone: 30 * time.Second, // a phone changes its network in some seconds
		Kept:  time.Minute,
		Each:  4 << 20, // 2048 tokens with 20 alternatives each
		All:   64 << 20, Most: 4096,
	},
	frames: 256, bytes: 1 << 20, payload: 64 << 10,
	waiting: 1000, reading: 256 << 20,
	tick:   500 * time.Millisecond, // a revoked credential is found within a second, by the file of keys, and this
	tokens: 30 * time.Second, farewell: time.Second, stalled: 10 * time.Second, fragments: time.Minute,
}

// sockets is the hub of all WebSockets and streams of topics: one goroutine looks at all of them in turn, so that a connection costs
// no timer. Life: newSockets, serve or hold for each connection, leave when they should go, close.
type sockets struct {
	s        *Server
	limits   socketLimits
	broker   *ws.Broker
	store    *ws.Store
	buffers  sync.Pool // of writers
	running  sync.WaitGroup
	reading  atomic.Int64  // bytes of large messages
	departed chan struct{} // closed when leaving is set

	mu      sync.Mutex // guards all below
	all     map[*socket]struct{}
	streams map[*topicListener]struct{}
	held    map[net.Conn]struct{} // of streams
	waiting int64
	leaving bool
	closed  bool
	quit    chan struct{} // closed by close; nil before there is something to watch
	experts [sha256.Size]byte
}

func newSockets(s *Server) *sockets {
	h := &sockets{s: s, limits: defaultSocketLimits, broker: ws.NewBroker(), all: map[*socket]struct{}{}, streams: map[*topicListener]struct{}{}, held: map[net.Conn]struct{}{}, departed: make(chan struct{})}
	h.store = ws.NewStore(h.limits.store)
	r := s.service.metrics
	r.Gauge("pimoe_ws_connections", func() float64 { return float64(h.count()) })
	r.Gauge("pimoe_ws_generations", func() float64 { n, _ := h.store.Len(); return float64(n) })
	r.Gauge("pimoe_ws_generation_bytes", func() float64 { _, n := h.store.Len(); return float64(n) })
	return h
}

// room reports whether one more connection may come. One that has a credential needs no room but its descriptor's. Several may be told
// so at once: enter closes those that find none.
func (h *sockets) room(known bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fits(known)
}

// fits is room for who holds mu.
func (h *sockets) fits(known bool) bool { return known || h.waiting < h.limits.waiting }

func (h *sockets) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.all)
}

// serve makes a connection out of an upgraded one.
func (h *sockets) serve(conn *websocket.Conn, hs *handshake, r *request, known bool) {
	now := time.Now()
	c := &socket{hub: h, conn: conn, client: hs.client, id: r.id, proof: proof{credentials: hs.credentials}}
	c.state = ws.NewState(&h.limits.Limits, now, known, rand.N(h.limits.Heartbeat))
	c.out.MaxFrames, c.out.MaxBytes = h.limits.frames, h.limits.bytes
	if known {
		c.principal = r.principal
		c.proof.checked(r.principal, now)
	}
	if !h.enter(c, known) {
		conn.Close()
		return
	}
	if known {
		c.ready()
	}
	go func() { // enter has counted it
		defer h.running.Done()
		c.read()
	}()
}

// enter adds a connection, and starts looking at them with the first.
func (h *sockets) enter(c *socket, known bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.leaving || !h.fits(known) {
		return false
	}
	h.start()
	h.running.Add(1)
	h.all[c] = struct{}{}
	if !known {
		h.waiting++
	}
	return true
}

// start begins to look at connections and to publish. mu is held.
func (h *sockets) start() {
	if h.quit == nil {
		h.quit = make(chan struct{})
		h.running.Add(1)
		go h.watch(h.quit)
	}
}

// hold runs a stream of events on a goroutine that close waits for, and ends its connection; false where no more may come.
func (h *sockets) hold(conn net.Conn, run func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.leaving {
		return false
	}
	h.start()
	h.running.Add(1)
	h.held[conn] = struct{}{}
	go func() {
		defer h.running.Done()
		defer h.release(conn)
		run()
	}()
	return true
}

func (h *sockets) release(conn net.Conn) {
	h.mu.Lock()
	delete(h.held, conn)
	h.mu.Unlock()
	conn.Close()
}

// listen has a stream looked at until deaf.
func (h *sockets) listen(l *topicListener) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.leaving {
		return errStopping
	}
	h.start()
	h.streams[l] = struct{}{}
	return nil
}

func (h *sockets) deaf(l *topicListener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.streams, l)
}

// left forgets a connection.
func (h *sockets) left(c *socket, known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.all, c)
	if !known {
		h.waiting--
	}
}

// knows notes that a connection has shown its credential.
func (h *sockets) knows() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting--
}

func (h *sockets) list() []*socket {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]*socket, 0, len(h.all))
	for c := range h.all {
		out = append(out, c)
	}
	return out
}

// watched is a connection as its clock sees it: a WebSocket or a stream of events.
type watched interface {
	tick(now time.Time)
	proved() (p proof, who access.Principal, known bool)
	prove(who access.Principal, now time.Time)
	end(how ws.Close)
	name() string // of the request that it came with
}

// atOnce is how many connections are looked at in one go. What a look starts, such as a ping, competes with the steps of the model
// for the processors, so the looks at a crowd are spread over the tick. Those at fewer take less than a millisecond.
const atOnce = 200

// watch is the clock of all connections: it looks at each once a tick.
func (h *sockets) watch(quit chan struct{}) {
	defer h.running.Done()
	var left []watched // of the round
	rounds, parts := 0, 1
	timer := time.NewTimer(h.limits.tick)
	defer timer.Stop()
	for {
		select {
		case <-quit:
			return
		case <-timer.C:
		}
		now := time.Now()
		if len(left) == 0 {
			left = h.everybody()
			parts = max((len(left)+atOnce-1)/atOnce, 1)
			h.store.Sweep(now)
			if rounds%max(1, int(time.Second/h.limits.tick)) == 0 {
				h.publishSystem()
			}
			rounds++
		}
		n := min(atOnce, len(left))
		h.lookAt(left[:n], now)
		left = left[n:]
		timer.Reset(h.limits.tick / time.Duration(parts))
	}
}

// lookAt looks at some connections.
func (h *sockets) lookAt(some []watched, now time.Time) {
	verdicts := map[string]verdict{}
	for _, c := range some {
		c.tick(now)
		h.recheck(c, now, verdicts)
	}
}

// everybody is all WebSockets and streams of events.
func (h *sockets) everybody() []watched {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]watched, 0, len(h.all)+len(h.streams))
	for c := range h.all {
		out = append(out, c)
	}
	for l := range h.streams {
		out = append(out, l)
	}
	return out
}

// proof is by what a connection has shown who it is.
type proof struct {
	credentials access.Credentials
	last        time.Time // when it was checked
	used        bool      // since then the client has sent something
	kind        access.Kind
}

func (p *proof) checked(who access.Principal, now time.Time) {
	p.last, p.kind, p.used = now, who.Kind, false
}

// due reports whether the credential has to be checked again. Keys and sessions can end at any time. Of a JWT, a check of
// which costs a signature, the end is known; what else may change is its issuer's key.
func (p *proof) due(now time.Time, tokens time.Duration) bool {
	if p.kind != access.Token {
		return true
	}
	_, credential, _ := strings.Cut(p.credentials.Authorization[0], " ")
	end, ok := access.Expiry(credential)
	return now.Sub(p.last) >= tokens || ok && now.After(end)
}

// verdict is what a check has found, for all connections with the same credential.
type verdict struct {
	who access.Principal
	err error
}

// recheck ends a connection whose credential is no longer good or has other rights than before.
func (h *sockets) recheck(c watched, now time.Time, verdicts map[string]verdict) {
	p, before, known := c.proved()
	if !known || !p.due(now, h.limits.tokens) {
		return
	}
	key := p.credentials.Cookie
	if len(p.credentials.Authorization) > 0 {
		key = "bearer " + p.credentials.Authorization[0]
	}
	v, ok := verdicts[key]
	if !ok || p.used { // a session lasts as long as it is used
		ctx, cancel := context.WithTimeout(h.s.base, h.limits.tick)
		cr := p.credentials
		cr.Look = !p.used
		v.who, v.err = h.s.principalOf(ctx, cr, false)
		cancel()
		verdicts[key] = v
	}
	switch {
	case v.err == nil && !same(v.who, before):
		c.end(ws.Forbidden) // topics were subscribed to with other rights
	case v.err == nil:
		c.prove(v.who, now)
	case errors.Is(v.err, access.ErrUnknowable): // no verdict
	default:
		h.s.log.Info("connection closed: its credential is no longer good", "request", c.name(), "principal", before.ID, "error", v.err.Error())
		c.end(ws.Unauthorised)
	}
}

func same(a, b access.Principal) bool {
	return a.ID == b.ID && a.Kind == b.Kind && a.Tenant == b.Tenant && a.Role == b.Role && slices.Equal(a.Scopes, b.Scopes)
}

// leave sends everybody away: who has nothing under way at once, the others when it ends.
func (h *sockets) leave() {
	h.mu.Lock()
	if !h.leaving {
		close(h.departed)
	}
	h.leaving = true
	h.mu.Unlock()
	for _, c := range h.list() {
		c.leave()
	}
}

// close ends all connections and waits for everything that was started for them. What is under way must have been
// cancelled.
func (h *sockets) close() {
	h.leave()
	h.mu.Lock()
	first := !h.closed
	h.closed = true
	if first && h.quit != nil {
		close(h.quit)
	}
	h.mu.Unlock()
	for _, c := range h.list() {
		c.end(ws.GoingAway)
	}
	late := time.AfterFunc(h.s.limits.lastWords, func() {
		for _, c := range h.list() {
			c.cutOff(ws.GoingAway)
		}
		h.cutHeld()
	})
	defer late.Stop()
	h.running.Wait()
}

// cutHeld ends streams that can't be written to.
func (h *sockets) cutHeld() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for conn := range h.held {
		_ = conn.SetDeadline(time.Unix(1, 0)) // fails only on a closed connection
	}
}

// hasRoom books the bytes of a large message that arrives; done gives them back.
func (h *sockets) hasRoom(n int64) (done func(), ok bool) {
	if h.reading.Add(n) > h.limits.reading {
		h.reading.Add(-n)
		return nil, false
	}
	return func() { h.reading.Add(-n) }, true
}

// faultOfSocket names the refusals of package ws.
func faultOfSocket(err error) *fault {
	for _, r := range []struct {
		err    error
		status int
		code   string
	}{
		{ws.ErrNotYet, http.StatusUnauthorized, "missing_api_key"},
		{ws.ErrHasAuth, http.StatusConflict, "already_authenticated"},
		{ws.ErrTwice, http.StatusConflict, "duplicate_id"},
		{ws.ErrTooMuch, http.StatusTooManyRequests, "too_many_requests"},
		{ws.ErrTopics, http.StatusTooManyRequests, "too_many_topics"},
		{ws.ErrNoTopic, http.StatusNotFound, "not_subscribed"},
		{ws.ErrIsTopic, http.StatusConflict, "already_subscribed"},
		{ws.ErrNoAnswer, http.StatusNotFound, "unknown_id"},
		{ws.ErrGone, http.StatusNotFound, "generation_gone"},
		{ws.ErrSlow, http.StatusInsufficientStorage, "answer_not_read"},
		{ws.ErrAlone, statusGone, "abandoned"},
	} {
		if errors.Is(err, r.err) {
			return &fault{status: r.status, code: r.code, message: r.err.Error(), retry: r.status == http.StatusTooManyRequests}
		}
	}
	return nil
}
