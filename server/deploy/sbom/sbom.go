// Package sbom says what executables are made of, as a CycloneDX 1.6 document: each executable with its digest, the modules
// that are linked into it with their versions, and Go's own library. All of it is read out of the executables, so it holds
// for the very files that are shipped.
//
// `pimoe deploy sbom` uses it, and by that the images. It refuses files that Go has not built: of what is in them it would
// know nothing.
package sbom

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
)

// Document is the part of CycloneDX that is used.
type Document struct {
	Schema       string       `json:"$schema"`
	Format       string       `json:"bomFormat"`
	SpecVersion  string       `json:"specVersion"`
	Version      int          `json:"version"`
	Metadata     Metadata     `json:"metadata"`
	Components   []Component  `json:"components"`
	Dependencies []Dependency `json:"dependencies"`
}

// Metadata says what the document is about.
type Metadata struct {
	Component Component `json:"component"`
}

// Component is an executable, a module or the whole.
type Component struct {
	Type       string     `json:"type"` // application, library or file
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version,omitempty"`
	Purl       string     `json:"purl,omitempty"`
	Hashes     []Hash     `json:"hashes,omitempty"`
	Properties []Property `json:"properties,omitempty"`
}

// Hash is a digest of a file.
type Hash struct {
	Alg     string `json:"alg"`
	Content string `json:"content"`
}

// Property is what CycloneDX has no field for.
type Property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Dependency says what a component is made of.
type Dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// Of reads executables. The same files give the same document: it holds neither the time nor a random number.
func Of(name, version string, files []string) (Document, error) {
	whole := Component{Type: "application", Ref: name, Name: name, Version: version}
	d := Document{
		Schema: "http://cyclonedx.org/schema/bom-1.6.schema.json", Format: "CycloneDX", SpecVersion: "1.6", Version: 1,
		Metadata: Metadata{Component: whole},
	}
	parts := map[string]Component{}
	made := Dependency{Ref: whole.Ref}
	for _, f := range slices.Sorted(slices.Values(files)) {
		program, libraries, err := read(f)
		if err != nil {
			return Document{}, err
		}
		d.Components = append(d.Components, program)
		made.DependsOn = append(made.DependsOn, program.Ref)
		uses := Dependency{Ref: program.Ref}
		for _, l := range libraries {
			parts[l.Ref] = l
			uses.DependsOn = append(uses.DependsOn, l.Ref)
		}
		d.Dependencies = append(d.Dependencies, uses)
	}
	d.Dependencies = append([]Dependency{made}, d.Dependencies...)
	for _, ref := range slices.Sorted(maps.Keys(parts)) {
		d.Components = append(d.Components, parts[ref])
	}
	return d, nil
}

// read is an executable and what is linked into it, sorted.
func read(file string) (Component, []Component, error) {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return Component{}, nil, fmt.Errorf("read what %s is made of: %w", file, err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return Component{}, nil, fmt.Errorf("read what %s is made of: %w", file, err)
	}
	sum := sha256.Sum256(data)
	base := filepath.Base(file)
	program := Component{
		Type: "application", Ref: "file:" + base, Name: base, Version: info.Main.Version, Hashes: []Hash{{"SHA-256", hex.EncodeToString(sum[:])}},
		Properties: []Property{{"pimoe:package", info.Path}},
	}
	for _, s := range info.Settings {
		if slices.Contains([]string{"GOOS", "GOARCH", "CGO_ENABLED", "vcs.revision"}, s.Key) {
			program.Properties = append(program.Properties, Property{"go:" + s.Key, s.Value})
		}
	}
	libraries := []Component{library("std", strings.TrimPrefix(info.GoVersion, "go"), "")}
	for _, m := range info.Deps {
		libraries = append(libraries, module(m))
	}
	slices.SortFunc(libraries, func(a, b Component) int { return cmp.Compare(a.Ref, b.Ref) })
	return program, libraries, nil
}

// module is a module as it was linked: a replacement counts, not what it replaces.
func module(m *debug.Module) Component {
	if m.Replace != nil {
		m = m.Replace
	}
	return library(m.Path, m.Version, m.Sum)
}

func library(path, version, sum string) Component {
	purl := "pkg:golang/" + path + "@" + strings.ReplaceAll(version, "+", "%2B")
	c := Component{Type: "library", Ref: purl, Name: path, Version: version, Purl: purl}
	if sum != "" {
		c.Properties = []Property{{"go:sum", sum}} // of the module's files; it is no digest of one file, as hashes are
	}
	return c
}

// JSON is the document as a file.
func (d Document) JSON() ([]byte, error) {
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the bill of materials: %w", err)
	}
	return append(b, '\n'), nil
}
