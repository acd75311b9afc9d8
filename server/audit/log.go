package audit

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// maxFile is when a file is put aside: whoever looks something up opens a few of them, and a start reads one.
	maxFile = 16 << 20
	// segmentDigits are those of the first record's number in the name of a file that was put aside.
	segmentDigits = 12
	// maxQueue is how many notices wait for a disk that has no room. The rest is counted.
	maxQueue = 1024
	// retryEvery is how soon a log that could not be written is tried again.
	retryEvery = 500 * time.Millisecond
	// countPeriod is over how long what happens often becomes one record.
	countPeriod = time.Minute
)

// Options say how a log is kept. The zero value is right.
type Options struct {
	Log      *slog.Logger // nil = silent
	MaxBytes int64        // of one file; 0 = 16 MiB
	Now      func() time.Time
	Period   time.Duration // of Count; 0 = a minute
	Retry    time.Duration // of a log that can't be written; 0 = half a second

	open func(path string) (file, error) // a file with faults, in tests
}

// file is what the log needs of *os.File.
type file interface {
	io.Writer
	Sync() error
	Truncate(size int64) error
	Stat() (fs.FileInfo, error)
	Close() error
}

// Log writes records. Several hosts may share one. Life: Open, then Record, Note and Count from any goroutine, then Close.
type Log struct {
	path string
	o    Options
	wake chan struct{} // a token when there is something to write
	stop context.CancelFunc
	done chan struct{}

	mu   sync.Mutex // guards what follows, and the order of writing; taken before queueing
	key  ed25519.PrivateKey
	f    file
	size int64 // of f, as this log left it
	seq  uint64
	hash string
	bad  error // why the last write failed; nil = none did

	queueing sync.Mutex // guards what follows
	queue    []Record
	lost     uint64 // notices that found the queue full
	refused  uint64 // changes that were refused meanwhile
	counts   map[counted]*count
}

// counted names what Count counts; count is what has come of it in this period.
type counted struct{ action, object string }

type count struct {
	first, last time.Time
	n           uint64 // since the last record of it
	until       time.Time
}

// Open starts the log at path, whose folder is made if need be. It never fails for good: a log that can't be written now is
// tried again, and refuses changes meanwhile.
func Open(path string, o Options) *Log {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = maxFile
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Period == 0 {
		o.Period = countPeriod
	}
	if o.Retry == 0 {
		o.Retry = retryEvery
	}
	if o.open == nil {
		o.open = openFile
	}
	ctx, stop := context.WithCancel(context.Background())
	l := &Log{path: path, o: o, wake: make(chan struct{}, 1), stop: stop, done: make(chan struct{}), counts: map[counted]*count{}}
	go l.run(ctx)
	return l
}

// Record writes a record and returns when it is on the disk, after all notices before it. An error wraps ErrUnwritable: what
// it would record must not be done then.
func (l *Log) Record(r Record) error {
	r.Time = l.o.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.flush()
	if err == nil {
		err = l.write(r)
	}
	if err != nil {
		l.queueing.Lock()
		l.refused++
		l.queueing.Unlock()
	}
	l.judge(err)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnwritable, err)
	}
	return nil
}

// Finish writes what has come of something that was recorded before: at once if the disk takes it, else as soon as it does.
func (l *Log) Finish(r Record) {
	r.Time = l.o.Now()
	l.mu.Lock()
	err := l.flush()
	if err == nil {
		err = l.write(r)
	}
	l.judge(err)
	l.mu.Unlock()
	if err != nil {
		l.Note(r)
	}
}

// Note writes a record soon. It never waits for the disk; where that has no room the record waits, and what is too much is
// counted in the first record after it.
func (l *Log) Note(r Record) {
	r.Time = l.o.Now()
	l.queueing.Lock()
	if len(l.queue) < maxQueue {
		l.queue = append(l.queue, r)
	} else {
		l.lost++
	}
	l.queueing.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Count notes what happens often: the first time at once, and then how often it has happened, once a period.
func (l *Log) Count(action, object string) {
	now := l.o.Now()
	l.queueing.Lock()
	c := l.counts[counted{action, object}]
	isFirst := c == nil
	if isFirst {
		c = &count{until: now.Add(l.o.Period)}
		l.counts[counted{action, object}] = c
	} else {
		if c.n == 0 {
			c.first = now
		}
		c.n++
		c.last = now
	}
	l.queueing.Unlock()
	if isFirst {
		l.Note(Record{Actor: Host, Action: action, Object: object, Outcome: Noticed, Details: map[string]any{"count": 1}})
	}
}

// Writable is nil unless the last try to write failed.
func (l *Log) Writable() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bad
}

// Head is the number and the hash of the last record.
func (l *Log) Head() (seq uint64, hash string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seq, l.hash
}

// Close writes what waits. Its error says that something could not be written.
func (l *Log) Close() error {
	l.stop()
	<-l.done
	l.summarise(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.flush()
	l.judge(err)
	if l.f != nil {
		err = errors.Join(err, l.f.Close())
		l.f = nil
	}
	return err
}

// run writes notices, and tries again what failed.
func (l *Log) run(ctx context.Context) {
	defer close(l.done)
	tick := time.NewTicker(l.o.Retry)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-tick.C:
			l.summarise(false)
		}
		l.mu.Lock()
		l.judge(l.flush())
		l.mu.Unlock()
	}
}

// summarise notes what was counted, for periods that are over or for all.
func (l *Log) summarise(all bool) {
	now := l.o.Now()
	var over []Record
	l.queueing.Lock()
	for k, c := range l.counts {
		if !all && now.Before(c.until) {
			continue
		}
		if c.n == 0 {
			delete(l.counts, k)
			continue
		}
		over = append(over, Record{Actor: Host, Action: k.action, Object: k.object, Outcome: Noticed, Details: map[string]any{
			"count": c.n, "first": c.first.UTC().Format(time.RFC3339Nano), "last": c.last.UTC().Format(time.RFC3339Nano),
		}})
		c.n, c.until = 0, now.Add(l.o.Period)
	}
	l.queueing.Unlock()
	for _, r := range over {
		l.Note(r)
	}
}

// flush writes the notices that wait, after a time without room a record that says so, and how many found no place. The
// caller holds mu.
func (l *Log) flush() error {
	if l.bad != nil {
		if err := l.account(actionResumed, map[string]any{"why": reason(l.bad)}); err != nil {
			return err
		}
		l.judge(nil)
	}
	for {
		l.queueing.Lock()
		if len(l.queue) == 0 {
			lost := l.lost
			l.queueing.Unlock()
			if lost == 0 {
				return nil
			}
			return l.account(actionLost, map[string]any{})
		}
		r := l.queue[0]
		l.queueing.Unlock()
		if err := l.write(r); err != nil {
			return err
		}
		l.queueing.Lock()
		l.queue = l.queue[1:]
		l.queueing.Unlock()
	}
}

// account records what could not be until now. More may be lost while it is written: that is for the next such record.
func (l *Log) account(action string, details map[string]any) error {
	l.queueing.Lock()
	lost, refused := l.lost, l.refused
	l.queueing.Unlock()
	details["notices_lost"], details["changes_refused"] = lost, refused
	err := l.write(Record{Time: l.o.Now(), Actor: Host, Action: action, Object: filepath.Base(l.path), Outcome: Noticed, Details: details})
	if err != nil {
		return err
	}
	l.queueing.Lock()
	l.lost, l.refused = l.lost-lost, l.refused-refused
	l.queueing.Unlock()
	return nil
}

// reason is an error without paths: they are the host's.
func reason(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Op + ": " + p.Err.Error()
	}
	return err.Error()
}

// judge tells of the first failure and of its end. The caller holds mu.
func (l *Log) judge(err error) {
	switch {
	case err != nil && l.bad == nil:
		l.o.Log.Error("the audit log can't be written: changes by the admin API are refused until it can", "file", l.path, "err", err)
	case err == nil && l.bad != nil:
		l.o.Log.Info("the audit log can be written again", "file", l.path, "head", fmt.Sprintf("%d:%s", l.seq, l.hash))
	}
	l.bad = err
}

// write appends one record and moves the head. After an error nothing has changed, as far as the disk allows. The caller
// holds mu.
func (l *Log) write(r Record) error {
	if err := os.MkdirAll(filepath.Dir(l.path), 0o700); err != nil {
		return err
	}
	unlock, err := lock(lockPath(l.path))
	if err != nil {
		return err
	}
	defer unlock()
	if l.key == nil {
		if l.key, err = ownKey(l.path); err != nil {
			return err
		}
	}
	if err := l.catchUp(); err != nil {
		return err
	}
	if l.size >= l.o.MaxBytes {
		if err := l.putAside(); err != nil {
			return err
		}
		if err := l.catchUp(); err != nil {
			return err
		}
	}
	return l.append(r)
}

// append writes the record's line behind the last one.
func (l *Log) append(r Record) error {
	r.Prev, r.Seq = l.hash, l.seq+1
	text, hash, err := encode(r)
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if err := l.put(text); err != nil {
		return err
	}
	if err := l.seal(r.Seq, hash); err != nil {
		return l.undo(err)
	}
	l.size += int64(len(text))
	l.seq, l.hash = r.Seq, hash
	return nil
}

// put writes bytes to the disk, or takes back what it has written of them.
func (l *Log) put(text []byte) error {
	_, err := l.f.Write(text)
	if err == nil {
		err = l.f.Sync()
	}
	if err != nil {
		return l.undo(err)
	}
	return nil
}

// undo cuts off what was written after the last record. Where that fails, the file is read anew before the next record.
func (l *Log) undo(err error) error {
	if cut := l.f.Truncate(l.size); cut != nil {
		l.f.Close()
		l.f = nil
	}
	return err
}

// seal writes the head.
func (l *Log) seal(seq uint64, hash string) error {
	b, err := encodeHead(newHead(seq, hash, l.o.Now(), l.key))
	if err != nil {
		return err
	}
	if err := replaceFile(headPath(l.path), b, 0o644); err != nil {
		return err
	}
	return syncDir(filepath.Dir(l.path))
}

// catchUp makes sure that this log knows the end of the file: another host may have written to it, put it aside, or been
// killed in the middle of a record.
func (l *Log) catchUp() error {
	if l.f != nil {
		mine, err := l.f.Stat()
		if err == nil && mine.Size() == l.size {
			if now, err := os.Lstat(l.path); err == nil && os.SameFile(mine, now) {
				return nil
			}
		}
		l.f.Close()
		l.f = nil
	}
	f, err := l.o.open(l.path)
	if err != nil {
		return err
	}
	l.f = f
	if err := l.reload(); err != nil {
		if l.f != nil {
			l.f.Close()
			l.f = nil
		}
		return err
	}
	return nil
}

// openFile opens the file at path for appending, if nobody else may write it.
func openFile(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	st, err := os.Lstat(path)
	if err == nil && (!st.Mode().IsRegular() || st.Mode().Perm()&0o022 != 0) {
		err = fmt.Errorf("%s: want a regular file that only its owner may write, not mode %v", path, st.Mode())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// reload reads the file, mends its end, and where it is not what the head says puts it aside and says so.
func (l *Log) reload() error {
	t, err := tailOf(l.path)
	if err != nil {
		return err
	}
	l.size, l.seq, l.hash = t.size, t.seq, t.hash
	if t.damage != "" {
		l.o.Log.Error("the audit log was changed by somebody else; it is put aside", "file", l.path, "what", t.damage)
		if t.size > 0 {
			if err := l.putAside(); err != nil {
				return err
			}
			if l.f, err = l.o.open(l.path); err != nil {
				return err
			}
			l.size = 0
		}
		return l.append(Record{Time: l.o.Now(), Actor: Host, Action: actionDamaged, Object: filepath.Base(l.path), Outcome: Noticed, Details: map[string]any{"what": t.damage}})
	}
	if t.unended {
		if err := l.put([]byte("\n")); err != nil {
			return err
		}
		l.size++
	}
	if t.cutOff != nil {
		l.o.Log.Warn("the last record of the audit log was cut off by a crash", "file", l.path, "bytes", len(t.cutOff))
		return l.append(Record{Time: l.o.Now(), Actor: Host, Action: actionTorn, Object: filepath.Base(l.path), Outcome: Noticed, Details: map[string]any{
			"bytes": len(t.cutOff), "sha256": hashOf(t.cutOff),
		}})
	}
	return nil
}

// putAside gives the file the name of an older one.
func (l *Log) putAside() error {
	first := uint64(1)
	if f, err := os.Open(l.path); err == nil {
		lines, err := readLines(l.path, io.LimitReader(f, maxLine+1))
		f.Close()
		if err == nil && len(lines) > 0 {
			if r, _, err := decode(lines[0].bytes); err == nil {
				first = r.Seq
			}
		}
	}
	name := fmt.Sprintf("%s.%0*d", l.path, segmentDigits, first)
	for n := 1; ; n++ { // a name that is taken: somebody has changed the files
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			break
		}
		name = fmt.Sprintf("%s.%0*d-%d", l.path, segmentDigits, first, n)
	}
	if err := os.Rename(l.path, name); err != nil {
		return err
	}
	l.f.Close()
	l.f = nil
	return syncDir(filepath.Dir(l.path))
}
