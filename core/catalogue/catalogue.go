// Package catalogue is the list of the plugins that a host may start: plugins.yaml, which says for every executable its
// kind, version and digest, and if need be the expert groups that it may serve.
//
// core/host's users ask it about every executable before it runs; `pimoe plugins pin` writes it. The package refuses
// files with anything in them that it does not know, and it does not look at executables itself: a digest comes in, a
// verdict goes out.
package catalogue

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/pimoe/pimoe/sdk"
)

// FileName is the catalogue's name in the folder of the plugins.
const FileName = "plugins.yaml"

// Plugin is one executable that may be started.
type Plugin struct {
	Name    string   `yaml:"name" json:"name"`       // NAME of pimoe-router-NAME or pimoe-expert-NAME
	Kind    string   `yaml:"kind" json:"kind"`       // router or expert
	Version string   `yaml:"version" json:"version"` // for people
	SHA256  string   `yaml:"sha256" json:"sha256"`   // of the file, in hexadecimal
	Path    string   `yaml:"path,omitempty" json:"path,omitempty"`
	Groups  []string `yaml:"groups,omitempty" json:"groups,omitempty"` // expert groups that it may serve; none = all
	// Profile says what the plugin needs beyond a plain program; nil = nothing.
	Profile *Profile `yaml:"profile,omitempty" json:"profile,omitempty"`
}

// Profile is the wider confinement that a script is given, or a program on NVIDIA's devices.
type Profile struct {
	Name        string   `yaml:"name" json:"name"`                                  // python or cuda
	Interpreter Digest   `yaml:"interpreter,omitempty" json:"interpreter,omitzero"` // of a script
	Reads       []Digest `yaml:"reads,omitempty" json:"reads,omitempty"`            // folders with its libraries
}

// Digest is a file or folder and what it must be.
type Digest struct {
	Path   string `yaml:"path" json:"path"`
	SHA256 string `yaml:"sha256" json:"sha256"`
}

// File is the plugin's path: its own, or its name's beside the catalogue in dir.
func (p Plugin) File(dir string) string {
	if p.Path != "" {
		return p.Path
	}
	return filepath.Join(dir, "pimoe-"+p.Kind+"-"+p.Name)
}

// Catalogue is the list.
type Catalogue struct {
	Plugins []Plugin `yaml:"plugins"`
}

// The bounds of a catalogue, far beyond any that a host could use.
const (
	MaxBytes   = 1 << 20
	maxPlugins = 1000
	maxGroups  = 10_000
	maxReads   = 16
)

var (
	namePattern   = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)
	groupPattern  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)
)

// Read parses a catalogue. Its errors are sdk.ErrInvalid and name the entry.
func Read(r io.Reader) (*Catalogue, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("catalogue: %w", err)
	}
	if len(b) > MaxBytes {
		return nil, invalid("more than %d bytes", MaxBytes)
	}
	if err := plain(b); err != nil {
		return nil, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	var c Catalogue
	if err := dec.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return nil, invalid("%v", err)
	}
	if err := dec.Decode(new(Catalogue)); !errors.Is(err, io.EOF) {
		return nil, invalid("more than one YAML document")
	}
	return &c, c.Validate()
}

// plain refuses anchors and aliases, by which a small file becomes a large value.
func plain(b []byte) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return invalid("%v", err)
	}
	nodes := []*yaml.Node{&doc}
	for len(nodes) > 0 {
		n := nodes[len(nodes)-1]
		nodes = append(nodes[:len(nodes)-1], n.Content...)
		if n.Kind == yaml.AliasNode || n.Anchor != "" {
			return invalid("line %d: anchors and aliases are not supported", n.Line)
		}
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("catalogue: %s: %w", fmt.Sprintf(format, args...), sdk.ErrInvalid)
}

// Validate refuses entries that are incomplete, that contradict each other or that are not meant literally.
func (c *Catalogue) Validate() error {
	if len(c.Plugins) > maxPlugins {
		return invalid("%d plugins, at most %d", len(c.Plugins), maxPlugins)
	}
	seen := map[string]int{}
	for i, p := range c.Plugins {
		if err := p.validate(); err != nil {
			return invalid("plugins[%d]: %v", i, err)
		}
		key := p.File("") + " " + p.SHA256
		if first, twice := seen[key]; twice {
			return invalid("plugins[%d]: the same file and digest as plugins[%d]", i, first)
		}
		seen[key] = i
	}
	return c.oneProfile()
}

// oneProfile refuses two profiles for one file: the host asks for the profile before it knows which version lies there.
func (c *Catalogue) oneProfile() error {
	first := map[string]int{}
	for i, p := range c.Plugins {
		j, twice := first[p.File("")]
		if !twice {
			first[p.File("")] = i
		} else if !reflect.DeepEqual(p.Profile, c.Plugins[j].Profile) {
			return invalid("plugins[%d]: another profile than plugins[%d], which is the same file", i, j)
		}
	}
	return nil
}

func (p *Profile) validate() error {
	if p == nil {
		return nil
	}
	pinned := p.Reads
	switch {
	case p.Name == "python":
		pinned = append([]Digest{p.Interpreter}, pinned...)
	case p.Name != "cuda":
		return fmt.Errorf("profile %q: there are python and cuda", p.Name)
	case p.Interpreter != Digest{}:
		return fmt.Errorf("profile cuda: interpreter: it is for programs, which have none")
	}
	if len(p.Reads) > maxReads {
		return fmt.Errorf("profile: %d folders to read, at most %d", len(p.Reads), maxReads)
	}
	for _, d := range pinned {
		switch {
		case !filepath.IsAbs(d.Path) || filepath.Clean(d.Path) != d.Path || d.Path == "/" || strings.ContainsAny(d.Path, ":\x00"):
			return fmt.Errorf("profile: path %q: want a full path without ., .. and colons", d.Path)
		case !digestPattern.MatchString(d.SHA256):
			return fmt.Errorf("profile: sha256 %q of %s: want 64 hexadecimal digits", d.SHA256, d.Path)
		}
	}
	return nil
}

// Profile is that of the executable at the path; nil if it has none.
func (c *Catalogue) Profile(dir, path string) *Profile {
	for _, p := range c.Plugins {
		if filepath.Clean(p.File(dir)) == filepath.Clean(path) {
			return p.Profile
		}
	}
	return nil
}

func (p Plugin) validate() error {
	switch {
	case !namePattern.MatchString(p.Name):
		return fmt.Errorf("name %q: want lower-case letters, digits, - and _", p.Name)
	case p.Kind != "router" && p.Kind != "expert":
		return fmt.Errorf("kind %q: want router or expert", p.Kind)
	case !digestPattern.MatchString(p.SHA256):
		return fmt.Errorf("sha256 %q: want 64 hexadecimal digits", p.SHA256)
	case len(p.Version) > 128 || strings.ContainsFunc(p.Version, func(r rune) bool { return r < ' ' || r > '~' }):
		return fmt.Errorf("version: want at most 128 plain characters")
	case p.Path != "" && (!filepath.IsAbs(p.Path) || filepath.Clean(p.Path) != p.Path):
		return fmt.Errorf("path %q: want a full path without . and ..", p.Path)
	case len(p.Groups) > maxGroups:
		return fmt.Errorf("%d groups, at most %d", len(p.Groups), maxGroups)
	case p.Kind == "router" && len(p.Groups) > 0:
		return fmt.Errorf("groups: a router serves none")
	}
	for _, g := range p.Groups {
		if !groupPattern.MatchString(g) {
			return fmt.Errorf("group %q: want letters, digits, -, _ and .", g)
		}
	}
	return p.Profile.validate()
}

// Router is the group of a router, which has none, for Check.
const Router = ""

// Check is nil if the executable at the path, with the digest "sha256:...", may serve the group. dir is where the
// catalogue's plugins without a path of their own are.
func (c *Catalogue) Check(dir, group, path, digest string) error {
	kind := "expert"
	if group == Router {
		kind = "router"
	}
	known := 0
	for _, p := range c.Plugins {
		if p.Kind != kind || filepath.Clean(p.File(dir)) != filepath.Clean(path) {
			continue
		}
		known++
		if "sha256:"+p.SHA256 != digest {
			continue
		}
		if len(p.Groups) > 0 && !slices.Contains(p.Groups, group) {
			return fmt.Errorf("the catalogue pins it for other expert groups than %s: %w", group, sdk.ErrUnsupported)
		}
		return nil
	}
	if known == 0 {
		return fmt.Errorf("it is not in the catalogue as a plugin of kind %s (see: pimoe plugins pin): %w", kind, sdk.ErrUnsupported)
	}
	return fmt.Errorf("it is not the file that the catalogue pins: its digest is %s: %w", digest, sdk.ErrUnsupported)
}

// Pin adds an entry or takes the place of the one for the same file, whose groups it keeps if it names none.
func (c *Catalogue) Pin(p Plugin) {
	for i, old := range c.Plugins {
		if old.File("") == p.File("") {
			if p.Groups == nil {
				p.Groups = old.Groups
			}
			c.Plugins[i] = p
			return
		}
	}
	c.Plugins = append(c.Plugins, p)
	slices.SortFunc(c.Plugins, func(a, b Plugin) int { return strings.Compare(a.File(""), b.File("")) })
}

// Bytes is the catalogue as Read takes it.
func (c *Catalogue) Bytes() ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.WriteString("# The plugins that a host may start, written by: pimoe plugins pin\n")
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(c); err != nil {
		return nil, fmt.Errorf("catalogue: %w", err)
	}
	return out.Bytes(), enc.Close()
}
