// Package kernels measures the kernels of the backends one by one beside what the machine gives at best: the peak of its
// arithmetic and the bandwidth of its memory, read from a file that is mapped as the weights are. Weights are larger
// than any cache.
//
// The command bench kernels uses it. It refuses to say anything about a model: that is package bench's part.
package kernels

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/isa"
	"github.com/pimoe/pimoe/backends/limits"
	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Options say what to measure.
type Options struct {
	Backends []backends.Backend
	Threads  int           // besides one
	Dir      string        // where the mapped file lies for the moment
	Time     time.Duration // of each figure; the best of three such runs counts
	In, Out  int           // hidden and inner width of an expert
	Many     int           // rows of a GEMM
	Memory   int           // bytes of the weights that few rows are multiplied with
	Progress func(done, total int)
}

// Result is one kernel at one number of rows and threads.
type Result struct {
	Kernel  string  `json:"kernel"` // linear or ffn, the whole block of an expert
	Backend string  `json:"backend"`
	Class   string  `json:"class"`
	Rows    int     `json:"rows"`
	Threads int     `json:"threads"`
	GFLOPS  float64 `json:"gflops"` // a multiply-add is two operations
	GBS     float64 `json:"gbs"`    // weights read
	Limit   string  `json:"limit"`  // what bounds it: fma, vnni, amx int8, amx bf16 or read
	Best    float64 `json:"best"`   // that limit, in the kernel's unit
	Share   float64 `json:"share"`
}

// storage are the classes and the types whose weights they take.
var storage = []struct {
	class string
	dtype tensor.DType
}{{"f32", tensor.F32}, {"bf16w-f32", tensor.BF16}, {"f16w-f32", tensor.F16}, {"bf16", tensor.BF16}, {"int8g32", tensor.BF16}}

// Run measures every class of every backend.
func Run(ctx context.Context, o Options) ([]Result, error) {
	var jobs []job
	for _, b := range o.Backends {
		for _, s := range storage {
			class, err := b.Class(s.dtype, s.class)
			if err != nil {
				continue // not one of this backend's
			}
			jobs = append(jobs, job{b, class, s.dtype})
		}
	}
	var out []Result
	best := bounds{}
	for i, j := range jobs {
		results, err := j.measure(ctx, o, best)
		if err != nil {
			return nil, fmt.Errorf("backend %s, class %s: %w", j.backend.Name(), j.class, err)
		}
		out = append(out, results...)
		if o.Progress != nil {
			o.Progress(i+1, len(jobs))
		}
	}
	for i := range out {
		out[i].compare(best)
	}
	return out, nil
}

// job is one class of one backend.
type job struct {
	backend backends.Backend
	class   string
	dtype   tensor.DType
}

// measure makes an expert's weights as often as Memory holds them, in a mapped file, and times both kernels.
func (j job) measure(ctx context.Context, o Options, best bounds) ([]Result, error) {
	experts, file, free, err := j.prepare(o)
	if err != nil {
		return nil, err
	}
	defer free()
	var out []Result
	for _, threads := range slices.Compact([]int{1, o.Threads}) {
		pool := team.NewPool(threads, team.Options{})
		for _, rows := range []int{1, 8, o.Many} {
			best.measure("read", threads, file, o.Time) // between the kernels, because the machine's speed changes
			best.measure(j.arithmetic(), threads, file, o.Time)
			for _, k := range []kernel{{"linear", 1}, {"ffn", 3}} {
				r := k.time(experts, rows, o, pool.Team())
				r.Backend, r.Class, r.Threads, r.Limit = j.backend.Name(), j.class, threads, j.arithmetic()
				out = append(out, r)
			}
		}
		pool.Close()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// compare finds which limit binds the kernel: the one of which it takes the larger share, because the other would let it
// be faster (the roofline model of Williams, Waterman and Patterson 2009). Limit comes as the arithmetic's.
func (r *Result) compare(best bounds) {
	peak, read := best[bound{r.Limit, r.Threads}], best[bound{"read", r.Threads}]
	r.Best, r.Share = peak, r.GFLOPS/peak
	if share := r.GBS / read; share > r.Share {
		r.Limit, r.Best, r.Share = "read", read, share
	}
}

// arithmetic is the limit of many rows: that of the quickest instructions with which the class can be computed here.
func (j job) arithmetic() string {
	switch {
	case j.class == "int8g32" && isa.Active() >= isa.AMX:
		return "amx int8"
	case j.class == "int8g32" && isa.Active() >= isa.VNNI:
		return "vnni"
	case j.class == "bf16" && isa.Active() >= isa.AMX:
		return "amx bf16"
	}
	return "fma"
}

// bounds are the best that the machine gave of each limit and number of threads: a limit is what is possible.
type bounds map[bound]float64

type bound struct {
	limit   string
	threads int
}

func (b bounds) measure(limit string, threads int, file []byte, d time.Duration) {
	rate := 0.
	switch limit {
	case "read":
		rate = limits.Read(file, threads)
	case "vnni":
		rate = limits.VNNI(threads, d)
	case "amx int8":
		rate = limits.Int8Tiles(threads, d)
	case "amx bf16":
		rate = limits.BF16Tiles(threads, d)
	default:
		rate = limits.FMA(limits.Best(), threads, d)
	}
	b[bound{limit, threads}] = max(b[bound{limit, threads}], rate)
}

// experts are as many copies of one expert as a mapped file holds; bytes are those of one matrix.
type experts struct {
	gates []backends.Linear
	ffns  []backends.FFN
	bytes int
}

func (j job) prepare(o Options) (experts, []byte, func(), error) {
	none := func() {}
	packing := j.backend.Packing(j.class)
	var data [3][]byte
	var views [3]tensor.View
	for i, shape := range [][]int{{o.Out, o.In}, {o.Out, o.In}, {o.In, o.Out}} { // gate, up, down
		v, err := pack.Pack(packing, random(j.dtype, shape))
		if err != nil {
			return experts{}, nil, none, err
		}
		views[i], data[i] = v, v.Data
	}
	file, free, err := mapped(o.Dir, data, max(o.Memory/(len(data[0])+len(data[1])+len(data[2])), 1))
	if err != nil {
		return experts{}, nil, none, err
	}
	e := experts{bytes: len(data[0])}
	for at := 0; at < len(file); {
		v := views
		for i := range v {
			v[i].Data = file[at : at+len(data[i]) : at+len(data[i])]
			at += aligned(len(data[i]))
		}
		gate, err := j.backend.Linear(j.class, v[0], tensor.View{})
		if err != nil {
			free()
			return e, nil, none, err
		}
		ffn, err := j.backend.FFN(j.class, "silu", v[0], v[1], v[2])
		if err != nil {
			free()
			return e, nil, none, err
		}
		e.gates, e.ffns = append(e.gates, gate), append(e.ffns, ffn)
	}
	return e, file, free, nil
}

// random is a matrix whose products stay finite.
func random(dtype tensor.DType, shape []int) tensor.View {
	rng := rand.New(rand.NewPCG(1, uint64(shape[0])))
	v := tensor.View{DType: dtype, Shape: shape, Data: make([]byte, shape[0]*shape[1]*dtype.Size())}
	for i := 0; i < len(v.Data); i += dtype.Size() {
		// The high byte of each type: sign, and an exponent that stands for about 1/64.
		high := map[tensor.DType]byte{tensor.F32: 0x3c, tensor.BF16: 0x3c, tensor.F16: 0x24}[dtype]
		v.Data[i+dtype.Size()-1] = high | byte(rng.Uint32())&0x80
		v.Data[i+dtype.Size()-2] = byte(rng.Uint32())
	}
	return v
}

// aligned is where the next matrix may begin.
func aligned(n int) int { return (n + pack.Align - 1) / pack.Align * pack.Align }

// mapped is a file without a name that holds the matrices copies times, one after the other.
func mapped(dir string, data [3][]byte, copies int) ([]byte, func(), error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("map weights: %w", err)
	}
	f, err := os.CreateTemp(dir, ".kernels-")
	if err != nil {
		return nil, nil, fmt.Errorf("map weights: %w", err)
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return nil, nil, fmt.Errorf("map weights: %w", err)
	}
	size := 0
	for range copies {
		for _, d := range data {
			if _, err := f.WriteAt(d, int64(size)); err != nil {
				return nil, nil, fmt.Errorf("map weights: %w", err)
			}
			size += aligned(len(d))
		}
	}
	if err := f.Truncate(int64(size)); err != nil {
		return nil, nil, fmt.Errorf("map weights: %w", err)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, fmt.Errorf("map weights: %w", err)
	}
	limits.Read(b, 1) // so that every page has its entry
	return b, func() { unix.Munmap(b) }, nil
}

// kernel is a way through an expert's weights that uses some of its three matrices.
type kernel struct {
	name     string
	matrices int
}

// time calls the kernel on one expert after the other, so that few rows find no weight in a cache.
func (k kernel) time(e experts, rows int, o Options, t team.Team) Result {
	x := tensor.Matrix{Rows: rows, Cols: o.In, Stride: o.In, Data: make([]float32, rows*o.In)}
	for i := range x.Data {
		x.Data[i] = float32(i%13-6) / 8
	}
	width := o.Out
	if k.matrices == 3 {
		width = o.In
	}
	y := tensor.Matrix{Rows: rows, Cols: width, Stride: width, Data: make([]float32, rows*width)}
	next := 0
	call := func() {
		if k.matrices == 3 {
			e.ffns[next].Apply(y, x, t)
		} else {
			e.gates[next].Apply(y, x, t)
		}
		next = (next + 1) % len(e.gates)
	}
	call()
	seconds := 1 / best(func() float64 {
		start, n := time.Now(), 0
		for time.Since(start) < o.Time {
			call()
			n++
		}
		return float64(n) / time.Since(start).Seconds()
	})
	return Result{Kernel: k.name, Rows: rows, GFLOPS: 2 * float64(rows*o.In*o.Out*k.matrices) / seconds / 1e9, GBS: float64(e.bytes*k.matrices) / seconds / 1e9}
}

// best is the highest of three measurements: the others were disturbed.
func best(f func() float64) float64 { return max(f(), f(), f()) }
