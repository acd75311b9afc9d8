// Package deploy makes the files that run PiMoE somewhere: one set of values, and for each target (compose, nginx, systemd,
// monitoring, Kubernetes, Helm) a package below it that renders them. What two targets must agree on, such as ports, names,
// limits and the addresses of one another, is said here and nowhere else.
//
// `pimoe deploy render` and the tests that hold the folder deploy against it use it. It refuses to talk to what it describes,
// and to put a secret into a file: secrets are named, and the file says where they come from.
package deploy

import (
	"cmp"
	"io/fs"
	"slices"
)

// File is one file of a target.
type File struct {
	Path string // below the output folder, with slashes
	Mode fs.FileMode
	Data []byte
}

// Target renders files from values. The same values give the same bytes.
type Target interface {
	Name() string // as on the command line: compose, kube, helm, nginx, systemd, monitoring
	Files(Values) ([]File, error)
}

// Sorted is files by path.
func Sorted(files []File) []File {
	return slices.SortedFunc(slices.Values(files), func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
}
