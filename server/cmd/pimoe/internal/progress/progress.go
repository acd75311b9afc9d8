// Package progress draws one line that shows how far long work has come. The commands of pimoe use it for imports and
// measurements. It writes only to a terminal and refuses to write anything else.
package progress

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// every bounds how often the line is drawn: faster than this nobody can read.
const every = 100 * time.Millisecond

// width is the length of the bar, which leaves room for label and figures on 80 columns.
const width = 24

// Bar is one line. Its methods are safe for concurrent use and do nothing when the output is no terminal.
type Bar struct {
	w       io.Writer
	label   string
	enabled bool
	now     func() time.Time

	mu    sync.Mutex // guards the fields below
	last  time.Time
	drawn bool
}

// New makes a bar that has not been drawn yet.
func New(w io.Writer, terminal bool, label string) *Bar {
	return &Bar{w: w, label: label, enabled: terminal, now: time.Now}
}

// Bytes shows done of total bytes.
func (b *Bar) Bytes(done, total int64) {
	b.draw(done, total, fmt.Sprintf("%s of %s", Size(done), Size(total)))
}

// Steps shows done of total steps.
func (b *Bar) Steps(done, total int) {
	b.draw(int64(done), int64(total), fmt.Sprintf("%d of %d", done, total))
}

func (b *Bar) draw(done, total int64, text string) {
	if !b.enabled || total <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if now := b.now(); done < total && now.Sub(b.last) < every {
		return
	} else {
		b.last = now
	}
	b.drawn = true
	full := int(min(done, total) * width / total)
	fmt.Fprintf(b.w, "\r%s [%s%s] %s\x1b[K", b.label, strings.Repeat("=", full), strings.Repeat(" ", width-full), text)
}

// Done wipes the line.
func (b *Bar) Done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.drawn {
		fmt.Fprint(b.w, "\r\x1b[K")
		b.drawn = false
	}
}

// Size is a number of bytes for people.
func Size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}
