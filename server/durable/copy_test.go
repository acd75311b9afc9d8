package durable

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/pimoe/pimoe/sdk"
)

// A copy has everything up to one moment, opens by itself, and leaves the original and its owner alone.
func TestCopy(t *testing.T) {
	f := newFixture(t)
	d := f.open(f.options(false, notes(1)))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
				f.put(d, fmt.Sprintf("key%04d", n), fmt.Sprint(n))
			}
		}
	}()
	f.put(d, "a", "one")
	copied := filepath.Join(t.TempDir(), "copy.db")
	out, err := os.Create(copied)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.WriteTo(t.Context(), out), out.Close()); err != nil {
		t.Fatal(err)
	}
	close(stop)
	<-done
	if err := Check(copied, []Part{notes(1)}); err != nil {
		t.Error(err)
	}
	if err := Check(copied, nil); !errors.Is(err, sdk.ErrUnsupported) {
		t.Errorf("one that a newer version has written: %v", err)
	}
	if err := Copy(f.path, &bytes.Buffer{}); !errors.Is(err, ErrElsewhere) {
		t.Errorf("behind the owner's back: %v", err)
	}
	d.Close()
	var b bytes.Buffer
	if err := Copy(f.path, &b); err != nil || b.Len() == 0 {
		t.Errorf("%d bytes, %v", b.Len(), err)
	}
	o := f.options(false, notes(1))
	o.Path = copied
	c := f.open(o)
	if got, err := get(c, "a"); got != "one" || err != nil {
		t.Errorf("%q %v", got, err)
	}
	if err := d.WriteTo(t.Context(), &b); !errors.Is(err, ErrElsewhere) {
		t.Errorf("a closed one: %v", err)
	}
}

func TestCheckOfOtherFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, bytes.Repeat([]byte("not a database "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Check(path, nil); err == nil {
		t.Error("text")
	}
	if err := Check(path+"none", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := os.Stat(path + "none"); err == nil {
		t.Error("checking made a file")
	}
}
