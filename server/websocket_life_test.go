package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fasthttp/websocket"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/sdk/tensor"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/ws"
)

func newLines(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	return s
}

// Hidden states over JSON and over binary frames give what the route gives.
func TestSocketProcesses(t *testing.T) {
	r := serve(t, nil, nil)
	inst := openShared(t)
	p := r.open()
	x := hiddenStates(3, inst.Model.Hidden)
	body := `{"input_tensor":` + nested(x, 1) + `}`
	want := r.ok(processPath, body)
	p.say(`{"type":"process","id":"j","data":%s}`, body)
	m := p.next()
	if m.Type != "response" || m.ID != "j" || fmt.Sprint(m.at("output")) != fmt.Sprint(want["output"]) {
		t.Errorf("JSON: %.300s", m.raw)
	}
	var raw []byte
	for i := range x.Rows {
		for _, f := range x.Row(i) {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(f))
		}
	}
	head := fmt.Sprintf(`{"type":"process","id":"b","data":{"shape":[1,3,%d]}}`, inst.Model.Hidden)
	if err := p.WriteMessage(websocket.BinaryMessage, ws.Join([]byte(head), raw)); err != nil {
		t.Fatal(err)
	}
	m = p.next()
	if m.Type != "response" || m.ID != "b" || len(m.bytes) != len(raw) || m.at("shape", 1) != 3.0 || m.at("status") != "exact" {
		t.Fatalf("binary: %.300s", m.raw)
	}
	for i, v := range at(t, want, "output", 0, 1).([]any) {
		at := (inst.Model.Hidden + i) * 4
		if got := math.Float32frombits(binary.LittleEndian.Uint32(m.bytes[at:])); float64(got) != float64(float32(v.(float64))) {
			t.Fatalf("position 1, column %d: %v over binary, %v over HTTP", i, got, v)
		}
	}
	for _, bad := range []string{`{"type":"process","id":"e"}`, `{"type":"process","id":"e","data":{"text":5}}`, `{"type":"process","id":"e","data":{"text":"a"},"accept":"half"}`, `{"type":"process","id":"e","data":{"text":"a"},"timeout":"never"}`} {
		p.say("%s", bad)
		if m := p.next(); m.Type != "error" || m.ID != "e" || m.at("code") == "" {
			t.Errorf("%s: %s", bad, m.raw)
		}
	}
	if err := p.WriteMessage(websocket.BinaryMessage, ws.Join([]byte(`{"type":"process","id":"b2","data":{"shape":[1,3,1]}}`), raw)); err != nil {
		t.Fatal(err)
	}
	if m := p.next(); m.Type != "error" || m.ID != "b2" {
		t.Errorf("a wrong shape: %s", m.raw)
	}
}

// A request that is cancelled, or that nobody can get any more, frees its slot.
func TestSocketCancels(t *testing.T) {
	f := &fakeEngine{script: hangs(2), hidden: func(x tensor.Matrix) (tensor.Matrix, error) { return x, nil }}
	r := serve(t, fakeService(f), func(s *Server) { s.sockets.limits.Work = 2 })
	p := r.open()
	generate := `{"type":"generate","id":%q,"data":{"model":"fake","prompt":"abc","max_tokens":50}%s}`
	p.say(generate, "a", "")
	p.say(generate, "a", "")
	p.say(generate, "b", `,"timeout":"200ms"`)
	p.say(generate, "c", "")
	codes := map[string]any{}
	for len(codes) < 2 { // the second "a", and "c", which is one too many
		if m := p.next(); m.Type == "error" {
			codes[fmt.Sprint(m.ID, " ", m.at("code"))] = true
		}
	}
	if codes["a duplicate_id"] == nil || codes["c too_many_requests"] == nil {
		t.Errorf("%v", codes)
	}
	p.say(`{"type":"cancel","id":"a"}`)
	p.say(`{"type":"cancel","id":"z"}`)
	codes = map[string]any{}
	for len(codes) < 3 {
		if m := p.next(); m.Type == "error" {
			codes[fmt.Sprint(m.ID, " ", m.at("code"))] = true
		}
	}
	for _, want := range []string{"a cancelled", "b deadline_exceeded", "z unknown_id"} {
		if codes[want] == nil {
			t.Errorf("no %s in %v", want, codes)
		}
	}
	eventually(t, 2*time.Second, "the slots are free", func() bool { return f.slots.Load() == 0 })

	p.say(generate, "d", `,"resumable":false`)
	eventually(t, 5*time.Second, "it runs", func() bool { return f.slots.Load() == 1 })
	p.NetConn().Close()
	eventually(t, 2*time.Second, "a lost connection frees what can't be resumed", func() bool { return f.slots.Load() == 0 })
	p = r.open()
	p.say(generate, "e", "")
	eventually(t, 5*time.Second, "it runs", func() bool { return f.slots.Load() == 1 })
	if err := p.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1000, "")); err != nil {
		t.Fatal(err)
	}
	p.ends(1000)
	eventually(t, 2*time.Second, "a goodbye frees everything", func() bool { return f.slots.Load() == 0 })
}

// Time: pings are sent, who does not answer is ended, who does nothing is, too, and a client's pings are answered.
func TestHeartbeats(t *testing.T) {
	r := serve(t, fakeService(&fakeEngine{}), func(s *Server) {
		quick(s)
		s.sockets.limits.Heartbeat, s.sockets.limits.Silence, s.sockets.limits.Idle = 50*time.Millisecond, 400*time.Millisecond, 1500*time.Millisecond
	})
	p := r.open()
	pings, ping := 0, p.PingHandler()
	p.SetPingHandler(func(data string) error { pings++; return ping(data) })
	ponged := make(chan string, 1)
	p.SetPongHandler(func(data string) error { ponged <- data; return nil })
	if err := p.WriteControl(websocket.PingMessage, []byte("hello"), time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	p.ends(4408) // idle: it answers pings all the time
	if took := time.Since(began); took < time.Second || pings < 10 {
		t.Errorf("ended after %v and %d pings", took, pings)
	}
	if got := <-ponged; got != "hello" {
		t.Errorf("pong %q", got)
	}
	p = r.open()
	p.SetPingHandler(func(string) error { return nil })
	began = time.Now()
	p.ends(4408)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("silent for %v", took)
	}
}

// What is no text, too large, or breaks the protocol ends the connection with the code for it.
func TestBrokenFrames(t *testing.T) {
	r := serve(t, fakeService(&fakeEngine{}), func(s *Server) { s.sockets.limits.Message = 1000 })
	for name, c := range map[string]struct {
		kind  int
		frame []byte
		code  int
	}{
		"no UTF-8":  {websocket.TextMessage, []byte("\xff\xfe"), 1007},
		"too large": {websocket.TextMessage, bytes.Repeat([]byte(" "), 1001), 1009},
	} {
		p := r.open()
		if err := p.WriteMessage(c.kind, c.frame); err != nil {
			t.Fatal(err)
		}
		t.Log(name)
		p.ends(c.code)
	}
	p := r.open()
	if _, err := p.NetConn().Write([]byte{0x81, 0x02, 'h', 'i'}); err != nil { // not masked
		t.Fatal(err)
	}
	p.ends(1002)
	p = r.open()
	if err := p.WriteMessage(websocket.BinaryMessage, []byte{1}); err != nil {
		t.Fatal(err)
	}
	if m := p.next(); m.Type != "error" {
		t.Errorf("%s", m.raw)
	}
	p.say(`{"type":"pong"}`)
	p.say(`{"type":"ping"}`)
	if m := p.next(); m.Type != "pong" {
		t.Errorf("%s", m.raw)
	}
}

// Who does not read is cut off, and holds up nobody: neither those who publish nor the engine.
func TestSlowReaders(t *testing.T) {
	flood := &fakeEngine{script: hangs(1 << 30)}
	r := serve(t, fakeService(flood), func(s *Server) {
		quick(s)
		s.sockets.limits.frames, s.sockets.limits.stalled = 8, 300*time.Millisecond
		s.sockets.store = ws.NewStore(ws.StoreLimits{Alone: 100 * time.Millisecond, Kept: time.Second, Each: 1 << 20, All: 4 << 20, Most: 10})
	})
	deaf := r.open()
	_ = deaf.NetConn().(*net.TCPConn).SetReadBuffer(4096)
	deaf.say(`{"type":"subscribe","id":"s","data":{"topic":"a"}}`)
	greedy := r.open()
	_ = greedy.NetConn().(*net.TCPConn).SetReadBuffer(4096)
	greedy.say(`{"type":"generate","id":"g","data":{"model":"fake","prompt":"abc"}}`)
	eventually(t, 5*time.Second, "it runs", func() bool { return flood.slots.Load() == 1 })
	loud := r.open()
	payload := strings.Repeat("x", 60<<10)
	receivers := 1.0
	for n := 0; receivers > 0 && n < 1000; n++ {
		loud.say(`{"type":"publish","id":"p","data":{"topic":"a","payload":%q}}`, payload)
		m := loud.next()
		if m.Type != "published" {
			t.Fatalf("%s", m.raw)
		}
		receivers = m.at("receivers").(float64)
	}
	if receivers > 0 {
		t.Error("who does not read is still there")
	}
	eventually(t, 10*time.Second, "an answer that nobody reads ends", func() bool { return flood.slots.Load() == 0 })
	eventually(t, 10*time.Second, "both are gone", func() bool { return r.sockets.count() == 1 })
}

// alphabet is a script that writes the alphabet over and over, each token when the test lets it.
func alphabet(n int, pace <-chan struct{}) func(context.Context, int) (engine.Token, error) {
	next := paced(n, pace)
	return func(ctx context.Context, i int) (engine.Token, error) {
		t, err := next(ctx, i)
		t.Text = string(rune('a' + i%26))
		return t, err
	}
}

// However often and wherever the connection dies, the client that resumes has exactly the messages of one that was never
// interrupted; the text is that of the same request over HTTP.
func TestResumption(t *testing.T) {
	r := serve(t, nil, func(s *Server) { s.sockets.limits.Rate = 1e6 })
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 3))
		body := fmt.Sprintf(`{"model":"pimoe-tiny","prompt":"Once upon a time","max_tokens":60,"ignore_eos":true,"seed":%d,"logprobs":1}`, seed)
		want := at(t, r.ok("/v1/completions", body), "choices", 0, "text").(string)
		p := r.open()
		p.say(`{"type":"generate","id":"a","data":%s}`, body)
		generation := ""
		var text string
		var raws []string
		last, kills, left := 0, 0, rng.IntN(12)
		for ended := false; !ended; {
			m, err := p.hear()
			if err == nil && m.Type == "accepted" {
				generation = m.at("generation").(string)
			}
			if err == nil && m.Event > 0 {
				if m.Event != last+1 {
					t.Fatalf("seed %d: event %d behind %d", seed, m.Event, last)
				}
				last = m.Event
				text += pieceOf(m)
				raws = append(raws, m.raw)
				ended = m.Type == eventDone
			}
			if err == nil && (m.Type == eventError || generation == "") {
				t.Fatalf("seed %d: %s", seed, m.raw)
			}
			if left--; err != nil || left < 0 && !ended {
				kills++
				kill(p, rng.IntN(3))
				p = r.open()
				p.say(`{"type":"resume","id":"a","data":{"generation":%q,"last_event":%d}}`, generation, last)
				left = 1 + rng.IntN(12)
			}
		}
		if text != want || kills == 0 {
			t.Errorf("seed %d, %d kills: %q, want %q", seed, kills, text, want)
		}
		p.say(`{"type":"resume","id":"a","data":{"generation":%q,"last_event":0}}`, generation)
		if m := p.next(); m.Type != "resumed" {
			t.Fatalf("%s", m.raw)
		}
		for i := range raws {
			if m := p.next(); m.raw != raws[i] {
				t.Fatalf("seed %d: event %d was %s, is %s", seed, i+1, raws[i], m.raw)
			}
		}
		kill(p, 0)
	}
}

// kill ends a connection as a network or a program does.
func kill(p *peer, how int) {
	c := p.NetConn().(*net.TCPConn)
	switch how {
	case 1:
		_ = c.SetLinger(0) // a reset
	case 2:
		_, _ = c.Write([]byte{0x81, 0xfe, 0x01}) // half a frame
	}
	c.Close()
}

// Nobody else can resume a generation, and it ends when nobody does.
func TestResumptionIsForItsOwner(t *testing.T) {
	g := newGate(t)
	pace := make(chan struct{}, 100)
	f := &fakeEngine{script: alphabet(10, pace)}
	_, mine := g.key(t, access.User)
	_, other := g.key(t, access.User)
	r := serveConfig(t, fakeService(f), g.cfg, func(s *Server) {
		quick(s)
		s.sockets.store = ws.NewStore(ws.StoreLimits{Alone: 500 * time.Millisecond, Kept: 500 * time.Millisecond, Each: 1 << 20, All: 1 << 20, Most: 10})
	})
	p := r.open("Authorization", "Bearer "+mine)
	p.say(`{"type":"generate","id":"a","data":{"model":"fake","prompt":"abc","max_tokens":10}}`)
	m := p.next()
	generation := m.at("generation")
	if m.Type != "accepted" || generation == "" {
		t.Fatalf("%s", m.raw)
	}
	pace <- struct{}{}
	if m := p.next(); m.Event != 1 {
		t.Fatalf("%s", m.raw)
	}
	thief := r.open("Authorization", "Bearer "+other)
	thief.say(`{"type":"resume","id":"t","data":{"generation":%q}}`, generation)
	if m := thief.next(); m.at("code") != "generation_gone" {
		t.Errorf("another principal: %s", m.raw)
	}
	heir := r.open("Authorization", "Bearer "+mine)
	heir.say(`{"type":"resume","id":"h","data":{"generation":%q,"last_event":1}}`, generation)
	if m := heir.next(); m.Type != "resumed" {
		t.Errorf("the owner: %s", m.raw)
	}
	if m := p.next(); m.Type != "error" || m.at("code") != "resumed_elsewhere" {
		t.Errorf("the first connection: %s", m.raw)
	}
	p.say(`{"type":"cancel","id":"a"}`)
	if m := p.next(); m.at("code") != "unknown_id" {
		t.Errorf("the first connection cancels: %s", m.raw)
	}
	pace <- struct{}{}
	if m := heir.next(); m.Event != 2 || pieceOf(m) != "b" || m.ID != "h" {
		t.Errorf("%s", m.raw)
	}
	kill(heir, 0)
	eventually(t, 5*time.Second, "nobody resumes it, so it ends", func() bool { return f.slots.Load() == 0 })
	eventually(t, 5*time.Second, "it is forgotten", func() bool { n, bytes := r.sockets.store.Len(); return n == 0 && bytes == 0 })
	p.say(`{"type":"resume","id":"r","data":{"generation":%q,"last_event":1}}`, generation)
	if m := p.next(); m.at("code") != "generation_gone" {
		t.Errorf("behind its end: %s", m.raw)
	}
}

// A server that does not know a generation computes the rest of it from the request and the seed.
func TestResumptionElsewhere(t *testing.T) {
	first, second := serve(t, nil, nil), serve(t, nil, nil)
	body := `{"model":"pimoe-tiny","prompt":"Once upon a time","max_tokens":20,"ignore_eos":true,"temperature":1`
	p := first.open()
	p.say(`{"type":"generate","id":"a","data":%s}}`, body)
	whole, events := p.answer("a")
	seed, generation, digest := int64(events[0].at("seed").(float64)), events[0].at("generation"), events[0].at("model_digest")
	seen := ""
	for _, e := range events[1:8] {
		seen += pieceOf(e)
	}
	q := second.open()
	request := fmt.Sprintf(`%s,"seed":%d}`, body, seed)
	q.say(`{"type":"resume","id":"r","data":{"generation":%q,"last_event":7,"model_digest":%q,"request":%s}}`, generation, digest, request)
	rest, more := q.answer("r")
	if seen+rest != whole || more[1].Event != 8 {
		t.Errorf("%q + %q, want %q; first event %s", seen, rest, whole, more[1].raw)
	}
	for name, data := range map[string]string{
		"generation_gone":            `{"generation":"x","last_event":7}`,
		"model_changed":              `{"generation":"x","last_event":7,"model_digest":"sha256:0","request":` + request + `}`,
		"missing_required_parameter": `{"generation":"x","last_event":7,"request":` + body + `}}`,
		"invalid_value":              `{"generation":"x","last_event":7,"request":` + body + `,"seed":1,"n":2}}`,
	} {
		q.say(`{"type":"resume","id":"e","data":%s}`, data) // whose id is free with its error
		if m := q.next(); m.at("code") != name {
			t.Errorf("want %s: %s", name, m.raw)
		}
	}
}

// A server that stops lets answers end, refuses new work, and says goodbye with 1001; so does one that is taken over.
func TestSocketsLeave(t *testing.T) {
	for name, begin := range map[string]func(r *running){
		"stop":  func(r *running) { go r.stop() },
		"leave": func(r *running) { r.Leave() },
	} {
		t.Run(name, func(t *testing.T) {
			pace := make(chan struct{}, 100)
			f := &fakeEngine{script: alphabet(3, pace)}
			r := serve(t, fakeService(f), func(s *Server) { s.limits.linger = 0 })
			idle, busy := r.open(), r.open()
			busy.say(`{"type":"generate","id":"a","data":{"model":"fake","prompt":"abc","max_tokens":3}}`)
			busy.next()
			pace <- struct{}{}
			busy.next()
			begin(r)
			idle.ends(1001)
			if m := busy.next(); m.Type != "draining" {
				t.Errorf("%s", m.raw)
			}
			for range 2 {
				pace <- struct{}{}
			}
			text, events := busy.answer("a")
			if text != "bc" || events[len(events)-1].Type != eventDone {
				t.Errorf("the rest is %q, %v", text, events)
			}
			busy.ends(1001)
			if err := r.stop(); err != nil {
				t.Error(err)
			}
			if f.slots.Load() != 0 {
				t.Error("a slot is taken")
			}
		})
	}
}

// What does not end in time is ended with an error that the client sees, then 1001.
func TestSocketsLeaveInTime(t *testing.T) {
	f := &fakeEngine{script: hangs(1)}
	cfg := testConfig("")
	cfg.Server.DrainTimeout = 200 * time.Millisecond
	r := serveConfig(t, fakeService(f), cfg, func(s *Server) { s.limits.linger = 0 })
	p := r.open()
	p.say(`{"type":"generate","id":"a","data":{"model":"fake","prompt":"abc"}}`)
	eventually(t, 5*time.Second, "it runs", func() bool { return f.slots.Load() == 1 })
	go r.stop()
	_, events := p.answer("a")
	if last := events[len(events)-1]; last.Type != eventError || last.at("code") != "shutting_down" {
		t.Errorf("%s", last.raw)
	}
	p.ends(1001)
	if err := r.stop(); err != nil {
		t.Error(err)
	}
}

// Clients that die at any moment leave nothing: no slot, no connection, no goroutine (TestMain), no memory of them.
func TestRandomAborts(t *testing.T) {
	f := &fakeEngine{script: hangs(20), hidden: func(x tensor.Matrix) (tensor.Matrix, error) { return x, nil }}
	r := serve(t, fakeService(f), func(s *Server) {
		quick(s)
		s.sockets.limits.AuthWithin = time.Minute
		s.sockets.store = ws.NewStore(ws.StoreLimits{Alone: 50 * time.Millisecond, Kept: 50 * time.Millisecond, Each: 1 << 20, All: 8 << 20, Most: 10000})
	})
	messages := []string{
		`{"type":"generate","id":"a","data":{"model":"fake","prompt":"abc"}}`, `{"type":"process","id":"b","data":{"input_tensor":[[[1,2]]]}}`,
		`{"type":"subscribe","id":"c","data":{"topic":"x"}}`, `{"type":"publish","id":"d","data":{"topic":"x","payload":1}}`, `{"type":"cancel","id":"a"}`,
		`{"type":"generate","id":"e","data":{"model":"fake","prompt":"abc"},"resumable":false}`, `{"type":"ping"}`, `nonsense`,
	}
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(n), 4))
			for range 60 {
				c, _, err := shake(r)
				if err != nil {
					t.Error(err)
					return
				}
				p := &peer{t, c}
				for range rng.IntN(6) {
					if rng.IntN(3) == 0 {
						_, _ = p.hear()
					}
					_ = c.WriteMessage(websocket.TextMessage, []byte(messages[rng.IntN(len(messages))]))
				}
				kill(p, rng.IntN(3))
			}
		})
	}
	all.Wait()
	eventually(t, 20*time.Second, "nothing is left", func() bool {
		n, bytes := r.sockets.store.Len()
		return r.sockets.count() == 0 && f.slots.Load() == 0 && r.Server.running.count() == 0 && n == 0 && bytes == 0 && !r.sockets.broker.Heard(ws.KeyOf(access.DefaultTenant, "x"))
	})
}

// A panic while a message or an answer is worked on ends that one alone.
func TestPanicEndsOneMessage(t *testing.T) {
	f := &fakeEngine{script: func(context.Context, int) (engine.Token, error) { panic("on purpose") }, hidden: func(tensor.Matrix) (tensor.Matrix, error) { panic("on purpose") }}
	svc := fakeService(f)
	svc.experts = func() any { panic("on purpose") }
	r := serve(t, svc, func(s *Server) { s.sockets.limits.tick = time.Hour }) // nor is system.experts published
	p := r.open()
	for _, m := range []string{
		`{"type":"generate","id":"a","data":{"model":"fake","prompt":"abc"}}`, `{"type":"process","id":"a","data":{"input_tensor":[[[1,2]]]}}`,
		`{"type":"subscribe","id":"a","data":{"topic":"system.experts"}}`,
	} {
		p.say("%s", m)
		for {
			g := p.next()
			if g.Type != "error" {
				continue
			}
			if g.at("code") != "internal_error" || strings.Contains(g.raw, "purpose") {
				t.Errorf("%s: %s", m, g.raw)
			}
			break
		}
	}
	p.say(`{"type":"ping","id":"p"}`)
	if m := p.next(); m.Type != "pong" {
		t.Errorf("%s", m.raw)
	}
}

// FuzzSocket sends any bytes behind a handshake: the connection ends or goes on, and the server is whole.
func FuzzSocket(f *testing.F) {
	frame := func(head byte, payload string) []byte {
		out := []byte{head, 0x80 | byte(len(payload)), 0, 0, 0, 0} // masked with zeros
		return append(out, payload...)
	}
	f.Add(frame(0x81, `{"type":"ping","id":"a"}`))
	f.Add(append(frame(0x01, `{"type":`), frame(0x80, `"ping"}`)...))
	f.Add(frame(0x82, string(ws.Join([]byte(`{"type":"process","id":"a"}`), []byte("x")))))
	f.Add(frame(0x89, "ping"))
	f.Add(frame(0x88, "\x03\xe8"))
	f.Add([]byte{0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	fake := &fakeEngine{script: hangs(1), hidden: func(x tensor.Matrix) (tensor.Matrix, error) { return x, nil }}
	r := serve(f, fakeService(fake), func(s *Server) {
		s.sockets.limits.Rate, s.sockets.limits.farewell = 1e9, time.Millisecond
		s.sockets.store = ws.NewStore(ws.StoreLimits{Alone: time.Millisecond, Kept: time.Millisecond, Each: 1 << 20, All: 8 << 20, Most: 10000})
	})
	f.Fuzz(func(t *testing.T, bytes []byte) {
		c, _, err := shake(r)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		nc := c.NetConn()
		_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := nc.Write(bytes); err != nil {
			return
		}
		_ = nc.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, nc); err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Fatal("the connection does not end")
			}
		}
	})
}
