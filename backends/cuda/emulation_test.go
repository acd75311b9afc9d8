//go:build cuda && cgo

package cuda_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/backendtest"
	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/backends/cuda"
	"github.com/pimoe/pimoe/backends/int8"
	"github.com/pimoe/pimoe/backends/isa"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/backends/vec"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// opened is a backend that the test closes.
func opened(t testing.TB, o cuda.Options) *cuda.Backend {
	t.Helper()
	b := cuda.New(o)
	if err := b.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestBackend(t *testing.T) {
	b := opened(t, cuda.Options{})
	backendtest.Test(t, func() backends.Backend { return b })
}

func randomView(r *rand.Rand, d tensor.DType, shape ...int) tensor.View {
	v := tensor.View{DType: d, Shape: shape}
	f := make([]float32, v.Elems())
	for i := range f {
		f[i] = float32(r.NormFloat64()) / 16
	}
	half := make([]uint16, len(f))
	switch d {
	case tensor.BF16:
		vec.ToBF16(half, f)
	case tensor.F16:
		vec.ToF16(half, f)
	default:
		for _, x := range f {
			b := math.Float32bits(x)
			v.Data = append(v.Data, byte(b), byte(b>>8), byte(b>>16), byte(b>>24))
		}
		return v
	}
	for _, h := range half {
		v.Data = append(v.Data, byte(h), byte(h>>8))
	}
	return v
}

func randomRows(r *rand.Rand, rows, cols int) tensor.Matrix {
	x := tensor.NewMatrix(rows, cols)
	for i := range x.Data {
		x.Data[i] = float32(r.NormFloat64())
	}
	return x
}

func same(t *testing.T, what string, got, want tensor.Matrix) {
	t.Helper()
	for row := range want.Rows {
		for c, w := range want.Row(row) {
			if g := got.Row(row)[c]; math.Float32bits(g) != math.Float32bits(w) && (g == g || w == w) {
				t.Fatalf("%s: row %d output %d is %g, want %g", what, row, c, g, w)
			}
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestSharedClasses: in the classes that the processor's backends have, too, a block gives their bits, whatever the number of rows:
// also with infinities and NaN among the activations, and with more rows than go up at a time.
func TestSharedClasses(t *testing.T) {
	b := opened(t, cuda.Options{})
	for _, c := range []struct {
		class string
		dtype tensor.DType
		other backends.Backend
	}{
		{"f32", tensor.F32, cpu.New()}, {"bf16w-f32", tensor.BF16, cpu.New()}, {"f16w-f32", tensor.F16, cpu.New()},
		{"int8g32", tensor.BF16, int8.At(isa.Generic)}, {"int8g32", tensor.F32, int8.At(isa.Generic)},
	} {
		for _, s := range []struct{ hidden, inner int }{{96, 64}, {70, 45}, {33, 130}} {
			r := rand.New(rand.NewPCG(uint64(s.hidden), 7))
			gate, up, down := randomView(r, c.dtype, s.inner, s.hidden), randomView(r, c.dtype, s.inner, s.hidden), randomView(r, c.dtype, s.hidden, s.inner)
			for _, act := range []string{"silu", "gelu_tanh"} {
				mine := must(b.FFN(c.class, act, gate, up, down))
				theirs := must(c.other.FFN(c.class, act, gate, up, down))
				for _, rows := range []int{1, 2, 3, 4, 7, 8, 9, 31, 33, 1100} {
					if rows > 1000 && (s.hidden != 33 || act != "silu") {
						continue // once is enough
					}
					x := randomRows(r, rows, s.hidden)
					x.Row(rows / 2)[3] = float32(math.Inf(1 - rows%2*2))
					if rows > 4 {
						x.Row(4)[0] = float32(math.NaN())
						clear(x.Row(3))
						x.Row(2)[1] = 1e-42
					}
					got, want := tensor.NewMatrix(rows, s.hidden), tensor.NewMatrix(rows, s.hidden)
					mine.Apply(got, x, team.Team{})
					theirs.Apply(want, x, team.Team{})
					same(t, fmt.Sprintf("%s of %v, %v, %s, %d rows", c.class, c.dtype, s, act, rows), got, want)
				}
			}
		}
	}
}

// TestTogether: the rows of several experts in one go have the bits of each expert alone.
func TestTogether(t *testing.T) {
	b := opened(t, cuda.Options{})
	for class, d := range map[string]tensor.DType{"f32": tensor.F32, "bf16w-f32": tensor.BF16, "int8g32": tensor.BF16, "cuda-bf16": tensor.BF16, "cuda-f16": tensor.F16} {
		const hidden, inner = 72, 40
		r := rand.New(rand.NewPCG(3, 4))
		var blocks []backends.FFN
		for range 5 {
			blocks = append(blocks, must(b.FFN(class, "silu", randomView(r, d, inner, hidden), randomView(r, d, inner, hidden), randomView(r, d, hidden, inner))))
		}
		for _, rows := range [][]int{{1, 1, 1, 1, 1}, {3, 1, 9, 2, 5}, {1, 700, 2, 511, 40}} {
			all := 0
			for _, n := range rows {
				all += n
			}
			x, got, want := randomRows(r, all, hidden), tensor.NewMatrix(all, hidden), tensor.NewMatrix(all, hidden)
			b.ApplyAll(blocks, rows, got, x, team.Team{})
			at := 0
			for i, n := range rows {
				blocks[i].Apply(want.Slice(at, at+n), x.Slice(at, at+n), team.Team{})
				at += n
			}
			same(t, fmt.Sprintf("%s, rows %v", class, rows), got, want)
		}
		s := b.Stats()
		if s.Calls == 0 || s.Rows == 0 || s.RunSeconds <= 0 || s.CopySeconds() <= 0 {
			t.Errorf("nothing was counted: %+v", s)
		}
	}
}

// TestRelease: weights that nobody refers to any more leave the device, and Close leaves nothing behind.
func TestRelease(t *testing.T) {
	goroutines := runtime.NumGoroutine()
	b := cuda.New(cuda.Options{})
	r := rand.New(rand.NewPCG(1, 1))
	l := must(b.Linear("f32", randomView(r, tensor.F32, 64, 64), tensor.View{}))
	if got := b.Stats(); got.Weights != 64*64*4 || got.Free <= 0 || got.Free >= got.Device.Memory {
		t.Errorf("%d bytes lie on the device, want %d; %d are free", got.Weights, 64*64*4, got.Free)
	}
	runtime.KeepAlive(l)
	deadline := time.Now().Add(10 * time.Second)
	for b.Stats().Weights != 0 && time.Now().Before(deadline) {
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
	if got := b.Stats().Weights; got != 0 {
		t.Errorf("%d bytes of weights are still there", got)
	}
	if err := errors.Join(b.Close(), b.Close()); err != nil {
		t.Error(err)
	}
	if got := b.Stats(); got.Device.Name == "" {
		t.Errorf("after Close: %+v", got)
	}
	for runtime.NumGoroutine() > goroutines && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if got := runtime.NumGoroutine(); got > goroutines {
		t.Errorf("%d goroutines, %d before", got, goroutines)
	}
}

// sharedMemory is what a process shares with its host: calls, which it may only read, and answers. host is the calls as the host
// writes them.
func sharedMemory(t *testing.T, bytes int) (host, calls, answers []byte) {
	t.Helper()
	fd := must(unix.MemfdCreate("calls", unix.MFD_CLOEXEC))
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, int64(bytes)); err != nil {
		t.Fatal(err)
	}
	host = must(unix.Mmap(fd, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED))
	calls = must(unix.Mmap(fd, 0, bytes, unix.PROT_READ, unix.MAP_SHARED))
	answers = must(unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS))
	t.Cleanup(func() {
		for _, m := range [][]byte{host, calls, answers} {
			if err := unix.Munmap(m); err != nil {
				t.Error(err)
			}
		}
	})
	return host, calls, answers
}

// rowsIn views memory as rows.
func rowsIn(b []byte, rows, cols int) tensor.Matrix {
	return tensor.MatrixOf(rows, cols, unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), rows*cols))
}

// TestShared: rows in shared memory are copied by the device itself where the driver pins that, and through the backend's own memory
// where it refuses, where their width does not fit and where they lie elsewhere: with the same bits.
func TestShared(t *testing.T) {
	const page = 1 << 20
	for name, c := range map[string]struct {
		conf, why string
		cols      int
		direct    bool
	}{
		"pinned":         {"", "", 96, true},
		"odd width":      {"", "", 70, false},
		"driver refuses": {"register 801\n", "pin 1048576 bytes of shared memory for calls: the driver answers error 801", 96, false},
	} {
		t.Run(name, func(t *testing.T) {
			if c.conf != "" {
				device(t, c.conf)
			}
			var told []error
			b := opened(t, cuda.Options{Shared: func(why error) { told = append(told, why) }})
			host, calls, answers := sharedMemory(t, page)
			release := b.Share(calls, answers)
			if len(told) != 1 || (told[0] == nil) != (c.why == "") || told[0] != nil && !strings.HasPrefix(told[0].Error(), c.why) || b.Stats().Staged == "" != (c.why == "") {
				t.Errorf("told %v, staged because of %q; want %q", told, b.Stats().Staged, c.why)
			}
			r := rand.New(rand.NewPCG(5, 6))
			block := func() backends.FFN {
				return must(b.FFN("bf16w-f32", "silu", randomView(r, tensor.BF16, 64, c.cols), randomView(r, tensor.BF16, 64, c.cols), randomView(r, tensor.BF16, c.cols, 64)))
			}
			blocks := []backends.FFN{block(), block()}
			for _, rows := range [][]int{{1, 2}, {700, 513}} { // one chunk, and several on both streams
				all := rows[0] + rows[1]
				x, want := randomRows(r, all, c.cols), tensor.NewMatrix(all, c.cols)
				b.ApplyAll(blocks, rows, want, x, team.Team{})
				copy(rowsIn(host[4096:], all, c.cols).Data, x.Data)
				before := b.Stats()
				got := rowsIn(answers[8192:], all, c.cols)
				b.ApplyAll(blocks, rows, got, rowsIn(calls[4096:], all, c.cols), team.Team{})
				same(t, fmt.Sprintf("%v rows", rows), got, want)
				direct := 0
				if c.direct {
					direct = all
				}
				if n := int(b.Stats().Direct - before.Direct); n != direct {
					t.Errorf("%d rows of %d were copied by the device itself, want %d", n, all, direct)
				}
				if up, least := b.Stats().Uploaded-before.Uploaded, int64(4*all*c.cols); up < least || up > least*2+1<<16 {
					t.Errorf("%d bytes went up for %d of rows", up, least)
				}
			}
			if err := errors.Join(release(), release()); err != nil {
				t.Error(err)
			}
			before := b.Stats().Direct
			b.ApplyAll(blocks[:1], []int{1}, rowsIn(answers, 1, c.cols), rowsIn(calls, 1, c.cols), team.Team{})
			if n := b.Stats().Direct - before; n != 0 {
				t.Errorf("after its release %d rows were copied from memory that may be gone", n)
			}
		})
	}
}

// device is the file by which the emulation is told what it is; a test that changes it runs alone.
func device(t *testing.T, conf string) {
	t.Helper()
	path := os.Getenv("CUDAEMU")
	if path == "" {
		t.Fatal("CUDAEMU names no file: scripts/cuda/test.sh sets it")
	}
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
}

// TestDevices: a device is chosen by number; what is not there, or too old, is said.
func TestDevices(t *testing.T) {
	device(t, "devices 2\nsm 75\n")
	b := opened(t, cuda.Options{Device: 1})
	if got := b.Stats().Device; got.Number != 1 || got.SM != 75 || got.Driver != 12040 || got.Memory != 8<<30 {
		t.Errorf("%+v", got)
	}
	opened(t, cuda.Options{Device: -1})
	if err := cuda.New(cuda.Options{Device: 2}).Open(); !errors.Is(err, sdk.ErrUnavailable) || !strings.Contains(err.Error(), "there is no device 2: the driver has 2") {
		t.Errorf("device 2: %v", err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	w := randomView(r, tensor.BF16, 8, 16)
	if _, err := b.Linear("cuda-bf16", w, tensor.View{}); !errors.Is(err, sdk.ErrUnsupported) || !strings.Contains(err.Error(), "needs sm_80") {
		t.Errorf("matrix instructions on sm_75: %v", err)
	}
	mine, theirs := must(b.Linear("int8g32", w, tensor.View{})), must(int8.At(isa.Generic).Linear("int8g32", w, tensor.View{}))
	x, got, want := randomRows(r, 40, 16), tensor.NewMatrix(40, 8), tensor.NewMatrix(40, 8)
	mine.Apply(got, x, team.Team{})
	theirs.Apply(want, x, team.Team{})
	same(t, "int8g32 on sm_75", got, want)
	device(t, "sm 61\n")
	if err := cuda.New(cuda.Options{}).Open(); err == nil || !strings.Contains(err.Error(), "need sm_70") {
		t.Errorf("sm_61: %v", err)
	}
}

// TestOutOfMemory: weights that find no room are refused with figures, at whichever allocation it ends, and leave nothing.
func TestOutOfMemory(t *testing.T) {
	b := opened(t, cuda.Options{})
	r := rand.New(rand.NewPCG(1, 1))
	w := randomView(r, tensor.F32, 256, 256)
	must(b.FFN("f32", "silu", w, w, w)) // makes room for calls
	runtime.GC()
	for n := int64(0); ; n += 256 << 10 {
		device(t, fmt.Sprintf("memory %d\n", n))
		f, err := b.FFN("f32", "silu", w, w, w)
		if err == nil {
			y := tensor.NewMatrix(1, 256)
			f.Apply(y, randomRows(r, 1, 256), team.Team{})
			break
		}
		if !errors.Is(err, sdk.ErrUnavailable) || !strings.Contains(err.Error(), "out of memory: ") || !strings.Contains(err.Error(), "MiB are free") {
			t.Fatalf("with %d bytes: %v", n, err)
		}
		if n > 64<<20 {
			t.Fatal("64 MiB are never enough")
		}
	}
}

// TestLost runs each failure in a process of its own, since the driver is of no more use after it, and expects that no answer comes
// out of it.
func TestLost(t *testing.T) {
	for name, c := range map[string]struct{ conf, says string }{
		"lost device":   {"lost 999\n", "Unknown"},
		"failed launch": {"launch 1\n", "LaunchFailed"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "conf")
			cmd := exec.Command(os.Args[0], "-test.run=^TestLostChild$", "-test.timeout=60s")
			cmd.Env = append(os.Environ(), "CUDAEMU="+path, "PIMOE_CUDA_FAULT="+c.conf)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "lost: cuda: device 0, emulated sm_80") || !strings.Contains(string(out), c.says) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// TestLostChild is a process of TestLost: it computes, then its device fails.
func TestLostChild(t *testing.T) {
	fault := os.Getenv("PIMOE_CUDA_FAULT")
	if fault == "" {
		return
	}
	b := cuda.New(cuda.Options{Lost: func(err error) {
		fmt.Println("lost:", err)
		os.Exit(70)
	}})
	r := rand.New(rand.NewPCG(1, 1))
	l := must(b.Linear("f32", randomView(r, tensor.F32, 8, 8), tensor.View{}))
	x, y := randomRows(r, 1, 8), tensor.NewMatrix(1, 8)
	l.Apply(y, x, team.Team{})
	if err := os.WriteFile(os.Getenv("CUDAEMU"), []byte(fault), 0o600); err != nil {
		t.Fatal(err)
	}
	l.Apply(y, x, team.Team{})
	os.Exit(0) // an answer
}

// TestUnavailableDriver: a driver that does not start ends the process before anything else is said.
func TestUnavailableDriver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "conf")
	if err := os.WriteFile(path, []byte("init 100\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestLostChild$")
	cmd.Env = append(os.Environ(), "CUDAEMU="+path)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 78 || stdout.Len() > 0 ||
		!strings.Contains(stderr.String(), "backend cuda is unavailable: the driver answers error 100: there is no CUDA device") {
		t.Errorf("%v, standard output %q, standard error %q", err, stdout.String(), stderr.String())
	}
}
