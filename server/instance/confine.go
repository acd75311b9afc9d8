package instance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/pimoe/pimoe/core/catalogue"
	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
)

// confinement is how the configuration wants plugins confined.
func confinement(c config.Plugins) client.ConfinementOptions {
	o := client.ConfinementOptions{Off: c.Confine == "off", Trusting: c.Dev, Memory: int64(c.MemoryMB) << 20, CPU: 100 * c.CPUs}
	first, last := c.UserRange()
	o.Users = client.UserRange{First: first, Count: last - first + 1} // a count of 1 for "off"
	return o
}

// CataloguePath is where the list of plugins is.
func CataloguePath(c config.Plugins) string {
	if c.Catalogue != "" {
		return c.Catalogue
	}
	return filepath.Join(c.Dir, catalogue.FileName)
}

// ReadCatalogue reads the list of plugins. A file that others can write is refused, unless plugins.dev is set.
func ReadCatalogue(c config.Plugins) (*catalogue.Catalogue, error) {
	return (&listing{plugins: c}).read()
}

// listing is the catalogue as starts see it. Each start reads the file, twice, and most of them find what the last one found: to
// parse it again would take a tenth of what a start takes from the host.
type listing struct {
	plugins config.Plugins

	mu     sync.Mutex // guards what follows
	text   []byte
	parsed *catalogue.Catalogue // of the text; never changed
}

func (l *listing) read() (*catalogue.Catalogue, error) {
	f, err := client.OpenTrusted(CataloguePath(l.plugins), l.plugins.Dev)
	if err != nil {
		return nil, fmt.Errorf("plugin catalogue: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, catalogue.MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("plugin catalogue: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.parsed != nil && bytes.Equal(l.text, text) {
		return l.parsed, nil
	}
	list, err := catalogue.Read(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", CataloguePath(l.plugins), err)
	}
	l.text, l.parsed = text, list
	return list, nil
}

// pins judges executables by the catalogue, which is read again for each start: so a plugin may be replaced and pinned
// while the host runs. With plugins.dev, what it does not list is started with a warning.
func pins(c config.Plugins, log *slog.Logger) (host.Pins, error) {
	listed := &listing{plugins: c}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("plugins.dir: %w", err)
	}
	check := func(group, path, digest string) error {
		list, err := listed.read()
		if err != nil {
			return err
		}
		return list.Check(dir, group, path, digest)
	}
	if c.Dev {
		return func(group, path, digest string) error {
			if err := check(group, path, digest); err != nil {
				log.Warn("a plugin that is not pinned is started", "setting", "plugins.dev", "plugin", path, "why", err)
			}
			return nil
		}, nil
	}
	if _, err := ReadCatalogue(c); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w; make it with: pimoe plugins pin, or set plugins.dev: %w", err, sdk.ErrUnavailable)
	} else if err != nil {
		return nil, err
	}
	return check, nil
}

// profiles tells from the catalogue how plugins are confined that need more than a program. With plugins.dev what they read may have
// changed since. Backend cuda has a profile of its own also where the catalogue says nothing.
func profiles(c config.Plugins) func(backend, path string) (*client.Profile, error) {
	listed := &listing{plugins: c}
	return func(backend, path string) (*client.Profile, error) {
		p, err := listed.profile(path)
		if err != nil || p != nil || backend != "cuda" {
			return p, err
		}
		return &client.Profile{Name: client.ProfileCUDA}, nil
	}
}

// profile is the catalogue's for the executable at a path; nil if it has none.
func (l *listing) profile(path string) (*client.Profile, error) {
	list, err := l.read()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // only with plugins.dev
	} else if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(l.plugins.Dir)
	if err != nil {
		return nil, fmt.Errorf("plugins.dir: %w", err)
	}
	return ProfileOf(list.Profile(dir, path), l.plugins.Dev), nil
}

// ProfileOf is a catalogue's profile as a process is started with it; with any, whatever lies at its paths now.
func ProfileOf(p *catalogue.Profile, any bool) *client.Profile {
	if p == nil {
		return nil
	}
	pinned := func(d catalogue.Digest) client.Pinned {
		if any || d.Path == "" {
			return client.Pinned{Path: d.Path}
		}
		return client.Pinned{Path: d.Path, Digest: "sha256:" + d.SHA256}
	}
	out := &client.Profile{Name: p.Name, Interpreter: pinned(p.Interpreter)}
	for _, d := range p.Reads {
		out.Reads = append(out.Reads, pinned(d))
	}
	return out
}
