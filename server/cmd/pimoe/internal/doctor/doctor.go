// Package doctor finds out what this machine can do for PiMoE: instruction sets, the kernel features that isolation and
// the shared-memory plane stand on, a GPU driver, the plugins and the store. The doctor command uses it.
//
// It only looks: it loads no driver, starts no plugin and refuses to call something missing that it could not test.
package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/pimoe/pimoe/backends/isa"
)

// Status is the outcome of one check.
type Status string

// The outcomes.
const (
	OK      Status = "ok"      // there and usable
	Missing Status = "missing" // not there; Detail says what PiMoE does without it
	Failed  Status = "failed"  // must be there and is not: serve would fail
)

// Check is one finding.
type Check struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
}

// Run makes all checks. plugins and home are the folders of the configuration; needed are the names of the plugin
// executables that it uses.
func Run(plugins, home string, needed []string) []Check {
	checks := []Check{
		{"platform", OK, fmt.Sprintf("%s/%s, %d CPUs, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())},
		instructionSets(),
	}
	checks = append(checks, kernel()...)
	checks = append(checks, gpu(filepath.Join(plugins, probe)), pluginFiles(plugins, needed), store(home))
	return checks
}

// Failures counts the failed checks.
func Failures(checks []Check) int {
	n := 0
	for _, c := range checks {
		if c.Status == Failed {
			n++
		}
	}
	return n
}

func instructionSets() Check {
	if sets := simd(); len(sets) > 0 {
		return Check{"instruction sets", OK, fmt.Sprintf("%s; kernels use %v", strings.Join(sets, " "), isa.Active())}
	}
	return Check{"instruction sets", Missing, "none of those that kernels use; the pure-Go kernels run"}
}

func pluginFiles(dir string, needed []string) Check {
	found, err := Plugins(dir)
	if err != nil {
		return Check{"plugins", Failed, err.Error()}
	}
	usable := map[string]bool{}
	var names []string
	for _, p := range found {
		usable[p.File] = p.Executable
		names = append(names, p.File)
	}
	for _, n := range needed {
		if ok, there := usable[n]; !there {
			return Check{"plugins", Failed, fmt.Sprintf("%s has no %s, which the configuration asks for", dir, n)}
		} else if !ok {
			return Check{"plugins", Failed, fmt.Sprintf("%s in %s is not executable", n, dir)}
		}
	}
	return Check{"plugins", OK, fmt.Sprintf("%s: %s", dir, strings.Join(names, " "))}
}

// Plugin is an executable in the plugin folder.
type Plugin struct {
	Name       string `json:"name"` // NAME of pimoe-router-NAME or pimoe-expert-NAME
	Kind       string `json:"kind"` // router or expert
	File       string `json:"file"`
	Path       string `json:"path"`
	Bytes      int64  `json:"bytes"`
	Executable bool   `json:"executable"`
}

// Plugins lists the plugin executables of a folder, by file name. A folder that does not exist has none.
func Plugins(dir string) ([]Plugin, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list plugins: %w", err)
	}
	var out []Plugin
	for _, e := range entries {
		kind, name, ok := PluginName(e.Name())
		if !ok {
			continue
		}
		info, err := os.Stat(filepath.Join(dir, e.Name()))
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		out = append(out, Plugin{
			Name: name, Kind: kind, File: e.Name(), Path: filepath.Join(dir, e.Name()), Bytes: info.Size(),
			Executable: info.Mode().Perm()&0o111 != 0,
		})
	}
	return out, nil
}

// PluginName takes the name of a plugin executable apart.
func PluginName(file string) (kind, name string, ok bool) {
	for _, k := range []string{"router", "expert"} {
		if n, found := strings.CutPrefix(file, "pimoe-"+k+"-"); found && n != "" {
			return k, n, true
		}
	}
	return "", "", false
}

// store checks that the folder, or the nearest one above it that exists, can be written to.
func store(home string) Check {
	dir := home
	for {
		if _, err := os.Stat(dir); err == nil {
			break
		}
		up := filepath.Dir(dir)
		if up == dir {
			break
		}
		dir = up
	}
	f, err := os.CreateTemp(dir, ".pimoe-doctor-*")
	if err != nil {
		return Check{"store", Failed, fmt.Sprintf("%s is not writable: %v; PIMOE_HOME names another folder", home, err)}
	}
	f.Close()
	os.Remove(f.Name())
	return Check{"store", OK, home + freeSpace(dir)}
}
