// Command pimoe-probe-cuda prints what NVIDIA's driver says of this machine's GPUs, as JSON: `pimoe doctor` runs it, so that a broken
// driver ends this process and not that one. It opens libcuda.so.1 when it runs, and is built without CUDA.
//
// It only looks: it makes no context and allocates nothing. It refuses to guess: without a driver it says why and exits with 78.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

// report is what is printed.
type report struct {
	Driver  int      `json:"driver"` // the CUDA version: 12040 is 12.4
	Devices []device `json:"devices"`
}

type device struct {
	Name   string `json:"name"`
	SM     int    `json:"sm"` // compute capability: 80 is 8.0
	Memory int64  `json:"memory_bytes"`
}

func main() {
	r, err := look()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(78)
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
