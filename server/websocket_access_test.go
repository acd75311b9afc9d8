package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fasthttp/websocket"

	"github.com/pimoe/pimoe/sdk/tensor"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/ws"
)

// quick are times that tests can wait for.
func quick(s *Server) {
	l := &s.sockets.limits
	l.tick, l.AuthWithin, l.farewell, l.tokens = 20*time.Millisecond, 2*time.Second, 100*time.Millisecond, time.Hour
}

// Who may open a WebSocket, and what a handshake must look like. A page of another origin gets none, whatever it brings.
func TestHandshakes(t *testing.T) {
	g := newGate(t)
	_, key := g.key(t, access.User)
	g.cfg.Web.Origins = []string{"https://app.example.com"}
	guarded := serveConfig(t, fakeService(&fakeEngine{}), g.cfg, quick)
	cfg := testConfig(t.TempDir())
	cfg.Web.Origins = []string{"https://app.example.com"}
	open := serveConfig(t, fakeService(&fakeEngine{}), cfg, quick)
	own := func(r *running) string { return "http://" + r.Addr() }
	bearer := []string{"Authorization", "Bearer " + key}
	for _, c := range []struct {
		name    string
		r       *running
		headers []string
		status  int
	}{
		{"nobody asks", open, nil, 101},
		{"no origin, a key", guarded, bearer, 101},
		{"no origin, no credential yet", guarded, nil, 101},
		{"a key in a subprotocol", guarded, []string{"Sec-WebSocket-Protocol", "pimoe.v1, pimoe.bearer." + key}, 101},
		{"the protocol alone", open, []string{"Sec-WebSocket-Protocol", "other, pimoe.v1"}, 101},
		{"the server's own page", guarded, append([]string{"Origin", own(guarded)}, bearer...), 101},
		{"the server's own page, nobody asks", open, []string{"Origin", own(open)}, 101},
		{"a listed origin", guarded, append([]string{"Origin", "https://app.example.com"}, bearer...), 101},
		{"a foreign origin, nobody asks", open, []string{"Origin", "https://evil.example"}, 403},
		{"a foreign origin with a key", guarded, append([]string{"Origin", "https://evil.example"}, bearer...), 403},
		{"a foreign origin without a key", guarded, []string{"Origin", "https://evil.example"}, 403},
		{"origin null", open, []string{"Origin", "null"}, 403},
		{"a listed origin's name with another scheme", open, []string{"Origin", "http://app.example.com"}, 403},
		{"a listed origin's name with a port", open, []string{"Origin", "https://app.example.com:444"}, 403},
		{"a name that somebody points at this machine", open, []string{"Origin", "http://evil.example", "Host", "evil.example"}, 403},
		{"a wrong key", guarded, []string{"Authorization", "Bearer pimoe_wrong"}, 401},
		{"a wrong key in a subprotocol", guarded, []string{"Sec-WebSocket-Protocol", "pimoe.v1, pimoe.bearer.pimoe_wrong"}, 401},
		{"two credentials", guarded, append([]string{"Sec-WebSocket-Protocol", "pimoe.v1, pimoe.bearer." + key}, bearer...), 400},
		{"two credentials in subprotocols", guarded, []string{"Sec-WebSocket-Protocol", "pimoe.v1, pimoe.bearer.a, pimoe.bearer.b"}, 400},
		{"another protocol", open, []string{"Sec-WebSocket-Protocol", "graphql-ws"}, 400},
		{"a credential without the protocol", guarded, []string{"Sec-WebSocket-Protocol", "pimoe.bearer." + key}, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, resp, err := shake(c.r, c.headers...)
			if err == nil {
				defer conn.Close()
			}
			if resp == nil || resp.StatusCode != c.status {
				t.Fatalf("%v %v, want status %d", resp, err, c.status)
			}
			if echo := resp.Header.Get("Sec-WebSocket-Protocol"); echo != "" && echo != socketProtocol {
				t.Errorf("the answer has protocol %q", echo)
			}
			for k, v := range resp.Header {
				if strings.Contains(strings.Join(v, " "), key) {
					t.Errorf("%s has the key", k)
				}
			}
		})
	}
	good := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}
	with := func(name, value string) []string {
		out := append([]string{}, good...)
		for i := 0; i < len(out); i += 2 {
			if out[i] == name {
				out[i+1] = value
			}
		}
		return out
	}
	for name, c := range map[string]struct {
		headers []string
		status  int
	}{
		"no upgrade": {nil, 426}, "another upgrade": {with("Upgrade", "h2c"), 426}, "no connection": {with("Connection", "close"), 426},
		"version 8": {with("Sec-WebSocket-Version", "8"), 426}, "a short key": {with("Sec-WebSocket-Key", "abc"), 400}, "no key": {with("Sec-WebSocket-Key", ""), 400},
	} {
		if a := open.get(socketPath, c.headers...); a.status != c.status || at(t, a.json(t), "code") == "" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	for secret := range strings.SplitSeq(key, "_") {
		if len(secret) > 16 && strings.Contains(guarded.log.String(), secret) {
			t.Error("the log has the key")
		}
	}
}

// The credential may come in the first message, within a time, and nothing else may come before it.
func TestFirstMessage(t *testing.T) {
	g := newGate(t)
	_, key := g.key(t, access.User)
	r := serveConfig(t, fakeService(&fakeEngine{}), g.cfg, quick)
	dial := func() *peer {
		c, _, err := shake(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return &peer{t, c}
	}
	p := dial()
	p.say(`{"type":"auth","data":{"token":%q}}`, key)
	if m := p.next(); m.Type != "ready" || m.at("role") != "user" || m.at("tenant") != "acme" {
		t.Errorf("ready: %s", m.raw)
	}
	p.say(`{"type":"auth","id":"x","data":{"token":%q}}`, key)
	if m := p.next(); m.Type != "error" || m.at("code") != "already_authenticated" {
		t.Errorf("a second time: %s", m.raw)
	}
	p = dial()
	p.say(`{"type":"auth","data":{"token":%q}}`, g.token(map[string]any{"roles": "viewer"}))
	if m := p.next(); m.Type != "ready" || m.at("role") != "viewer" {
		t.Errorf("a token: %s", m.raw)
	}
	for _, first := range []string{`{"type":"ping"}`, `{"type":"generate","id":"a","data":{}}`, `{"type":"auth","data":{"token":"pimoe_x"}}`, `{"type":"auth"}`, `{`, `{"type":"auth","data":{"token":"a.b.c"}}`} {
		p := dial()
		p.say("%s", first)
		if m := p.next(); m.Type != "error" {
			t.Errorf("%s: %s", first, m.raw)
		}
		p.ends(4401)
	}
	p = dial()
	p.ends(4401) // nothing comes
	p = dial()
	if err := p.WriteMessage(websocket.TextMessage, make([]byte, 20<<10)); err != nil {
		t.Fatal(err)
	}
	p.ends(1009)
	eventually(t, 5*time.Second, "nobody waits", func() bool { return r.sockets.room(false) && waiting(r) == 0 })
}

// TestWaitingIsBounded: as many as limits.waiting may be there before they have shown a credential.
func TestWaitingIsBounded(t *testing.T) {
	g := newGate(t)
	_, key := g.key(t, access.User)
	r := serveConfig(t, fakeService(&fakeEngine{}), g.cfg, func(s *Server) {
		quick(s)
		s.sockets.limits.AuthWithin, s.sockets.limits.waiting = time.Minute, 1
	})
	var all sync.WaitGroup
	for range 8 { // at once: no more than one stays
		all.Go(func() {
			if c, _, err := shake(r); err == nil {
				t.Cleanup(func() { c.Close() })
			}
		})
	}
	all.Wait()
	eventually(t, 5*time.Second, "one waits", func() bool { return waiting(r) == 1 })
	if _, resp, err := shake(r); err == nil || resp == nil || resp.StatusCode != 503 {
		t.Errorf("one too many without a credential: %v %v", resp, err)
	}
	if c, _, err := shake(r, "Authorization", "Bearer "+key); err != nil {
		t.Errorf("who has one waits for nobody: %v", err)
	} else {
		c.Close()
	}
}

func waiting(r *running) int64 {
	r.sockets.mu.Lock()
	defer r.sockets.mu.Unlock()
	return r.sockets.waiting
}

// Every message is sent with every role: below its row's role it is forbidden, from it on it is not.
func TestEveryMessageWithEveryRole(t *testing.T) {
	g := newGate(t)
	data := map[string]string{
		"generate": `{"model":"fake","prompt":"a"}`, "process": `{"input_tensor":[[[1,2]]]}`, "resume": `{"generation":"g"}`,
		"subscribe": `{"topic":"a"}`, "unsubscribe": `{"topic":"a"}`, "publish": `{"topic":"a","payload":1}`,
	}
	type person struct {
		role   access.Role
		scopes []string
		key    string
	}
	people := map[string]*person{"stats only": {role: access.User, scopes: []string{"stats"}}}
	for _, name := range access.Roles() {
		role, err := access.ParseRole(name)
		if err != nil {
			t.Fatal(err)
		}
		people[name] = &person{role: role}
	}
	for _, p := range people {
		_, p.key = g.key(t, p.role, p.scopes...)
	}
	r := serveConfig(t, fakeService(&fakeEngine{script: hangs(1), hidden: func(x tensor.Matrix) (tensor.Matrix, error) { return x, nil }}), g.cfg, nil)
	cells := 0
	for name, who := range people {
		p := r.open("Authorization", "Bearer "+who.key)
		for _, rule := range r.table.Rules() {
			kind, ok := strings.CutPrefix(rule.Route, "WS ")
			if !ok || rule.Open() {
				continue
			}
			kind, topic, _ := strings.Cut(kind, " ")
			body := data[kind]
			if topic != "" {
				body = fmt.Sprintf(`{"topic":%q}`, topic)
			}
			id := strings.ReplaceAll(rule.Route, " ", "/")
			p.say(`{"type":%q,"id":%q,"data":%s,"resumable":false}`, kind, id, orNull(body))
			m := p.next()
			for m.ID != id { // events of topics and generations
				m = p.next()
			}
			base, err := r.table.Of("WS " + kind)
			if err != nil {
				t.Fatal(err)
			}
			want := rule.Role > who.role || base.Role > who.role || who.scopes != nil && (rule.Scope != "stats" || base.Scope != "stats")
			if got := m.Type == "error" && m.at("code") == "forbidden"; got != want {
				t.Errorf("%s as %s: %s", rule.Route, name, m.raw)
			}
			cells++
		}
		p.Close()
	}
	if cells < 40 {
		t.Errorf("%d cells", cells)
	}
}

func orNull(body string) string {
	if body == "" {
		return "null"
	}
	return body
}

// A credential that ends ends its connections within a second or two; so does one that has other rights.
func TestACredentialEnds(t *testing.T) {
	g := newGate(t)
	g.cfg.Auth.JWT.Leeway = 0
	revoked, key := g.key(t, access.User)
	_, other := g.key(t, access.User)
	r := serveConfig(t, fakeService(&fakeEngine{}), g.cfg, quick)
	p, still := r.open("Authorization", "Bearer "+key), r.open("Authorization", "Bearer "+other)
	soon := r.open("Authorization", "Bearer "+g.token(map[string]any{"roles": "user", "exp": time.Now().Add(2 * time.Second).Unix()}))
	if _, err := g.file.Revoke(revoked.ID); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	p.ends(4401)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("revoked: closed after %v", took)
	}
	soon.ends(4401)
	still.say(`{"type":"ping","id":"p"}`)
	if m := still.next(); m.Type != "pong" || m.ID != "p" || m.at("timestamp") == nil {
		t.Errorf("the others: %s", m.raw)
	}

	open := serveConfig(t, fakeService(&fakeEngine{}), testConfig(t.TempDir()), quick)
	anybody := open.open()
	if _, _, err := access.NewKeyFile(open.cfg.Auth.KeysPath(open.cfg.Home), time.Now).Create(access.Template{Role: access.User, Tenant: access.DefaultTenant}); err != nil {
		t.Fatal(err)
	}
	anybody.ends(4401)
}

// Topics of a tenant are heard by it alone; those of the server by whoever may.
func TestTopics(t *testing.T) {
	cfg := testConfig(t.TempDir())
	file := access.NewKeyFile(cfg.Auth.KeysPath(cfg.Home), time.Now)
	key := func(tenant string) string {
		_, key, err := file.Create(access.Template{Role: access.User, Tenant: tenant})
		if err != nil {
			t.Fatal(err)
		}
		return "Bearer " + key
	}
	acme, rival := key("acme"), key("rival")
	r := serveConfig(t, fakeService(&fakeEngine{}), cfg, func(s *Server) { s.sockets.limits.payload = 100 })
	a, b, c := r.open("Authorization", acme), r.open("Authorization", acme), r.open("Authorization", rival)
	for _, p := range []*peer{a, c} {
		p.say(`{"type":"subscribe","id":"s","data":{"topic":"news"}}`)
		if m := p.next(); m.Type != "subscribed" {
			t.Fatalf("%s", m.raw)
		}
	}
	sse := listenTo(t, r, "news", acme)
	b.say(`{"type":"publish","id":"p","data":{"topic":"news","payload":{"n":1}}}`)
	if m := b.next(); m.Type != "published" || m.at("receivers") != 2.0 {
		t.Errorf("%s", m.raw)
	}
	if m := a.next(); m.Type != "event" || m.at("topic") != "news" || m.at("payload", "n") != 1.0 {
		t.Errorf("%s", m.raw)
	}
	if line := sse(); !strings.Contains(line, `"payload":{"n":1}`) {
		t.Errorf("event %s", line)
	}
	c.say(`{"type":"ping","id":"x"}`)
	if m := c.next(); m.Type != "pong" {
		t.Errorf("another tenant hears %s", m.raw)
	}
	a.say(`{"type":"subscribe","id":"t","data":{"topic":"system.stats"}}`)
	if m := a.next(); m.Type != "subscribed" {
		t.Errorf("%s", m.raw)
	}
	for range 2 {
		if m := a.next(); m.Type != "event" || m.at("topic") != ws.SystemStats || m.at("payload", "connections") == nil {
			t.Errorf("%s", m.raw)
		}
	}
	for _, bad := range []string{
		`{"type":"publish","id":"e","data":{"topic":"system.stats","payload":1}}`, `{"type":"subscribe","id":"e","data":{"topic":"system.secrets"}}`,
		`{"type":"unsubscribe","id":"e","data":{"topic":"never"}}`, `{"type":"publish","id":"e","data":{"topic":"news","payload":"` + strings.Repeat("x", 100) + `"}}`,
	} {
		b.say("%s", bad)
		if m := b.next(); m.Type != "error" || m.ID != "e" {
			t.Errorf("%s: %s", bad, m.raw)
		}
	}
	a.say(`{"type":"unsubscribe","id":"u","data":{"topic":"system.stats"}}`)
	for m := a.next(); m.Type != "unsubscribed"; m = a.next() {
		if m.Type != "event" {
			t.Errorf("%s", m.raw)
		}
	}
	if k := (ws.Key{Topic: ws.SystemStats}); r.sockets.broker.Heard(k) {
		t.Error("it is still heard of")
	}
	for query, want := range map[string]int{"": 422, "?topic=system.none": 422, "?topic=A": 422, "?topic=a&x=1": 422, "?topic=system.experts": 200} {
		resp, err := http.DefaultClient.Do(authorised(t, r.url+topicsPath+query, acme))
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != want {
			t.Errorf("%s: %d", query, resp.StatusCode)
		}
	}
}

func authorised(t testing.TB, url, bearer string) *http.Request {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", bearer)
	return req
}

// listenTo opens an event stream and returns a function that waits for its next event.
func listenTo(t testing.TB, r *running, topic, bearer string) func() string {
	t.Helper()
	resp, err := http.DefaultClient.Do(authorised(t, r.url+topicsPath+"?topic="+topic, bearer))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	lines := make(chan string, 64)
	go func() {
		defer close(lines)
		for d := newLines(resp.Body); d.Scan(); {
			if data, ok := strings.CutPrefix(d.Text(), "data: "); ok {
				lines <- data
			} else if strings.HasPrefix(d.Text(), ":") {
				select {
				case lines <- "": // a sign of life
				default:
				}
			}
		}
	}()
	next := func() string {
		for {
			select {
			case line, ok := <-lines:
				if !ok {
					return "the stream has ended"
				}
				if line != "" {
					return line
				}
			case <-time.After(20 * time.Second):
				return "nothing"
			}
		}
	}
	<-lines // the first comment: it listens
	return next
}

// A stream of events on which nothing is said has its header at once and then comments, and says that it is its connection's last answer.
func TestTopicStreamBeats(t *testing.T) {
	r := serve(t, fakeService(&fakeEngine{}), func(s *Server) {
		s.sockets.limits.tick, s.sockets.limits.Heartbeat = 10*time.Millisecond, 20*time.Millisecond
	})
	resp, err := http.Get(r.url + topicsPath + "?topic=quiet")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || len(resp.TransferEncoding) != 1 || !resp.Close || resp.Header.Get("Content-Type") != mimeEvents || resp.Header.Get("X-Request-Id") == "" {
		t.Errorf("%d %v, close %v, %v", resp.StatusCode, resp.TransferEncoding, resp.Close, resp.Header)
	}
	lines := newLines(resp.Body)
	for range 3 {
		if !lines.Scan() || lines.Text() != ": keep-alive" || !lines.Scan() || lines.Text() != "" {
			t.Fatalf("%q %v", lines.Text(), lines.Err())
		}
	}
}

// A stream of events ends with its credential and with the server.
func TestTopicStreamsEnd(t *testing.T) {
	g := newGate(t)
	rec, key := g.key(t, access.User)
	_, lasting := g.key(t, access.User)
	r := serveConfig(t, fakeService(&fakeEngine{}), g.cfg, func(s *Server) { s.sockets.limits.tick = 50 * time.Millisecond })
	gone, stays := listenTo(t, r, "a", "Bearer "+key), listenTo(t, r, "b", "Bearer "+lasting)
	if _, err := g.file.Revoke(rec.ID); err != nil {
		t.Fatal(err)
	}
	var e struct{ Error struct{ Code string } }
	if line := gone(); json.Unmarshal([]byte(line), &e) != nil || e.Error.Code != "expired_credential" {
		t.Errorf("revoked: %s", line)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if line := stays(); json.Unmarshal([]byte(line), &e) != nil || e.Error.Code != "shutting_down" {
		t.Errorf("stopping: %s", line)
	}
}
