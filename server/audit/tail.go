package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// tail is the end of a log, where the next record goes.
type tail struct {
	size    int64
	seq     uint64
	hash    string
	cutOff  []byte // a line at the end that is no record, without its end
	unended bool   // the end of the last line is missing
	damage  string // what can't have come from a crash
}

// tailOf reads the file at path and holds its end against the head.
func tailOf(path string) (t tail, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return t, err
	}
	t.size, t.hash = st.Size(), noHash
	f, err := os.Open(path)
	if err != nil {
		return t, err
	}
	defer f.Close()
	lines, err := readLines(path, f)
	if err != nil {
		return t, err
	}
	c := newChecker(lines)
	if len(lines) == 0 {
		if c, err = before(path); err != nil {
			return t, err
		}
	} else {
		c.begin(lines[0].bytes)
		t.follow(c, lines)
	}
	t.seq, t.hash = c.seq, c.hash
	t.compare(path, c)
	return t, nil
}

// before is the end of the newest file that was put aside.
func before(path string) (*checker, error) {
	older, err := segments(path)
	if err != nil || len(older) == 0 {
		return newChecker(nil), err
	}
	name := older[len(older)-1]
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines, err := readLines(name, f)
	c := newChecker(lines)
	if err == nil && len(lines) > 0 {
		c.begin(lines[0].bytes)
		for _, l := range lines {
			if c.line(l) != nil {
				break
			}
		}
	}
	return c, err
}

// follow checks the lines; only the last one may be unfinished.
func (t *tail) follow(c *checker, lines []line) {
	for i, l := range lines {
		last := i == len(lines)-1
		if last && !l.ended {
			t.unended = true
			l.ended = true // a whole record is as good as one with its end
			if _, own, err := decode(l.bytes); err != nil || !own {
				t.cutOff = l.bytes
				return
			}
		}
		if f := c.line(l); f != nil {
			t.damage = fmt.Sprintf("line %d: %s", f.Line, f.Text)
			return
		}
	}
	if c.pending != nil { // a cut off line that a start has ended, which was killed before it said so
		t.cutOff = c.cutOff
	}
}

// compare holds the end against the head. A host writes the record first, so that the head may be one behind.
func (t *tail) compare(path string, c *checker) {
	h, err := readHead(path)
	switch {
	case t.damage != "" && err == nil: // go on where the head says
	case errors.Is(err, fs.ErrNotExist) && c.seq <= 1:
		return
	case err != nil:
		t.damage = "its head: " + reason(err)
		return
	case h.Seq == c.seq && h.Hash == c.hash, h.Seq+1 == c.seq && h.Hash == c.before:
		return
	case h.Seq > c.seq:
		t.damage = fmt.Sprintf("it ends with record %d, the head speaks of %d", c.seq, h.Seq)
	default:
		t.damage = fmt.Sprintf("its record %d does not follow from the head, which speaks of %d", c.seq, h.Seq)
	}
	if public, err := publicKey(path, ""); err == nil && h.signedBy(public) {
		t.seq, t.hash = h.Seq, h.Hash
	}
}
