package client

import (
	"sync"

	"github.com/pimoe/pimoe/sdk/internal/confine"
)

// Program is what the processes of one owner execute: the first start settles it, and later ones execute the same bytes
// also after another file has been put at the path. So a file that is being replaced changes nothing before its owner
// wants it, and a bad one hurts nobody. A file that was removed ends the starts. Without confinement there is no copy, and
// each start executes what lies at the path. The zero value is ready; Close frees the copy.
type Program struct {
	mu  sync.Mutex // guards exe
	exe *confine.Executable
}

// other is what the program has begun with, if that has another digest; else nil.
func (p *Program) other(digest string) *confine.Executable {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exe == nil || p.exe.Digest == digest {
		return nil
	}
	return p.exe
}

// begin settles what the program is, once.
func (p *Program) begin(e *confine.Executable) (err error) {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exe == nil {
		p.exe, err = e.Duplicate()
	}
	return err
}

// Close frees the copy, after the last start. Processes that run go on.
func (p *Program) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exe != nil {
		p.exe.Close()
		p.exe = nil
	}
}
