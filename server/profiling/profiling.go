// Package profiling keeps short CPU profiles of the host, one every so often, in a folder that holds the last so many: what
// the host did before somebody asked. They are files of Go's own format, for `go tool pprof`, and say nothing of requests.
//
// server uses it: Open, List and Read for the admin API, Close. The package refuses to profile all the time, and to wait
// for somebody else's profile: Go can make one at a time, so a turn that finds another is left out and counted.
package profiling

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"runtime/pprof"
	"slices"
	"sync"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/sdk"
)

// Folder is where the profiles are, below the store's.
const Folder = "profiles"

// Recorder makes profiles until it is closed.
type Recorder struct {
	dir  string
	cfg  config.Profiling
	log  *slog.Logger
	stop chan struct{}
	done sync.WaitGroup
	once sync.Once // Close

	taken, left, failed *metrics.Counter
}

// Profile is a file.
type Profile struct {
	Name  string    `json:"name"`
	Time  time.Time `json:"time"` // of its begin
	Bytes int64     `json:"bytes"`
}

// Open starts to make profiles below home, if cfg wants any; the profiles that are there can be read in any case.
func Open(home string, cfg config.Profiling, m *metrics.Registry, log *slog.Logger) (*Recorder, error) {
	r := &Recorder{dir: filepath.Join(home, Folder), cfg: cfg, log: log, stop: make(chan struct{})}
	if cfg.Every <= 0 {
		return r, nil
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, fmt.Errorf("profiling: %w", err)
	}
	r.taken = m.Counter("pimoe_profiles_total", "outcome", "taken")
	r.left = m.Counter("pimoe_profiles_total", "outcome", "busy")
	r.failed = m.Counter("pimoe_profiles_total", "outcome", "failed")
	r.done.Go(r.run)
	return r, nil
}

// Close ends a profile that is being made, which is thrown away, and waits.
func (r *Recorder) Close() {
	if r == nil {
		return
	}
	r.once.Do(func() { close(r.stop) })
	r.done.Wait()
}

func (r *Recorder) run() {
	tick := time.NewTicker(r.cfg.Every)
	defer tick.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-tick.C:
		}
		if err := r.take(); err != nil {
			r.failed.Inc()
			r.log.Warn("no profile was kept", "error", err.Error())
		}
	}
}

// take makes one profile and removes those that are too many.
func (r *Recorder) take() error {
	var b bytes.Buffer
	began := time.Now().UTC()
	if err := pprof.StartCPUProfile(&b); err != nil {
		r.left.Inc() // somebody else's is being made
		return nil
	}
	wait := time.NewTimer(r.cfg.For)
	defer wait.Stop()
	ended := false
	select {
	case <-wait.C:
	case <-r.stop:
		ended = true
	}
	pprof.StopCPUProfile()
	if ended {
		return nil
	}
	if err := write(r.dir, began.Format(nameFormat), b.Bytes()); err != nil {
		return err
	}
	r.taken.Inc()
	return r.prune()
}

// write makes a file that is whole or not there.
func write(dir, name string, data []byte) error {
	part := filepath.Join(dir, name+".part")
	if err := os.WriteFile(part, data, 0o600); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return os.Rename(part, filepath.Join(dir, name))
}

// nameFormat sorts by time.
const nameFormat = "cpu-20060102T150405.000Z.pprof"

// names are what Read takes: nothing that leads elsewhere.
var names = regexp.MustCompile(`^cpu-\d{8}T\d{6}\.\d{3}Z\.pprof$`)

// List is the profiles, the newest first.
func (r *Recorder) List() ([]Profile, error) {
	entries, err := os.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return []Profile{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list profiles: %w", err)
	}
	out := []Profile{}
	for _, e := range entries {
		began, err := time.Parse(nameFormat, e.Name())
		if err != nil || !names.MatchString(e.Name()) {
			continue
		}
		if st, err := e.Info(); err == nil { // else it has just been removed
			out = append(out, Profile{Name: e.Name(), Time: began, Bytes: st.Size()})
		}
	}
	slices.SortFunc(out, func(a, b Profile) int { return b.Time.Compare(a.Time) })
	return out, nil
}

// Read is one profile.
func (r *Recorder) Read(name string) ([]byte, error) {
	if !names.MatchString(name) {
		return nil, fmt.Errorf("profile %.64q: %w", name, sdk.ErrNotFound)
	}
	b, err := os.ReadFile(filepath.Join(r.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("profile %s: %w", name, sdk.ErrNotFound)
	}
	return b, err
}

// prune removes the oldest profiles beyond those that are kept.
func (r *Recorder) prune() error {
	list, err := r.List()
	if err != nil {
		return err
	}
	for _, p := range list[min(r.cfg.Keep, len(list)):] {
		err = errors.Join(err, os.Remove(filepath.Join(r.dir, p.Name)))
	}
	return err
}
