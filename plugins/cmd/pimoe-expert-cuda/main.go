// Command pimoe-expert-cuda serves feed-forward experts on an NVIDIA GPU, by package backends/cuda: numeric classes f32,
// bf16w-f32, f16w-f32 and int8g32 with the bits of the CPU's backends, and cuda-bf16 and cuda-f16. The host starts it; it has no
// flags and refuses to be run by hand.
//
// Built without the tag cuda it says so and exits with 78; so it does where there is no driver or no device. Once the device
// fails, the process ends with 70 and the reason as its last line: what such a device computed is not used.
package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/pimoe/pimoe/backends/cuda"
	"github.com/pimoe/pimoe/plugins/experts/ffn"
	"github.com/pimoe/pimoe/sdk/serve"
)

// The exit codes (sysexits.h): what is missing has to be mended by an operator; a lost device may be back.
const (
	exitUnavailable = 78
	exitLost        = 70
)

func main() {
	if !cuda.Supported {
		fmt.Fprintln(os.Stderr, "backend cuda is unavailable:", cuda.ErrBuild)
		os.Exit(exitUnavailable)
	}
	log := serve.Logger()
	uploaded := progress{log: log}
	backend := cuda.New(cuda.Options{Device: -1, Progress: uploaded.add, Shared: shared(log), Lost: func(err error) {
		fmt.Fprintln(os.Stderr, "backend cuda has lost its device:", err)
		os.Exit(exitLost)
	}})
	serve.Expert(ffn.NewOnDevice(backend, gpu{backend}, ffn.Options{Version: "1"})) // until the process ends
}

// shared logs how rows reach the device.
func shared(log *slog.Logger) func(why error) {
	return func(why error) {
		if why != nil {
			log.Warn("shared memory is not pinned: rows are copied once more on their way", "why", why.Error())
			return
		}
		log.Info("shared memory is pinned: the device copies rows by itself")
	}
}

// progress logs the upload of weights each time that another GiB has gone up.
type progress struct {
	log         *slog.Logger
	bytes, said int64
}

func (p *progress) add(bytes int) {
	p.bytes += int64(bytes)
	if p.bytes-p.said >= 1<<30 {
		p.said = p.bytes
		p.log.Info("weights are uploaded", "mib", p.bytes>>20)
	}
}
