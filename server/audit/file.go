package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pimoe/pimoe/server/atomicfile"
)

// file is what the log needs of *os.File.
type file interface {
	io.Writer
	Sync() error
	Truncate(size int64) error
	Stat() (fs.FileInfo, error)
	Close() error
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
	return atomicfile.Write(headPath(l.path), b, 0o644)
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
	return atomicfile.SyncFolder(filepath.Dir(l.path))
}
