package main

import (
	"fmt"
	"strconv"

	"github.com/pimoe/pimoe/backends/cuda"
	"github.com/pimoe/pimoe/plugins/experts/ffn"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
)

// gpu is the backend's device as the expert speaks of it.
type gpu struct{ *cuda.Backend }

// Configure takes the parameter device: the number of a device.
func (g gpu) Configure(params map[string]string) error {
	for name, value := range params {
		if name != "device" {
			return fmt.Errorf("%w: unknown parameter %q: there is device", sdk.ErrInvalid, name)
		}
		n, err := strconv.ParseUint(value, 10, 8)
		if err != nil {
			return fmt.Errorf("%w: parameter device: %q: want the number of a device, such as 0", sdk.ErrInvalid, value)
		}
		g.Use(int(n))
	}
	return nil
}

// Devices tells of the one device; of none before it is open.
func (g gpu) Devices() []expert.Device {
	s := g.Stats()
	if s.Device.Name == "" {
		return nil
	}
	return []expert.Device{{
		ID: strconv.Itoa(s.Device.Number), Name: s.Device.Name,
		MemoryBytes: s.Device.Memory, UsedBytes: max(s.Device.Memory-s.Free, 0), WeightBytes: s.Weights,
		KernelSeconds: s.RunSeconds, UploadSeconds: s.UploadSeconds, DownloadSeconds: s.DownloadSeconds,
		UploadBytes: s.Uploaded, DownloadBytes: s.Downloaded, Staged: s.Staged,
	}}
}

var _ ffn.Device = gpu{}
