//go:build amd64 || arm64

package confine

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Executable is a program that was checked and copied into sealed memory, from where it is executed: whatever happens to
// its file afterwards, what runs is what was hashed.
type Executable struct {
	Digest  string   // "sha256:..." of the bytes that are executed
	file    *os.File // the copy
	dynamic bool     // it needs the system's libraries
}

// Duplicate is the same copy with a descriptor of its own.
func (e *Executable) Duplicate() (*Executable, error) {
	fd, err := unix.FcntlInt(e.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate the sealed copy: %w", err)
	}
	return &Executable{Digest: e.Digest, file: os.NewFile(uintptr(fd), e.file.Name()), dynamic: e.dynamic}, nil
}

// Close frees the copy; processes that execute it keep it.
func (e *Executable) Close() error { return e.file.Close() }

// ErrScript is a file that a copy can't replace: its interpreter would read it by its path.
var ErrScript = errors.New("it is a script; only a program can be sealed and confined")

// Seal copies an executable into sealed memory, hashing what it copies.
func Seal(f *os.File) (*Executable, error) {
	var magic [2]byte
	if _, err := f.ReadAt(magic[:], 0); err == nil && string(magic[:]) == "#!" {
		return nil, ErrScript
	}
	e := &Executable{}
	copied, err := sealedCopy(f, e)
	if err != nil {
		return nil, err
	}
	e.file = copied
	if program, err := elf.NewFile(copied); err == nil {
		for _, p := range program.Progs {
			e.dynamic = e.dynamic || p.Type == elf.PT_INTERP
		}
	}
	return e, nil
}

// unreadable: who can't read the program that a process executes can't make it dump its memory, and the kernel then guards
// the process as if it had asked for that itself (proc(5), prctl(2): PR_SET_DUMPABLE).
const unreadable = 0o111

// SealText copies a script into sealed memory, hashing what it copies. Its interpreter reads it from a descriptor.
func SealText(f *os.File) (*Executable, error) {
	e := &Executable{}
	copied, err := sealedCopy(f, e)
	if err != nil {
		return nil, err
	}
	e.file = copied
	return e, nil
}

// File is the copy, for a process to inherit. It stays the Executable's.
func (e *Executable) File() *os.File { return e.file }

func sealedCopy(f *os.File, e *Executable) (*os.File, error) {
	name := filepath.Base(f.Name()) // what ps shows
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // Linux before 6.3, where every one is executable
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("make memory for the sealed copy: %w", err)
	}
	m := os.NewFile(uintptr(fd), name)
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(m, sum), io.NewSectionReader(f, 0, 1<<40)); err != nil {
		m.Close()
		return nil, fmt.Errorf("copy: %w", err)
	}
	if err := m.Chmod(unreadable); err != nil {
		m.Close()
		return nil, fmt.Errorf("mode of the copy: %w", err)
	}
	if err := seal(m); err != nil {
		m.Close()
		return nil, fmt.Errorf("seal the copy: %w", err)
	}
	e.Digest = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	return m, nil
}

// sealWithin is how long a copy may stay busy.
const sealWithin = 5 * time.Second

// seal makes memory unchangeable. The kernel refuses while it holds pages of it itself, such as those on their way to its lists
// of pages, and waits 150 ms for them: too short on a machine with much else to do.
func seal(m *os.File) error {
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		_, err := unix.FcntlInt(m.Fd(), unix.F_ADD_SEALS, seals)
		if !errors.Is(err, unix.EBUSY) || time.Since(began) > sealWithin {
			return err
		}
	}
}
