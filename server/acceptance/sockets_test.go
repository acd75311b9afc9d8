package acceptance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"

	"github.com/pimoe/pimoe/core/coretest"
)

// TestConnections is the short version of make connections: nothing is lost, nobody's request fails, and an idle
// connection costs what a connection may cost.
func TestConnections(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the server's memory is in /proc")
	}
	cmd := exec.Command(filepath.Join(coretest.Binaries(t), "pimoe"), "bench", "connections", "--sockets", "400", "--streams", "100", "--stalled", "50", "--slow", "60", "--for", "700ms", "-o", "json")
	cmd.Env = append(os.Environ(), "PIMOE_HOME="+home(t))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, &out, &errs)
	}
	var r struct {
		Sockets, Streams, Lost, Heartbeats int
		BytesPerSocket                     int64 `json:"bytes_per_socket"`
		With                               struct{ Requests, Trickle struct{ Count int } }
		GapsStalled                        struct{ Count int }                    `json:"gaps_stalled"`
		SlowWith                           struct{ Requests struct{ Count int } } `json:"slow_with"`
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", &out)
	if r.Sockets != 400 || r.Streams != 100 || r.Lost != 0 || r.With.Requests.Count == 0 || r.With.Trickle.Count == 0 || r.GapsStalled.Count == 0 || r.SlowWith.Requests.Count == 0 {
		t.Errorf("%+v", r)
	}
	if r.BytesPerSocket > 64<<10 { // some 10 KiB; a runtime takes memory in steps, which weigh more with few connections
		t.Errorf("%d bytes a connection", r.BytesPerSocket)
	}
}

// talk opens a WebSocket at a server and passes over its first message.
func (p *program) talk(t *testing.T) *websocket.Conn {
	t.Helper()
	c, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(p.url, "http")+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, _, err := c.ReadMessage(); err != nil {
		t.Fatal(err)
	}
	return c
}

// heard is what a generation's events say: the texts, and what was said of it at its begin.
type heard struct {
	texts    []string // by number of event
	seed     int64
	name     string
	ended    bool // done came
	closed   int  // the code of the connection's end; 0 = it goes on
	draining bool
}

// hear reads until the connection ends or, if enough is above 0, until so many events have come.
func hear(t *testing.T, c *websocket.Conn, enough int) (h heard) {
	t.Helper()
	for !h.ended || enough == 0 {
		_, b, err := c.ReadMessage()
		if closed := (*websocket.CloseError)(nil); errors.As(err, &closed) {
			h.closed = closed.Code
			return h
		}
		if err != nil {
			t.Fatal(err)
		}
		var m struct {
			Type string
			Data struct {
				Generation string
				Seed       int64
				Choices    []struct{ Text string }
			}
		}
		if err := json.Unmarshal(b, &m); err != nil || m.Type == "error" {
			t.Fatalf("%s: %v", b, err)
		}
		switch m.Type {
		case "accepted":
			h.name, h.seed = m.Data.Generation, m.Data.Seed
		case "draining":
			h.draining = true
		case "done":
			h.ended = true
		case "token":
			text := ""
			for _, c := range m.Data.Choices {
				text += c.Text
			}
			if h.texts = append(h.texts, text); len(h.texts) == enough {
				return h
			}
		}
	}
	return h
}

// TestSocketsOverAHandOver: a host that hands over lets an answer end and says goodbye with 1001; the next host goes on with
// an answer that the client has only a part of, also after the first was killed in the middle of it.
func TestSocketsOverAHandOver(t *testing.T) {
	p := launch(t, home(t))
	p.ready(t)
	body := `{"model":"pimoe-tiny","prompt":"Once upon a time","max_tokens":%d,"ignore_eos":true,"temperature":1%s}`
	c := p.talk(t)
	if err := c.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"type":"generate","id":"a","data":`+body+`}`, 900, "")); err != nil {
		t.Fatal(err)
	}
	begin := hear(t, c, 20)
	next := p.successor(t, nil)
	rest := hear(t, c, 0)
	if rest.closed != 1001 || !rest.ended {
		t.Errorf("the first host: closed with %d, ended %v", rest.closed, rest.ended)
	}
	p.ended(t, "it has handed over")
	whole := strings.Join(append(begin.texts, rest.texts...), "")
	if n := len(begin.texts) + len(rest.texts); n < 800 {
		t.Errorf("%d events", n)
	}
	resume := fmt.Sprintf(`{"type":"resume","id":"b","data":{"generation":%q,"last_event":20,"request":`+body+`}}`, begin.name, 900, fmt.Sprintf(`,"seed":%d`, begin.seed))
	goOn := func(p *program, enough int) heard {
		c := p.talk(t)
		if err := c.WriteMessage(websocket.TextMessage, []byte(resume)); err != nil {
			t.Fatal(err)
		}
		return hear(t, c, enough)
	}
	part := goOn(next, 50)
	if got := strings.Join(append(begin.texts, part.texts...), ""); !strings.HasPrefix(whole, got) {
		t.Error("the next host goes on with another text")
	}
	next.cmd.Process.Kill()
	<-next.exited
	last := next.again(t)
	last.ready(t)
	all := goOn(last, 1<<20)
	if got := strings.Join(append(begin.texts, all.texts...), ""); got != whole || !all.ended {
		t.Errorf("behind the kill: %d of %d bytes, ended %v", len(got), len(whole), all.ended)
	}
}
