// The kernels of experts' blocks, y = down(act(gate x) * up x), and of single matrices, grouped: one launch computes the rows of
// all experts of a call. Package cuda launches them; cudaemu compiles the same file for the processor.
//
// A grid is [groups of panels, tiles]. A tile is some rows of one expert; a panel is 32 outputs, one for each lane of a warp. No
// kernel has a barrier or shared memory: a weight is read once for all rows of a tile, straight from memory, in the order in
// which it lies there; an activation is read by all lanes of a warp at one address, out of the first cache.
//
// Each output is summed by one thread, or one position of a matrix instruction, over ascending inputs from +0 on: its bits depend
// neither on the other rows nor on the tile's size.
#include "target.h"

#define PANEL 32

// tile is what package cuda's type of the same name is.
typedef struct {
  u64 gate, up, down; // addresses of packed weights; a single matrix is down
  u64 bias;           // float32, or 0
  u32 row, rows;      // of x and y
  u32 pad[2];
} tile;

// Parameters have 8 bytes each, since the binding copies as many. x and y are row-major with xs and ys elements a row; act is 0
// for SiLU, 1 for the tanh form of GELU.
#define PARAMS const GLOBAL tile *tiles, const GLOBAL void *x, GLOBAL void *y, u64 in, u64 out, u64 xs, u64 ys, u64 act
#define ARGS tiles, x, y, (u32)in, (u32)out, xs, ys, (u32)act
#define FORMAL const GLOBAL tile *tiles, const GLOBAL void *x, GLOBAL void *y, u32 in, u32 out, u64 xs, u64 ys, u32 act

// exponential is vec.Exp, operation by operation.
INLINE float exponential(float x) {
  if (x < -104)
    x = -104;
  else if (x > 100)
    x = 100;
  float t = fma32(x, 0x1.715476p0f, 0x1.8p23f);
  float n = t - 0x1.8p23f;
  float r = fma32(n, -0x1.62e430p-1f, x);
  r = fma32(n, 0x1.05c610p-29f, r);
  float p = 0x1.6a2434p-10f;
  p = fma32(p, r, 0x1.1239e2p-7f);
  p = fma32(p, r, 0x1.5558f2p-5f);
  p = fma32(p, r, 0x1.555492p-3f);
  p = fma32(p, r, 0x1.fffffcp-2f);
  p = fma32(p, r, 1);
  p = fma32(p, r, 1);
  s32 k = (s32)bits(t) - 0x4b400000;
  s32 half = k >> 1;
  p *= number((u32)(half + 127) << 23);
  return p * number((u32)(k - half + 127) << 23);
}

// activate is vec.SiLUMul and vec.GELUTanhMul for one number.
INLINE float activate(u32 act, float g, float up) {
  float e = 0 - g;
  if (act) e = fma32(g, (g * g) * 0.044715f, g) * -1.5957691216057308f;
  return (g / (1 + exponential(e))) * up;
}

// finish is what becomes of an output's sums: of gate and up if there are two, of one matrix otherwise.
INLINE float finish(int ns, const tile *t, u32 o, u32 act, float sum, float up) {
  if (ns == 2) return activate(act, sum, up);
  return t->bias ? sum + ((const GLOBAL float *)t->bias)[o] : sum;
}

// last is row r of a tile, or its last one where it has fewer.
INLINE u64 last(const tile *t, u32 r) { return t->row + (r < t->rows ? r : t->rows - 1); }

// The storage types of weights whose products are float32's: 16 bytes hold vec of them.
enum { F32, BF16, F16 };
INLINE u32 vec(int type) { return type == F32 ? 4 : 8; }

INLINE float element(int type, u32x4 v, u32 i) {
  if (type == F32) return number(v[i]);
  u32 h = v[i / 2] >> (i % 2 * 16) & 0xffff;
  return type == BF16 ? bf16(h) : f16(h);
}

// How many vectors, or groups, of each matrix a lane asks for before it uses the first, where there are few rows: what is under way
// decides how fast memory is read, here 256 bytes of a block's lane. With more rows there are no registers for it.
#define VECTORS_AHEAD 8
#define GROUPS_AHEAD 4

// steps multiplies n vectors of each matrix, from vector v on.
INLINE void steps(int type, int ns, int rs, int n, float (*acc)[8], const GLOBAL u32x4 *const *w, const GLOBAL float *const *x, u32 v) {
  u32 e = vec(type);
  u32x4 wv[VECTORS_AHEAD][2];
  UNROLL for (int k = 0; k < n; k++) {
    UNROLL for (int m = 0; m < ns; m++) wv[k][m] = w[m][(v + k) * PANEL];
  }
  if (n > 1) keep_before();
  UNROLL for (int k = 0; k < n; k++) {
    UNROLL for (int r = 0; r < rs; r++) {
      u32x4 xv[2];
      UNROLL for (u32 q = 0; q < e / 4; q++) xv[q] = load16(x[r] + (v + k) * e + q * 4);
      UNROLL for (int m = 0; m < ns; m++) {
        UNROLL for (u32 i = 0; i < e; i++) acc[m][r] = fma32(element(type, wv[k][m], i), number(xv[i / 4][i % 4]), acc[m][r]);
      }
    }
  }
}

// dots adds to acc[n][r] the products of the lane's row of matrix n, of which there are ns, with row r of x. Weights lie in
// vectors of 16 bytes: [panel][in / vec][32 lanes].
INLINE void dots(int type, int ns, int rs, float (*acc)[8], const GLOBAL u32x4 *const *w, const GLOBAL float *const *x, u32 in) {
  u32 n = vec(type), whole = in / n, v = 0;
  if (rs <= 2) {
    for (; v + VECTORS_AHEAD <= whole; v += VECTORS_AHEAD) steps(type, ns, rs, VECTORS_AHEAD, acc, w, x, v);
  }
  for (; v < whole; v++) steps(type, ns, rs, 1, acc, w, x, v);
  if (whole * n == in) return;
  u32x4 wv[2];
  UNROLL for (int m = 0; m < ns; m++) wv[m] = w[m][whole * PANEL];
  UNROLL for (u32 i = 0; i < n; i++) {
    if (whole * n + i >= in) break;
    UNROLL for (int r = 0; r < rs; r++) {
      UNROLL for (int m = 0; m < ns; m++) acc[m][r] = fma32(element(type, wv[m], i), x[r][whole * n + i], acc[m][r]);
    }
  }
}

// floats computes a lane's output for up to rs rows: a block's inner activations from gate and up (ns = 2), or a matrix (ns = 1).
// Rows beyond the tile's are computed from its last one and left out.
INLINE void floats(int type, int ns, int rs, FORMAL) {
  u32 panel = block_x() * threads_y() + thread_y(), o = panel * PANEL + thread_x();
  tile t = tiles[block_y()];
  if (panel * PANEL >= out) return;
  u64 from = (u64)panel * ((in + vec(type) - 1) / vec(type)) * PANEL + thread_x();
  const GLOBAL u32x4 *w[2] = {(const GLOBAL u32x4 *)(ns == 2 ? t.gate : t.down) + from, (const GLOBAL u32x4 *)t.up + from};
  const GLOBAL float *xr[8];
  float acc[2][8];
  UNROLL for (int r = 0; r < rs; r++) {
    xr[r] = (const GLOBAL float *)x + last(&t, (u32)r) * xs;
    acc[0][r] = acc[1][r] = 0;
  }
  dots(type, ns, rs, acc, w, xr, in);
  if (o >= out) return;
  GLOBAL float *yr = (GLOBAL float *)y + t.row * ys + o;
  UNROLL for (int r = 0; r < rs; r++) {
    if ((u32)r >= t.rows) break;
    yr[r * ys] = finish(ns, &t, o, act, acc[0][r], acc[1][r]);
  }
}

#define FLOATS(name, type, rs)                                        \
  KERNEL gate_up_##name##_##rs(PARAMS) { floats(type, 2, rs, ARGS); } \
  KERNEL linear_##name##_##rs(PARAMS) { floats(type, 1, rs, ARGS); }
#if FAMILY_f32
FLOATS(f32, F32, 1)
FLOATS(f32, F32, 2)
FLOATS(f32, F32, 4)
FLOATS(f32, F32, 8)
#endif
#if FAMILY_bf16
FLOATS(bf16, BF16, 1)
FLOATS(bf16, BF16, 2)
FLOATS(bf16, BF16, 4)
FLOATS(bf16, BF16, 8)
#endif
#if FAMILY_f16
FLOATS(f16, F16, 1)
FLOATS(f16, F16, 2)
FLOATS(f16, F16, 4)
FLOATS(f16, F16, 8)
#endif

// Class int8g32, as package int8 defines it. Weights: [panel][group of 32 inputs], and of each 2 x [32 lanes][16 bytes] and 32
// scales as bfloat16. Activations: a row is its integers, a multiple of 64, and then a float32 scale for each 32 of them; xs
// counts bytes.
#define GROUP 32
#define GROUP_BYTES (2 * PANEL * 16 + PANEL * 2)

INLINE u32 padded(u32 in) { return (in + 63) / 64 * 64; }

// quantize makes integers of a group of a row: the grid is [groups, rows].
INLINE void quantize(FORMAL) {
  u32 group = (block_x() * threads_y() + thread_y()) * 32 + thread_x();
  if (group >= padded(in) / GROUP) return;
  const GLOBAL float *v = (const GLOBAL float *)x + block_y() * xs + group * GROUP;
  GLOBAL u8 *row = (GLOBAL u8 *)y + block_y() * ys;
  u32 n = group * GROUP < in ? in - group * GROUP : 0, top = 0;
  for (u32 i = 0; i < GROUP && i < n; i++) { // magnitudes compare like their bits
    u32 b = bits(v[i]) & 0x7fffffff;
    top = b > top ? b : top;
  }
  float most = number(top), times = 0, scale = 0;
  if (top >= 0x7f800000)
    scale = number(0x7fc00000);
  else if (most > 127 * 0x1p-128f)
    scale = most / 127, times = 127 / most;
  for (u32 i = 0; i < GROUP; i += 4) {
    u32 word = 0;
    for (u32 j = 0; j < 4; j++) { // adding 1.5 * 2^23 rounds to an integer in the last bits, ties to even
      float f = times != 0 && i + j < n ? v[i + j] * times : 0;
      word |= (bits(f + 0x1.8p23f) & 0xff) << 8 * j;
    }
    *(GLOBAL u32 *)(row + group * GROUP + i) = word;
  }
  *(GLOBAL float *)(row + padded(in) + group * 4) = scale;
}

// int8_steps multiplies n groups of inputs of each matrix, from group g on: w and x point to the panel's first group and to the
// rows.
INLINE void int8_steps(int ns, int rs, int n, float (*acc)[8], const GLOBAL u8 *const *w, const GLOBAL u8 *const *x, u32 groups, u32 g) {
  u32x4 wv[GROUPS_AHEAD][2][2];
  u32 ws[GROUPS_AHEAD][2];
  UNROLL for (int k = 0; k < n; k++) {
    UNROLL for (int m = 0; m < ns; m++) {
      const GLOBAL u8 *block = w[m] + (u64)(g + k) * GROUP_BYTES;
      UNROLL for (int h = 0; h < 2; h++) wv[k][m][h] = ((const GLOBAL u32x4 *)block)[h * PANEL + thread_x()];
      ws[k][m] = ((const GLOBAL u16 *)(block + 2 * PANEL * 16))[thread_x()];
    }
  }
  if (n > 1) keep_before();
  UNROLL for (int k = 0; k < n; k++) {
    UNROLL for (int r = 0; r < rs; r++) {
      float scale = *(const GLOBAL float *)(x[r] + groups * GROUP + (g + k) * 4);
      u32x4 xv[2];
      UNROLL for (int h = 0; h < 2; h++) xv[h] = load16(x[r] + (g + k) * GROUP + h * 16);
      UNROLL for (int m = 0; m < ns; m++) {
        s32 sum = 0;
        UNROLL for (int i = 0; i < 8; i++) sum = dot4(wv[k][m][i / 4][i % 4], xv[i / 4][i % 4], sum);
        acc[m][r] = fma32((float)sum, bf16(ws[k][m]) * scale, acc[m][r]);
      }
    }
  }
}

// int8s is floats for class int8g32, with dot products of four bytes.
INLINE void int8s(int ns, int rs, FORMAL) {
  u32 panel = block_x() * threads_y() + thread_y(), o = panel * PANEL + thread_x(), groups = padded(in) / GROUP;
  tile t = tiles[block_y()];
  if (panel * PANEL >= out) return;
  u64 from = (u64)panel * groups * GROUP_BYTES;
  const GLOBAL u8 *w[2] = {(const GLOBAL u8 *)(ns == 2 ? t.gate : t.down) + from, (const GLOBAL u8 *)t.up + from};
  const GLOBAL u8 *xr[8];
  float acc[2][8];
  UNROLL for (int r = 0; r < rs; r++) {
    xr[r] = (const GLOBAL u8 *)x + last(&t, (u32)r) * xs;
    acc[0][r] = acc[1][r] = 0;
  }
  u32 g = 0;
  if (rs <= 2) {
    for (; g + GROUPS_AHEAD <= groups; g += GROUPS_AHEAD) int8_steps(ns, rs, GROUPS_AHEAD, acc, w, xr, groups, g);
  }
  for (; g < groups; g++) int8_steps(ns, rs, 1, acc, w, xr, groups, g);
  if (o >= out) return;
  GLOBAL float *yr = (GLOBAL float *)y + t.row * ys + o;
  UNROLL for (int r = 0; r < rs; r++) {
    if ((u32)r >= t.rows) break;
    yr[r * ys] = finish(ns, &t, o, act, acc[0][r], acc[1][r]);
  }
}

#define INT8S(rs)                                             \
  KERNEL gate_up_int8_##rs(PARAMS) { int8s(2, rs, ARGS); } \
  KERNEL linear_int8_##rs(PARAMS) { int8s(1, rs, ARGS); }
#if FAMILY_int8
KERNEL convert_int8(PARAMS) { quantize(ARGS); }
INT8S(1)
INT8S(2)
INT8S(4)
INT8S(8)
#endif

// scatter writes a warp's results, ns matrices of two times 16 outputs for 8 * nt rows, as mma leaves them.
INLINE void scatter(int ns, int nt, const tile *t, GLOBAL void *y, u32 out, u64 ys, u32 act, u32 panel, float (*acc)[2][4][LANES][4]) {
  EACH_LANE {
    UNROLL for (int mt = 0; mt < 2; mt++) {
      UNROLL for (int n = 0; n < nt; n++) {
        UNROLL for (u32 i = 0; i < 4; i++) {
          u32 o = panel * PANEL + mt * 16 + lane / 4 + i / 2 * 8, r = n * 8 + lane % 4 * 2 + i % 2;
          if (o < out && r < t->rows)
            ((GLOBAL float *)y)[(t->row + r) * ys + o] = finish(ns, t, o, act, acc[0][mt][n][l][i], acc[ns - 1][mt][n][l][i]);
        }
      }
    }
  }
}

// int8_mmas is int8s with a matrix instruction for each group, which sums the same integers: the bits are the same. A warp
// computes a panel for 8 * nt rows.
INLINE void int8_mmas(int ns, int nt, FORMAL) {
  WARP_BEGIN
  u32 panel = block_x() * threads_y() + thread_y(), groups = padded(in) / GROUP;
  tile t = tiles[block_y()];
  if (panel * PANEL >= out) return;
  const GLOBAL u8 *w[2] = {(const GLOBAL u8 *)(ns == 2 ? t.gate : t.down) + (u64)panel * groups * GROUP_BYTES,
                           (const GLOBAL u8 *)t.up + (u64)panel * groups * GROUP_BYTES};
  float acc[2][2][4][LANES][4];
  EACH_LANE {
    UNROLL for (int k = 0; k < ns * 2 * nt * 4; k++) acc[k / (8 * nt)][k / (4 * nt) % 2][k / 4 % nt][l][k % 4] = 0;
  }
  for (u32 g = 0; g < groups; g++) {
    u32 b[4][LANES][2];
    float scale[4][LANES][2];
    EACH_LANE {
      UNROLL for (int n = 0; n < nt; n++) {
        const GLOBAL u8 *row = (const GLOBAL u8 *)x + last(&t, n * 8 + lane / 4) * xs + g * GROUP + lane % 4 * 4;
        UNROLL for (int h = 0; h < 2; h++) {
          b[n][l][h] = *(const GLOBAL u32 *)(row + h * 16);
          scale[n][l][h] = *(const GLOBAL float *)((const GLOBAL u8 *)x + last(&t, n * 8 + lane % 4 * 2 + h) * xs + groups * GROUP + g * 4);
        }
      }
    }
    UNROLL for (int m = 0; m < ns; m++) {
      const GLOBAL u8 *block = w[m] + (u64)g * GROUP_BYTES;
      UNROLL for (int mt = 0; mt < 2; mt++) {
        u32 a[LANES][4];
        float ws[LANES][2];
        EACH_LANE {
          UNROLL for (u32 i = 0; i < 4; i++)
            a[l][i] = *(const GLOBAL u32 *)(block + (i / 2 * PANEL + mt * 16 + lane / 4 + i % 2 * 8) * 16 + lane % 4 * 4);
          UNROLL for (u32 i = 0; i < 2; i++) ws[l][i] = bf16(((const GLOBAL u16 *)(block + 2 * PANEL * 16))[mt * 16 + lane / 4 + i * 8]);
        }
        UNROLL for (int n = 0; n < nt; n++) {
          s32 d[LANES][4];
          mma_s8(d, a, b[n]);
          EACH_LANE {
            UNROLL for (int i = 0; i < 4; i++)
              acc[m][mt][n][l][i] = fma32((float)d[l][i], ws[l][i / 2] * scale[n][l][i % 2], acc[m][mt][n][l][i]);
          }
        }
      }
    }
  }
  scatter(ns, nt, &t, y, out, ys, act, panel, acc);
}

#define INT8_MMAS(rs)                                                     \
  KERNEL gate_up_int8_mma_##rs(PARAMS) { int8_mmas(2, rs / 8, ARGS); } \
  KERNEL linear_int8_mma_##rs(PARAMS) { int8_mmas(1, rs / 8, ARGS); }
#if FAMILY_int8_mma
KERNEL convert_int8_mma(PARAMS) { quantize(ARGS); }
INT8_MMAS(8)
INT8_MMAS(32)
#endif

// Classes cuda-bf16 and cuda-f16: activations are rounded to the weights' type, and matrix instructions sum 16 products at a
// time into float32. Weights lie as for floats, with inputs up to a multiple of 16 that are zero; so do rows of x.

// halves rounds rows: the grid is [32 elements, rows].
INLINE void halves(int type, FORMAL) {
  u32 i = (block_x() * threads_y() + thread_y()) * 32 + thread_x();
  if (i >= (in + 15) / 16 * 16) return;
  float f = i < in ? ((const GLOBAL float *)x)[block_y() * xs + i] : 0;
  u32 b = bits(f);
  if (type == BF16) {
    b = f != f ? b >> 16 | 0x40 : (b + 0x7fff + (b >> 16 & 1)) >> 16;
  } else {
    union { _Float16 f; u16 u; } h = {(_Float16)f};
    b = h.u;
  }
  ((GLOBAL u16 *)y)[block_y() * ys + i] = (u16)b;
}

INLINE void half_mmas(int type, int ns, int nt, FORMAL) {
  WARP_BEGIN
  u32 panel = block_x() * threads_y() + thread_y(), steps = (in + 15) / 16;
  tile t = tiles[block_y()];
  if (panel * PANEL >= out) return;
  u64 from = (u64)panel * steps * 2 * PANEL * 16;
  const GLOBAL u8 *w[2] = {(const GLOBAL u8 *)(ns == 2 ? t.gate : t.down) + from, (const GLOBAL u8 *)t.up + from};
  float acc[2][2][4][LANES][4];
  EACH_LANE {
    UNROLL for (int k = 0; k < ns * 2 * nt * 4; k++) acc[k / (8 * nt)][k / (4 * nt) % 2][k / 4 % nt][l][k % 4] = 0;
  }
  for (u32 s = 0; s < steps; s++) {
    u32 b[4][LANES][2];
    EACH_LANE {
      UNROLL for (int n = 0; n < nt; n++) {
        const GLOBAL u16 *row = (const GLOBAL u16 *)x + last(&t, n * 8 + lane / 4) * xs + s * 16 + lane % 4 * 2;
        UNROLL for (int h = 0; h < 2; h++) b[n][l][h] = *(const GLOBAL u32 *)(row + h * 8);
      }
    }
    UNROLL for (int m = 0; m < ns; m++) {
      UNROLL for (int mt = 0; mt < 2; mt++) {
        u32 a[LANES][4];
        EACH_LANE {
          UNROLL for (u32 i = 0; i < 4; i++)
            a[l][i] = *(const GLOBAL u32 *)(w[m] + ((u64)(s * 2 + i / 2) * PANEL + mt * 16 + lane / 4 + i % 2 * 8) * 16 + lane % 4 * 4);
        }
        UNROLL for (int n = 0; n < nt; n++) mma_half(acc[m][mt][n], a, b[n], type == BF16);
      }
    }
  }
  scatter(ns, nt, &t, y, out, ys, act, panel, acc);
}

#define HALF_MMAS(name, type, rs)                                                \
  KERNEL gate_up_##name##_mma_##rs(PARAMS) { half_mmas(type, 2, rs / 8, ARGS); } \
  KERNEL linear_##name##_mma_##rs(PARAMS) { half_mmas(type, 1, rs / 8, ARGS); }
#if FAMILY_bf16_mma
KERNEL convert_bf16_mma(PARAMS) { halves(BF16, ARGS); }
HALF_MMAS(bf16, BF16, 8)
HALF_MMAS(bf16, BF16, 32)
#endif
#if FAMILY_f16_mma
KERNEL convert_f16_mma(PARAMS) { halves(F16, ARGS); }
HALF_MMAS(f16, F16, 8)
HALF_MMAS(f16, F16, 32)
#endif
