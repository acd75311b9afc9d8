package client

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/internal/confine"
)

const (
	// ProfilePython confines a Python script: a sealed copy of the interpreter runs a sealed copy of the script, which may read
	// its libraries, in the folders named, and may make the few system calls more that Python, grpcio and numpy need.
	ProfilePython = string(confine.ProfilePython)
	// ProfileCUDA confines a program that computes on NVIDIA's devices: it may open these, read what the kernel says of the driver
	// and the machine, and make the few system calls more that the driver's library needs. The folders named are those of a driver
	// whose libraries lie elsewhere than the system's.
	ProfileCUDA = string(confine.ProfileCUDA)
)

// Profile is how a plugin is confined that needs more than a program has.
type Profile struct {
	Name        string   // ProfilePython or ProfileCUDA
	Interpreter Pinned   // of a script: a file; without a path it is that of the script's first line
	Reads       []Pinned // folders
}

// script says that the plugin is no program of its own.
func (p *Profile) script() bool { return p != nil && p.Name == ProfilePython }

// Pinned is a file or folder with the digest that it must have; "" = any, for developers.
type Pinned struct{ Path, Digest string }

// pythonStart is what the interpreter is given on its command line: it reads the script from a descriptor, so that what runs is
// what was hashed. Neither the environment nor the system's packages can add to it (-I, -S).
const pythonStart = `import os,sys
fd,path,reads=int(sys.argv[1]),sys.argv[2],sys.argv[3]
text=os.pread(fd,os.fstat(fd).st_size,0)
os.close(fd)
sys.argv=[path]+sys.argv[4:]
sys.path[:0]=reads.split(":") if reads else []
del fd,reads
exec(compile(text,path,"exec"),{"__name__":"__main__","__file__":path})`

// interpret is the command line that runs a script from a descriptor.
func (p *Profile) interpret(script string, fd int, args []string) []string {
	reads := make([]string, len(p.Reads))
	for i, r := range p.Reads {
		reads[i] = r.Path
	}
	return append([]string{p.Interpreter.Path, "-I", "-S", "-B", "-c", pythonStart, strconv.Itoa(fd), script, strings.Join(reads, ":")}, args...)
}

// Resolve fills in what the profile leaves open, and checks it, for a plugin at the path.
func (p *Profile) Resolve(path string) (*Profile, error) {
	r := *p
	switch {
	case r.Name != ProfilePython && r.Name != ProfileCUDA:
		return nil, fmt.Errorf("profile %q: there are %s and %s: %w", r.Name, ProfilePython, ProfileCUDA, sdk.ErrInvalid)
	case !r.script() && r.Interpreter != Pinned{}:
		return nil, fmt.Errorf("profile %s: it is for programs, which have no interpreter: %w", r.Name, sdk.ErrInvalid)
	case r.script() && r.Interpreter.Path == "":
		named, err := Interpreter(path)
		if err != nil {
			return nil, err
		}
		r.Interpreter.Path = named
	}
	for _, d := range r.Reads {
		if !filepath.IsAbs(d.Path) || strings.Contains(d.Path, ":") {
			return nil, fmt.Errorf("profile %s: %q: want a full path without a colon: %w", r.Name, d.Path, sdk.ErrInvalid)
		}
	}
	return &r, nil
}

// Interpreter is the program that a script's first line names, without links.
func Interpreter(script string) (string, error) {
	f, err := os.Open(script)
	if err != nil {
		return "", fmt.Errorf("script: %w", err)
	}
	defer f.Close()
	head := make([]byte, 256)
	n, err := io.ReadFull(f, head)
	if err != nil && err != io.ErrUnexpectedEOF {
		return "", fmt.Errorf("script %s: %w", script, err)
	}
	line, _, whole := bytes.Cut(head[:n], []byte("\n"))
	path, ok := bytes.CutPrefix(line, []byte("#!"))
	if name := string(bytes.TrimSpace(path)); ok && whole && filepath.IsAbs(name) && !strings.ContainsAny(name, " \t") {
		return filepath.EvalSymlinks(name)
	}
	return "", fmt.Errorf("script %s: its first line is %q, want #! and the full path of an interpreter without arguments: %w", script, line, sdk.ErrUnsupported)
}

// TreeDigest is the digest of a folder, as Pinned has it.
func TreeDigest(path string, trusting bool) (string, error) { return confine.Tree(path, trusting) }

// check compares a digest with the pinned one.
func (p Pinned) check(digest string) error {
	if p.Digest != "" && p.Digest != digest {
		return fmt.Errorf("%s is not what the catalogue pins: its digest is %s", p.Path, digest)
	}
	return nil
}

// checkReads hashes the folders at every start, since they are read where they lie.
func (p *Profile) checkReads(trusting bool) error {
	for _, r := range p.Reads {
		if r.Digest == "" {
			if _, err := os.Stat(r.Path); err != nil {
				return err
			}
			continue
		}
		digest, err := confine.Tree(r.Path, trusting)
		if err != nil {
			return err
		}
		if err := r.check(digest); err != nil {
			return err
		}
	}
	return nil
}

// measure tells what the profile gives beyond that of a program; digest is that of what is executed.
func (p *Profile) measure(digest string) Measure {
	what := "NVIDIA's devices"
	if p.script() {
		what = p.Interpreter.Path + " " + digest[:min(len(digest), 19)]
	}
	return Measure{Name: confine.MeasureProfile, Applied: true, Detail: fmt.Sprintf(
		"%s, wider than a program's: %s, %d folders to read, more system calls", p.Name, what, len(p.Reads))}
}

// kind is the profile's name to package confine; none without a profile.
func (p *Profile) kind() confine.Profile {
	if p == nil {
		return confine.ProfileNone
	}
	return confine.Profile(p.Name)
}

// environment is what the profile adds to the process's: a driver that may write nowhere keeps no compiled kernels.
func (p *Profile) environment() []string {
	if p.kind() == confine.ProfileCUDA {
		return []string{"CUDA_CACHE_DISABLE=1"}
	}
	return nil
}

// readPaths are the folders; none without a profile.
func (p *Profile) readPaths() (paths []string) {
	if p == nil {
		return nil
	}
	for _, r := range p.Reads {
		paths = append(paths, r.Path)
	}
	return paths
}

// Verify is nil if the interpreter, of a script, and the folders are what is pinned.
func (p *Profile) Verify() error {
	if !p.script() {
		return p.checkReads(false)
	}
	f, err := OpenTrusted(p.Interpreter.Path, false)
	if err != nil {
		return err
	}
	defer f.Close()
	digest, err := Digest(f)
	if err != nil {
		return err
	}
	if err := p.Interpreter.check(digest); err != nil {
		return err
	}
	return p.checkReads(false)
}
