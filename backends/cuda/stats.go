package cuda

import "time"

// Stats are what a device has, and sums over all calls that it has computed for this process. The seconds are those of the
// device's own events: of two streams, and of processes that share the device, they can overlap.
type Stats struct {
	Device          Info
	Calls           uint64
	Rows            uint64
	Direct          uint64 // of the rows, those whose answers the device copied into shared memory by itself
	UploadSeconds   float64
	RunSeconds      float64 // of the kernels
	DownloadSeconds float64
	Uploaded        int64  // bytes of calls; weights are not among them
	Downloaded      int64  // bytes
	Weights         int64  // bytes that lie on the device
	Free            int64  // bytes of the device's memory, whoever uses the rest
	Staged          string // why the device can't copy from and to the shared memory; empty = it can, or there is none
}

// CopySeconds are those of both ways.
func (s Stats) CopySeconds() float64 { return s.UploadSeconds + s.DownloadSeconds }

// lookEvery is how old Free may get while calls are computed: asking the driver costs some microseconds.
const lookEvery = time.Second

// look asks how much memory is free, on the engine's thread.
func (e *engine) look() error {
	free, _, err := e.dev.memory()
	if err != nil {
		return err
	}
	e.looked = time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.done.Free = free
	return nil
}

func (e *engine) lookAgain() error {
	if time.Since(e.looked) < lookEvery {
		return nil
	}
	return e.look()
}

// stats never wait for a call: an engine that computes looks by itself, an idle one does so now.
func (e *engine) stats() Stats {
	looked := make(chan struct{})
	select {
	case e.jobs <- func() {
		_ = e.look() // the next call says what is wrong with the device
		close(looked)
	}:
		<-looked
	default:
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.done
}
