package client

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/internal/cgroup"
	"github.com/pimoe/pimoe/sdk/internal/confine"
)

// Measure is one thing that was done, or not, to confine a process.
type Measure = confine.Measure

// MeasureCgroup is the name of the measure that few systems allow.
const MeasureCgroup = confine.MeasureCgroup

// UserRange are user ids that belong to nobody. A confined process gets First plus its process number, modulo Count, so
// with as many as there are process numbers no two have the same.
type UserRange struct{ First, Count uint32 }

// DefaultUsers has room for every process number that Linux gives, far from the ids of people and services and from those
// that containers are given.
var DefaultUsers = UserRange{First: 1 << 30, Count: 1 << 22}

// ConfinementOptions say how processes are confined. The zero value confines as much as the system allows.
type ConfinementOptions struct {
	Off bool // start plugins with all rights of the host's user
	// Trusting takes executables that others can write or that are links, for developers.
	Trusting bool
	Users    UserRange // used where the host is root; zero = DefaultUsers, a Count of 1 = the host's own user
	Memory   int64     // bytes of private memory for a process; 0 = by the size of its weights, negative = unlimited
	CPU      int       // percent of one core for a process, where it has a cgroup; 0 = no limit
	// Check judges an executable by the digest of what will be executed; nil = takes any.
	Check func(path, digest string) error
}

// Confinement starts processes confined. It keeps sealed copies of their executables, which Close frees. It is safe for
// concurrent use.
type Confinement struct {
	options ConfinementOptions
	tree    func() (*cgroup.Tree, error)
	*copies
}

// copies are the sealed copies of executables.
type copies struct {
	mu   sync.Mutex // guards what follows; a copy is made under it, once for many starts
	byID map[fileIdentity]*confine.Executable
}

// fileIdentity is that of a file's content, as far as the system tells without reading it.
type fileIdentity struct {
	path             string
	dev, ino         uint64
	size             int64
	changed, written unix.Timespec
}

// ownTree is this process's part of the cgroups, looked for at the first start of a process: it moves this one.
var ownTree = sync.OnceValues(cgroup.Open)

// NewConfinement makes one; Close it after the last start.
func NewConfinement(o ConfinementOptions) *Confinement {
	if o.Users == (UserRange{}) {
		o.Users = DefaultUsers
	}
	return &Confinement{options: o, tree: ownTree, copies: &copies{byID: map[fileIdentity]*confine.Executable{}}}
}

// Checking is the same, and shares the copies, with another judge of executables.
func (c *Confinement) Checking(check func(path, digest string) error) *Confinement {
	o := c.options
	o.Check = check
	return &Confinement{options: o, tree: c.tree, copies: c.copies}
}

// Close frees the copies. Processes that run go on.
func (c *copies) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, e := range c.byID {
		e.Close()
		delete(c.byID, id)
	}
}

// Validate refuses a range of users that would give two processes the same one.
func (o ConfinementOptions) Validate() error {
	if most := processNumbers(); !o.Off && o.Users.Count > 1 && o.Users.Count < most {
		return fmt.Errorf("a range of %d user ids: this system has %d process numbers, and each needs one: %w", o.Users.Count, most, sdk.ErrInvalid)
	}
	return nil
}

// OpenTrusted opens a file that must not be another user's, nor in a folder that others can write, for reading. With
// trusting any regular file will do.
func OpenTrusted(path string, trusting bool) (*os.File, error) {
	f, err := confine.OpenFile(path, trusting)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Digest is "sha256:..." of a file's bytes, as Check is given it.
func Digest(f *os.File) (string, error) { return confine.Digest(f) }

// on says whether processes are confined at all.
func (c *Confinement) on() bool { return !c.options.Off && confine.Supported }

// unconfined is what a Process reports that was started without.
func (c *Confinement) unconfined() []Measure {
	why := "switched off"
	if !c.options.Off {
		why = "not possible on " + runtime.GOOS + "/" + runtime.GOARCH
	}
	return []Measure{{Name: "confinement", Detail: why}}
}

func (c *Confinement) policy() confine.Policy {
	p := confine.Policy{Memory: c.options.Memory, CPU: c.options.CPU}
	if u := c.options.Users; u.Count > 1 {
		p.FirstUser, p.Users = u.First, u.Count
	}
	return p
}

// executable checks the file at the path and returns a sealed copy of it for one start, nil where nothing is confined, and
// its digest. Where another file lies there now than keep has begun with, it is what keep has begun with.
func (c *Confinement) executable(path string, keep *Program) (*confine.Executable, string, error) {
	return c.sealed(path, keep, confine.Seal, c.options.Check)
}

// interpreted checks a script and what it is run with, and returns sealed copies of both, and the script's digest.
func (c *Confinement) interpreted(path string, p *Profile, keep *Program) (interpreter, script *confine.Executable, digest string, err error) {
	if script, digest, err = c.sealed(path, keep, confine.SealText, c.options.Check); err != nil {
		return nil, nil, "", err
	}
	pinned := func(_, digest string) error { return p.Interpreter.check(digest) }
	if interpreter, _, err = c.sealed(p.Interpreter.Path, nil, confine.Seal, pinned); err == nil {
		if err = p.checkReads(c.options.Trusting); err == nil {
			return interpreter, script, digest, nil
		}
		err = refusedFile(path, err)
	}
	for _, e := range []*confine.Executable{interpreter, script} {
		if e != nil {
			e.Close()
		}
	}
	return nil, nil, "", err
}

// sealed checks a file and returns a sealed copy of it for one start, nil where nothing is confined, and its digest.
func (c *Confinement) sealed(path string, keep *Program, seal func(*os.File) (*confine.Executable, error), check func(path, digest string) error) (*confine.Executable, string, error) {
	f, err := confine.OpenFile(path, c.options.Trusting)
	if err != nil {
		return nil, "", refusedFile(path, err)
	}
	defer f.Close()
	if !c.on() {
		digest, err := checkPlain(path, f, check)
		return nil, digest, err
	}
	id, err := fileIdentityOf(path, f)
	if err != nil {
		return nil, "", refusedFile(path, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byID[id]
	if e == nil {
		if e, err = seal(f); err != nil {
			return nil, "", refusedFile(path, err)
		}
		c.forget(path)
		c.byID[id] = e
	}
	if old := keep.other(e.Digest); old != nil { // was judged when it began
		again, err := old.Duplicate()
		return again, old.Digest, err
	}
	if check != nil {
		if err := check(path, e.Digest); err != nil {
			return nil, "", refusedFile(path, err)
		}
	}
	if err := keep.begin(e); err != nil {
		return nil, "", err
	}
	again, err := e.Duplicate()
	return again, e.Digest, err
}

// forget frees the copy of what lay at the path before.
func (c *copies) forget(path string) {
	for id, e := range c.byID {
		if id.path == path {
			e.Close()
			delete(c.byID, id)
		}
	}
}

func checkPlain(path string, f *os.File, check func(path, digest string) error) (string, error) {
	digest, err := confine.Digest(f)
	if err == nil && check != nil {
		err = check(path, digest)
	}
	if err != nil {
		return "", refusedFile(path, err)
	}
	return digest, nil
}

// refusedFile makes a start error of a file's fault.
func refusedFile(path string, err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, confine.ErrScript) {
		return notExecutable(path, err.Error(), err)
	}
	return &StartError{Path: path, Reason: ReasonUntrusted, Text: err.Error(), class: sdk.ErrUnsupported, cause: err}
}

// confined prepares the start of a process that is confined.
func (c *Confinement) confined(spec confine.Spec) (*confine.Launch, error) {
	spec.Policy = c.policy()
	tree, err := c.tree()
	if spec.Tree = tree; err != nil {
		spec.NoTree = err.Error()
	}
	l, err := confine.New(spec)
	if err != nil {
		return nil, fmt.Errorf("confine: %w", err)
	}
	return l, nil
}
