package ffn

import (
	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/sdk/expert"
)

// Device is what a program tells of the device that its backend computes on, and tells it.
type Device interface {
	// Configure takes the parameters of a Load, before the backend is given the first weights.
	Configure(params map[string]string) error
	expert.Sharing
	expert.Reporting
}

// OnDevice is an Expert whose backend computes on a device of its own. Make it with NewOnDevice.
type OnDevice struct {
	*Expert
	Device
}

// NewOnDevice makes an expert that computes with be, on d.
func NewOnDevice(be backends.Backend, d Device, o Options) *OnDevice {
	e := &OnDevice{New(be, o), d}
	e.params = d.Configure
	return e
}

var (
	_ expert.Expert    = (*OnDevice)(nil)
	_ expert.Sharing   = (*OnDevice)(nil)
	_ expert.Reporting = (*OnDevice)(nil)
)
