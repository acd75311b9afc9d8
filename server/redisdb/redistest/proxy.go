package redistest

import (
	"bytes"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Fault is how a proxy fails. The zero value does not.
type Fault struct {
	Refuse bool          // new connections are closed at once, and those that there are
	Freeze bool          // nothing travels
	Delay  time.Duration // before each piece of a reply
	Cut    int           // the connection ends after so many bytes of replies; 0 = never
	Flip   float64       // share of the replies' bytes that get another value
	Split  bool          // replies come byte by byte
	Answer []byte        // each piece of a reply is replaced by it
}

// Proxy stands before a Redis.
type Proxy struct {
	Addr string
	to   string
	ln   net.Listener

	mu     sync.Mutex // guards what follows
	fault  Fault
	change chan struct{} // closed with the next Set
	conns  map[net.Conn]bool
	seen   map[string]int // commands, in capitals
	rng    *rand.Rand
	closed bool

	running sync.WaitGroup
}

// NewProxy listens on a free port and passes on to addr until the test ends. seed chooses the bytes that flip.
func NewProxy(t testing.TB, addr string, seed uint64) *Proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: ln.Addr().String(), to: addr, ln: ln, change: make(chan struct{}), conns: map[net.Conn]bool{}, seen: map[string]int{}, rng: rand.New(rand.NewPCG(seed, 1))}
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Set makes all connections, also those that there are, fail in this way from now on.
func (p *Proxy) Set(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
	close(p.change)
	p.change = make(chan struct{})
	if f.Refuse {
		for c := range p.conns {
			_ = c.Close()
		}
	}
}

// Commands are the commands that have come through, by name and number.
func (p *Proxy) Commands() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]int{}
	for k, v := range p.seen {
		out[k] = v
	}
	return out
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	_ = p.ln.Close()
	p.Set(Fault{Refuse: true})
	p.running.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.ln.Accept()
		if err != nil {
			return
		}
		if f, _ := p.now(); f.Refuse || !p.keep(client) {
			_ = client.Close()
			continue
		}
		p.running.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) now() (Fault, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fault, p.change
}

// keep notes a connection that Refuse ends; false once the proxy is closed.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.conns[c] = true
	return true
}

func (p *Proxy) drop(c net.Conn) {
	_ = c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *Proxy) serve(client net.Conn) {
	defer p.drop(client)
	server, err := net.DialTimeout("tcp", p.to, 5*time.Second)
	if err != nil || !p.keep(server) {
		if err == nil {
			_ = server.Close()
		}
		return
	}
	defer p.drop(server)
	var requests sync.WaitGroup
	requests.Go(func() {
		p.requests(client, server)
		_ = server.Close()
	})
	p.replies(server, client)
	_ = client.Close()
	_ = server.Close()
	requests.Wait()
}

// requests passes on what the client says and notes the commands.
func (p *Proxy) requests(client, server net.Conn) {
	buf, parser := make([]byte, 32<<10), requestParser{}
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		for _, c := range parser.push(buf[:n]) {
			p.seen[c]++
		}
		p.mu.Unlock()
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// replies passes on what the server says, as the fault has it.
func (p *Proxy) replies(server, client net.Conn) {
	buf, sent := make([]byte, 32<<10), 0
	for {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		piece := p.spoil(buf[:n])
		if piece == nil {
			return
		}
		f, _ := p.now()
		if f.Cut > 0 && sent+len(piece) >= f.Cut {
			_, _ = client.Write(piece[:max(f.Cut-sent, 0)])
			return
		}
		sent += len(piece)
		if f.Split {
			for i := range piece {
				if _, err := client.Write(piece[i : i+1]); err != nil {
					return
				}
			}
			continue
		}
		if _, err := client.Write(piece); err != nil {
			return
		}
	}
}

// spoil waits and changes bytes; nil = the connection is to end.
func (p *Proxy) spoil(piece []byte) []byte {
	f, changed := p.now()
	for f.Freeze {
		<-changed // Set or the end
		f, changed = p.now()
	}
	if f.Refuse {
		return nil
	}
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-changed:
		}
	}
	if f.Answer != nil {
		return bytes.Clone(f.Answer)
	}
	if f.Flip > 0 {
		p.mu.Lock()
		defer p.mu.Unlock()
		for i := range piece {
			if p.rng.Float64() < f.Flip {
				piece[i] ^= byte(1 + p.rng.IntN(255))
			}
		}
	}
	return piece
}

// requestParser finds the commands in what a client says, which is lists of strings with their lengths. Everything that is
// no such list is a command of its own, whole: it must not be there.
type requestParser struct {
	line  []byte
	skip  int
	left  int // strings of the list that are still to come
	first bool
	name  []byte
	named bool // the bytes that are skipped are a name
}

func (r *requestParser) push(p []byte) (commands []string) {
	for _, b := range p {
		if r.skip > 0 {
			if r.skip--; r.named && r.skip >= 2 {
				r.name = append(r.name, b)
			}
			if r.skip == 0 && r.named {
				commands = append(commands, strings.ToUpper(string(r.name)))
				r.named = false
			}
			continue
		}
		if r.line = append(r.line, b); b != '\n' {
			continue
		}
		line := strings.TrimRight(string(r.line), "\r\n")
		r.line = r.line[:0]
		kind, count := "", 0
		if line != "" {
			kind = line[:1]
			count, _ = strconv.Atoi(line[1:])
		}
		switch {
		case kind == "*" && r.left == 0:
			r.left, r.first = count, true
		case kind == "$" && r.left > 0:
			r.left--
			r.skip, r.named, r.name = count+2, r.first, nil
			r.first = false
		default:
			commands = append(commands, "INLINE "+line)
		}
	}
	return commands
}
