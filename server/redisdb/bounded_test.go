package redisdb

import (
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
)

type stream struct {
	net.Conn
	io.Reader
}

func (s stream) Read(p []byte) (int, error) { return s.Reader.Read(p) }

// TestBounded: replies as ours are come through, whole or byte by byte; those that cost the client memory or stack do not.
func TestBounded(t *testing.T) {
	for text, fine := range map[string]bool{
		"+OK\r\n$3\r\nabc\r\n:7\r\n$-1\r\n-ERR no\r\n":             true,
		"*2\r\n:1\r\n$2\r\n*1\r\n*0\r\n*-1\r\n+PONG\r\n":           true, // the string is "*1", and then come lists
		"*3\r\n$9\r\n*1\r\n*1\r\nx\r\n$-1\r\n-ERR\r\n*1\r\n:1\r\n": true,
		"*1\r\n*1\r\n:1\r\n":                 false,
		"*2\r\n:1\r\n*2\r\n:1\r\n":           false,
		"*2\r\n$1\r\n*\r\n*1\r\n":            false,
		"*65537\r\n":                         false,
		"$8388609\r\n":                       false,
		"+" + strings.Repeat("x", maxLine+1): false,
	} {
		for name, r := range map[string]io.Reader{"whole": strings.NewReader(text), "byte by byte": iotest.OneByteReader(strings.NewReader(text))} {
			_, err := io.Copy(io.Discard, &boundedConn{Conn: stream{Reader: r}})
			if (err == nil) != fine {
				t.Errorf("%.40q, %s: %v", text, name, err)
			}
		}
	}
}
