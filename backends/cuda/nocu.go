//go:build !cuda || !cgo

package cuda

// Supported says that this build can compute on a GPU.
const Supported = false

func openDevice(int) (device, error) { return nil, ErrBuild }
