package redisdb

import (
	"fmt"
	"net"
	"strconv"

	"github.com/pimoe/pimoe/sdk"
)

const (
	maxElements = 1 << 16 // of a list: scripts of ours return a handful
	maxLine     = 64 << 10
)

// boundedConn reads Redis' replies along with the client and ends the connection at one that announces more than there
// can be. The client makes room for what is announced before it comes: without this, twelve bytes cost gigabytes. It also calls
// itself for a list in a list, which no script of ours returns: some megabytes of these would be more than a stack holds.
type boundedConn struct {
	net.Conn
	skip int    // bytes of a string that are still to come
	left int    // elements of a list that are still to come
	line []byte // the begin of a line that is not complete
	err  error
}

func bounded(conn net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	return &boundedConn{Conn: conn}, nil
}

func (c *boundedConn) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.Conn.Read(p)
	if c.err = c.follow(p[:n]); c.err != nil {
		return 0, c.err
	}
	return n, err
}

// follow goes through the reply: every line begins with its type, and a string follows its length.
func (c *boundedConn) follow(p []byte) error {
	for len(p) > 0 {
		if c.skip > 0 {
			n := min(c.skip, len(p))
			c.skip, p = c.skip-n, p[n:]
			continue
		}
		b := p[0]
		p = p[1:]
		if b != '\n' {
			if c.line = append(c.line, b); len(c.line) > maxLine {
				return tooLarge("a line")
			}
			continue
		}
		if err := c.begin(); err != nil {
			return err
		}
		c.line = c.line[:0]
	}
	return nil
}

// begin looks at a whole line.
func (c *boundedConn) begin() error {
	if len(c.line) < 2 {
		return nil
	}
	text := c.line[1:]
	if text[len(text)-1] == '\r' {
		text = text[:len(text)-1]
	}
	n, err := strconv.ParseInt(string(text), 10, 64)
	element := c.left > 0
	c.left = max(c.left-1, 0)
	switch c.line[0] {
	case '$', '=', '!':
		if err != nil || n < 0 {
			return nil // the client refuses it, or it is a nil
		}
		if n > maxReply {
			return tooLarge("a string")
		}
		c.skip = int(n) + len("\r\n")
	case '*', '%', '~', '>', '|':
		if err != nil || n < 0 {
			return nil
		}
		if n > maxElements {
			return tooLarge("a list")
		}
		if element {
			return fmt.Errorf("redis announces a list in a list: %w", sdk.ErrUnavailable)
		}
		c.left = int(n)
	}
	return nil
}

func tooLarge(what string) error {
	return fmt.Errorf("redis announces %s that is larger than any value of ours: %w", what, sdk.ErrUnavailable)
}
