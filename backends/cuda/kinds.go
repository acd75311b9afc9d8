package cuda

import (
	"embed"
	"fmt"
	"unsafe"

	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/sdk/tensor"
)

//go:generate kernel/generate.sh

//go:embed kernel/*.ptx
var ptx embed.FS

// oldest is the architecture that the oldest kernels are made for; drivers compile them for every later one.
const oldest = 70

// kind is how a class is computed.
type kind struct {
	needs    int // the architecture
	variants []variant
	convert  func(cols int) (bytes int) // of a row of activations as the kernels take it; nil = they take float32
	pad      int                        // a row of float weights lies in up to a multiple of so many inputs; 0 = its integers
}

// variant is a pair of kernels, gate_up_FAMILY_ROWS and linear_FAMILY_ROWS, that compute so many rows of an expert at a time.
type variant struct {
	family string
	rows   int
	needs  int // the architecture, if it is more than the kind's
}

// launched is the name of a kernel.
func launched(op string, v variant) string { return fmt.Sprintf("%s_%s_%d", op, v.family, v.rows) }

func tiles(family string, needs int, rows ...int) (v []variant) {
	for _, r := range rows {
		v = append(v, variant{family, r, needs})
	}
	return v
}

// kinds by class. The variants ascend; the first that holds the rows is taken, or the last. Dot products read the weights of few
// rows in larger pieces than matrix instructions, of which few rows leave most unused.
var kinds = map[string]*kind{
	"f32":       {needs: oldest, variants: tiles("f32", 0, 1, 2, 4, 8), pad: 4},
	"bf16w-f32": {needs: oldest, variants: tiles("bf16", 0, 1, 2, 4, 8), pad: 8},
	"f16w-f32":  {needs: oldest, variants: tiles("f16", 0, 1, 2, 4, 8), pad: 8},
	int8Class: {needs: oldest, variants: append(tiles("int8", 0, 1, 2, 4), append(tiles("int8_mma", 80, 8, 32), tiles("int8", 0, 8)...)...),
		convert: func(cols int) int { return roundUp(roundUp(cols, pack.BlockIn)/pack.Group*(pack.Group+4), 16) }},
	BF16Class: {needs: 80, variants: tiles("bf16_mma", 0, 8, 32), convert: halfRow, pad: 16},
	F16Class:  {needs: 80, variants: tiles("f16_mma", 0, 8, 32), convert: halfRow, pad: 16},
}

func halfRow(cols int) int { return roundUp(cols, 16) * 2 }

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// panel is how many outputs a warp computes, each in a lane.
const panel = 32

// available are the variants for an architecture.
func (k *kind) available(sm int) (out []variant) {
	for _, v := range k.variants {
		if v.needs > sm {
			continue
		}
		// Where there are matrix instructions they take all larger tiles.
		if n := len(out); n > 0 && v.rows <= out[n-1].rows {
			continue
		}
		out = append(out, v)
	}
	return out
}

// unpacked is a view without its packing, unless the kind takes that; a kind of integers takes no other.
func (k *kind) unpacked(w tensor.View) (v tensor.View, err error) {
	switch {
	case k.pad == 0 && w.Packing == pack.G32N16, k.pad != 0 && w.Packing == "":
		return w, nil
	case k.pad != 0:
		return pack.Unpack(w)
	case w.Packing != "":
		if w, err = pack.Unpack(w); err != nil {
			return w, err
		}
	}
	return pack.Pack(pack.G32N16, w)
}

// layout is checked weights as the kernels read them.
func (k *kind) layout(w tensor.View) ([]byte, error) {
	w, err := k.unpacked(w)
	if err != nil {
		return nil, err
	}
	out, in := w.Shape[0], w.Shape[1]
	panels := roundUp(out, panel) / panel
	if k.pad == 0 {
		groups := roundUp(in, pack.BlockIn) / pack.Group
		dst := make([]byte, panels*groups*groupBytes)
		layInt8(dst, w, panels, groups)
		return dst, nil
	}
	vectors := roundUp(in, k.pad) * w.DType.Size() / 16 // 16 bytes are what a lane reads at once
	dst := make([]byte, panels*vectors*panel*16)
	layFloats(dst, w, panels, vectors)
	return dst, nil
}

// layFloats fills [panel][vector][32 outputs][16 bytes]; what sticks out of the matrix is zero.
func layFloats(dst []byte, w tensor.View, panels, vectors int) {
	out, row := w.Shape[0], w.Shape[1]*w.DType.Size()
	for p := range panels {
		for lane := range panel {
			var src []byte
			if o := p*panel + lane; o < out {
				src = w.Data[o*row : (o+1)*row]
			}
			for v := range vectors {
				to := dst[((p*vectors+v)*panel+lane)*16:][:16]
				copy(to, src[min(v*16, len(src)):])
			}
		}
	}
}

// groupBytes is a group of 32 inputs of a panel: two times 16 bytes of each of 32 outputs, and 32 scales.
const groupBytes = panel*pack.Group + panel*2

// layInt8 makes [panel][group] of pack's blocks of 16 outputs and 64 inputs. The packing stores integers with 128 added.
func layInt8(dst []byte, w tensor.View, panels, groups int) {
	blocks := groups * pack.Group / pack.BlockIn
	const line, scales = 4 * pack.Panel, pack.BlockIn / 4 * 4 * pack.Panel
	for p := range roundUp(w.Shape[0], pack.Panel) / pack.Panel {
		for g := range groups {
			src := w.Data[(p*blocks+g/2)*pack.BlockBytes:][:pack.BlockBytes]
			to := dst[(p/2*groups+g)*groupBytes:][:groupBytes]
			for lane := range pack.Panel {
				o := p%2*pack.Panel + lane
				for q := range pack.Group / 4 { // four inputs
					from := src[(g%2*pack.Group/4+q)*line+4*lane:]
					at := to[(q/4*panel+o)*16+q%4*4:]
					at[0], at[1], at[2], at[3] = from[0]^128, from[1]^128, from[2]^128, from[3]^128
				}
				copy(to[panel*pack.Group+o*2:][:2], src[scales+(g%2*pack.Panel+lane)*2:])
			}
		}
	}
}

func floatBytes(f []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(f))), len(f)*4)
}

func floatsOf(b []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}
