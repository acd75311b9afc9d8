// What differs between a GPU, for which clang makes PTX, and the emulation, for which any C compiler makes machine code: where
// a thread is, and what a warp does together.
#pragma once
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

typedef uint8_t u8;
typedef int8_t s8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef int32_t s32;
typedef uint64_t u64;
typedef u32 u32x4 __attribute__((vector_size(16)));
typedef float f32x4 __attribute__((vector_size(16)));

#ifdef __NVPTX__

#define GLOBAL __attribute__((address_space(1)))
#define KERNEL __attribute__((nvptx_kernel)) void
#define UNROLL _Pragma("unroll")
INLINE u32 thread_x(void) { return __nvvm_read_ptx_sreg_tid_x(); }
INLINE u32 thread_y(void) { return __nvvm_read_ptx_sreg_tid_y(); }
INLINE u32 threads_y(void) { return __nvvm_read_ptx_sreg_ntid_y(); }
INLINE u32 block_x(void) { return __nvvm_read_ptx_sreg_ctaid_x(); }
INLINE u32 block_y(void) { return __nvvm_read_ptx_sreg_ctaid_y(); }

#else

#define GLOBAL
#define KERNEL void
#define UNROLL
#include "cudaemu_thread.h"

#endif

INLINE u32 bits(float f) {
  union { float f; u32 u; } v = {f};
  return v.u;
}
INLINE float number(u32 u) {
  union { u32 u; float f; } v = {.u = u};
  return v.f;
}
INLINE float fma32(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
INLINE float bf16(u32 h) { return number(h << 16); }
INLINE float f16(u32 h) {
  union { u16 u; _Float16 f; } v = {(u16)h};
  return (float)v.f;
}

// dot4 is acc plus the products of four pairs of signed bytes.
INLINE s32 dot4(u32 a, u32 b, s32 acc) {
#ifdef __NVPTX__
  s32 d;
  __asm__("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(acc));
  return d;
#else
  for (int i = 0; i < 32; i += 8) acc += (s32)(s8)(a >> i) * (s8)(b >> i);
  return acc;
#endif
}

// load16 reads 16 bytes that nobody writes meanwhile, at once: compilers like to take them apart where they are used one by one.
INLINE u32x4 load16(const GLOBAL void *p) {
#ifdef __NVPTX__
  u32 a, b, c, d;
  __asm__("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "l"(p));
  return (u32x4){a, b, c, d};
#else
  return *(const u32x4 *)p;
#endif
}

// keep_before keeps the loads before it from being moved behind it. It is a barrier of the warp, whose threads are together anyway:
// assemblers are free to put a load right before its use, and put it there.
INLINE void keep_before(void) {
#ifdef __NVPTX__
  __asm__ volatile("bar.warp.sync 0xffffffff;" ::: "memory");
#endif
}

// What follows is for kernels in which the 32 threads of a warp multiply together. A variable of theirs is an array with an
// element for each lane that this thread computes: one on a GPU; on the emulation all, since there the first thread of a warp
// does everything and the others leave at once.
#ifdef __NVPTX__
#define LANES 1
#define WARP_BEGIN
#define EACH_LANE for (u32 l = 0, lane = thread_x(); l < 1; l++)
#else
#define LANES 32
#define WARP_BEGIN if (thread_x() != 0) return;
#define EACH_LANE for (u32 l = 0, lane = 0; l < 32; lane = ++l)
#endif

// mma_s8 is d = a b for a of 16 x 32 and b of 32 x 8 signed bytes, whose sums are exact. Lane 4g + t holds of a the bytes
// 4t to 4t+3 of rows g and g+8, then bytes 16+4t to 16+4t+3 of the same; of b the same bytes of column g; of d row g, columns 2t
// and 2t+1, then row g+8.
INLINE void mma_s8(s32 d[LANES][4], u32 a[LANES][4], u32 b[LANES][2]) {
#if !defined(__NVPTX__)
  for (u32 lane = 0; lane < 32; lane++)
    for (u32 i = 0; i < 4; i++) {
      u32 row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      s32 sum = 0;
      for (u32 t = 0; t < 4; t++)
        for (u32 half = 0; half < 2; half++) sum = dot4(a[row % 8 * 4 + t][half * 2 + row / 8], b[column * 4 + t][half], sum);
      d[lane][i] = sum;
    }
#else
  __asm__("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
          : "=r"(d[0][0]), "=r"(d[0][1]), "=r"(d[0][2]), "=r"(d[0][3])
          : "r"(a[0][0]), "r"(a[0][1]), "r"(a[0][2]), "r"(a[0][3]), "r"(b[0][0]), "r"(b[0][1]), "r"(0));
#endif
}

// mma_half is d += a b for a of 16 x 16 and b of 16 x 8 halves, bfloat16 or binary16, in float32. Lane 4g + t holds of a the
// elements 2t and 2t+1 of rows g and g+8, then 8+2t and 8+2t+1 of the same; of b the same elements of column g; d is as in
// mma_s8. The order of the sum is the hardware's own; the emulation adds in float32 by ascending input.
INLINE void mma_half(float d[LANES][4], u32 a[LANES][4], u32 b[LANES][2], int is_bf16) {
#if !defined(__NVPTX__)
  for (u32 lane = 0; lane < 32; lane++)
    for (u32 i = 0; i < 4; i++) {
      u32 row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      for (u32 k = 0; k < 16; k++) {
        u32 t = k % 8 / 2, shift = k % 2 * 16;
        u32 w = a[row % 8 * 4 + t][k / 8 * 2 + row / 8] >> shift & 0xffff, x = b[column * 4 + t][k / 8] >> shift & 0xffff;
        d[lane][i] = is_bf16 ? fma32(bf16(w), bf16(x), d[lane][i]) : fma32(f16(w), f16(x), d[lane][i]);
      }
    }
#else
  if (is_bf16)
    __asm__("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3])
            : "r"(a[0][0]), "r"(a[0][1]), "r"(a[0][2]), "r"(a[0][3]), "r"(b[0][0]), "r"(b[0][1]));
  else
    __asm__("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3])
            : "r"(a[0][0]), "r"(a[0][1]), "r"(a[0][2]), "r"(a[0][3]), "r"(b[0][0]), "r"(b[0][1]));
#endif
}
