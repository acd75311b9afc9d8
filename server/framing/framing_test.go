package framing

import (
	"bufio"
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/server/framing/attacks"
)

// script is a connection that gives its bytes in pieces.
type script struct {
	net.Conn
	in    []byte
	piece func() int
	out   bytes.Buffer
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.in) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.in[:min(len(s.in), max(1, s.piece()))])
	s.in = s.in[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error) { return s.out.Write(p) }

// pass is what comes through, and why it ended.
func pass(raw string, piece func() int) (string, error) {
	c := New(&script{in: []byte(raw), piece: piece})
	b, err := io.ReadAll(c)
	return string(b), err
}

// However the bytes arrive, each attack ends the stream before the request behind it, and what is odd but right comes through as it is.
func TestVectors(t *testing.T) {
	vectors := attacks.All()
	if len(vectors) < 500 {
		t.Fatalf("%d vectors", len(vectors))
	}
	seen := map[string]bool{}
	refused := 0
	r := rand.New(rand.NewPCG(3, 4))
	pieces := map[string]func() int{"at once": func() int { return 1 << 20 }, "byte by byte": func() int { return 1 }, "in pieces": func() int { return 1 + r.IntN(40) }}
	for _, v := range vectors {
		if seen[v.Raw] {
			t.Errorf("%s: the same bytes twice", v.Name)
		}
		seen[v.Raw] = true
		for how, piece := range pieces {
			if v.Fine {
				raw := v.Raw
				if !strings.Contains(raw, "Upgrade: websocket") {
					raw += "GET /next HTTP/1.1\r\nHost: localhost\r\n\r\n"
				}
				if got, err := pass(raw, piece); err != nil || got != raw {
					t.Errorf("%s %s: %v, %d of %d bytes", v.Name, how, err, len(got), len(raw))
				}
				continue
			}
			got, err := pass(v.Raw, piece)
			if _, ok := err.(Refusal); !ok {
				t.Errorf("%s %s: %v", v.Name, how, err)
			}
			if got == "" || strings.Contains(got, attacks.Smuggled+" HTTP/1.1\r\n") {
				t.Errorf("%s %s: %d bytes come through", v.Name, how, len(got))
			}
		}
		if !v.Fine {
			refused++
		}
	}
	t.Logf("%d vectors, %d refused", len(vectors), refused)
}

// After a switch of protocols nothing is checked; an answer that refuses it goes on with HTTP.
func TestSwitch(t *testing.T) {
	const ask = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	for answer, fine := range map[string]bool{"HTTP/1.1 101 Switching Protocols\r\n\r\n": true, "HTTP/1.1 404 Not Found\r\n\r\n": false} {
		s := &script{in: []byte(ask), piece: func() int { return 1 << 20 }}
		c := New(s)
		if _, err := io.ReadAll(c); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, answer); err != nil {
			t.Fatal(err)
		}
		s.in = []byte("\x82\x01\x00\n\nframes")
		if _, err := io.ReadAll(c); (err == nil) != fine {
			t.Errorf("after %q: %v", answer, err)
		}
	}
}

// boundaries are the places where requests end, by this package.
func boundaries(raw []byte) (ends []int) {
	c := New(&script{in: raw, piece: func() int { return 1 }})
	var b [1]byte
	for n := 1; ; n++ {
		before := c.place
		if _, err := c.Read(b[:]); err != nil {
			return ends
		}
		if (c.place == atStart || c.place == switching) && before != atStart {
			ends = append(ends, n)
		}
	}
}

// FuzzBoundaries holds the ends of requests against those that net/http sees.
func FuzzBoundaries(f *testing.F) {
	for i, v := range attacks.All() {
		if v.Fine || i%8 == 0 {
			f.Add([]byte(v.Raw))
		}
	}
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		ends := boundaries(raw)
		in := bytes.NewReader(raw)
		br := bufio.NewReader(in)
		for i, end := range ends {
			r, err := http.ReadRequest(br)
			if err != nil {
				return // net/http takes less, and that is no other end
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				t.Fatalf("request %d: net/http can't read its body: %v", i, err)
			}
			if at := len(raw) - in.Len() - br.Buffered(); at != end {
				t.Fatalf("request %d ends at %d, for net/http at %d: %q", i, end, at, raw)
			}
		}
	})
}

func BenchmarkRead(b *testing.B) {
	body := `{"model":"m","messages":[{"role":"user","content":"` + strings.Repeat("words ", 200) + `"}]}`
	one := "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: OpenAI/Python 2.8.0\r\nAccept: application/json\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nAuthorization: Bearer pimoe_0123456789\r\nX-Stainless-Lang: python\r\nX-Stainless-OS: Linux\r\nContent-Length: 1270\r\n\r\n" + body
	one = strings.Replace(one, "1270", strconv.Itoa(len(body)), 1)
	s := &script{piece: func() int { return 1 << 20 }}
	c, p := New(s), make([]byte, 16<<10)
	raw := []byte(one)
	b.SetBytes(int64(len(one)))
	b.ReportAllocs()
	for b.Loop() {
		s.in = raw
		for len(s.in) > 0 {
			if _, err := c.Read(p); err != nil {
				b.Fatal(err)
			}
		}
	}
}
