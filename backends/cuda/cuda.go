// Package cuda is the backend of NVIDIA GPUs: experts' weights are uploaded once, and all rows of a call, of however many
// experts, go up, through a few kernels and down again together. pimoe-expert-cuda uses it.
//
// Classes: f32, bf16w-f32, f16w-f32 and int8g32 are those of packages cpu and int8, to the bit: each output is one sum over
// ascending inputs by fused multiply-adds, which a GPU rounds as a processor does, or a sum of exact integers, for which matrix
// instructions (mma.sync, from sm_80 on) and dot products of bytes are the same. So an expert may move between a GPU and
// the processor without changing an answer. Classes cuda-bf16 and cuda-f16, for whoever asks for them, round activations to
// the weights' type and leave the sums of 16 products to the matrix instructions; such sums depend on the device.
//
// It is built with the tag cuda and cgo; without them the Backend is there all the same and says why it can't compute. It is
// the only package that imports gorgonia.org/cu, whose init ends the process where there is no driver: the host never links
// it. The package refuses to guess after an error of the device: whoever calls it is told through Options.Lost.
package cuda

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// ErrBuild says why a build that is not Supported can't compute.
var ErrBuild = errors.New("this program was built without CUDA: it takes the build tag cuda, cgo and CUDA's headers (make cuda)")

// Options are what a program chooses.
type Options struct {
	// Device is the number of a device; negative = the one with the most free memory, so that groups spread over all.
	Device int
	// Progress is told the bytes of each matrix that was uploaded; nil = nobody.
	Progress func(bytes int)
	// Shared is told, when the device is open, why it can't copy from and to the memory that Share has named by itself, or nil if it
	// can; nil = nobody.
	Shared func(why error)
	// Lost is told that the device failed while it computed. The context is of no more use then and y has no answer, so it should
	// end the process; when it is nil or returns, Apply panics.
	Lost func(error)
}

// Backend computes on one device, which it opens when the first weights come. Make it with New.
type Backend struct {
	options Options
	open    func(number int) (device, error)

	once   sync.Once // guards engine and failed
	engine *engine
	failed error
	opened atomic.Pointer[engine] // engine, for those who only look

	mu     sync.Mutex // guards shared, and keeps Share and Open apart
	shared []region
}

// New makes the backend. It can't fail: what is missing is said by Open, Linear and FFN.
func New(o Options) *Backend { return &Backend{options: o, open: openDevice} }

// Use chooses another device than Options.Device. It comes before Open and all weights.
func (b *Backend) Use(device int) { b.options.Device = device }

// Open opens the device, once, and says why it can't be used: sdk.ErrUnavailable.
func (b *Backend) Open() error {
	b.once.Do(func() {
		e, err := startEngine(func() (device, error) { return b.open(b.options.Device) })
		if err != nil {
			b.failed = fmt.Errorf("%w: cuda: %w", sdk.ErrUnavailable, err)
			return
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.engine = e
		b.opened.Store(e)
		b.pin()
	})
	return b.failed
}

// Share names memory in which calls come, which is only read, and in which answers go. Rows that lie there the device copies by
// itself, if the driver pins the memory; else, and for rows elsewhere, they go through pinned memory of the backend's own, with the
// same bits. release is to be called before the memory goes and while no call runs.
func (b *Backend) Share(in, out []byte) (release func() error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shared = []region{{"calls", in, true}, {"answers", out, false}}
	b.pin()
	return b.unshare
}

// pin pins what is shared as soon as there is a device. The caller holds mu.
func (b *Backend) pin() {
	e := b.opened.Load()
	if e == nil || b.shared == nil {
		return
	}
	why := e.share(b.shared)
	if b.options.Shared != nil {
		b.options.Shared(why)
	}
}

func (b *Backend) unshare() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shared = nil
	if e := b.opened.Load(); e != nil {
		return e.unshare()
	}
	return nil
}

// Close lets go of the device. No Linear and no FFN may be used afterwards.
func (b *Backend) Close() error {
	b.once.Do(func() { b.failed = fmt.Errorf("%w: cuda: the backend is closed", sdk.ErrUnavailable) })
	if b.engine == nil {
		return nil
	}
	return b.engine.close()
}

// Stats are what the device has, and has done since it was opened; nothing before that. They may be asked for at any time.
func (b *Backend) Stats() Stats {
	if e := b.opened.Load(); e != nil {
		return e.stats()
	}
	return Stats{}
}

// Name is "cuda".
func (*Backend) Name() string { return "cuda" }

// The classes that only a GPU's matrix instructions compute in.
const (
	BF16Class = "cuda-bf16"
	F16Class  = "cuda-f16"
	int8Class = "int8g32"
)

// Class is backends.FloatClass, int8g32 if it is asked for or the weights are packed so, or cuda-bf16 or cuda-f16 for weights of
// that type.
func (*Backend) Class(dtype tensor.DType, asked string) (string, error) {
	switch {
	case dtype == tensor.BF16 && asked == BF16Class, dtype == tensor.F16 && asked == F16Class:
		return asked, nil
	case dtype == tensor.I8 && (asked == "" || asked == "auto"):
		return int8Class, nil
	case asked == int8Class && (dtype == tensor.I8 || dtype == tensor.F32 || dtype == tensor.BF16 || dtype == tensor.F16):
		return asked, nil
	}
	return backends.FloatClass(dtype, asked)
}

// Packing is that of integers: they are taken from it as they are. All other weights are taken row-major.
func (*Backend) Packing(class string) string {
	if class == int8Class {
		return pack.G32N16
	}
	return ""
}

// Linear uploads the weights and the bias; it keeps no reference to either view.
func (b *Backend) Linear(class string, w, bias tensor.View) (backends.Linear, error) {
	if err := backends.CheckLinear(w, bias); err != nil {
		return nil, err
	}
	k, err := b.prepare(class, w.DType)
	if err != nil {
		return nil, err
	}
	l := &linear{backend: b, kind: k, out: w.Shape[0], in: w.Shape[1]}
	if l.unit, err = b.upload(k, matrix{"weight", w, toDown}, matrix{"bias", bias, toBias}); err != nil {
		return nil, err
	}
	runtime.AddCleanup(l, b.engine.discard, l.unit)
	return l, nil
}

// FFN uploads an expert's three matrices, and makes room for calls.
func (b *Backend) FFN(class, activation string, gate, up, down tensor.View) (backends.FFN, error) {
	f := &ffn{backend: b}
	switch activation {
	case "silu":
	case "gelu_tanh":
		f.act = 1
	default:
		return nil, fmt.Errorf("%w: activation %q, known are silu and gelu_tanh", sdk.ErrUnsupported, activation)
	}
	if err := backends.CheckBlock(gate, up, down); err != nil {
		return nil, err
	}
	var err error
	for _, w := range []tensor.View{up, down, gate} {
		if f.kind, err = b.prepare(class, w.DType); err != nil {
			return nil, err
		}
	}
	f.hidden, f.inner = gate.Shape[1], gate.Shape[0]
	if err := b.engine.reserve(f.shape()); err != nil {
		return nil, fmt.Errorf("%w: cuda: room for calls: %w", sdk.ErrUnavailable, err)
	}
	if f.unit, err = b.upload(f.kind, matrix{"gate", gate, toGate}, matrix{"up", up, toUp}, matrix{"down", down, toDown}); err != nil {
		return nil, err
	}
	runtime.AddCleanup(f, b.engine.discard, f.unit)
	return f, nil
}

// prepare finds the kernels of a class for weights of a type, and loads them.
func (b *Backend) prepare(class string, dtype tensor.DType) (*kind, error) {
	if c, err := b.Class(dtype, class); err != nil {
		return nil, err
	} else if c != class {
		return nil, fmt.Errorf("%w: numeric class %q", sdk.ErrUnsupported, class)
	}
	if err := b.Open(); err != nil {
		return nil, err
	}
	k := kinds[class]
	if k.needs > b.engine.info.SM {
		return nil, fmt.Errorf("%w: class %s needs sm_%d or newer, device %s is sm_%d", sdk.ErrUnsupported, class, k.needs, b.engine.info.Name, b.engine.info.SM)
	}
	if err := b.engine.load(k); err != nil {
		return nil, fmt.Errorf("%w: cuda: kernels of class %s: %w", sdk.ErrUnavailable, class, err)
	}
	return k, nil
}

var _ backends.Backend = (*Backend)(nil)
