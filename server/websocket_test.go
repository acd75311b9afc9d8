package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"

	"github.com/pimoe/pimoe/server/ws"
)

// peer is a client of /ws.
type peer struct {
	t testing.TB
	*websocket.Conn
}

// got is a message from the server.
type got struct {
	Type      string          `json:"type"`
	ID        string          `json:"id"`
	RequestID string          `json:"request_id"`
	Event     int             `json:"event"`
	Data      json.RawMessage `json:"data"`
	raw       string
	bytes     []byte // behind the JSON of a binary frame
}

// at is a member of the data.
func (g got) at(path ...any) any {
	var v any
	if err := json.Unmarshal(g.Data, &v); err != nil {
		return err
	}
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

// shake tries to open a WebSocket; headers are pairs.
func shake(r *running, headers ...string) (*websocket.Conn, *http.Response, error) {
	h := http.Header{}
	for i := 0; i+1 < len(headers); i += 2 {
		h.Add(headers[i], headers[i+1])
	}
	d := websocket.Dialer{HandshakeTimeout: 10 * time.Second}
	return d.Dial("ws"+strings.TrimPrefix(r.url, "http")+socketPath, h)
}

// open opens a WebSocket that need not say who it is any more, and reads the first message.
func (r *running) open(headers ...string) *peer {
	r.t.Helper()
	c, resp, err := shake(r, headers...)
	if err != nil {
		status := 0
		if resp != nil {
			status = resp.StatusCode
		}
		r.t.Fatalf("dial: %d %v", status, err)
	}
	r.t.Cleanup(func() { c.Close() })
	p := &peer{r.t, c}
	if g := p.next(); g.Type != "ready" {
		r.t.Fatalf("first message: %s", g.raw)
	}
	return p
}

func (p *peer) say(format string, args ...any) {
	p.t.Helper()
	if err := p.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, format, args...)); err != nil {
		p.t.Fatalf("write: %v", err)
	}
}

// hear is the next message, or how the connection has ended.
func (p *peer) hear() (g got, err error) {
	_ = p.SetReadDeadline(time.Now().Add(20 * time.Second))
	kind, b, err := p.ReadMessage()
	if err != nil {
		return g, err
	}
	g.raw = string(b)
	if kind == websocket.BinaryMessage {
		if b, g.bytes, err = ws.Split(b); err != nil {
			return g, err
		}
	}
	return g, json.Unmarshal(b, &g)
}

func (p *peer) next() got {
	p.t.Helper()
	g, err := p.hear()
	if err != nil {
		p.t.Fatalf("read: %v", err)
	}
	return g
}

// ends requires the connection to end with this code; messages before are passed over.
func (p *peer) ends(code int) {
	p.t.Helper()
	for {
		_, err := p.hear()
		if err == nil {
			continue
		}
		if !websocket.IsCloseError(err, code) {
			p.t.Fatalf("want close %d, got %v", code, err)
		}
		return
	}
}

// answer reads the events of a generation to its last one.
func (p *peer) answer(id string) (text string, events []got) {
	p.t.Helper()
	for {
		g := p.next()
		if g.ID != id {
			continue
		}
		events = append(events, g)
		switch g.Type {
		case eventToken:
			text += pieceOf(g)
		case eventDone, eventError:
			return text, events
		}
	}
}

// pieceOf is the text in an event of either route.
func pieceOf(g got) string {
	if s, ok := g.at("choices", 0, "text").(string); ok {
		return s
	}
	s, _ := g.at("choices", 0, "delta", "content").(string)
	return s
}

// One generation has the same text as over HTTP.
func TestSocketGenerates(t *testing.T) {
	r := serve(t, nil, nil)
	p := r.open()
	body := `{"model":"pimoe-tiny","prompt":"Once upon a time","max_tokens":12,"seed":7}`
	want := at(t, r.ok("/v1/completions", body), "choices", 0, "text").(string)
	p.say(`{"type":"generate","id":"a","data":%s}`, body)
	text, events := p.answer("a")
	if text != want || text == "" {
		t.Errorf("over the WebSocket %q, over HTTP %q", text, want)
	}
	if a := events[0]; a.Type != "accepted" || a.at("generation") == "" || a.at("seed") != 7.0 || a.at("model_digest") != r.service.digest {
		t.Errorf("first: %s", a.raw)
	}
	last := events[len(events)-1]
	if last.Type != eventDone || last.at("usage", "completion_tokens") != 12.0 || last.at("status") != "exact" {
		t.Errorf("last: %s", last.raw)
	}
	for i, e := range events[1:] {
		if e.Event != i+1 {
			t.Errorf("event %d has number %d", i+1, e.Event)
		}
	}
	chat := `{"model":"pimoe-tiny","messages":[{"role":"user","content":"Tell me a story."}],"max_tokens":8,"seed":7}`
	want = at(t, r.ok("/v1/chat/completions", chat), "choices", 0, "message", "content").(string)
	p.say(`{"type":"generate","request_id":"b","data":%s}`, chat)
	text = ""
	for {
		g := p.next()
		if g.RequestID != "b" {
			t.Fatalf("message %s", g.raw)
		}
		if text += pieceOf(g); g.Type == eventDone {
			break
		}
	}
	if text != want {
		t.Errorf("over the WebSocket %q, over HTTP %q", text, want)
	}
}
