package cuda

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
)

// engine owns a device: one goroutine, which keeps its thread, makes all calls of the driver.
type engine struct {
	dev    device
	info   Info
	jobs   chan func()
	ended  chan struct{}
	closed sync.Once

	// Of the goroutine alone.
	kernels map[string]kernel // by entry
	loaded  map[*kind]bool
	stages  [streams]stage

	mu      sync.Mutex // guards what follows
	garbage []uint64   // memory of the device that nobody refers to any more
	done    Stats
}

// Stats are sums over all calls of a device.
type Stats struct {
	Device      Info    `json:"device"`
	Calls       uint64  `json:"calls"`
	Rows        uint64  `json:"rows"`
	CopySeconds float64 `json:"copy_seconds"` // of the device, up and down
	RunSeconds  float64 `json:"run_seconds"`  // of the kernels
	Weights     int64   `json:"weight_bytes"` // that lie on the device
	Free        int64   `json:"free_bytes"`   // of the device's memory, when weights last went up
}

// startEngine starts the goroutine, which opens the device.
func startEngine(open func() (device, error)) (*engine, error) {
	e := &engine{jobs: make(chan func()), ended: make(chan struct{}), kernels: map[string]kernel{}, loaded: map[*kind]bool{}}
	opened := make(chan error)
	go func() {
		defer close(e.ended)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and the context is no other's
		var err error
		e.dev, err = open()
		opened <- err
		if err != nil {
			return
		}
		for job := range e.jobs {
			job()
		}
	}()
	if err := <-opened; err != nil {
		<-e.ended
		return nil, err
	}
	e.info = e.dev.info()
	e.done.Device = e.info
	return e, nil
}

// do runs a job on the engine's thread and waits for it.
func (e *engine) do(job func() error) error {
	result := make(chan error, 1)
	e.jobs <- func() { result <- job() }
	return <-result
}

// close frees what the stages hold and ends the goroutine.
func (e *engine) close() (err error) {
	e.closed.Do(func() {
		err = e.do(func() error {
			var all error
			for i := range e.stages {
				all = errors.Join(all, e.stages[i].free(e.dev))
			}
			return errors.Join(all, e.dev.close())
		})
		close(e.jobs)
		<-e.ended
	})
	return err
}

// load takes the kernels of a kind, whose PTX the driver compiles for the device: that may take a second.
func (e *engine) load(k *kind) error {
	return e.do(func() error {
		if e.loaded[k] {
			return nil
		}
		families := map[string]bool{}
		for _, v := range k.available(e.info.SM) {
			families[v.family] = true
		}
		for f := range families {
			text, err := ptx.ReadFile("kernel/" + f + ".ptx")
			if err != nil {
				return err
			}
			m, err := e.dev.load(string(text))
			if err != nil {
				return fmt.Errorf("load %s.ptx: %w", f, err)
			}
			for _, name := range entries(string(text)) {
				if e.kernels[name], err = m.kernel(name); err != nil {
					return fmt.Errorf("kernel %s: %w", name, err)
				}
			}
		}
		e.loaded[k] = true
		return nil
	})
}

// entries are the kernels in PTX.
func entries(text string) (names []string) {
	for _, line := range strings.Split(text, "\n") {
		if name, ok := strings.CutPrefix(line, ".visible .entry "); ok {
			names = append(names, strings.TrimSuffix(name, "("))
		}
	}
	return names
}

// put uploads bytes, in pieces by way of the first stage's pinned memory.
func (e *engine) put(b []byte) (p uint64, err error) {
	var free int64
	err = e.do(func() error {
		if err := e.collect(); err != nil {
			return err
		}
		if p, err = e.dev.alloc(len(b)); err != nil {
			return err
		}
		if err := e.copyIn(p, b); err != nil {
			return errors.Join(err, e.dev.free(p))
		}
		free, _, err = e.dev.memory()
		return err
	})
	if err != nil {
		return 0, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.done.Weights += int64(len(b))
	e.done.Free = free
	return p, nil
}

func (e *engine) copyIn(p uint64, b []byte) error {
	s := &e.stages[0]
	if err := s.pin(e.dev, min(len(b), pieceBytes), 0); err != nil {
		return err
	}
	for at := 0; at < len(b); at += pieceBytes {
		n := copy(s.in[:min(pieceBytes, len(s.in))], b[at:])
		if err := e.dev.upload(0, p+uint64(at), s.in[:n]); err != nil {
			return fmt.Errorf("upload: %w", err)
		}
		if err := e.dev.wait(0); err != nil {
			return fmt.Errorf("upload: %w", err)
		}
	}
	return nil
}

// pieceBytes of weights are uploaded at a time: enough to fill the bus, little enough to pin.
const pieceBytes = 8 << 20

// discard notes that a unit's memory may be freed; it may be called from anywhere.
func (e *engine) discard(u unit) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.done.Weights -= u.bytes
	for _, p := range u.at {
		if p != 0 {
			e.garbage = append(e.garbage, p)
		}
	}
}

// collect frees the garbage, on the engine's thread.
func (e *engine) collect() error {
	e.mu.Lock()
	list := e.garbage
	e.garbage = nil
	e.mu.Unlock()
	for _, p := range list {
		if err := e.dev.free(p); err != nil {
			return fmt.Errorf("free: %w", err)
		}
	}
	return nil
}

func (e *engine) stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.done
}
