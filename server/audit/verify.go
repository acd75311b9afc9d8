package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Kind says what is wrong with a log.
type Kind string

// The kinds.
const (
	Edited     Kind = "edited"
	Removed    Kind = "removed"
	Duplicated Kind = "duplicated"
	Reordered  Kind = "reordered"
	Torn       Kind = "torn"
	Truncated  Kind = "truncated"
	BadHead    Kind = "head"
)

// Fault is the first thing that is wrong with a log.
type Fault struct {
	Kind Kind   `json:"kind"`
	File string `json:"file"`
	Line int    `json:"line,omitempty"` // from 1; 0 = the file as a whole
	Seq  uint64 `json:"seq,omitempty"`  // the record that is bad or missing
	Text string `json:"text"`
}

func (f *Fault) Error() string {
	where := f.File
	if f.Line > 0 {
		where = fmt.Sprintf("%s:%d", f.File, f.Line)
	}
	return fmt.Sprintf("%s: %s: %s", where, f.Kind, f.Text)
}

// Report is what Verify has found.
type Report struct {
	Files   []string  `json:"files"` // oldest first
	Records uint64    `json:"records"`
	First   uint64    `json:"first"`
	Last    uint64    `json:"last"`
	Hash    string    `json:"hash"` // of the last record
	Until   time.Time `json:"until"`
	// Unsigned is 1 if the head speaks of the record before the last one: a host that was killed, or is writing just now.
	Unsigned uint64 `json:"unsigned"`
	Torn     int    `json:"torn"` // lines that a crash has cut off and a later start has named
}

// Verify reads the log at path with its older files and holds it against its signed head. The error is a *Fault if the log
// is not what the host has written, else the reason why it can't be read. key is the public key, in the form of the file
// path.pub; "" takes that file, which proves nothing against somebody who may write it. tail allows that the oldest files
// have been moved away.
func Verify(path, key string, tail bool) (*Report, error) {
	lines, files, err := readAll(path)
	if err != nil {
		return nil, err
	}
	rep := &Report{Files: files}
	return rep, rep.verify(lines, path, key, tail)
}

func (rep *Report) verify(lines []line, path, key string, tail bool) error {
	c := newChecker(lines)
	if tail && len(lines) > 0 {
		c.begin(lines[0].bytes)
	}
	for _, l := range lines {
		if f := c.line(l); f != nil {
			return f
		}
	}
	rep.Records, rep.First, rep.Last, rep.Hash, rep.Until, rep.Torn = c.count, c.first, c.seq, c.hash, c.time, c.torn
	if c.pending != nil {
		return c.pending
	}
	return rep.against(path, key, c)
}

// against compares the end of the log with the signed head.
func (rep *Report) against(path, key string, c *checker) error {
	bad := func(kind Kind, seq uint64, format string, args ...any) error {
		return &Fault{Kind: kind, File: path, Seq: seq, Text: fmt.Sprintf(format, args...)}
	}
	h, err := readHead(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return bad(BadHead, 0, "there is no head %s: where the log ends can't be told", filepath.Base(headPath(path)))
	case err != nil:
		return bad(BadHead, 0, "the head can't be read: %v", err)
	}
	public, err := publicKey(path, key)
	if err != nil {
		return err
	}
	switch {
	case !h.signedBy(public):
		return bad(BadHead, h.Seq, "the head is not signed by the key %s", fingerprint(public))
	case h.Seq > c.seq:
		return bad(Truncated, c.seq+1, "the log ends with record %d, the head speaks of %d: %d cut off", c.seq, h.Seq, h.Seq-c.seq)
	case h.Seq == c.seq && h.Hash != c.hash:
		return bad(BadHead, c.seq, "the last record is not the one that the head speaks of")
	case h.Seq+1 == c.seq && h.Hash == c.before:
		rep.Unsigned = 1
	case h.Seq < c.seq:
		return bad(BadHead, h.Seq+1, "records after %d are not covered by the signed head", h.Seq)
	}
	return nil
}

// line is one line of the log, and where it was.
type line struct {
	file  string
	n     int
	bytes []byte
	ended bool // by a newline
}

// readAll reads the older files and the one at path. A missing one at path is right just after it was put aside.
func readAll(path string) (lines []line, files []string, err error) {
	files, err = segments(path)
	if err != nil {
		return nil, nil, err
	}
	if _, err := os.Stat(path); err == nil {
		files = append(files, path)
	} else if len(files) == 0 {
		return nil, nil, fmt.Errorf("audit log: %w", err)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, nil, fmt.Errorf("audit log: %w", err)
		}
		got, err := readLines(name, f)
		f.Close()
		if err != nil {
			return nil, nil, fmt.Errorf("audit log %s: %w", name, err)
		}
		lines = append(lines, got...)
	}
	return lines, files, nil
}

func readLines(name string, r io.Reader) (lines []line, err error) {
	b := bufio.NewReaderSize(r, 64<<10)
	for n := 1; ; n++ {
		got, err := b.ReadBytes('\n')
		if len(got) > 0 {
			text, ended := bytes.CutSuffix(got, []byte("\n"))
			lines = append(lines, line{name, n, text, ended})
		}
		if errors.Is(err, io.EOF) {
			return lines, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// segments are the files that were put aside, oldest first.
func segments(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	var out []string
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+".")
		if ok && len(rest) >= segmentDigits && strings.Trim(rest, "0123456789-") == "" {
			out = append(out, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	slices.Sort(out)
	return out, nil
}

// checker follows the chain line by line.
type checker struct {
	seqs map[uint64]int // records of the whole log with a right hash of their own, by number
	seen map[uint64]bool

	seq, first, count uint64
	hash, before      string // of the last record and of the one before it
	time              time.Time
	torn              int
	pending           *Fault // a line that is no record: right only if the next one names it
	cutOff            []byte
}

func newChecker(lines []line) *checker {
	c := &checker{seqs: map[uint64]int{}, seen: map[uint64]bool{}, hash: noHash}
	for _, l := range lines {
		if r, own, err := decode(l.bytes); err == nil && own {
			c.seqs[r.Seq]++
		}
	}
	return c
}

// begin takes the first record's word for what was before it.
func (c *checker) begin(first []byte) {
	if r, own, err := decode(first); err == nil && own && r.Seq > 0 {
		c.seq, c.hash = r.Seq-1, r.Prev
	}
}

// line takes the next line.
func (c *checker) line(l line) *Fault {
	bad := func(kind Kind, format string, args ...any) *Fault {
		return &Fault{Kind: kind, File: l.file, Line: l.n, Seq: c.seq + 1, Text: fmt.Sprintf(format, args...)}
	}
	r, own, err := decode(l.bytes)
	switch {
	case err != nil && c.pending != nil:
		return c.pending
	case err != nil:
		kind, text := Edited, err.Error()
		if !l.ended {
			kind, text = Torn, "it was cut off in the middle; the next start of the host says so in a record"
		}
		c.pending, c.cutOff = bad(kind, "record %d: %s", c.seq+1, text), l.bytes
		return nil
	case !own:
		return cmpFault(c.pending, bad(Edited, "record %d: its hash is not that of its content", c.seq+1))
	case r.Seq != c.seq+1:
		return cmpFault(c.pending, bad(c.misplaced(r.Seq), "record %d is here, %d should be", r.Seq, c.seq+1))
	case r.Prev != c.hash:
		return cmpFault(c.pending, bad(Edited, "record %d does not follow the record before it: that one, or both, were written anew", r.Seq))
	case c.pending != nil && !names(r, c.cutOff):
		return c.pending
	case !l.ended:
		return bad(Torn, "record %d has no end of line; the next start of the host mends it", r.Seq)
	}
	if c.pending != nil {
		c.pending, c.cutOff = nil, nil
		c.torn++
	}
	if c.count == 0 {
		c.first = r.Seq
	}
	c.before, c.seq, c.hash, c.time = c.hash, r.Seq, r.Hash, r.Time
	c.seen[r.Seq] = true
	c.count++
	return nil
}

// misplaced says how a record with another number than the next one came here.
func (c *checker) misplaced(got uint64) Kind {
	switch {
	case c.seen[got]:
		return Duplicated
	case c.seqs[c.seq+1] > 0:
		return Reordered
	default:
		return Removed
	}
}

// cmpFault is the earlier one.
func cmpFault(earlier, now *Fault) *Fault {
	if earlier != nil {
		return earlier
	}
	return now
}

// names reports whether a record says that a line was cut off, and that it was this one.
func names(r Record, cutOff []byte) bool {
	return r.Action == actionTorn && r.Details["sha256"] == hashOf(cutOff)
}

// Read returns the records of the log with its older files, as far as lines are records; Verify says whether they are right.
func Read(path string) ([]Record, error) {
	lines, _, err := readAll(path)
	if err != nil {
		return nil, err
	}
	var out []Record
	for _, l := range lines {
		if r, _, err := decode(l.bytes); err == nil {
			out = append(out, r)
		}
	}
	return out, nil
}
