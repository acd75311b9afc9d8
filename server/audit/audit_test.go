package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// write makes a log of n changes and returns its path.
func write(t *testing.T, n int, o Options) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log", "audit.jsonl")
	l := Open(path, o)
	for i := range n {
		if err := l.Record(change(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func change(i int) Record {
	return Record{Actor: Actor{Who: "ann", Role: "admin", Address: "loopback"}, Action: "experts.swap", Object: fmt.Sprintf("e%d", i), Outcome: Done,
		Details: map[string]any{"backend": "int8", "n": i}}
}

// fault is what Verify finds, nil if nothing.
func fault(t *testing.T, path string) *Fault {
	t.Helper()
	_, err := Verify(path, "", false)
	var f *Fault
	if err != nil && !errors.As(err, &f) {
		t.Fatalf("verify: %v", err)
	}
	return f
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func put(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestVerifyTakesWhatWasWritten(t *testing.T) {
	path := write(t, 5, Options{})
	rep, err := Verify(path, "", false)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Records != 5 || rep.First != 1 || rep.Last != 5 || rep.Unsigned != 0 {
		t.Errorf("%+v", rep)
	}
	all, err := Read(path)
	if err != nil || len(all) != 5 || all[3].Object != "e3" || all[3].Actor.Who != "ann" || all[3].Details["backend"] != "int8" {
		t.Errorf("%+v %v", all, err)
	}
	for name, mode := range map[string]os.FileMode{path: 0o600, path + ".key": 0o600} {
		if st, err := os.Stat(name); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v %v", name, st.Mode(), err)
		}
	}
}

// Every byte of the log and of its head, changed in every bit; in both files each byte removed and one put before it.
func TestEveryEditedByteIsFound(t *testing.T) {
	path := write(t, 3, Options{}) // the first, the last and one between
	for _, name := range []string{path, path + ".head"} {
		good := read(t, name)
		try := func(what string, at int, bad []byte) {
			put(t, name, bad)
			if f := fault(t, path); f == nil {
				t.Fatalf("%s: %s byte %d (%q): not found", filepath.Base(name), what, at, good[at])
			}
		}
		for at := range good {
			for bit := range 8 {
				bad := bytes.Clone(good)
				bad[at] ^= 1 << bit
				try(fmt.Sprintf("bit %d of", bit), at, bad)
			}
			try("without", at, append(bytes.Clone(good[:at]), good[at+1:]...))
			try("a blank before", at, append(append(bytes.Clone(good[:at]), ' '), good[at:]...))
			try("cut at", at, bytes.Clone(good[:at]))
		}
		put(t, name, good)
	}
	if f := fault(t, path); f != nil {
		t.Errorf("the log as it was: %v", f)
	}
}

// Records that are removed, duplicated or swapped, each and each pair, and what Verify calls it.
func TestEveryMovedRecordIsFound(t *testing.T) {
	const n = 6
	path := write(t, n, Options{})
	lines := bytes.SplitAfter(bytes.TrimSuffix(read(t, path), []byte("\n")), []byte("\n"))
	lines[n-1] = append(lines[n-1], '\n')
	expect := func(what string, kind Kind, seq int, list ...[]byte) {
		t.Helper()
		put(t, path, bytes.Join(list, nil))
		f := fault(t, path)
		if f == nil || f.Kind != kind || f.Seq != uint64(seq) {
			t.Errorf("%s: %v, want %s at record %d", what, f, kind, seq)
		}
	}
	with := func(change func(l [][]byte) [][]byte) [][]byte { return change(append([][]byte{}, lines...)) }
	for i := range n {
		kind := Removed
		if i == n-1 {
			kind = Truncated
		}
		expect(fmt.Sprintf("without %d", i+1), kind, i+1, with(func(l [][]byte) [][]byte { return append(l[:i], l[i+1:]...) })...)
		expect(fmt.Sprintf("%d twice", i+1), Duplicated, i+2, with(func(l [][]byte) [][]byte {
			return append(append(append([][]byte{}, l[:i+1]...), l[i]), l[i+1:]...)
		})...)
		if i > 0 {
			expect(fmt.Sprintf("only %d", i), Truncated, i+1, lines[:i]...)
		}
		for j := i + 1; j < n; j++ {
			expect(fmt.Sprintf("%d and %d swapped", i+1, j+1), Reordered, i+1, with(func(l [][]byte) [][]byte { l[i], l[j] = l[j], l[i]; return l })...)
		}
	}
	expect("empty", Truncated, 1)
}

// Somebody who knows how the file is made, but not the key.
func TestForgedRecords(t *testing.T) {
	path := write(t, 3, Options{})
	forge := func(keep int, records ...Record) []byte {
		lines := bytes.SplitAfter(read(t, path), []byte("\n"))
		out := bytes.Join(lines[:keep], nil)
		prev, _, err := decode(bytes.TrimSuffix(lines[keep-1], []byte("\n")))
		if err != nil {
			t.Fatal(err)
		}
		hash := prev.Hash
		for i, r := range records {
			r.Prev, r.Seq = hash, uint64(keep+1+i)
			var text []byte
			if text, hash, err = encode(r); err != nil {
				t.Fatal(err)
			}
			out = append(append(out, text...), '\n')
		}
		return out
	}
	good := read(t, path)
	for what, bad := range map[string][]byte{
		"the last one written anew":   forge(2, change(77)),
		"the last two written anew":   forge(1, change(77), change(78)),
		"two more than the head says": forge(3, change(77), change(78)),
	} {
		put(t, path, bad)
		if f := fault(t, path); f == nil || f.Kind != BadHead {
			t.Errorf("%s: %v", what, f)
		}
	}
	put(t, path, good)

	// A head and a key of one's own do not pass for those that were noted elsewhere.
	key := string(read(t, path+".pub"))
	other := write(t, 3, Options{})
	for _, end := range []string{".head", ".pub", ""} {
		put(t, path+end, read(t, other+end))
	}
	if f := fault(t, path); f != nil {
		t.Errorf("a whole log of somebody else's: %v", f)
	}
	var f *Fault
	if _, err := Verify(path, key, false); !errors.As(err, &f) || f.Kind != BadHead {
		t.Errorf("against the key that was noted: %v", err)
	}
}

// A record that a crash has cut off anywhere is named by the next start, and the chain goes on.
func TestTornRecordIsMended(t *testing.T) {
	path := write(t, 3, Options{})
	good := read(t, path)
	start := bytes.LastIndexByte(good[:len(good)-1], '\n') + 1
	key, err := ownKey(path)
	if err != nil {
		t.Fatal(err)
	}
	second, _, err := decode(bytes.Split(good, []byte("\n"))[1])
	if err != nil {
		t.Fatal(err)
	}
	h, err := encodeHead(newHead(2, second.Hash, time.Now(), key))
	if err != nil {
		t.Fatal(err)
	}
	for at := start + 1; at < len(good); at++ {
		dir := t.TempDir()
		torn := filepath.Join(dir, "audit.jsonl")
		put(t, torn, good[:at])
		put(t, torn+".head", h)
		put(t, torn+".key", read(t, path+".key"))
		put(t, torn+".pub", read(t, path+".pub"))
		if f := fault(t, torn); f == nil || f.Kind != Torn {
			t.Fatalf("cut at %d: %v", at-start, f)
		}
		l := Open(torn, Options{})
		if err := l.Record(change(9)); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		rep, err := Verify(torn, "", false)
		if err != nil {
			t.Fatalf("cut at %d: %v\n%s", at-start, err, read(t, torn))
		}
		if whole := at == len(good)-1; whole && (rep.Torn != 0 || rep.Last != 4) || !whole && (rep.Torn != 1 || rep.Last != 4) {
			t.Fatalf("cut at %d: %+v", at-start, rep)
		}
		if !bytes.HasPrefix(read(t, torn), good[:at]) {
			t.Fatalf("cut at %d: the file was not only appended to", at-start)
		}
	}
}

// A host that is killed between a record and its head: the record counts, and the next start goes on.
func TestHeadOneBehind(t *testing.T) {
	path := write(t, 2, Options{})
	old := read(t, path+".head")
	l := Open(path, Options{})
	if err := l.Record(change(2)); err != nil {
		t.Fatal(err)
	}
	l.Close()
	put(t, path+".head", old)
	rep, err := Verify(path, "", false)
	if err != nil || rep.Unsigned != 1 || rep.Last != 3 {
		t.Fatalf("%+v %v", rep, err)
	}
	l = Open(path, Options{})
	if err := l.Record(change(3)); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if rep, err := Verify(path, "", false); err != nil || rep.Unsigned != 0 || rep.Last != 4 {
		t.Fatalf("%+v %v", rep, err)
	}
}

// A start on a log that somebody has changed keeps what it finds, says so, and goes on; Verify still names the place.
func TestStartOnADamagedLog(t *testing.T) {
	for what, harm := range map[string]struct {
		do   func(path string)
		kind Kind
	}{
		"edited":       {func(p string) { b := read(t, p); b[len(b)/2] ^= 1; put(t, p, b) }, Edited},
		"cut off":      {func(p string) { b := read(t, p); put(t, p, b[:bytes.IndexByte(b, '\n')+1]) }, Removed},
		"gone":         {func(p string) { os.Remove(p) }, Removed},
		"emptied":      {func(p string) { put(t, p, nil) }, Removed},
		"without head": {func(p string) { os.Remove(p + ".head") }, ""},
	} {
		t.Run(what, func(t *testing.T) {
			path := write(t, 4, Options{})
			harm.do(path)
			var said bytes.Buffer
			l := Open(path, Options{Log: slog.New(slog.NewTextHandler(&said, nil))})
			if err := l.Record(change(9)); err != nil {
				t.Fatal(err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(said.String(), "changed by somebody else") {
				t.Errorf("the start says nothing: %s", &said)
			}
			all, err := Read(path)
			if err != nil || all[len(all)-1].Object != "e9" || all[len(all)-2].Action != actionDamaged || all[len(all)-1].Seq != 6 {
				t.Errorf("%+v %v", all, err)
			}
			f := fault(t, path)
			if harm.kind == "" && f != nil || harm.kind != "" && (f == nil || f.Kind != harm.kind) {
				t.Errorf("%v, want %q", f, harm.kind)
			}
		})
	}
}

func TestRotationKeepsTheChain(t *testing.T) {
	const n = 40
	path := write(t, n, Options{MaxBytes: 2000})
	rep, err := Verify(path, "", false)
	if err != nil || rep.Records != n || len(rep.Files) < 5 {
		t.Fatalf("%+v %v", rep, err)
	}
	// Between putting a file aside and making the next one.
	if err := os.Rename(path, path+".000000000900"); err != nil {
		t.Fatal(err)
	}
	l := Open(path, Options{})
	if err := l.Record(change(n)); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if rep, err = Verify(path, "", false); err != nil || rep.Last != n+1 {
		t.Fatalf("%+v %v", rep, err)
	}
	os.Remove(rep.Files[0])
	if f := fault(t, path); f == nil || f.Kind != Removed || f.Seq != 1 {
		t.Errorf("without the oldest file: %v", f)
	}
	if rep, err := Verify(path, "", true); err != nil || rep.First == 1 {
		t.Errorf("without the oldest file, which is allowed: %+v %v", rep, err)
	}
	os.Remove(rep.Files[2])
	if _, err := Verify(path, "", true); err == nil {
		t.Error("a file in the middle is missing, and nobody sees it")
	}
}

// Several logs over one file, as of hosts that hand over: one chain.
func TestHostsShareALog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	const hosts, each = 4, 25
	var wg sync.WaitGroup
	for h := range hosts {
		wg.Go(func() {
			l := Open(path, Options{MaxBytes: 4000})
			defer l.Close()
			for i := range each {
				if err := l.Record(change(h*each + i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	rep, err := Verify(path, "", false)
	if err != nil || rep.Records != hosts*each {
		t.Fatalf("%+v %v", rep, err)
	}
}

// disk is a file on a disk with so many bytes left.
type disk struct {
	mu     sync.Mutex
	left   int64
	noSync bool
}

func (d *disk) open(path string) (file, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	return &diskFile{f, d}, nil
}

func (d *disk) set(left int64) { d.mu.Lock(); d.left = left; d.mu.Unlock() }

type diskFile struct {
	file
	d *disk
}

func (f *diskFile) Write(b []byte) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	n := min(f.d.left, int64(len(b)))
	f.d.left -= n
	if _, err := f.file.Write(b[:n]); err != nil {
		return 0, err
	}
	if n < int64(len(b)) {
		return int(n), &fs.PathError{Op: "write", Path: "audit.jsonl", Err: syscall.ENOSPC}
	}
	return len(b), nil
}

func (f *diskFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.noSync {
		return syscall.EIO
	}
	return f.file.Sync()
}

// A disk that is full after any number of bytes: the change is refused, the log says so once, notices wait, and when there
// is room again all goes on without a restart.
func TestFullDisk(t *testing.T) {
	for left := int64(0); left < 700; left += 7 {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		d := &disk{left: left}
		var said syncBuffer
		l := Open(path, Options{open: d.open, Log: slog.New(slog.NewTextHandler(&said, nil)), Retry: 5 * time.Millisecond})
		written := 0
		for i := range 4 {
			if err := l.Record(change(i)); err == nil {
				written++
			} else if !errors.Is(err, ErrUnwritable) || !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
		}
		if written == 4 {
			t.Fatalf("%d bytes take four records", left)
		}
		if written > 0 {
			if rep, err := Verify(path, "", false); err != nil || rep.Records != uint64(written) {
				t.Fatalf("%d bytes, while it is full: %+v %v", left, rep, err)
			}
		}
		l.Note(Record{Actor: Host, Action: "replica.quarantined", Object: "e3/0", Outcome: Noticed})
		if l.Writable() == nil {
			t.Error("it says that it can be written")
		}
		d.set(1 << 20)
		for began := time.Now(); l.Writable() != nil; time.Sleep(time.Millisecond) {
			if time.Since(began) > 10*time.Second {
				t.Fatal("it does not go on")
			}
		}
		if err := l.Record(change(9)); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		all, err := Read(path)
		if err != nil {
			t.Fatal(err)
		}
		var actions []string
		for _, r := range all[written:] {
			actions = append(actions, r.Action)
		}
		if got := strings.Join(actions, " "); got != "audit.resumed replica.quarantined experts.swap" {
			t.Fatalf("%d bytes: after the pause: %s", left, got)
		}
		if n := all[written].Details["changes_refused"]; n != float64(4-written) {
			t.Errorf("%v changes were refused, of %d", n, 4-written)
		}
		if f := fault(t, path); f != nil {
			t.Fatalf("%d bytes: %v", left, f)
		}
		text := said.String()
		if strings.Count(text, "can't be written") != 1 || strings.Count(text, "can be written again") != 1 {
			t.Errorf("the log says: %s", text)
		}
	}
}

// syncBuffer is a buffer for a logger.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// What is not on the disk is no record.
func TestFailedSync(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	d := &disk{left: 1 << 20, noSync: true}
	l := Open(path, Options{open: d.open})
	defer l.Close()
	if err := l.Record(change(0)); !errors.Is(err, ErrUnwritable) || !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	if b := read(t, path); len(b) > 0 {
		t.Errorf("it stays in the file: %s", b)
	}
}

// What happens often is one record at first and one for each period.
func TestCount(t *testing.T) {
	var mu sync.Mutex
	now := time.Unix(1700000000, 0)
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := Open(path, Options{Now: clock, Retry: time.Hour})
	for range 5 {
		l.Count("answer.degraded", "tiny")
		mu.Lock()
		now = now.Add(10 * time.Second)
		mu.Unlock()
	}
	l.summarise(false)
	for range 3 {
		l.Count("answer.degraded", "tiny")
	}
	mu.Lock()
	now = now.Add(time.Minute)
	mu.Unlock()
	l.summarise(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	all, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	var counts []any
	for _, r := range all {
		counts = append(counts, r.Details["count"])
	}
	if fmt.Sprint(counts) != "[1 7]" || all[1].Details["first"] != "2023-11-14T22:13:30Z" || all[1].Details["last"] != "2023-11-14T22:14:10Z" {
		t.Errorf("%v %v", counts, all)
	}
}

// A notice never waits, and what is too much is counted.
func TestNoticesAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	d := &disk{}
	l := Open(path, Options{open: d.open, Retry: time.Millisecond})
	l.Record(change(0))
	for i := range maxQueue + 10 {
		l.Note(change(i))
	}
	d.set(1 << 30)
	for began := time.Now(); l.Writable() != nil && time.Since(began) < 10*time.Second; time.Sleep(time.Millisecond) {
	}
	l.Close()
	all, err := Read(path)
	var lost float64
	for _, r := range all {
		n, _ := r.Details["notices_lost"].(float64)
		lost += n
	}
	if err != nil || len(all) < maxQueue+1 || all[0].Action != actionResumed || lost != 10 {
		t.Errorf("%d records, %v lost, first %+v, %v", len(all), lost, all[0], err)
	}
}

func TestOpenRefusesFilesOfOthers(t *testing.T) {
	for _, c := range []struct {
		end  string
		mode os.FileMode
	}{{".key", 0o644}, {".key", 0o640}, {"", 0o622}, {"", 0o660}} {
		path := write(t, 1, Options{})
		if err := os.Chmod(path+c.end, c.mode); err != nil {
			t.Fatal(err)
		}
		l := Open(path, Options{})
		if err := l.Record(change(1)); !errors.Is(err, ErrUnwritable) {
			t.Errorf("%s with mode %v: %v", c.end, c.mode, err)
		}
		l.Close()
	}
}

// Texts of any length and with any bytes become one line that is read back.
func TestLongAndOddTexts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := Open(path, Options{})
	odd := "\x1b[31m\n\"hash\":\"\xff\u2028</script>"
	many := map[string]any{}
	for i := range 100 {
		many[fmt.Sprint(i)] = strings.Repeat("x", 500)
	}
	for _, r := range []Record{
		{Action: "a", Object: odd, Details: map[string]any{"t": odd}},
		{Action: "a", Object: strings.Repeat("y", 1<<20), Details: many},
		{Action: "a", Object: "o", Details: map[string]any{"t": strings.Repeat("é", 400)}},
		{Action: "a", Actor: Actor{Who: strings.Repeat("<", 10<<10)}}, // six times as long as JSON
	} {
		if err := l.Record(r); err != nil {
			t.Fatal(err)
		}
	}
	l.Close()
	if rep, err := Verify(path, "", false); err != nil || rep.Records != 4 {
		t.Errorf("%+v %v", rep, err)
	}
	if b := read(t, path); bytes.ContainsAny(b, "\x1b\xff") || len(b) > 4*maxLine {
		t.Errorf("%d bytes: %q", len(b), b)
	}
}

// FuzzVerify: any bytes as a log are right or wrong, and never right with other records than the host has written.
func FuzzVerify(f *testing.F) {
	path := filepath.Join(f.TempDir(), "audit.jsonl")
	l := Open(path, Options{})
	for i := range 3 {
		if err := l.Record(change(i)); err != nil {
			f.Fatal(err)
		}
	}
	l.Close()
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add(append(bytes.Clone(good), good...))
	f.Add([]byte(`{"prev":"","seq":1,"hash":"x"}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		lines, err := readLines(path, bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if err := new(Report).verify(lines, path, "", false); err == nil && !bytes.Equal(b, good) {
			t.Errorf("taken for what the host wrote: %q", b)
		}
		var end tail
		end.follow(newChecker(lines), lines)
	})
}
