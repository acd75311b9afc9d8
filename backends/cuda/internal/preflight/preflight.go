//go:build cuda && cgo

package preflight

// #cgo LDFLAGS: -lcuda
// #include <cuda.h>
import "C"

import (
	"fmt"
	"os"
)

// causes are what a driver says of itself when it starts, for people.
var causes = map[int]string{
	2:   "the host or the device is out of memory",
	100: "there is no CUDA device, or this process may not open it (/dev/nvidia*)",
	101: "the device is not valid",
	802: "the system is not ready: is the fabric manager running?",
	803: "the driver and its library are of different versions: restart after the driver's update",
	804: "the library of the compatibility package does not fit this device",
	999: "unknown error: the device may have fallen off the bus, or the kernel module is not loaded (nvidia-smi and dmesg say more)",
}

func init() {
	code := int(C.cuInit(0))
	if code == 0 {
		return
	}
	why := causes[code]
	if why == "" {
		why = "see cuInit in NVIDIA's driver interface"
	}
	fmt.Fprintf(os.Stderr, "backend cuda is unavailable: the driver answers error %d: %s\n", code, why)
	os.Exit(ExitCode)
}
