//go:build !linux

package bootstrap

import "os"

// anonymous makes a file in the process's private folder and takes its name away at once.
func anonymous(name, dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, name) // mode 0600
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
