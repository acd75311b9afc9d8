package wan

import (
	"io"
	"net"
	"testing"
	"time"
)

// TestLink: bytes take their time, a partition holds them up, and its end lets them through.
func TestLink(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	way := New(t, l.Addr().String())
	way.Delay(10 * time.Millisecond)
	c, err := net.Dial("tcp", way.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 4)
	began := time.Now()
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "ping" || time.Since(began) < 20*time.Millisecond {
		t.Errorf("%q after %v: %v", b, time.Since(began), err)
	}
	way.Cut()
	if _, err := c.Write([]byte("pong")); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(60 * time.Millisecond))
	if n, err := c.Read(b); err == nil {
		t.Errorf("%d bytes passed a partition", n)
	}
	way.Heal()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "pong" {
		t.Errorf("%q: %v", b, err)
	}
	way.Rate(100) // 4 bytes take 40 ms
	began = time.Now()
	c.Write([]byte("slow"))
	if _, err := io.ReadFull(c, b); err != nil || time.Since(began) < 80*time.Millisecond {
		t.Errorf("%q after %v: %v", b, time.Since(began), err)
	}
	if way.Carried() < 20 {
		t.Errorf("%d bytes carried", way.Carried())
	}
}
