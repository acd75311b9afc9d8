// Where the thread that the emulation runs at the moment is.
#pragma once

typedef struct {
  unsigned int tx, ty, nty, bx, by;
} cudaemu_place;
extern _Thread_local cudaemu_place cudaemu_at;

static inline unsigned int thread_x(void) { return cudaemu_at.tx; }
static inline unsigned int thread_y(void) { return cudaemu_at.ty; }
static inline unsigned int threads_y(void) { return cudaemu_at.nty; }
static inline unsigned int block_x(void) { return cudaemu_at.bx; }
static inline unsigned int block_y(void) { return cudaemu_at.by; }
