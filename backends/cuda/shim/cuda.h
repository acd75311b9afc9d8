// Stands before NVIDIA's cuda.h: gorgonia.org/cu v0.9.6 calls five functions in the form that they had before CUDA 13. The others
// are as they were.
#pragma once
#include_next <cuda.h>

#if CUDA_VERSION >= 13000
#undef cuCtxCreate
static inline CUresult pimoe_cuCtxCreate(CUcontext *context, unsigned int flags, CUdevice device) {
  return cuCtxCreate_v4(context, NULL, flags, device);
}
#define cuCtxCreate pimoe_cuCtxCreate

// The graph and prefetch functions are not used here: they only have to compile.
#undef cuGraphAddDependencies
static inline CUresult pimoe_cuGraphAddDependencies(CUgraph g, const CUgraphNode *from, const CUgraphNode *to, size_t n) {
  return cuGraphAddDependencies_v2(g, from, to, NULL, n);
}
#define cuGraphAddDependencies pimoe_cuGraphAddDependencies

#undef cuGraphGetEdges
static inline CUresult pimoe_cuGraphGetEdges(CUgraph g, CUgraphNode *from, CUgraphNode *to, size_t *n) {
  return cuGraphGetEdges_v2(g, from, to, NULL, n);
}
#define cuGraphGetEdges pimoe_cuGraphGetEdges

static inline CUmemLocation pimoe_location(CUdevice device) {
  CUmemLocation l = {.type = device < 0 ? CU_MEM_LOCATION_TYPE_HOST : CU_MEM_LOCATION_TYPE_DEVICE, .id = device < 0 ? 0 : device};
  return l;
}
#undef cuMemAdvise
static inline CUresult pimoe_cuMemAdvise(CUdeviceptr p, size_t n, CUmem_advise advice, CUdevice device) {
  return cuMemAdvise_v2(p, n, advice, pimoe_location(device));
}
#define cuMemAdvise pimoe_cuMemAdvise

#undef cuMemPrefetchAsync
static inline CUresult pimoe_cuMemPrefetchAsync(CUdeviceptr p, size_t n, CUdevice device, CUstream s) {
  return cuMemPrefetchAsync_v2(p, n, pimoe_location(device), 0, s);
}
#define cuMemPrefetchAsync pimoe_cuMemPrefetchAsync
#endif
