//go:build cuda

package acceptance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/catalogue"
	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/server/instance"
)

// These tests run experts on the emulated CUDA driver, or on a real one where there is a GPU: scripts/cuda/test.sh builds the
// plugin that PIMOE_CUDA_PLUGIN names, and PIMOE_CUDA_CONF is the file that says what is wrong with the emulated device.

// onCUDA places experts 0 to 3 on the GPU, whose processes are confined by profile cuda; the others stay on the processor. A catalogue
// names the folder of the emulated driver, which does not lie where the system's libraries do.
func onCUDA(t *testing.T) func(*config.Config) {
	t.Helper()
	plugin := os.Getenv("PIMOE_CUDA_PLUGIN")
	if plugin == "" {
		t.Fatal("PIMOE_CUDA_PLUGIN names no executable: run scripts/cuda/test.sh")
	}
	list := &catalogue.Catalogue{}
	if conf := os.Getenv("PIMOE_CUDA_CONF"); conf != "" {
		whatever := strings.Repeat("0", 64) // plugins.dev takes what is there
		list.Pin(catalogue.Plugin{
			Name: "cuda", Kind: "expert", Version: "test", SHA256: whatever, Path: plugin,
			Profile: &catalogue.Profile{Name: "cuda", Reads: []catalogue.Digest{{Path: filepath.Dir(conf), SHA256: whatever}}},
		})
	}
	text, err := list.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), catalogue.FileName)
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return func(c *config.Config) {
		c.Plugins.Dev, c.Plugins.Catalogue = true, path
		if os.Getenv("PIMOE_CUDA_UNCONFINED") == "1" { // scripts/cuda/proof.sh: does a driver work at all, and then confined?
			unconfined(c)
		}
		c.Experts.Overrides = []config.Override{{Layers: "all", Experts: []any{0, 1, 2, 3}, Backend: "cuda", Plugin: plugin}}
	}
}

// unconfined is for faults that the emulated driver takes back by removing a file.
func unconfined(c *config.Config) { c.Plugins.Confine = "off" }

// device changes what the emulated device is, until the test ends.
func device(t *testing.T, conf string) {
	t.Helper()
	path := os.Getenv("PIMOE_CUDA_CONF")
	if path == "" {
		t.Fatal("PIMOE_CUDA_CONF names no file: run scripts/cuda/test.sh")
	}
	if err := os.WriteFile(path, []byte(conf), 0o644); err != nil { // the processes are users of their own
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
}

// onProcessor are the texts of a server that computes on the processor alone.
func onProcessor(t *testing.T) []string {
	t.Helper()
	if plain == nil {
		plain = texts(t, open(t), engine.StatusExact)
	}
	return plain
}

var plain []string // of onProcessor, which is asked by one test at a time

// cudaGroups are the processes on the GPU.
func cudaGroups(i *instance.Instance) (list []host.Status) {
	for _, s := range i.Host.Status() {
		if s.Backend == "cuda" {
			list = append(list, s)
		}
	}
	return list
}

// TestCUDAMixed: a model with half its experts on the GPU gives the answers of one that is on the processor alone, token by
// token, and goes on doing so when the process is killed, when it stops, and when the device fails once in the middle of an answer.
func TestCUDAMixed(t *testing.T) {
	want := onProcessor(t)
	i := open(t, onCUDA(t))
	groups := cudaGroups(i)
	if len(groups) != 4 {
		t.Fatalf("%d processes on the GPU, want 4: %+v", len(groups), i.Host.Status())
	}
	for _, g := range groups {
		if g.NumericClass != "bf16w-f32" {
			t.Errorf("%s computes in %s", g.Group, g.NumericClass)
		}
		profiled := slices.ContainsFunc(g.Confinement, func(m client.Measure) bool {
			return m.Name == "profile" && m.Applied && strings.HasPrefix(m.Detail, "cuda, wider")
		})
		if confined := i.Config.Plugins.Confine != "off"; profiled != confined {
			t.Errorf("%s is confined by profile cuda: %v, want %v: %+v", g.Group, profiled, confined, g.Confinement)
		}
	}
	if got := texts(t, i, engine.StatusExact); !slices.Equal(got, want) {
		t.Errorf("texts\n%q, on the processor\n%q", got, want)
	}
	free := sync.OnceValue(func() *instance.Instance { return open(t, onCUDA(t), unconfined) })
	for name, hurt := range map[string]func(){
		"kill": func() { syscall.Kill(cudaGroups(i)[1].PID, syscall.SIGKILL) },
		"lost": func() { device(t, "lost 999\nonce 1\n") },
		"fail": func() { device(t, "launch 1\nonce 1\n") },
	} {
		t.Run(name, func(t *testing.T) {
			i := i
			if name != "kill" {
				i = free()
			}
			var once sync.Once
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			s, err := i.Engine.Submit(ctx, greedy(story(i, "a fox and a lamp"), 32))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			text := ""
			for n := 0; ; n++ {
				tok, err := s.Next(ctx)
				if err != nil {
					break
				}
				text += tok.Text
				if n == 8 {
					once.Do(hurt)
				}
			}
			if text != want[0] {
				t.Errorf("text %q, want %q", text, want[0])
			}
			if name == "kill" {
				return
			}
			var last []string
			for _, g := range cudaGroups(i) {
				if g.LastDeath != nil {
					last = append(last, fmt.Sprint(g.LastDeath.ExitCode, g.LastDeath.Log))
				}
			}
			if !strings.Contains(strings.Join(last, "\n"), "backend cuda has lost its device: cuda: device 0, emulated sm_80") {
				t.Errorf("no process says that its device was lost: %q", last)
			}
		})
	}
}

// TestCUDAUnavailable: without a device, or with too little memory, a start says so and leaves nothing; under policy fallback the server
// starts, and the processor computes.
func TestCUDAUnavailable(t *testing.T) {
	for conf, says := range map[string]string{
		"init 100\n":      "backend cuda is unavailable: the driver answers error 100: there is no CUDA device",
		"memory 100000\n": "out of memory",
	} {
		device(t, conf)
		if i, err := tryOpen(t, onCUDA(t)); err == nil || !errors.Is(err, sdk.ErrUnavailable) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, %v; want %q", conf, i, err, says)
		}
	}
	device(t, "memory 100000\n")
	i := open(t, onCUDA(t), withFallback)
	want := onProcessor(t)
	if got := texts(t, i, engine.StatusFallback); !slices.Equal(got, want) {
		t.Errorf("texts\n%q, want\n%q", got, want)
	}
}

// withFallback lets the processor compute what the GPU can't.
func withFallback(c *config.Config) {
	c.Experts.Overrides[0].Policy, c.Experts.Overrides[0].Fallback = "fallback", config.Alternative{Backend: "cpu"}
}

// TestCUDALost: a device that stays lost is a clear error under policy strict, and the processor's work under policy fallback.
func TestCUDALost(t *testing.T) {
	want := onProcessor(t)
	t.Run("strict", func(t *testing.T) {
		i := open(t, onCUDA(t))
		device(t, "lost 999\n")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		a := run(ctx, i, greedy(story(i, "the sea"), 32))
		if a.err == nil || a.text != "" && !strings.HasPrefix(want[1], a.text) {
			t.Errorf("text %q, error %v", a.text, a.err)
		}
		if err := i.Ready(); err == nil || !strings.Contains(err.Error(), "e0") && !strings.Contains(err.Error(), "e1") && !strings.Contains(err.Error(), "e2") && !strings.Contains(err.Error(), "e3") {
			t.Errorf("ready: %v", err)
		}
	})
	t.Run("fallback", func(t *testing.T) {
		i := open(t, onCUDA(t), withFallback)
		device(t, "lost 999\n")
		if got := texts(t, i, engine.StatusFallback); !slices.Equal(got, want) {
			t.Errorf("texts\n%q, want\n%q", got, want)
		}
	})
}

// TestCUDASwap changes a group from cpu to cuda to int8, on the GPU and off it, under load: nothing is dropped, and each answer is one of
// the two that the numeric classes give.
func TestCUDASwap(t *testing.T) {
	i := open(t, func(c *config.Config) { onCUDA(t)(c); c.Experts.Overrides = nil })
	plugin := os.Getenv("PIMOE_CUDA_PLUGIN")
	name := i.Host.Status()[0].Group
	swap := func(c instance.Change) *host.Swapped {
		t.Helper()
		done, err := i.Swap(t.Context(), name, c)
		if err != nil {
			t.Fatalf("swap to %+v: %v", c, err)
		}
		return done
	}
	request := greedy(story(i, "a fox and a lamp"), 24)
	right := map[string]bool{run(t.Context(), i, request).text: true}
	swap(instance.Change{Backend: "int8"})
	right[run(t.Context(), i, request).text] = true
	swap(instance.Change{Backend: "cpu"})

	var asked, failed atomic.Int64
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 3 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a := run(t.Context(), i, request)
				if asked.Add(1); a.err != nil || !right[a.text] {
					failed.Add(1)
					t.Errorf("error %v, text %q", a.err, a.text)
					return
				}
			}
		})
	}
	if done := swap(instance.Change{Backend: "cuda", Plugin: plugin}); !done.Difference.Same {
		t.Errorf("cpu and cuda differ: %+v", done.Difference)
	}
	swap(instance.Change{Backend: "int8"})
	if done := swap(instance.Change{Backend: "cuda", Plugin: plugin, Precision: "int8g32"}); !done.Difference.Same {
		t.Errorf("int8 and cuda's int8g32 differ: %+v", done.Difference)
	}
	swap(instance.Change{Backend: "cpu"})
	close(stop)
	load.Wait()
	t.Logf("measured: 4 swaps under %d requests, %d failed", asked.Load(), failed.Load())
	if asked.Load() < 4 {
		t.Errorf("%d requests: that was no load", asked.Load())
	}
}

// TestCUDADevices: groups are put on devices by their numbers, and one that is not there is an error that names the setting and what
// there is. What the devices have and have done is among the metrics and in the status of each process.
func TestCUDADevices(t *testing.T) {
	device(t, "devices 2\n")
	on := func(numbers ...string) func(*config.Config) {
		return func(c *config.Config) {
			cuda := c.Experts.Overrides[0]
			c.Experts.Overrides = nil
			for e, n := range numbers {
				o := cuda
				o.Experts, o.Device = []any{e}, n
				c.Experts.Overrides = append(c.Experts.Overrides, o)
			}
			c.Metrics.Interval = 100 * time.Millisecond
		}
	}
	if i, err := tryOpen(t, onCUDA(t), on("0", "2")); err == nil || !errors.Is(err, sdk.ErrUnavailable) ||
		!strings.Contains(err.Error(), "with experts.overrides[1].device: 2: ") || !strings.Contains(err.Error(), "there is no device 2: the driver has 2") {
		t.Errorf("%v, %v", i, err)
	}
	i := open(t, onCUDA(t), on("1", "0", "1"))
	if got, want := texts(t, i, engine.StatusExact), onProcessor(t); !slices.Equal(got, want) {
		t.Errorf("texts\n%q, want\n%q", got, want)
	}
	if _, err := i.Host.Devices(t.Context()); err != nil {
		t.Error(err)
	}
	for _, s := range i.Host.Status() {
		on := map[string]string{"e0": "1", "e1": "0", "e2": "1"}[s.Group]
		switch {
		case on == "" && s.Devices == nil:
		case on == "" || len(s.Devices) != 1:
			t.Errorf("%s: devices %+v", s.Group, s.Devices)
		default:
			if d := s.Devices[0]; d.ID != on || d.Name != "emulated sm_80 #"+on || d.Staged != "" || d.KernelSeconds <= 0 || d.UploadBytes <= 0 || d.WeightBytes <= 0 || d.UsedBytes < d.WeightBytes {
				t.Errorf("%s: %+v", s.Group, d)
			}
		}
	}
	eventually(t, "the devices are measured", func() bool {
		var text strings.Builder
		i.Metrics.Write(&text)
		for _, series := range []string{
			`pimoe_device_memory_total_bytes{device="0"} 8.589934592e+09`, `pimoe_device_memory_used_bytes{device="1"} `, `pimoe_device_busy_ratio{device="1"} `,
			`pimoe_device_weight_bytes{group="e1",replica="0",device="0"} `, `pimoe_device_kernel_seconds_total{group="e2",replica="0",device="1"} `,
			`pimoe_device_copy_seconds_total{group="e0",replica="0",device="1",direction="up"} `, `pimoe_device_copy_bytes_total{group="e0",replica="0",device="1",direction="down"} `,
		} {
			if !strings.Contains(text.String(), series) {
				return false
			}
		}
		return !strings.Contains(text.String(), `pimoe_device_weight_bytes{group="e3"`)
	})
}
