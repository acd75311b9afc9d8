package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/server/framing/attacks"
)

var statusLine = regexp.MustCompile(`HTTP/1\.1 (\d{3}) `)

// send sends raw bytes on a connection of their own and returns all answers, and whether the server has ended the connection.
func send(t *testing.T, addr, raw string, patience time.Duration) (answers string, closed bool) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go io.WriteString(c, raw) // ends with the connection: an answer may come before all has been read
	_ = c.SetReadDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(c)
	return string(b), err == nil
}

// Each attack gets one answer, 4xx, and the end of its connection. What is odd but right gets one answer, too.
func TestSmugglingDirectly(t *testing.T) {
	r := serve(t, fakeService(&fakeEngine{script: fails(0, context.Canceled)}), nil)
	refused := 0
	for _, v := range attacks.All() {
		if v.Fine {
			raw := v.Raw + "GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: canary\r\nConnection: close\r\n\r\n"
			if strings.Contains(v.Raw, "Upgrade: websocket") {
				raw = v.Raw
			}
			got, _ := send(t, r.Addr(), raw, time.Second)
			codes := statusLine.FindAllStringSubmatch(strings.ReplaceAll(got, "HTTP/1.1 100 Continue\r\n\r\n", ""), -1)
			want := 2 // its own answer and the next one's, unless the first closes the connection
			if raw == v.Raw || strings.Contains(got, "Connection: close") && !strings.Contains(got, "X-Request-Id: canary") {
				want = 1
			}
			if len(codes) != want || codes[0][1][0] == '5' {
				t.Errorf("%s:\n%s", v.Name, got)
			}
			continue
		}
		refused++
		got, closed := send(t, r.Addr(), v.Raw, 5*time.Second)
		codes := statusLine.FindAllStringSubmatch(got, -1)
		wrong := len(codes) != 1 || codes[0][1][0] != '4' || !closed
		if strings.HasPrefix(v.Name, "switch") { // the request itself is right, and gets its answer; what follows does not
			wrong = len(codes) != 1 || !closed
		}
		if wrong {
			t.Errorf("%s: closed %v, answers:\n%s", v.Name, closed, got)
		}
	}
	t.Logf("%d attacks, each answered with one 4xx and the end of the connection", refused)
}

// frontProxy is nginx with one kept connection to a server, so that every request of every client travels on the same one.
func frontProxy(t *testing.T, upstream string) (addr string) {
	t.Helper()
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		nginx = "/usr/sbin/nginx"
		if _, err := os.Stat(nginx); err != nil {
			t.Skip("nginx is not installed")
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = ln.Addr().String()
	ln.Close()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	conf := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error.log;
events { worker_connections 256; }
http {
  access_log off; client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
  upstream pimoe { server %[2]s; keepalive 1; }
  server {
    listen %[3]s; ignore_invalid_headers off; underscores_in_headers on;
    location / { proxy_pass http://pimoe; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host localhost; proxy_request_buffering off; proxy_pass_request_headers on; }
  }
}`, dir, upstream, addr)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(nginx, "-c", file, "-p", dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	eventually(t, 10*time.Second, "nginx listens", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return addr
}

// Behind a real proxy that keeps its connection no attack moves the answers: after each one, the next client gets its own.
// The proxy is told to pass on as much as it can. PIMOE_ATTACKS=1 sends every vector (make smuggling), else it is one in twelve.
func TestSmugglingThroughAProxy(t *testing.T) {
	r := serve(t, fakeService(&fakeEngine{script: fails(0, context.Canceled)}), nil)
	addr := frontProxy(t, r.Addr())
	stopped, passed, step, patience := 0, 0, 12, 50*time.Millisecond
	if os.Getenv("PIMOE_ATTACKS") == "1" {
		step, patience = 1, 300*time.Millisecond
	}
	before := r.running.count()
	for i, v := range attacks.All() {
		if i%step != 0 {
			continue
		}
		got, _ := send(t, addr, v.Raw, patience)
		for _, code := range statusLine.FindAllStringSubmatch(got, -1) {
			if code[1] == "500" || code[1] == "502" || code[1] == "504" {
				t.Errorf("%s: %s", v.Name, code[1])
			}
		}
		if strings.Contains(got, "Server: nginx") && strings.Contains(got, "X-Request-Id") {
			passed++
		} else {
			stopped++
		}
		canary(t, addr, v.Name, i)
	}
	if n := r.running.count(); n != before {
		t.Errorf("%d requests still run", n)
	}
	t.Logf("%d vectors reached the server, %d ended in the proxy; 0 desyncs", passed, stopped)
	if passed < 10 {
		t.Errorf("only %d vectors reached the server", passed)
	}
}

// canary asks with an id of its own and wants it back, with the answer to its own question.
func canary(t *testing.T, addr, after string, i int) {
	t.Helper()
	id := "canary-" + strconv.Itoa(i)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintf(c, "GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: %s\r\nConnection: close\r\n\r\n", id)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("after %s: %v", after, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("X-Request-Id") != id || string(body) != "ok\n" {
		t.Errorf("desync after %s: %d, id %q, body %q, %v", after, resp.StatusCode, resp.Header.Get("X-Request-Id"), body, err)
	}
}
