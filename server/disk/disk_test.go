package disk

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a disk that a test fills.
type fake struct {
	mu  sync.Mutex // guards all
	now Reading
	err error
	log bytes.Buffer
}

func (f *fake) set(r Reading, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now, f.err = r, err
}

func (f *fake) read(string) (Reading, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now, f.err
}

func (f *fake) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.Write(b)
}

func (f *fake) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.String()
}

func TestWatch(t *testing.T) {
	f := &fake{now: Reading{Free: 1 << 30}}
	w := Start(Options{Path: "/home", Read: f.read, Every: time.Millisecond, Log: slog.New(slog.NewTextHandler(f, nil))})
	defer w.Close()
	becomes := func(when string, want bool) {
		t.Helper()
		for began := time.Now(); w.Writable() != want; time.Sleep(time.Millisecond) {
			if time.Since(began) > 10*time.Second {
				t.Fatalf("%s: writable is %v", when, !want)
			}
		}
	}
	becomes("at first", true)
	f.set(Reading{Free: Least - 1}, nil)
	becomes("full", false)
	f.set(Reading{}, errors.New("gone"))
	time.Sleep(5 * time.Millisecond)
	if w.Writable() {
		t.Error("what can't be read is no good news")
	}
	f.set(Reading{Free: Least}, nil)
	becomes("with room", true)
	f.set(Reading{Free: 1 << 30, ReadOnly: true}, nil)
	becomes("read-only", false)
	f.set(Reading{Free: 0}, nil)
	for began := time.Now(); strings.Count(f.text(), "the disk is full") < 2; time.Sleep(time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatal("another trouble is not said")
		}
	}
	f.set(Reading{Free: 1 << 30}, nil)
	becomes("at last", true)
	w.Close()
	w.Close()
	(*Watch)(nil).Close()
	text := f.text()
	for what, n := range map[string]int{"the disk is full": 2, "read-only": 1, "can be written again": 2} {
		if got := strings.Count(text, what); got != n {
			t.Errorf("%q is said %d times, want %d:\n%s", what, got, n, text)
		}
	}
}

func TestSystem(t *testing.T) {
	dir := t.TempDir()
	r, err := read(dir)
	if err != nil {
		t.Skip("this system does not tell of its disks")
	}
	if r.ReadOnly || r.Free <= 0 {
		t.Errorf("%+v", r)
	}
	if _, err := read(dir + "/none"); err == nil {
		t.Error("a folder that is not there")
	}
}
