// Package framing refuses requests whose beginning or end two HTTP implementations could see in different places. A proxy
// that sees one request where the server behind it sees two hands somebody the answer of somebody else: request smuggling.
//
// A Conn stands between a connection and the HTTP server that reads from it. It follows the bytes through heads and
// bodies, changes none, and ends the stream with a Refusal before a head or a chunk that is not exactly what RFC 9112
// asks a sender for. server puts one around every connection. The package refuses to repair: what is lenient in one
// place is what an attacker needs in the other.
package framing

import (
	"bytes"
	"net"
	"syscall"
)

// Refusal is why a stream has ended. It is a constant text, fit for the client.
type Refusal string

// Error implements error.
func (r Refusal) Error() string { return string(r) }

const (
	maxLine     = 16 << 10 // of a head; the server's own buffer for a head ends there, too, and it answers 431
	maxSizeLine = 256      // of a chunk: its size and extensions, which nobody uses
	maxDigits   = 8        // of a chunk's size, which is hexadecimal: 4 GiB, far above every limit on bodies
)

// Where in the stream the next byte is.
type place uint8

const (
	atStart   place = iota // before a head
	inHead                 // behind its first line
	inBody                 // of a known length
	atSize                 // before a chunk's size
	inChunk                // in its data
	behind                 // before the line end behind its data
	atTrailer              // behind the last chunk
	switching              // behind a head that asks for another protocol, until the answer is known
	raw                    // in another protocol
)

// Conn is a connection whose bytes are checked as they are read. One goroutine reads and writes, as a server does.
type Conn struct {
	net.Conn
	place   place
	head    head
	line    []byte // begin of a line that has not ended, where a read ended in it
	left    uint64 // of the body or chunk
	blank   bool   // one empty line has been skipped before the head
	begun   bool   // something of this request has been passed on
	refusal error
}

// New is a checked connection.
func New(c net.Conn) *Conn { return &Conn{Conn: c} }

// NetConn is the connection below.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Refusal is why the stream has ended; nil for a stream that is in order.
func (c *Conn) Refusal() error { return c.refusal }

// SyscallConn gives access to the socket, where there is one.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	below := c.Conn
	if t, ok := below.(interface{ NetConn() net.Conn }); ok { // of TLS
		below = t.NetConn()
	}
	if s, ok := below.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, syscall.EINVAL
}

// Read reads what is in order. Its error is a Refusal from the first line on that is not.
func (c *Conn) Read(p []byte) (int, error) {
	if c.refusal != nil {
		return 0, c.refusal
	}
	n, err := c.Conn.Read(p)
	if n == 0 || c.place == raw {
		return n, err
	}
	good, why := c.follow(p[:n])
	if why == "" {
		return n, err
	}
	c.refusal = why
	if !c.begun { // a server takes a stream that ends before a request for one that was closed, and says nothing
		p[good] = '?'
		good++
	}
	if good > 0 {
		return good, nil
	}
	return 0, c.refusal
}

// Write passes an answer on. The first one behind a request for another protocol decides which is spoken.
func (c *Conn) Write(p []byte) (int, error) {
	if c.place == switching && len(p) > 0 {
		c.place = atStart
		if bytes.HasPrefix(p, []byte("HTTP/1.1 101 ")) {
			c.place = raw
		}
	}
	return c.Conn.Write(p)
}

// follow goes through the bytes of one read. It returns how many of them are in order, up to the line that is not.
func (c *Conn) follow(p []byte) (good int, why Refusal) {
	for at := 0; at < len(p); {
		switch c.place {
		case raw:
			return len(p), ""
		case switching:
			return at, "bytes follow a request for another protocol before its answer"
		case inBody, inChunk:
			n := min(uint64(len(p)-at), c.left)
			at, c.left = at+int(n), c.left-n
			switch {
			case c.left > 0:
			case c.place == inChunk:
				c.place = behind
			default:
				c.place, c.begun = atStart, false
			}
			continue
		}
		end := bytes.IndexByte(p[at:], '\n')
		if end < 0 {
			return c.keep(p, at)
		}
		line := p[at : at+end]
		if len(c.line) > 0 {
			c.line = append(c.line, line...)
			line, c.line = c.line, c.line[:0]
		}
		if len(line) == 0 || line[len(line)-1] != '\r' {
			return at, "a line ends without a carriage return"
		}
		if why := c.take(line[:len(line)-1]); why != "" {
			return at, why
		}
		at += end + 1
		c.begun = c.place != atStart
	}
	return len(p), ""
}

// keep stores the begin of a line. What is wrong with a long one is found before it ends.
func (c *Conn) keep(p []byte, at int) (int, Refusal) {
	most := maxLine
	if c.place != atStart && c.place != inHead {
		most = maxSizeLine
	}
	if c.line = append(c.line, p[at:]...); len(c.line) > most && most == maxSizeLine {
		return at, "the line of a chunk's size is too long"
	}
	if len(c.line) > most {
		c.place, c.line = raw, nil // the server's buffer is full and its answer ends the connection
		return len(p), ""
	}
	c.begun = true
	return len(p), ""
}

// take judges one line without its end.
func (c *Conn) take(line []byte) Refusal {
	switch c.place {
	case atStart:
		if len(line) == 0 {
			if c.blank {
				return "more than one empty line before a request"
			}
			c.blank = true // RFC 9112 2.2: an old client's line behind its body
			return ""
		}
		c.blank = false
		c.head.reset()
		c.place = inHead
		return c.head.first(line)
	case inHead:
		if len(line) > 0 {
			return c.head.field(line)
		}
		return c.headEnds()
	case atSize:
		return c.size(line)
	case behind:
		c.place = atSize
		if len(line) > 0 {
			return "a chunk is longer than its size"
		}
	case atTrailer:
		c.place = atStart
		if len(line) > 0 {
			return "trailers are not taken"
		}
	}
	return ""
}

// headEnds chooses what follows a whole head.
func (c *Conn) headEnds() Refusal {
	if why := c.head.whole(); why != "" {
		return why
	}
	h := &c.head
	switch {
	case h.chunked:
		c.place = atSize
	case h.length > 0:
		c.place, c.left = inBody, h.length
	case h.get && h.upgrade && h.connectionUpgrade:
		c.place = switching
	default:
		c.place = atStart
	}
	return ""
}

// size reads a chunk's size.
func (c *Conn) size(line []byte) Refusal {
	digits, n := 0, uint64(0)
	for ; digits < len(line); digits++ {
		v := hexValue(line[digits])
		if v < 0 {
			break
		}
		if n = n<<4 | uint64(v); digits >= maxDigits {
			return "a chunk's size has too many digits"
		}
	}
	if digits == 0 {
		return "a chunk's size is no number"
	}
	if digits < len(line) {
		return "chunk extensions are not taken" // whatever is not a digit
	}
	c.place, c.left = inChunk, n
	if n == 0 {
		c.place = atTrailer
	}
	return ""
}

func hexValue(b byte) int {
	switch {
	case b >= '0' && b <= '9':
		return int(b - '0')
	case b >= 'a' && b <= 'f':
		return int(b-'a') + 10
	case b >= 'A' && b <= 'F':
		return int(b-'A') + 10
	}
	return -1
}
