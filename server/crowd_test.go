package server

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// starved is a listener to which the system gives nothing some times.
type starved struct {
	net.Listener
	times int
	with  error
}

func (s *starved) Accept() (net.Conn, error) {
	if s.times > 0 {
		s.times--
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", s.with)}
	}
	return s.Listener.Accept()
}

func loopback(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// bothEnds are of a connection to the listener.
func bothEnds(t *testing.T, l net.Listener) (client, served net.Conn) {
	t.Helper()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if served, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return client, served
}

// A system that has nothing left for a while does not end the listener; a real error does.
func TestAcceptGoesOn(t *testing.T) {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		ln := loopback(t)
		l := &lingering{Listener: &starved{ln, 5, e}, crowd: newCrowd(0)}
		client, c := bothEnds(t, l)
		client.Close()
		c.Close()
	}
	if _, err := (&lingering{Listener: &starved{loopback(t), 1, syscall.EINVAL}, crowd: newCrowd(0)}).Accept(); err == nil {
		t.Error("EINVAL is passed over")
	}
	l := &lingering{Listener: &starved{loopback(t), 1 << 30, syscall.EMFILE}, crowd: newCrowd(0)}
	ended := make(chan error, 1)
	go func() { _, err := l.Accept(); ended <- err }()
	time.Sleep(10 * time.Millisecond)
	l.Close()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("a connection of a closed listener")
		}
	case <-time.After(10 * time.Second):
		t.Error("Accept goes on after Close")
	}
}

// As many as there is room for; who comes after them is told, and has room when one of them is gone.
func TestCrowd(t *testing.T) {
	ln := loopback(t)
	l := &lingering{Listener: ln, crowd: newCrowd(2)}
	accepted := make(chan net.Conn, 8)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	dial()
	first := <-accepted
	dial()
	<-accepted
	for range 3 * refusing {
		c := dial()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		text, _ := io.ReadAll(c) // who comes when enough are being told is only closed
		if len(text) > 0 && (!strings.HasPrefix(string(text), "HTTP/1.1 503 ") || !strings.Contains(string(text), "too_many_connections")) {
			t.Fatalf("told %q", text)
		}
		c.Close()
	}
	select {
	case <-accepted:
		t.Fatal("a third one")
	default:
	}
	first.Close()
	first.Close() // twice is once
	dial()
	select {
	case <-accepted:
	case <-time.After(10 * time.Second):
		t.Fatal("no room after one is gone")
	}
	if n := l.crowd.now.Load(); n != 2 {
		t.Errorf("%d are there", n)
	}
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(noRoom)), nil)
	if err != nil || resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" || !resp.Close {
		t.Errorf("%+v %v", resp, err)
	}
}

// TestDeadlinesSpread: connections that are to be cut off together are cut off one after the other, and none too early.
func TestDeadlinesSpread(t *testing.T) {
	const after = 400 * time.Millisecond
	l := &lingering{Listener: loopback(t), crowd: newCrowd(0)}
	var times []time.Duration
	var mu sync.Mutex // guards times
	var cut sync.WaitGroup
	for range 12 {
		client, c := bothEnds(t, l)
		began := time.Now()
		if err := c.SetReadDeadline(began.Add(after)); err != nil {
			t.Fatal(err)
		}
		cut.Go(func() {
			_, err := c.Read(make([]byte, 1))
			took := time.Since(began)
			client.Close()
			c.Close()
			mu.Lock()
			defer mu.Unlock()
			if times = append(times, took); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("read: %v", err)
			}
		})
	}
	cut.Wait()
	slices.Sort(times)
	if times[0] < after || times[len(times)-1]-times[0] < after/20 {
		t.Errorf("cut off after %v, want from %v on and some time apart", times, after)
	}
}
