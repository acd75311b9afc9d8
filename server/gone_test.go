package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// dial opens a raw connection and sends a request.
func dial(t *testing.T, addr, path, body string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	return c.(*net.TCPConn)
}

const (
	whole     = `{"model":"fake","prompt":"abc","max_tokens":50}`
	streaming = `{"model":"fake","prompt":"abc","max_tokens":50,"stream":true}`
)

// However a client goes away, its slot is free within two seconds.
func TestGoneClientFreesItsSlot(t *testing.T) {
	for name, leave := range map[string]func(*net.TCPConn) error{
		"close": func(c *net.TCPConn) error { return c.Close() },
		"reset": func(c *net.TCPConn) error {
			if err := c.SetLinger(0); err != nil {
				return err
			}
			return c.Close()
		},
		"half-close": func(c *net.TCPConn) error { return c.CloseWrite() }, // looks like an abort and is taken as one
	} {
		for kind, body := range map[string]string{"whole": whole, "stream": streaming} {
			t.Run(name+" "+kind, func(t *testing.T) {
				f := &fakeEngine{script: hangs(3)}
				r := serve(t, fakeService(f), nil)
				c := dial(t, r.Addr(), "/v1/completions", body)
				eventually(t, 5*time.Second, "the request runs", func() bool { return f.slots.Load() == 1 })
				if kind == "stream" {
					if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
						t.Fatalf("first line %q, %v", line, err)
					}
				}
				if err := leave(c); err != nil {
					t.Fatal(err)
				}
				took := eventually(t, 2*time.Second, "the slot is free", func() bool { return f.slots.Load() == 0 })
				t.Logf("free after %s", took)
				eventually(t, 5*time.Second, "the log says 499", func() bool { return strings.Contains(r.log.String(), `"status":499`) })
			})
		}
	}
}

// The same with the real engine: its place is free and it stops computing.
func TestGoneClientOfTheRealEngine(t *testing.T) {
	r := serve(t, nil, nil)
	e := openShared(t).Engine
	for _, extra := range []string{"", `,"stream":true`} {
		c := dial(t, r.Addr(), "/v1/completions", `{"model":"pimoe-tiny","prompt":"Once upon a time","n":2,"max_tokens":900,"ignore_eos":true`+extra+`}`)
		eventually(t, 10*time.Second, "both choices run", func() bool { return e.Stats().Running == 2 })
		c.Close()
		eventually(t, 2*time.Second, "the engine is free", func() bool { s := e.Stats(); return s.Running == 0 && s.Queued == 0 })
	}
}

// A client that sends its next request early has not gone.
func TestPipeliningIsNotGone(t *testing.T) {
	f := &fakeEngine{script: hangs(3)}
	cfg := testConfig("")
	cfg.Limits.RequestTimeout = time.Second
	r := serveConfig(t, fakeService(f), cfg, func(s *Server) { s.limits.watch = 20 * time.Millisecond })
	c := dial(t, r.Addr(), "/v1/completions", whole)
	fmt.Fprint(c, "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(b); !strings.Contains(text, "504 Gateway Timeout") || !strings.Contains(text, "200 OK") || !strings.HasSuffix(text, "ok\n") {
		t.Errorf("want the deadline's answer, then that of the pipelined request:\n%s", text)
	}
}

// A stream that has nothing to say sends comments, and a client that does not read is cut off.
func TestKeepAliveAndSlowReader(t *testing.T) {
	f := &fakeEngine{script: hangs(1)}
	r := serve(t, fakeService(f), func(s *Server) { s.limits.keepAlive = 10 * time.Millisecond })
	c := dial(t, r.Addr(), "/v1/completions", streaming)
	lines := bufio.NewScanner(c)
	for n := 0; n < 3 && lines.Scan(); {
		if lines.Text() == ": keep-alive" {
			n++
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	c.Close()
	eventually(t, 2*time.Second, "the slot is free", func() bool { return f.slots.Load() == 0 })

	flood := &fakeEngine{script: hangs(1 << 30)}
	r = serve(t, fakeService(flood), func(s *Server) { s.limits.event = 100 * time.Millisecond })
	slow := dial(t, r.Addr(), "/v1/completions", streaming)
	_ = slow.SetReadBuffer(4096)
	eventually(t, 5*time.Second, "the stream begins", func() bool { return flood.slots.Load() == 1 })
	eventually(t, 20*time.Second, "the slow reader is cut off", func() bool { return flood.slots.Load() == 0 })
}

// The framing tricks of request smuggling are refused, and half a header does not hold a connection.
func TestFraming(t *testing.T) {
	r := serve(t, nil, func(s *Server) {
		s.public.app.Server().ReadTimeout = 300 * time.Millisecond
	})
	for name, head := range map[string]string{
		"length and chunked":     "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunked and length":     "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
		"two lengths":            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
		"space before the colon": "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
		"negative length":        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: -1\r\n\r\n",
		"folded header":          "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
		"half a header":          "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-",
		"large header":           "GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: " + strings.Repeat("b", 20<<10) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", r.Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, head); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
			b, err := io.ReadAll(c)
			if err != nil && len(b) == 0 {
				t.Fatalf("no answer and no end of the connection: %v", err)
			}
			if len(b) > 0 && !strings.HasPrefix(string(b), "HTTP/1.1 4") {
				t.Errorf("answer:\n%s", b)
			}
			if strings.Count(string(b), "HTTP/1.1") > 1 {
				t.Errorf("two answers to one request:\n%s", b)
			}
		})
	}
}

func TestExpectContinueAndHead(t *testing.T) {
	r := serve(t, nil, nil)
	req, err := http.NewRequest(http.MethodPost, r.url+"/v1/completions", strings.NewReader(story+"}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Expect", "100-continue")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("with Expect: %d", resp.StatusCode)
	}
	if a := do(t, http.MethodHead, r.url+"/health", ""); a.status != http.StatusOK || len(a.body) != 0 {
		t.Errorf("HEAD: %d %q", a.status, a.body)
	}
}
