package cuda

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"
)

// engine owns a device: one goroutine, which keeps its thread, makes all calls of the driver.
type engine struct {
	dev   device
	info  Info
	jobs  chan func()
	quit  chan struct{} // closed by close
	ended chan struct{} // closed by the goroutine
	once  sync.Once     // of close

	// Of the goroutine alone.
	kernels  map[string]kernel // by entry
	families map[string]bool   // whose kernels are there
	stages   [streams]stage
	shared   regions
	looked   time.Time // at the memory

	mu      sync.Mutex // guards what follows
	garbage []uint64   // memory of the device that nobody refers to any more
	done    Stats
}

// errClosed is what a closed engine says.
var errClosed = errors.New("the device is closed")

// startEngine starts the goroutine, which opens the device.
func startEngine(open func() (device, error)) (*engine, error) {
	e := &engine{
		jobs: make(chan func()), quit: make(chan struct{}), ended: make(chan struct{}),
		kernels: map[string]kernel{}, families: map[string]bool{},
	}
	opened := make(chan error)
	go func() {
		defer close(e.ended)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and the context is no other's
		var err error
		e.dev, err = open()
		opened <- err
		if err == nil {
			e.serve()
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

func (e *engine) serve() {
	for {
		select {
		case job := <-e.jobs:
			job()
		case <-e.quit:
			return
		}
	}
}

// do runs a job on the engine's thread and waits for it.
func (e *engine) do(job func() error) error {
	result := make(chan error, 1)
	select {
	case e.jobs <- func() { result <- job() }:
		return <-result
	case <-e.ended:
		return errClosed
	}
}

// close gives everything back and ends the goroutine. What lies on the device goes with its context.
func (e *engine) close() (err error) {
	e.once.Do(func() {
		err = e.do(func() error {
			all := e.shared.release(e.dev)
			for i := range e.stages {
				all = errors.Join(all, e.stages[i].free(e.dev))
			}
			return errors.Join(all, e.dev.close())
		})
		close(e.quit)
		<-e.ended
	})
	return err
}

// share has the driver pin memory that the process shares with its host; unshare gives it back.
func (e *engine) share(list []region) error {
	return e.do(func() error {
		why := e.shared.share(e.dev, list)
		if why != nil {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.done.Staged = why.Error()
		}
		return why
	})
}

func (e *engine) unshare() error {
	err := e.do(func() error { return e.shared.release(e.dev) })
	if errors.Is(err, errClosed) { // which has done it
		return nil
	}
	return err
}

// load takes the kernels of a kind, whose PTX the driver compiles for the device: that may take a second.
func (e *engine) load(k *kind) error {
	return e.do(func() error {
		for _, v := range k.available(e.info.SM) {
			if e.families[v.family] {
				continue
			}
			if err := e.loadFamily(v.family); err != nil {
				return fmt.Errorf("%s.ptx: %w", v.family, err)
			}
			e.families[v.family] = true
		}
		return nil
	})
}

func (e *engine) loadFamily(family string) error {
	text, err := ptx.ReadFile("kernel/" + family + ".ptx")
	if err != nil {
		return err
	}
	m, err := e.dev.load(string(text))
	if err != nil {
		return err
	}
	for _, name := range entries(string(text)) {
		if e.kernels[name], err = m.kernel(name); err != nil {
			return fmt.Errorf("kernel %s: %w", name, err)
		}
	}
	return nil
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

// put uploads bytes, in pieces by way of the first stage's pinned memory. On an error nothing of them stays.
func (e *engine) put(b []byte) (p uint64, err error) {
	err = e.do(func() (err error) {
		if err := e.collect(); err != nil {
			return err
		}
		if p, err = e.dev.alloc(len(b)); err != nil {
			return err
		}
		if err = e.copyIn(p, b); err == nil {
			err = e.look()
		}
		if err != nil {
			err = errors.Join(err, e.dev.free(p))
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.done.Weights += int64(len(b))
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
	var all error
	for _, p := range list {
		if err := e.dev.free(p); err != nil {
			all = errors.Join(all, fmt.Errorf("free weights: %w", err))
		}
	}
	return all
}
