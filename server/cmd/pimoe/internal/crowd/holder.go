package crowd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fasthttp/websocket"
	"golang.org/x/sync/errgroup"

	"github.com/pimoe/pimoe/sdk"
)

const (
	// patience bounds everything that one connection waits for.
	patience = time.Minute
	// opening is how many connections are opened at the same time.
	opening = 32
	// perAddress is how many connections come from one address: the ports of one are some 28,000, less those that others use.
	perAddress = 5000
	// mostAddresses is how many addresses of this machine are used: 127.0.0.1 and on.
	mostAddresses = 100
	// quiet is what every client hears more often than: pings and comments come every 25 s.
	quiet = 40 * time.Second
)

// holder is the crowd.
type holder struct {
	Options
	client  *http.Client
	readers sync.WaitGroup
	opened  atomic.Int64

	mu   sync.Mutex // guards held
	held []*member
}

// member is one connection that is held.
type member struct {
	close func()
	ws    *websocket.Conn // nil = a stream

	mu     sync.Mutex // guards all below
	heard  time.Time
	beats  int
	err    error      // it has ended
	answer chan error // of the generation under way; nil = none
}

func newHolder(o Options) *holder {
	h := &holder{Options: o}
	h.client = &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	return h
}

// dialer connects from one address after the other.
func (h *holder) dialer() *net.Dialer {
	n := h.opened.Add(1)
	return &net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+n/perAddress%mostAddresses))}}
}

var pool sync.Pool

// dialSocket opens a WebSocket and reads the message that says that it is ready.
func (o Options) dialSocket(ctx context.Context, d *net.Dialer, receive int) (*websocket.Conn, error) {
	dialer := websocket.Dialer{
		HandshakeTimeout: patience, ReadBufferSize: 512, WriteBufferSize: 512, WriteBufferPool: &pool, Subprotocols: []string{"pimoe.v1"},
		NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := d.DialContext(ctx, network, addr)
			if tcp, ok := c.(*net.TCPConn); ok && receive > 0 {
				err = tcp.SetReadBuffer(receive)
			}
			return c, err
		},
	}
	ws, _, err := dialer.DialContext(ctx, "ws"+strings.TrimPrefix(o.URL, "http")+"/ws", nil)
	if err != nil {
		return nil, fmt.Errorf("open a WebSocket: %w", err)
	}
	_ = ws.SetReadDeadline(time.Now().Add(patience))
	if _, b, err := ws.ReadMessage(); err != nil || !strings.Contains(string(b), `"ready"`) {
		return nil, errors.Join(fmt.Errorf("first message %.100q: %w", b, sdk.ErrInvalidOutput), err, ws.Close())
	}
	_ = ws.SetReadDeadline(time.Time{})
	return ws, nil
}

// sockets opens WebSockets.
func (h *holder) sockets(ctx context.Context, n int) error {
	return h.open(n, func() (*member, func(*member), error) {
		ws, err := h.dialSocket(ctx, h.dialer(), 0)
		if err != nil {
			return nil, nil, err
		}
		m := &member{ws: ws, close: func() { ws.Close() }, heard: time.Now()}
		ping := ws.PingHandler()
		ws.SetPingHandler(func(data string) error { m.beat(); return ping(data) })
		return m, (*member).readSocket, nil
	})
}

// streams opens event streams on a topic to which nobody publishes.
func (h *holder) streams(ctx context.Context, n int) error {
	return h.open(n, func() (*member, func(*member), error) {
		t := &http.Transport{DialContext: h.dialer().DialContext, DisableCompression: true, ReadBufferSize: 512, WriteBufferSize: 512}
		ctx, cancel := context.WithCancel(ctx)
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL+"/api/v1/events?topic=crowd", nil)
		if err != nil {
			cancel()
			return nil, nil, err
		}
		resp, err := t.RoundTrip(r)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = errors.Join(fmt.Errorf("open a stream: status %s: %w", resp.Status, sdk.ErrUnavailable), resp.Body.Close())
		}
		if err != nil {
			cancel()
			return nil, nil, err
		}
		m := &member{close: cancel, heard: time.Now()}
		return m, func(m *member) {
			defer resp.Body.Close()
			m.readStream(resp.Body)
		}, nil
	})
}

// open opens n members and begins to read them.
func (h *holder) open(n int, one func() (*member, func(*member), error)) error {
	var g errgroup.Group
	g.SetLimit(opening)
	for range n {
		g.Go(func() error {
			m, read, err := one()
			if err != nil {
				return err
			}
			h.mu.Lock()
			h.held = append(h.held, m)
			h.mu.Unlock()
			h.readers.Go(func() { read(m) })
			return nil
		})
	}
	return g.Wait()
}

func (m *member) beat() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard = time.Now()
	m.beats++
}

// readSocket reads to the end; what a generation says goes to whoever has asked for it.
func (m *member) readSocket() {
	for {
		_, b, err := m.ws.ReadMessage()
		if err != nil {
			m.ended(err)
			return
		}
		var head struct{ Type string }
		if json.Unmarshal(b, &head) != nil || head.Type != "done" && head.Type != "error" {
			continue
		}
		err = nil
		if head.Type == "error" {
			err = fmt.Errorf("%.200s: %w", b, sdk.ErrInvalidOutput)
		}
		m.tell(err)
	}
}

func (m *member) readStream(body io.Reader) {
	r := bufio.NewReaderSize(body, 128)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			m.ended(err)
			return
		}
		if strings.HasPrefix(line, ":") {
			m.beat()
		}
	}
}

func (m *member) ended(err error) {
	m.mu.Lock()
	m.err = err
	m.mu.Unlock()
	m.tell(err)
}

func (m *member) tell(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.answer != nil {
		m.answer <- err // has room for one
		m.answer = nil
	}
}

// request is one request of somebody who is not of the crowd.
func (h *holder) request() error {
	body := fmt.Sprintf(`{"model":%q,"prompt":"Once upon a time","max_tokens":8,"seed":%d}`, h.Model, rand.IntN(1<<30))
	resp, err := h.client.Post(h.URL+"/v1/completions", "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s: %w", resp.Status, sdk.ErrUnavailable)
	}
	return nil
}

// generate asks over one of the WebSockets and waits for the end of the answer.
func (h *holder) generate() error {
	m, answer := h.pick()
	body := fmt.Sprintf(`{"type":"generate","id":"g","data":{"model":%q,"prompt":"The fox","max_tokens":16,"seed":%d}}`, h.Model, rand.IntN(1<<30))
	if err := m.ws.WriteMessage(websocket.TextMessage, []byte(body)); err != nil {
		return err
	}
	select {
	case err := <-answer:
		return err
	case <-time.After(patience):
		return fmt.Errorf("no answer within %v: %w", patience, sdk.ErrDeadline)
	}
}

// pick is a WebSocket that has nothing under way.
func (h *holder) pick() (*member, chan error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	answer := make(chan error, 1)
	for {
		m := h.held[rand.IntN(len(h.held))]
		m.mu.Lock()
		if m.ws != nil && m.answer == nil {
			m.answer = answer
			m.mu.Unlock()
			return m, answer
		}
		m.mu.Unlock()
	}
}

// reset forgets what was heard.
func (h *holder) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.held {
		m.mu.Lock()
		m.beats, m.heard = 0, time.Now()
		m.mu.Unlock()
	}
}

// lost counts who has ended or has heard nothing for too long, and what the others have heard.
func (h *holder) lost(hold time.Duration) (lost, beats int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.held {
		m.mu.Lock()
		if m.err != nil || hold > quiet && m.beats == 0 {
			lost++
		}
		beats += m.beats
		m.mu.Unlock()
	}
	return lost, beats
}

// close ends all and waits for their readers.
func (h *holder) close() {
	h.mu.Lock()
	held := h.held
	h.held = nil
	h.mu.Unlock()
	for _, m := range held {
		m.close()
	}
	h.readers.Wait()
	h.client.CloseIdleConnections()
}
