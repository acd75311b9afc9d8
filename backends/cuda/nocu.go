//go:build !cuda || !cgo

package cuda

import "errors"

// Supported says that this build can compute on a GPU.
const Supported = false

// ErrBuild says why this build can't.
var ErrBuild = errors.New("this program was built without CUDA: it takes the build tag cuda, cgo and CUDA's headers (make cuda)")

func openDevice(int) (device, error) { return nil, ErrBuild }
