// libcuda.so.1 without a GPU: what package cuda and gorgonia.org/cu call of the driver, with the kernels of ../../kernel compiled
// for the processor. Tests run the whole CUDA backend on it. It refuses to be quick.
//
// Where a mistake would stay hidden on a GPU until it hurts, it is strict: what is put on a stream runs only when somebody waits
// for it, so that a missing wait is seen; copies must lie in one allocation; behind each allocation is a page that nobody may
// touch, so that a kernel that reads too far ends the process; a module must be PTX for the device's architecture, and a kernel
// must be an entry of it.
//
// The file that CUDAEMU names, or else cudaemu.conf beside the library, says what the device is and what goes wrong; it is read
// again whenever it changes. A line is a key and a number:
//   devices, sm, memory, driver   what there is (1, 80, 8 GiB, 12040)
//   init CODE       cuInit fails
//   lost CODE       every call fails from now on, as if the device had gone
//   alloc N         the allocation that would be number N, and all later ones, find no memory
//   launch N        launch number N and later ones fail, and with them the context
//   copy US         a copy takes so many microseconds more
//   register CODE   memory that a process has already can't be pinned
//   once 1          the file is removed as soon as it has made something fail
#define _GNU_SOURCE
#include "cuda.h"
#include "cudaemu_thread.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

const char pimoe_cudaemu[] = "emulation";
_Thread_local cudaemu_place cudaemu_at;

typedef void (*kernel)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
enum { PARAMETERS = 8 };

#define K(name) extern void name(void);
#include "kernels.inc"
#undef K
static const struct {
  const char *name;
  kernel run;
} kernels[] = {
#define K(name) {#name, (kernel)name},
#include "kernels.inc"
#undef K
};
enum { KERNELS = sizeof kernels / sizeof *kernels };

// lock guards everything below.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct {
  long devices, sm, memory, driver, init, lost, alloc, launch, copy, registering, once;
} conf;
static char conf_path[4096];
static struct timespec conf_seen;

static void read_conf(void) {
  if (!conf_path[0]) {
    const char *env = getenv("CUDAEMU");
    Dl_info self;
    if (env)
      snprintf(conf_path, sizeof conf_path, "%s", env);
    else if (dladdr(pimoe_cudaemu, &self) && strrchr(self.dli_fname, '/'))
      snprintf(conf_path, sizeof conf_path, "%.*s/cudaemu.conf", (int)(strrchr(self.dli_fname, '/') - self.dli_fname), self.dli_fname);
  }
  struct stat st;
  struct timespec seen = {-1, 0};
  if (stat(conf_path, &st) == 0) seen = st.st_mtim;
  if (conf.devices && seen.tv_sec == conf_seen.tv_sec && seen.tv_nsec == conf_seen.tv_nsec) return;
  conf_seen = seen;
  memset(&conf, 0, sizeof conf);
  conf.devices = 1, conf.sm = 80, conf.memory = 8L << 30, conf.driver = 12040;
  FILE *f = fopen(conf_path, "r");
  if (!f) return;
  char key[32];
  long value;
  while (fscanf(f, "%31s %ld", key, &value) == 2) {
#define KEY(name) \
  if (!strcmp(key, #name)) conf.name = value;
    KEY(devices) KEY(sm) KEY(memory) KEY(driver) KEY(init) KEY(lost) KEY(alloc) KEY(launch) KEY(copy) KEY(once)
#undef KEY
    if (!strcmp(key, "register")) conf.registering = value; // a word of the language
  }
  fclose(f);
}

static CUresult failed; // sticky: the context is of no more use
static long used, allocations, launches;

static CUresult fail(CUresult code) {
  if (conf.once) unlink(conf_path);
  return code;
}

// enter takes the lock and gives what every call gives if the device is gone.
static CUresult enter(void) {
  pthread_mutex_lock(&lock);
  read_conf();
  if (conf.lost && !failed) failed = fail((CUresult)conf.lost);
  return failed;
}
static CUresult leave(CUresult r) {
  pthread_mutex_unlock(&lock);
  return r;
}
#define ENTER                          \
  {                                    \
    CUresult r = enter();              \
    if (r != CUDA_SUCCESS) return leave(r); \
  }

// Devices and contexts.
struct CUctx_st {
  CUdevice device;
};
static _Thread_local CUcontext current;

CUresult cuInit(unsigned int flags) {
  pthread_mutex_lock(&lock);
  read_conf();
  CUresult r = flags ? CUDA_ERROR_INVALID_VALUE : conf.init ? fail((CUresult)conf.init) : conf.lost ? fail((CUresult)conf.lost) : CUDA_SUCCESS;
  return leave(r);
}
CUresult cuDriverGetVersion(int *version) {
  ENTER
  *version = (int)conf.driver;
  return leave(CUDA_SUCCESS);
}
CUresult cuDeviceGetCount(int *count) {
  ENTER
  *count = (int)conf.devices;
  return leave(CUDA_SUCCESS);
}
CUresult cuDeviceGet(CUdevice *device, int ordinal) {
  ENTER
  *device = ordinal;
  return leave(ordinal >= 0 && ordinal < conf.devices ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE);
}
CUresult cuDeviceGetName(char *name, int len, CUdevice device) {
  ENTER
  snprintf(name, (size_t)len, "emulated sm_%ld #%d", conf.sm, device);
  return leave(CUDA_SUCCESS);
}
CUresult cuDeviceTotalMem(size_t *bytes, CUdevice device) {
  ENTER
  *bytes = (size_t)conf.memory;
  return leave(CUDA_SUCCESS);
}
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  ENTER
  switch (attribute) {
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = (int)conf.sm / 10; break;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = (int)conf.sm % 10; break;
  case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 1; break;
  case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
  case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: *value = 1000000; break;
  case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: *value = 64; break;
  default: return leave(CUDA_ERROR_INVALID_VALUE);
  }
  return leave(CUDA_SUCCESS);
}
CUresult cuCtxCreate(CUcontext *context, unsigned int flags, CUdevice device) {
  ENTER
  *context = malloc(sizeof **context);
  (*context)->device = device;
  current = *context;
  return leave(CUDA_SUCCESS);
}
CUresult cuCtxDestroy(CUcontext context) {
  pthread_mutex_lock(&lock);
  if (current == context) current = NULL;
  free(context);
  return leave(failed);
}
CUresult cuCtxSetCurrent(CUcontext context) {
  ENTER
  current = context;
  return leave(CUDA_SUCCESS);
}
CUresult cuCtxGetCurrent(CUcontext *context) {
  ENTER
  *context = current;
  return leave(CUDA_SUCCESS);
}
#define ENTER_CONTEXT \
  ENTER               \
  if (!current) return leave(CUDA_ERROR_INVALID_CONTEXT);

// Memory. An allocation ends where a page does that is closed.
typedef struct {
  uintptr_t begin;
  size_t bytes, mapped;
} block;
static block *blocks; // ascending
static size_t block_count, block_room;

static size_t find(uintptr_t p) { // the first block that begins behind p
  size_t low = 0, high = block_count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (blocks[middle].begin <= p)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}
static int inside(CUdeviceptr p, size_t bytes) {
  size_t i = find(p);
  return i > 0 && p - blocks[i - 1].begin + bytes <= blocks[i - 1].bytes;
}

CUresult cuMemGetInfo(size_t *free, size_t *total) {
  ENTER_CONTEXT
  *total = (size_t)conf.memory;
  *free = (size_t)(conf.memory > used ? conf.memory - used : 0);
  return leave(CUDA_SUCCESS);
}
CUresult cuMemAlloc(CUdeviceptr *pointer, size_t bytes) {
  ENTER_CONTEXT
  if (!bytes) return leave(CUDA_ERROR_INVALID_VALUE);
  allocations++;
  if (used + (long)bytes > conf.memory || (conf.alloc && allocations >= conf.alloc)) return leave(fail(CUDA_ERROR_OUT_OF_MEMORY));
  size_t page = 4096, room = (bytes + 15) / 16 * 16, pages = (room + page - 1) / page * page;
  char *m = mmap(NULL, pages + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (m == MAP_FAILED) return leave(fail(CUDA_ERROR_OUT_OF_MEMORY));
  mprotect(m + pages, page, PROT_NONE);
  memset(m, 0xff, pages); // NaN, whatever the type
  if (block_count == block_room) blocks = realloc(blocks, (block_room = block_room * 2 + 16) * sizeof *blocks);
  uintptr_t begin = (uintptr_t)m + pages - room;
  size_t i = find(begin);
  memmove(blocks + i + 1, blocks + i, (block_count++ - i) * sizeof *blocks);
  blocks[i] = (block){begin, bytes, pages + page};
  used += (long)bytes;
  *pointer = begin;
  return leave(CUDA_SUCCESS);
}

// Streams. Their work waits for somebody who waits.
typedef struct {
  enum { UPLOAD, DOWNLOAD, LAUNCH, RECORD } kind;
  void *dst;
  const void *src;
  size_t bytes;
  kernel run;
  cudaemu_place grid; // bx, by: blocks; tx, ty: threads of one
  uint64_t params[PARAMETERS];
  CUevent event;
} work;
struct CUstream_st {
  work *queue;
  size_t count, room;
  CUstream next;
};
struct CUevent_st {
  struct timespec at;
};
struct CUmod_st {
  char *ptx;
};
static CUstream streams;

static void put(CUstream s, work w) {
  if (s->count == s->room) s->queue = realloc(s->queue, (s->room = s->room * 2 + 16) * sizeof w);
  s->queue[s->count++] = w;
}

static void copy(const work *w) {
  if (conf.copy) usleep((useconds_t)conf.copy);
  memcpy(w->dst, w->src, w->bytes);
}

static void launch(const work *w) {
  const uint64_t *p = w->params;
  cudaemu_place g = w->grid;
  for (unsigned int by = 0; by < g.by; by++)
    for (unsigned int bx = 0; bx < g.bx; bx++)
      for (unsigned int ty = 0; ty < g.ty; ty++)
        for (unsigned int tx = 0; tx < g.tx; tx++) {
          cudaemu_at = (cudaemu_place){tx, ty, g.ty, bx, by};
          w->run(p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]);
        }
}

static void drain(CUstream s) {
  for (size_t i = 0; i < s->count; i++) {
    work *w = &s->queue[i];
    switch (w->kind) {
    case UPLOAD:
    case DOWNLOAD: copy(w); break;
    case LAUNCH: launch(w); break;
    case RECORD: clock_gettime(CLOCK_MONOTONIC, &w->event->at); break;
    }
  }
  s->count = 0;
}
static void drain_all(void) {
  for (CUstream s = streams; s; s = s->next) drain(s);
}

CUresult cuStreamCreate(CUstream *stream, unsigned int flags) {
  ENTER_CONTEXT
  *stream = calloc(1, sizeof **stream);
  (*stream)->next = streams;
  streams = *stream;
  return leave(CUDA_SUCCESS);
}
CUresult cuStreamDestroy(CUstream stream) {
  pthread_mutex_lock(&lock);
  for (CUstream *s = &streams; *s; s = &(*s)->next)
    if (*s == stream) {
      if (!failed) drain(stream);
      *s = stream->next;
      free(stream->queue);
      free(stream);
      return leave(failed);
    }
  return leave(CUDA_ERROR_INVALID_HANDLE);
}
CUresult cuStreamSynchronize(CUstream stream) {
  ENTER_CONTEXT
  drain(stream);
  return leave(CUDA_SUCCESS);
}
CUresult cuCtxSynchronize(void) {
  ENTER_CONTEXT
  drain_all();
  return leave(CUDA_SUCCESS);
}

CUresult cuMemFree(CUdeviceptr pointer) {
  ENTER_CONTEXT
  drain_all(); // as the driver does
  size_t i = find(pointer);
  if (!i || blocks[i - 1].begin != pointer) return leave(CUDA_ERROR_INVALID_VALUE);
  block b = blocks[--i];
  memmove(blocks + i, blocks + i + 1, (--block_count - i) * sizeof *blocks);
  used -= (long)b.bytes;
  uintptr_t end = (b.begin + b.bytes + 4095) / 4096 * 4096 + 4096;
  munmap((void *)(end - b.mapped), b.mapped);
  return leave(CUDA_SUCCESS);
}
CUresult cuMemHostAlloc(void **pointer, size_t bytes, unsigned int flags) {
  ENTER_CONTEXT
  *pointer = malloc(bytes);
  return leave(*pointer ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY);
}
CUresult cuMemFreeHost(void *pointer) {
  pthread_mutex_lock(&lock);
  free(pointer);
  return leave(failed);
}

// Memory that a process has already and that the driver has pinned: whole pages, each of which it may read, and write unless it
// says that it only reads.
enum { REGISTERED = 64 };
static struct {
  void *begin;
  size_t bytes;
} registered[REGISTERED];

CUresult cuMemHostRegister(void *pointer, size_t bytes, unsigned int flags) {
  ENTER_CONTEXT
  if (conf.registering) return leave(fail((CUresult)conf.registering));
  if (!bytes || (uintptr_t)pointer % 4096) return leave(CUDA_ERROR_INVALID_VALUE);
  int place = -1;
  for (int i = 0; i < REGISTERED; i++) {
    char *begin = registered[i].begin;
    if (!begin)
      place = i;
    else if ((char *)pointer < begin + registered[i].bytes && begin < (char *)pointer + bytes)
      return leave(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
  }
  if (place < 0) return leave(CUDA_ERROR_OUT_OF_MEMORY);
  for (size_t at = 0; at < bytes; at += 4096) { // what the process has no right to ends it here, and not at the first copy
    volatile char *page = (char *)pointer + at;
    char c = *page;
    if (!(flags & CU_MEMHOSTREGISTER_READ_ONLY)) __atomic_compare_exchange_n(page, &c, c, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  }
  registered[place].begin = pointer, registered[place].bytes = bytes;
  return leave(CUDA_SUCCESS);
}
CUresult cuMemHostUnregister(void *pointer) {
  ENTER_CONTEXT
  drain_all(); // as the driver does
  for (int i = 0; i < REGISTERED; i++)
    if (pointer && registered[i].begin == pointer) {
      registered[i].begin = NULL;
      return leave(CUDA_SUCCESS);
    }
  return leave(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
}

static CUresult copied(CUdeviceptr device, size_t bytes, work w, CUstream stream) {
  ENTER_CONTEXT
  if (!inside(device, bytes)) return leave(CUDA_ERROR_INVALID_VALUE);
  w.bytes = bytes;
  if (stream) {
    put(stream, w);
  } else {
    drain_all();
    copy(&w);
  }
  return leave(CUDA_SUCCESS);
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr dst, const void *src, size_t bytes, CUstream stream) {
  return copied(dst, bytes, (work){.kind = UPLOAD, .dst = (void *)dst, .src = src}, stream);
}
CUresult cuMemcpyDtoHAsync(void *dst, CUdeviceptr src, size_t bytes, CUstream stream) {
  return copied(src, bytes, (work){.kind = DOWNLOAD, .dst = dst, .src = (const void *)src}, stream);
}
CUresult cuMemcpyHtoD(CUdeviceptr dst, const void *src, size_t bytes) { return cuMemcpyHtoDAsync(dst, src, bytes, NULL); }
CUresult cuMemcpyDtoH(void *dst, CUdeviceptr src, size_t bytes) { return cuMemcpyDtoHAsync(dst, src, bytes, NULL); }

CUresult cuEventCreate(CUevent *event, unsigned int flags) {
  ENTER_CONTEXT
  *event = calloc(1, sizeof **event);
  return leave(CUDA_SUCCESS);
}
CUresult cuEventDestroy(CUevent event) {
  pthread_mutex_lock(&lock);
  free(event);
  return leave(failed);
}
CUresult cuEventRecord(CUevent event, CUstream stream) {
  ENTER_CONTEXT
  event->at = (struct timespec){0, 0};
  put(stream, (work){.kind = RECORD, .event = event});
  return leave(CUDA_SUCCESS);
}
CUresult cuEventSynchronize(CUevent event) {
  ENTER_CONTEXT
  drain_all();
  return leave(CUDA_SUCCESS);
}
CUresult cuEventElapsedTime(float *ms, CUevent start, CUevent end) {
  ENTER_CONTEXT
  if (!start->at.tv_sec || !end->at.tv_sec) return leave(CUDA_ERROR_NOT_READY);
  *ms = (float)((double)(end->at.tv_sec - start->at.tv_sec) * 1e3 + (double)(end->at.tv_nsec - start->at.tv_nsec) / 1e6);
  return leave(CUDA_SUCCESS);
}

// Modules and kernels.
CUresult cuModuleLoadData(CUmodule *module, const void *image) {
  ENTER_CONTEXT
  const char *target = strstr(image, ".target sm_");
  if (!target) return leave(CUDA_ERROR_INVALID_PTX);
  if (atol(target + strlen(".target sm_")) > conf.sm) return leave(CUDA_ERROR_NO_BINARY_FOR_GPU);
  *module = malloc(sizeof **module);
  (*module)->ptx = strdup(image);
  return leave(CUDA_SUCCESS);
}
CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int n, CUjit_option *options, void **values) {
  return cuModuleLoadData(module, image);
}
CUresult cuModuleUnload(CUmodule module) {
  ENTER_CONTEXT
  drain_all();
  free(module->ptx);
  free(module);
  return leave(CUDA_SUCCESS);
}
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  ENTER_CONTEXT
  char entry[128];
  snprintf(entry, sizeof entry, ".entry %s(", name);
  if (strstr(module->ptx, entry))
    for (size_t i = 0; i < KERNELS; i++)
      if (!strcmp(kernels[i].name, name)) {
        *function = (CUfunction)&kernels[i];
        return leave(CUDA_SUCCESS);
      }
  return leave(CUDA_ERROR_NOT_FOUND);
}
CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function) {
  ENTER_CONTEXT
  *value = 0;
  return leave(CUDA_SUCCESS);
}
CUresult cuLaunchKernel(CUfunction function, unsigned int gx, unsigned int gy, unsigned int gz, unsigned int bx, unsigned int by,
                        unsigned int bz, unsigned int shared, CUstream stream, void **params, void **extra) {
  ENTER_CONTEXT
  if (!gx || !gy || gz != 1 || !bx || !by || bz != 1 || bx * by > 1024 || gy > 65535 || shared || extra) return leave(CUDA_ERROR_INVALID_VALUE);
  launches++;
  if (conf.launch && launches >= conf.launch) return leave(failed = fail(CUDA_ERROR_LAUNCH_FAILED));
  work w = {.kind = LAUNCH, .run = *(const kernel *)((const char *)function + sizeof(char *)), .grid = {bx, by, by, gx, gy}};
  for (int i = 0; i < PARAMETERS; i++) memcpy(&w.params[i], params[i], sizeof w.params[i]);
  put(stream, w);
  return leave(CUDA_SUCCESS);
}

#define REFUSE(name, args) \
  CUresult name args { return CUDA_ERROR_NOT_SUPPORTED; }
CUDAEMU_REST(REFUSE)
