//go:build !(linux && (amd64 || arm64))

package confine

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/pimoe/pimoe/sdk/internal/cgroup"
)

// Supported says that this build confines nothing.
const Supported = false

// Spec exists so that callers compile.
type Spec struct {
	Args    []string
	Env     []string
	Dir     string
	Exe     *Executable
	Files   []*os.File
	Weights int64
	Shared  int64
	Tree    *cgroup.Tree
	NoTree  string
	Policy  Policy

	Profile Profile
	Reads   []string
}

// Executable exists so that callers compile; Seal refuses to make one.
type Executable struct{ Digest string }

// Duplicate refuses.
func (*Executable) Duplicate() (*Executable, error) { return nil, errNone }

// Close has nothing to free.
func (*Executable) Close() error { return nil }

// ErrScript exists so that callers compile.
var ErrScript = errors.New("it is a script")

var errNone = errors.New("processes can't be confined on " + runtime.GOOS + "/" + runtime.GOARCH)

// Seal refuses.
func Seal(*os.File) (*Executable, error) { return nil, errNone }

// SealText refuses.
func SealText(*os.File) (*Executable, error) { return nil, errNone }

// File has none.
func (*Executable) File() *os.File { return nil }

// Launch exists so that callers compile; New refuses to make one.
type Launch struct {
	Cmd   *exec.Cmd
	Group *cgroup.Group
}

// New refuses.
func New(Spec) (*Launch, error) { return nil, errNone }

// Start refuses.
func (*Launch) Start(func(*exec.Cmd) error) error { return errNone }

// Wait refuses.
func (*Launch) Wait(time.Time) error { return errNone }

// Verify refuses.
func (*Launch) Verify(int) ([]Measure, error) { return nil, errNone }

// Close has nothing to free.
func (*Launch) Close() {}
