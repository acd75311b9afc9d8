package logging

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/pimoe/pimoe/core/config"
)

// A ring holds whole lines, the last ones, and no more than its bound; they are masked as the log is.
func TestRing(t *testing.T) {
	r := new(Ring)
	log := New(r, config.Log{Level: "info", Format: "json"}, false, false, "a-secret-of-the-host")
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range 2000 {
				log.Info("line", "w", w, "i", i, "secret", "a-secret-of-the-host", "pad", strings.Repeat("x", 100))
			}
		})
	}
	all.Wait()
	log.Info("the last one")
	b := r.Bytes()
	lines := bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n"))
	if len(b) > ringBytes || len(b) < ringBytes/2 || !bytes.Contains(lines[len(lines)-1], []byte("the last one")) || bytes.Contains(b, []byte("a-secret")) {
		t.Errorf("%d bytes, %d lines, the last one %s", len(b), len(lines), lines[len(lines)-1])
	}
	for _, l := range lines {
		if !bytes.HasPrefix(l, []byte("{")) || !bytes.HasSuffix(l, []byte("}")) {
			t.Fatalf("a broken line: %s", l)
		}
	}
	huge := new(Ring)
	slog.New(slog.NewTextHandler(huge, nil)).Info(strings.Repeat("x", 2*ringBytes))
	if len(huge.Bytes()) < 2*ringBytes {
		t.Error("a lone line that is larger than the ring is lost")
	}
	fmt.Fprintln(huge, "next")
	if string(huge.Bytes()) != "next\n" {
		t.Errorf("%d bytes behind it", len(huge.Bytes()))
	}
}
