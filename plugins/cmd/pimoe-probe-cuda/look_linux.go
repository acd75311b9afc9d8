//go:build amd64 || arm64

package main

import (
	"bytes"
	"fmt"

	"github.com/ebitengine/purego"
)

// Attributes of devices, by their numbers in NVIDIA's driver interface.
const (
	capabilityMajor = 75
	capabilityMinor = 76
)

// driver is the functions that are asked. In the library those that have changed once carry a version.
type driver struct {
	start     func(flags uint32) int32
	version   func(v *int32) int32
	count     func(n *int32) int32
	device    func(d *int32, ordinal int32) int32
	name      func(b *byte, n, d int32) int32
	memory    func(n *uint64, d int32) int32
	attribute func(v *int32, a, d int32) int32
}

func open() (*driver, error) {
	lib, err := purego.Dlopen("libcuda.so.1", purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return nil, fmt.Errorf("no driver: %w", err)
	}
	d := &driver{}
	for _, f := range []struct {
		to    any
		names []string
	}{
		{&d.start, []string{"cuInit"}}, {&d.version, []string{"cuDriverGetVersion"}}, {&d.count, []string{"cuDeviceGetCount"}},
		{&d.device, []string{"cuDeviceGet"}}, {&d.name, []string{"cuDeviceGetName"}}, {&d.attribute, []string{"cuDeviceGetAttribute"}},
		{&d.memory, []string{"cuDeviceTotalMem_v2", "cuDeviceTotalMem"}},
	} {
		var at uintptr
		for _, name := range f.names {
			if at, err = purego.Dlsym(lib, name); err == nil {
				break
			}
		}
		if err != nil {
			return nil, fmt.Errorf("libcuda.so.1 is no CUDA driver: %w", err)
		}
		purego.RegisterFunc(f.to, at)
	}
	return d, nil
}

// look asks the driver.
func look() (r report, err error) {
	d, err := open()
	if err != nil {
		return r, err
	}
	ask := func(what string, code int32) {
		if code != 0 && err == nil {
			err = fmt.Errorf("%s: the driver answers error %d", what, code)
		}
	}
	var version, count int32
	if ask("start", d.start(0)); err != nil {
		return r, err
	}
	ask("version", d.version(&version))
	ask("count devices", d.count(&count))
	r.Driver = int(version)
	for i := int32(0); i < count && err == nil; i++ {
		var number, major, minor int32
		var bytesOf uint64
		text := make([]byte, 256)
		ask("device", d.device(&number, i))
		ask("name", d.name(&text[0], int32(len(text)), number))
		ask("memory", d.memory(&bytesOf, number))
		ask("compute capability", d.attribute(&major, capabilityMajor, number))
		ask("compute capability", d.attribute(&minor, capabilityMinor, number))
		name, _, _ := bytes.Cut(text, []byte{0})
		r.Devices = append(r.Devices, device{Name: string(name), SM: int(major*10 + minor), Memory: int64(bytesOf)})
	}
	return r, err
}
