package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/catalogue"
	"github.com/pimoe/pimoe/sdk/client"
)

// scriptFlags say how a plugin is confined that needs more than a program, such as a script.
type scriptFlags struct {
	name  string
	reads []string
}

func (s *scriptFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&s.name, "profile", "", "wider `confinement`: python for a script, cuda for a program on NVIDIA's devices")
	c.Flags().StringSliceVar(&s.reads, "reads", nil, "`folders` with libraries that it may read")
}

// any is the profile with whatever lies at its paths; nil for a program.
func (s *scriptFlags) any() (*client.Profile, error) {
	if s.name == "" {
		if len(s.reads) > 0 {
			return nil, usageError{errors.New("--reads is for a profile: want --profile python or cuda, too")}
		}
		return nil, nil
	}
	p := &client.Profile{Name: s.name}
	for _, dir := range s.reads {
		dir, err := filepath.EvalSymlinks(dir)
		if err == nil {
			dir, err = filepath.Abs(dir)
		}
		if err != nil {
			return nil, fmt.Errorf("--reads: %w", err)
		}
		p.Reads = append(p.Reads, client.Pinned{Path: dir})
	}
	return p, nil
}

// pinned is the profile for the catalogue with the digests of what lies at its paths now. Without flags it is the one that the
// plugin had before, with new digests.
func (s *scriptFlags) pinned(script string, before *catalogue.Profile) (*catalogue.Profile, error) {
	p, err := s.any()
	if err != nil {
		return nil, err
	}
	if p == nil && before != nil {
		p = &client.Profile{Name: before.Name}
		for _, r := range before.Reads {
			p.Reads = append(p.Reads, client.Pinned{Path: r.Path})
		}
	}
	if p == nil {
		return nil, nil
	}
	if p, err = p.Resolve(script); err != nil {
		return nil, fmt.Errorf("pin: %w", err)
	}
	out := &catalogue.Profile{Name: p.Name}
	if p.Interpreter.Path != "" {
		if out.Interpreter, err = pinnedFile(p.Interpreter.Path); err != nil {
			return nil, err
		}
	}
	for _, r := range p.Reads {
		digest, err := client.TreeDigest(r.Path, false)
		if err != nil {
			return nil, fmt.Errorf("pin: %w", err)
		}
		out.Reads = append(out.Reads, catalogue.Digest{Path: r.Path, SHA256: strings.TrimPrefix(digest, "sha256:")})
	}
	return out, nil
}

func pinnedFile(path string) (catalogue.Digest, error) {
	f, err := client.OpenTrusted(path, false)
	if err != nil {
		return catalogue.Digest{}, fmt.Errorf("pin: %w", err)
	}
	defer f.Close()
	digest, err := client.Digest(f)
	if err != nil {
		return catalogue.Digest{}, fmt.Errorf("pin %s: %w", path, err)
	}
	return catalogue.Digest{Path: path, SHA256: strings.TrimPrefix(digest, "sha256:")}, nil
}
