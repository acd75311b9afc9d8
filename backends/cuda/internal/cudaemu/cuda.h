// The driver interface as far as gorgonia.org/cu v0.9.6 and package cuda compile against it, written for the emulation
// alone. Constants have the emulation's own values, save for a few error codes and the compute capability: what is built with this header must never
// meet a real driver, and refers to pimoe_cudaemu so that it doesn't.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define CUDA_VERSION 12040
typedef enum {
  CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 0, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X = 1,
  CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y = 2, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z = 3,
  CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X = 4, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y = 5,
  CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z = 6, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK = 7,
  CU_DEVICE_ATTRIBUTE_SHARED_MEMORY_PER_BLOCK = 8, CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY = 9,
  CU_DEVICE_ATTRIBUTE_WARP_SIZE = 10, CU_DEVICE_ATTRIBUTE_MAX_PITCH = 11,
  CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK = 12, CU_DEVICE_ATTRIBUTE_REGISTERS_PER_BLOCK = 13,
  CU_DEVICE_ATTRIBUTE_CLOCK_RATE = 14, CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT = 15,
  CU_DEVICE_ATTRIBUTE_GPU_OVERLAP = 16, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 17,
  CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT = 18, CU_DEVICE_ATTRIBUTE_INTEGRATED = 19,
  CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY = 20, CU_DEVICE_ATTRIBUTE_COMPUTE_MODE = 21,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_WIDTH = 22, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_WIDTH = 23,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_HEIGHT = 24, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_WIDTH = 25,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_HEIGHT = 26, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_DEPTH = 27,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_WIDTH = 28,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_HEIGHT = 29,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_LAYERS = 30, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_ARRAY_WIDTH = 31,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_ARRAY_HEIGHT = 32,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_ARRAY_NUMSLICES = 33, CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT = 34,
  CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS = 35, CU_DEVICE_ATTRIBUTE_ECC_ENABLED = 36,
  CU_DEVICE_ATTRIBUTE_PCI_BUS_ID = 37, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID = 38, CU_DEVICE_ATTRIBUTE_TCC_DRIVER = 39,
  CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE = 40, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH = 41,
  CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE = 42, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR = 43,
  CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT = 44, CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING = 45,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LAYERED_WIDTH = 46,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LAYERED_LAYERS = 47, CU_DEVICE_ATTRIBUTE_CAN_TEX2D_GATHER = 48,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_GATHER_WIDTH = 49, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_GATHER_HEIGHT = 50,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_WIDTH_ALTERNATE = 51,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_HEIGHT_ALTERNATE = 52,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_DEPTH_ALTERNATE = 53, CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID = 54,
  CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT = 55, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_WIDTH = 56,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_LAYERED_WIDTH = 57,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_LAYERED_LAYERS = 58, CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_WIDTH = 59,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_WIDTH = 60, CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_HEIGHT = 61,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_WIDTH = 62, CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_HEIGHT = 63,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_DEPTH = 64, CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_LAYERED_WIDTH = 65,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_LAYERED_LAYERS = 66,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_WIDTH = 67,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_HEIGHT = 68,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_LAYERS = 69, CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_WIDTH = 70,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_LAYERED_WIDTH = 71,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_LAYERED_LAYERS = 72,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LINEAR_WIDTH = 73, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_WIDTH = 74,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_HEIGHT = 79, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_PITCH = 80,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_MIPMAPPED_WIDTH = 77,
  CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_MIPMAPPED_HEIGHT = 78, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76, CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_MIPMAPPED_WIDTH = 81,
  CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED = 82, CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED = 83,
  CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED = 84, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR = 85,
  CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR = 86, CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY = 87,
  CU_DEVICE_ATTRIBUTE_MULTI_GPU_BOARD = 88, CU_DEVICE_ATTRIBUTE_MULTI_GPU_BOARD_GROUP_ID = 89,
  CU_DEVICE_ATTRIBUTE_HOST_NATIVE_ATOMIC_SUPPORTED = 90,
  CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO = 91, CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS = 92,
  CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS = 93, CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED = 94,
  CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM = 95
} CUdevice_attribute;

typedef enum {
  CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 0, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES = 1,
  CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES = 2, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES = 3, CU_FUNC_ATTRIBUTE_NUM_REGS = 4,
  CU_FUNC_ATTRIBUTE_PTX_VERSION = 5, CU_FUNC_ATTRIBUTE_BINARY_VERSION = 6, CU_FUNC_ATTRIBUTE_CACHE_MODE_CA = 7
} CUfunction_attribute;

typedef enum {
  CU_POINTER_ATTRIBUTE_CONTEXT = 0, CU_POINTER_ATTRIBUTE_MEMORY_TYPE = 1, CU_POINTER_ATTRIBUTE_DEVICE_POINTER = 2,
  CU_POINTER_ATTRIBUTE_HOST_POINTER = 3, CU_POINTER_ATTRIBUTE_P2P_TOKENS = 4, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS = 5,
  CU_POINTER_ATTRIBUTE_BUFFER_ID = 6, CU_POINTER_ATTRIBUTE_IS_MANAGED = 7
} CUpointer_attribute;

typedef enum {
  CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK = 0, CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED = 1,
  CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED = 2
} CUdevice_P2PAttribute;

typedef enum {
  CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1, CUDA_ERROR_OUT_OF_MEMORY = 2, CUDA_ERROR_NOT_INITIALIZED = 3,
  CUDA_ERROR_DEINITIALIZED = 3000, CUDA_ERROR_PROFILER_DISABLED = 3001, CUDA_ERROR_PROFILER_NOT_INITIALIZED = 3002,
  CUDA_ERROR_PROFILER_ALREADY_STARTED = 3003, CUDA_ERROR_PROFILER_ALREADY_STOPPED = 3004, CUDA_ERROR_NO_DEVICE = 100,
  CUDA_ERROR_INVALID_DEVICE = 101, CUDA_ERROR_INVALID_IMAGE = 3005, CUDA_ERROR_INVALID_CONTEXT = 201,
  CUDA_ERROR_CONTEXT_ALREADY_CURRENT = 3006, CUDA_ERROR_MAP_FAILED = 3007, CUDA_ERROR_UNMAP_FAILED = 3008,
  CUDA_ERROR_ARRAY_IS_MAPPED = 3009, CUDA_ERROR_ALREADY_MAPPED = 3010, CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
  CUDA_ERROR_ALREADY_ACQUIRED = 3011, CUDA_ERROR_NOT_MAPPED = 3012, CUDA_ERROR_NOT_MAPPED_AS_ARRAY = 3013,
  CUDA_ERROR_NOT_MAPPED_AS_POINTER = 3014, CUDA_ERROR_ECC_UNCORRECTABLE = 3015, CUDA_ERROR_UNSUPPORTED_LIMIT = 3016,
  CUDA_ERROR_CONTEXT_ALREADY_IN_USE = 3017, CUDA_ERROR_PEER_ACCESS_UNSUPPORTED = 3018, CUDA_ERROR_INVALID_PTX = 218,
  CUDA_ERROR_INVALID_GRAPHICS_CONTEXT = 3019, CUDA_ERROR_NVLINK_UNCORRECTABLE = 3020,
  CUDA_ERROR_JIT_COMPILER_NOT_FOUND = 3021, CUDA_ERROR_INVALID_SOURCE = 3022, CUDA_ERROR_FILE_NOT_FOUND = 3023,
  CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND = 3024, CUDA_ERROR_SHARED_OBJECT_INIT_FAILED = 3025,
  CUDA_ERROR_OPERATING_SYSTEM = 3026, CUDA_ERROR_INVALID_HANDLE = 400, CUDA_ERROR_ILLEGAL_STATE = 3027,
  CUDA_ERROR_NOT_FOUND = 500, CUDA_ERROR_NOT_READY = 600, CUDA_ERROR_ILLEGAL_ADDRESS = 700,
  CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 3028, CUDA_ERROR_LAUNCH_TIMEOUT = 3029,
  CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING = 3030, CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED = 3031,
  CUDA_ERROR_PEER_ACCESS_NOT_ENABLED = 3032, CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE = 3033,
  CUDA_ERROR_CONTEXT_IS_DESTROYED = 3034, CUDA_ERROR_ASSERT = 3035, CUDA_ERROR_TOO_MANY_PEERS = 3036,
  CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED = 3037, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED = 3038,
  CUDA_ERROR_HARDWARE_STACK_ERROR = 3039, CUDA_ERROR_ILLEGAL_INSTRUCTION = 3040,
  CUDA_ERROR_MISALIGNED_ADDRESS = 3041, CUDA_ERROR_INVALID_ADDRESS_SPACE = 3042, CUDA_ERROR_INVALID_PC = 3043,
  CUDA_ERROR_LAUNCH_FAILED = 719, CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE = 3044, CUDA_ERROR_NOT_PERMITTED = 3045,
  CUDA_ERROR_NOT_SUPPORTED = 801, CUDA_ERROR_SYSTEM_NOT_READY = 3046, CUDA_ERROR_SYSTEM_DRIVER_MISMATCH = 3047,
  CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE = 3048, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 3049,
  CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 3050, CUDA_ERROR_STREAM_CAPTURE_MERGE = 3051,
  CUDA_ERROR_STREAM_CAPTURE_UNMATCHED = 3052, CUDA_ERROR_STREAM_CAPTURE_UNJOINED = 3053,
  CUDA_ERROR_STREAM_CAPTURE_ISOLATION = 3054, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT = 3055,
  CUDA_ERROR_CAPTURED_EVENT = 3056, CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD = 3057, CUDA_ERROR_TIMEOUT = 3058,
  CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE = 3059, CUDA_ERROR_UNKNOWN = 999
} CUresult;

typedef enum {
  CU_AD_FORMAT_UNSIGNED_INT8 = 0, CU_AD_FORMAT_UNSIGNED_INT16 = 1, CU_AD_FORMAT_UNSIGNED_INT32 = 2,
  CU_AD_FORMAT_SIGNED_INT8 = 3, CU_AD_FORMAT_SIGNED_INT16 = 4, CU_AD_FORMAT_SIGNED_INT32 = 5, CU_AD_FORMAT_HALF = 6,
  CU_AD_FORMAT_FLOAT = 7
} CUarray_format;

typedef enum {
  CU_FUNC_CACHE_PREFER_NONE = 0, CU_FUNC_CACHE_PREFER_SHARED = 1, CU_FUNC_CACHE_PREFER_L1 = 2,
  CU_FUNC_CACHE_PREFER_EQUAL = 3
} CUfunc_cache;

typedef enum {
  CU_CTX_SCHED_AUTO = 0, CU_CTX_SCHED_SPIN = 1, CU_CTX_SCHED_YIELD = 2, CU_CTX_SCHED_BLOCKING_SYNC = 3,
  CU_CTX_SCHED_MASK = 4, CU_CTX_MAP_HOST = 5, CU_CTX_LMEM_RESIZE_TO_MAX = 6, CU_CTX_FLAGS_MASK = 7
} CUctx_flags;

typedef enum {
  CU_LIMIT_STACK_SIZE = 0, CU_LIMIT_PRINTF_FIFO_SIZE = 1, CU_LIMIT_MALLOC_HEAP_SIZE = 2,
  CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH = 3, CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT = 4
} CUlimit;

typedef enum {
  CU_SHARED_MEM_CONFIG_DEFAULT_BANK_SIZE = 0, CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE = 1,
  CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE = 2
} CUsharedconfig;

typedef enum {
  CU_MEM_ATTACH_GLOBAL = 0, CU_MEM_ATTACH_HOST = 1, CU_MEM_ATTACH_SINGLE = 2
} CUmemAttach_flags;

typedef enum {
  CU_STREAM_DEFAULT = 0, CU_STREAM_NON_BLOCKING = 1
} CUstream_flags;

typedef enum {
  CU_MEM_ADVISE_SET_READ_MOSTLY = 0, CU_MEM_ADVISE_UNSET_READ_MOSTLY = 1, CU_MEM_ADVISE_SET_PREFERRED_LOCATION = 2,
  CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION = 3, CU_MEM_ADVISE_SET_ACCESSED_BY = 4, CU_MEM_ADVISE_UNSET_ACCESSED_BY = 5
} CUmem_advise;

typedef enum {
  CU_MEMORYTYPE_HOST = 0, CU_MEMORYTYPE_DEVICE = 1, CU_MEMORYTYPE_ARRAY = 2, CU_MEMORYTYPE_UNIFIED = 3
} CUmemorytype;

typedef enum {
  CU_OCCUPANCY_DEFAULT = 0, CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE = 1
} CUoccupancy_flags;

typedef enum {
  CU_EVENT_DEFAULT = 0, CU_EVENT_BLOCKING_SYNC = 1, CU_EVENT_DISABLE_TIMING = 2, CU_EVENT_INTERPROCESS = 3
} CUevent_flags;

typedef enum {
  CU_TR_ADDRESS_MODE_WRAP = 0, CU_TR_ADDRESS_MODE_CLAMP = 1, CU_TR_ADDRESS_MODE_MIRROR = 2,
  CU_TR_ADDRESS_MODE_BORDER = 3
} CUaddress_mode;

typedef enum {
  CU_TR_FILTER_MODE_POINT = 0, CU_TR_FILTER_MODE_LINEAR = 1
} CUfilter_mode;

enum {
  CU_TRSF_READ_AS_INTEGER = 0, CU_TRSF_NORMALIZED_COORDINATES = 1
};

typedef enum {
  CU_JIT_MAX_REGISTERS = 0, CU_JIT_THREADS_PER_BLOCK = 1, CU_JIT_WALL_TIME = 2, CU_JIT_INFO_LOG_BUFFER = 3,
  CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES = 4, CU_JIT_ERROR_LOG_BUFFER = 5, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 6,
  CU_JIT_OPTIMIZATION_LEVEL = 7, CU_JIT_TARGET_FROM_CUCONTEXT = 8, CU_JIT_TARGET = 9, CU_JIT_FALLBACK_STRATEGY = 10,
  CU_JIT_GENERATE_DEBUG_INFO = 11, CU_JIT_LOG_VERBOSE = 12, CU_JIT_GENERATE_LINE_INFO = 13
} CUjit_option;

typedef enum {
  CU_JIT_CACHE_MODE = 0, CU_JIT_CACHE_OPTION_NONE = 1, CU_JIT_CACHE_OPTION_CG = 2, CU_JIT_CACHE_OPTION_CA = 3
} CUjit_cacheMode;

typedef enum {
  CU_TARGET_COMPUTE_30 = 0, CU_TARGET_COMPUTE_32 = 1, CU_TARGET_COMPUTE_35 = 2, CU_TARGET_COMPUTE_37 = 3,
  CU_TARGET_COMPUTE_50 = 4, CU_TARGET_COMPUTE_52 = 5, CU_TARGET_COMPUTE_53 = 6, CU_TARGET_COMPUTE_60 = 7,
  CU_TARGET_COMPUTE_61 = 8, CU_TARGET_COMPUTE_62 = 9
} CUjit_target;

typedef enum {
  CU_PREFER_PTX = 0, CU_PREFER_BINARY = 1
} CUjit_fallback;

typedef enum {
  CU_JIT_INPUT_CUBIN = 0, CU_JIT_INPUT_PTX = 1, CU_JIT_INPUT_FATBINARY = 2, CU_JIT_INPUT_OBJECT = 3,
  CU_JIT_INPUT_LIBRARY = 4
} CUjitInputType;

#define CU_MEMHOSTALLOC_PORTABLE 1
#define CU_MEMHOSTREGISTER_PORTABLE 1
#define CU_MEMHOSTREGISTER_READ_ONLY 8

typedef uint32_t cuuint32_t;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUarray_st *CUarray;
typedef struct CUtexref_st *CUtexref;
typedef struct CUsurfref_st *CUsurfref;
typedef struct CUevent_st *CUevent;
typedef struct CUstream_st *CUstream;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphNode_st *CUgraphNode;
typedef struct CUgraphExec_st *CUgraphExec;
typedef struct CUlinkState_st *CUlinkState;
typedef struct { char bytes[16]; } CUuuid;
typedef void (*CUhostFn)(void *);
typedef size_t (*CUoccupancyB2DSize)(int);

typedef struct {
  size_t Width, Height;
  CUarray_format Format;
  unsigned int NumChannels;
} CUDA_ARRAY_DESCRIPTOR;

typedef struct {
  size_t Width, Height, Depth;
  CUarray_format Format;
  unsigned int NumChannels, Flags;
} CUDA_ARRAY3D_DESCRIPTOR;

typedef struct {
  size_t srcXInBytes, srcY;
  CUmemorytype srcMemoryType;
  const void *srcHost;
  CUdeviceptr srcDevice;
  CUarray srcArray;
  size_t srcPitch, dstXInBytes, dstY;
  CUmemorytype dstMemoryType;
  void *dstHost;
  CUdeviceptr dstDevice;
  CUarray dstArray;
  size_t dstPitch, WidthInBytes, Height;
} CUDA_MEMCPY2D;

typedef struct {
  size_t srcXInBytes, srcY, srcZ, srcLOD;
  CUmemorytype srcMemoryType;
  const void *srcHost;
  CUdeviceptr srcDevice;
  CUarray srcArray;
  void *reserved0;
  size_t srcPitch, srcHeight, dstXInBytes, dstY, dstZ, dstLOD;
  CUmemorytype dstMemoryType;
  void *dstHost;
  CUdeviceptr dstDevice;
  CUarray dstArray;
  void *reserved1;
  size_t dstPitch, dstHeight, WidthInBytes, Height, Depth;
} CUDA_MEMCPY3D;

typedef struct {
  size_t srcXInBytes, srcY, srcZ, srcLOD;
  CUmemorytype srcMemoryType;
  const void *srcHost;
  CUdeviceptr srcDevice;
  CUarray srcArray;
  CUcontext srcContext;
  size_t srcPitch, srcHeight, dstXInBytes, dstY, dstZ, dstLOD;
  CUmemorytype dstMemoryType;
  void *dstHost;
  CUdeviceptr dstDevice;
  CUarray dstArray;
  CUcontext dstContext;
  size_t dstPitch, dstHeight, WidthInBytes, Height, Depth;
} CUDA_MEMCPY3D_PEER;

typedef struct {
  CUfunction func;
  unsigned int gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
  void **kernelParams;
  void **extra;
} CUDA_KERNEL_NODE_PARAMS;

typedef struct {
  CUhostFn fn;
  void *userData;
} CUDA_HOST_NODE_PARAMS;

typedef struct {
  CUdeviceptr dst;
  size_t pitch;
  unsigned int value, elementSize;
  size_t width, height;
} CUDA_MEMSET_NODE_PARAMS;

// Implemented, in emu.c.
extern const char pimoe_cudaemu[];
CUresult cuInit(unsigned int flags);
CUresult cuDriverGetVersion(int *version);
CUresult cuDeviceGetCount(int *count);
CUresult cuDeviceGet(CUdevice *device, int ordinal);
CUresult cuDeviceGetName(char *name, int len, CUdevice device);
CUresult cuDeviceTotalMem(size_t *bytes, CUdevice device);
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device);
CUresult cuCtxCreate(CUcontext *context, unsigned int flags, CUdevice device);
CUresult cuCtxDestroy(CUcontext context);
CUresult cuCtxSetCurrent(CUcontext context);
CUresult cuCtxGetCurrent(CUcontext *context);
CUresult cuCtxSynchronize(void);
CUresult cuModuleLoadData(CUmodule *module, const void *image);
CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int n, CUjit_option *options, void **values);
CUresult cuModuleUnload(CUmodule module);
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name);
CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function);
CUresult cuMemGetInfo(size_t *free, size_t *total);
CUresult cuMemAlloc(CUdeviceptr *pointer, size_t bytes);
CUresult cuMemFree(CUdeviceptr pointer);
CUresult cuMemHostAlloc(void **pointer, size_t bytes, unsigned int flags);
CUresult cuMemFreeHost(void *pointer);
CUresult cuMemHostRegister(void *pointer, size_t bytes, unsigned int flags);
CUresult cuMemHostUnregister(void *pointer);
CUresult cuMemcpyHtoD(CUdeviceptr dst, const void *src, size_t bytes);
CUresult cuMemcpyDtoH(void *dst, CUdeviceptr src, size_t bytes);
CUresult cuMemcpyHtoDAsync(CUdeviceptr dst, const void *src, size_t bytes, CUstream stream);
CUresult cuMemcpyDtoHAsync(void *dst, CUdeviceptr src, size_t bytes, CUstream stream);
CUresult cuStreamCreate(CUstream *stream, unsigned int flags);
CUresult cuStreamDestroy(CUstream stream);
CUresult cuStreamSynchronize(CUstream stream);
CUresult cuEventCreate(CUevent *event, unsigned int flags);
CUresult cuEventDestroy(CUevent event);
CUresult cuEventRecord(CUevent event, CUstream stream);
CUresult cuEventSynchronize(CUevent event);
CUresult cuEventElapsedTime(float *ms, CUevent start, CUevent end);
CUresult cuLaunchKernel(CUfunction function, unsigned int gx, unsigned int gy, unsigned int gz, unsigned int bx, unsigned int by,
                        unsigned int bz, unsigned int shared, CUstream stream, void **params, void **extra);

// The rest is there for the linker and answers CUDA_ERROR_NOT_SUPPORTED.
#define CUDAEMU_REST(F) \
  F(cuArray3DCreate, (CUarray *, const CUDA_ARRAY3D_DESCRIPTOR *)) \
  F(cuArray3DGetDescriptor, (CUDA_ARRAY3D_DESCRIPTOR *, CUarray)) \
  F(cuArrayCreate, (CUarray *, const CUDA_ARRAY_DESCRIPTOR *)) \
  F(cuArrayDestroy, (CUarray)) \
  F(cuArrayGetDescriptor, (CUDA_ARRAY_DESCRIPTOR *, CUarray)) \
  F(cuCtxDisablePeerAccess, (CUcontext)) \
  F(cuCtxEnablePeerAccess, (CUcontext, unsigned int)) \
  F(cuCtxGetApiVersion, (CUcontext, unsigned int *)) \
  F(cuCtxGetCacheConfig, (CUfunc_cache *)) \
  F(cuCtxGetDevice, (CUdevice *)) \
  F(cuCtxGetFlags, (unsigned int *)) \
  F(cuCtxGetLimit, (size_t *, CUlimit)) \
  F(cuCtxGetSharedMemConfig, (CUsharedconfig *)) \
  F(cuCtxGetStreamPriorityRange, (int *, int *)) \
  F(cuCtxPopCurrent, (CUcontext *)) \
  F(cuCtxPushCurrent, (CUcontext)) \
  F(cuCtxResetPersistingL2Cache, (void)) \
  F(cuCtxSetCacheConfig, (CUfunc_cache)) \
  F(cuCtxSetLimit, (CUlimit, size_t)) \
  F(cuCtxSetSharedMemConfig, (CUsharedconfig)) \
  F(cuDeviceCanAccessPeer, (int *, CUdevice, CUdevice)) \
  F(cuDeviceGetP2PAttribute, (int *, CUdevice_P2PAttribute, CUdevice, CUdevice)) \
  F(cuDeviceGetUuid, (CUuuid *, CUdevice)) \
  F(cuDevicePrimaryCtxGetState, (CUdevice, unsigned int *, int *)) \
  F(cuDevicePrimaryCtxRelease, (CUdevice)) \
  F(cuDevicePrimaryCtxReset, (CUdevice)) \
  F(cuDevicePrimaryCtxRetain, (CUcontext *, CUdevice)) \
  F(cuDevicePrimaryCtxSetFlags, (CUdevice, unsigned int)) \
  F(cuEventQuery, (CUevent)) \
  F(cuFuncSetCacheConfig, (CUfunction, CUfunc_cache)) \
  F(cuFuncSetSharedMemConfig, (CUfunction, CUsharedconfig)) \
  F(cuGraphAddChildGraphNode, (CUgraphNode *, CUgraph, const CUgraphNode *, size_t, CUgraph)) \
  F(cuGraphAddDependencies, (CUgraph, const CUgraphNode *, const CUgraphNode *, size_t)) \
  F(cuGraphAddEmptyNode, (CUgraphNode *, CUgraph, const CUgraphNode *, size_t)) \
  F(cuGraphAddHostNode, (CUgraphNode *, CUgraph, const CUgraphNode *, size_t, const CUDA_HOST_NODE_PARAMS *)) \
  F(cuGraphAddKernelNode, (CUgraphNode *, CUgraph, const CUgraphNode *, size_t, const CUDA_KERNEL_NODE_PARAMS *)) \
  F(cuGraphAddMemcpyNode, (CUgraphNode *, CUgraph, const CUgraphNode *, size_t, const CUDA_MEMCPY3D *, CUcontext)) \
  F(cuGraphAddMemsetNode, (CUgraphNode *, CUgraph, const CUgraphNode *, size_t, const CUDA_MEMSET_NODE_PARAMS *, CUcontext)) \
  F(cuGraphClone, (CUgraph *, CUgraph)) \
  F(cuGraphCreate, (CUgraph *, unsigned int)) \
  F(cuGraphDestroy, (CUgraph)) \
  F(cuGraphDestroyNode, (CUgraphNode)) \
  F(cuGraphExecDestroy, (CUgraphExec)) \
  F(cuGraphGetEdges, (CUgraph, CUgraphNode *, CUgraphNode *, size_t *)) \
  F(cuLinkAddData, (CUlinkState, CUjitInputType, void *, size_t, const char *, unsigned int, CUjit_option *, void **)) \
  F(cuLinkAddFile, (CUlinkState, CUjitInputType, const char *, unsigned int, CUjit_option *, void **)) \
  F(cuLinkComplete, (CUlinkState, void **, size_t *)) \
  F(cuLinkCreate, (unsigned int, CUjit_option *, void **, CUlinkState *)) \
  F(cuLinkDestroy, (CUlinkState)) \
  F(cuMemAdvise, (CUdeviceptr, size_t, CUmem_advise, CUdevice)) \
  F(cuMemAllocManaged, (CUdeviceptr *, size_t, unsigned int)) \
  F(cuMemAllocPitch, (CUdeviceptr *, size_t *, size_t, size_t, unsigned int)) \
  F(cuMemGetAddressRange, (CUdeviceptr *, size_t *, CUdeviceptr)) \
  F(cuMemPrefetchAsync, (CUdeviceptr, size_t, CUdevice, CUstream)) \
  F(cuMemcpy, (CUdeviceptr, CUdeviceptr, size_t)) \
  F(cuMemcpy2D, (const CUDA_MEMCPY2D *)) \
  F(cuMemcpy2DAsync, (const CUDA_MEMCPY2D *, CUstream)) \
  F(cuMemcpy2DUnaligned, (const CUDA_MEMCPY2D *)) \
  F(cuMemcpy3D, (const CUDA_MEMCPY3D *)) \
  F(cuMemcpy3DAsync, (const CUDA_MEMCPY3D *, CUstream)) \
  F(cuMemcpy3DPeer, (const CUDA_MEMCPY3D_PEER *)) \
  F(cuMemcpy3DPeerAsync, (const CUDA_MEMCPY3D_PEER *, CUstream)) \
  F(cuMemcpyAsync, (CUdeviceptr, CUdeviceptr, size_t, CUstream)) \
  F(cuMemcpyAtoA, (CUarray, size_t, CUarray, size_t, size_t)) \
  F(cuMemcpyAtoD, (CUdeviceptr, CUarray, size_t, size_t)) \
  F(cuMemcpyAtoH, (void *, CUarray, size_t, size_t)) \
  F(cuMemcpyAtoHAsync, (void *, CUarray, size_t, size_t, CUstream)) \
  F(cuMemcpyDtoA, (CUarray, size_t, CUdeviceptr, size_t)) \
  F(cuMemcpyDtoD, (CUdeviceptr, CUdeviceptr, size_t)) \
  F(cuMemcpyDtoDAsync, (CUdeviceptr, CUdeviceptr, size_t, CUstream)) \
  F(cuMemcpyHtoA, (CUarray, size_t, const void *, size_t)) \
  F(cuMemcpyHtoAAsync, (CUarray, size_t, const void *, size_t, CUstream)) \
  F(cuMemcpyPeer, (CUdeviceptr, CUcontext, CUdeviceptr, CUcontext, size_t)) \
  F(cuMemcpyPeerAsync, (CUdeviceptr, CUcontext, CUdeviceptr, CUcontext, size_t, CUstream)) \
  F(cuMemsetD16, (CUdeviceptr, unsigned short, size_t)) \
  F(cuMemsetD16Async, (CUdeviceptr, unsigned short, size_t, CUstream)) \
  F(cuMemsetD2D16, (CUdeviceptr, size_t, unsigned short, size_t, size_t)) \
  F(cuMemsetD2D16Async, (CUdeviceptr, size_t, unsigned short, size_t, size_t, CUstream)) \
  F(cuMemsetD2D32, (CUdeviceptr, size_t, unsigned int, size_t, size_t)) \
  F(cuMemsetD2D32Async, (CUdeviceptr, size_t, unsigned int, size_t, size_t, CUstream)) \
  F(cuMemsetD2D8, (CUdeviceptr, size_t, unsigned char, size_t, size_t)) \
  F(cuMemsetD2D8Async, (CUdeviceptr, size_t, unsigned char, size_t, size_t, CUstream)) \
  F(cuMemsetD32, (CUdeviceptr, unsigned int, size_t)) \
  F(cuMemsetD32Async, (CUdeviceptr, unsigned int, size_t, CUstream)) \
  F(cuMemsetD8, (CUdeviceptr, unsigned char, size_t)) \
  F(cuMemsetD8Async, (CUdeviceptr, unsigned char, size_t, CUstream)) \
  F(cuModuleGetGlobal, (CUdeviceptr *, size_t *, CUmodule, const char *)) \
  F(cuModuleGetSurfRef, (CUsurfref *, CUmodule, const char *)) \
  F(cuModuleGetTexRef, (CUtexref *, CUmodule, const char *)) \
  F(cuModuleLoad, (CUmodule *, const char *)) \
  F(cuModuleLoadFatBinary, (CUmodule *, const void *)) \
  F(cuOccupancyMaxActiveBlocksPerMultiprocessor, (int *, CUfunction, int, size_t)) \
  F(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags, (int *, CUfunction, int, size_t, unsigned int)) \
  F(cuPointerGetAttribute, (void *, CUpointer_attribute, CUdeviceptr)) \
  F(cuPointerSetAttribute, (const void *, CUpointer_attribute, CUdeviceptr)) \
  F(cuStreamAttachMemAsync, (CUstream, CUdeviceptr, size_t, unsigned int)) \
  F(cuStreamCreateWithPriority, (CUstream *, unsigned int, int)) \
  F(cuStreamGetFlags, (CUstream, unsigned int *)) \
  F(cuStreamGetPriority, (CUstream, int *)) \
  F(cuStreamQuery, (CUstream)) \
  F(cuStreamWaitEvent, (CUstream, CUevent, unsigned int)) \
  F(cuStreamWaitValue32, (CUstream, CUdeviceptr, cuuint32_t, unsigned int)) \
  F(cuStreamWriteValue32, (CUstream, CUdeviceptr, cuuint32_t, unsigned int)) \
  F(cuSurfRefGetArray, (CUarray *, CUsurfref)) \
  F(cuSurfRefSetArray, (CUsurfref, CUarray, unsigned int)) \
  F(cuTexRefGetAddress, (CUdeviceptr *, CUtexref)) \
  F(cuTexRefGetAddressMode, (CUaddress_mode *, CUtexref, int)) \
  F(cuTexRefGetArray, (CUarray *, CUtexref)) \
  F(cuTexRefGetBorderColor, (float *, CUtexref)) \
  F(cuTexRefGetFilterMode, (CUfilter_mode *, CUtexref)) \
  F(cuTexRefGetFlags, (unsigned int *, CUtexref)) \
  F(cuTexRefGetFormat, (CUarray_format *, int *, CUtexref)) \
  F(cuTexRefGetMaxAnisotropy, (int *, CUtexref)) \
  F(cuTexRefSetAddress, (size_t *, CUtexref, CUdeviceptr, size_t)) \
  F(cuTexRefSetAddress2D, (CUtexref, const CUDA_ARRAY_DESCRIPTOR *, CUdeviceptr, size_t)) \
  F(cuTexRefSetAddressMode, (CUtexref, int, CUaddress_mode)) \
  F(cuTexRefSetArray, (CUtexref, CUarray, unsigned int)) \
  F(cuTexRefSetBorderColor, (CUtexref, float *)) \
  F(cuTexRefSetFilterMode, (CUtexref, CUfilter_mode)) \
  F(cuTexRefSetFlags, (CUtexref, unsigned int)) \
  F(cuTexRefSetFormat, (CUtexref, CUarray_format, int)) \
  F(cuTexRefSetMaxAnisotropy, (CUtexref, unsigned int)) \
  F(cuTexRefSetMipmapFilterMode, (CUtexref, CUfilter_mode)) \
  F(cuTexRefSetMipmapLevelBias, (CUtexref, float)) \
  F(cuTexRefSetMipmapLevelClamp, (CUtexref, float, float))
#define CUDAEMU_DECLARE(name, args) CUresult name args;
CUDAEMU_REST(CUDAEMU_DECLARE)
