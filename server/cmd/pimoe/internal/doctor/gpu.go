package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// probe is the program that asks NVIDIA's driver: a broken driver must not end this process.
const probe = "pimoe-probe-cuda"

// probeWithin is enough for a driver that has to load its kernel module first.
const probeWithin = 20 * time.Second

// gpu looks for the driver's library by name, and lets the probe at path ask it, if it is there.
func gpu(path string) Check {
	const name = "libcuda.so.1"
	dirs := []string{"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/cuda/compat", "/usr/lib/wsl/lib"}
	dirs = append(filepath.SplitList(os.Getenv("LD_LIBRARY_PATH")), dirs...)
	for _, d := range dirs {
		if _, err := os.Stat(filepath.Join(d, name)); err == nil {
			return asked(path, filepath.Join(d, name))
		}
	}
	return Check{"gpu driver", Missing, "no " + name + "; experts run on the CPU"}
}

// asked is what the probe says of the driver in a library.
func asked(path, library string) Check {
	if _, err := os.Stat(path); err != nil {
		return Check{"gpu driver", OK, library + "; no " + probe + " beside the plugins to ask it"}
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, path)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var r struct {
		Driver  int
		Devices []struct {
			Name   string
			SM     int
			Memory int64 `json:"memory_bytes"`
		}
	}
	if err == nil {
		err = json.Unmarshal(out, &r)
	}
	if err != nil {
		why := strings.TrimSpace(stderr.String())
		if why == "" {
			why = err.Error()
		}
		return Check{"gpu driver", Missing, fmt.Sprintf("%s can't be used: %s; experts run on the CPU", library, why)}
	}
	detail := fmt.Sprintf("%s, CUDA %d.%d", library, r.Driver/1000, r.Driver%1000/10)
	for i, d := range r.Devices {
		detail += fmt.Sprintf("; %d: %s, compute capability %d.%d, %d MiB", i, d.Name, d.SM/10, d.SM%10, d.Memory>>20)
	}
	return Check{"gpu driver", OK, detail}
}
