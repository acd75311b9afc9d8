package audit

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
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
