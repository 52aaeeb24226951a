// What the tests on a GPU need of the driver beyond the library's own use: memory, streams, graphs.
#pragma once
#include <dlfcn.h>

#include <cstdlib>

#include "cuda/driver.h"

namespace gpu {

using namespace seer::cuda;
using CUgraph = struct CUgraph_st *;
using CUgraphExec = struct CUgraphExec_st *;

// The driver's function of that name, or null where there is no driver.
template <class F>
F find(const char *symbol) {
  static void *const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  return library ? reinterpret_cast<F>(dlsym(library, symbol)) : nullptr;
}

template <class... Args>
CUresult call(const char *symbol, Args... args) {
  const auto function = find<CUresult (*)(Args...)>(symbol);
  return function ? function(args...) : CUDA_ERROR_NOT_FOUND;
}

// Of a device, current on this thread while it lives.
struct Context {
  explicit Context(int device_ = 0) : device(device_) {
    CUcontext context = nullptr;
    call("cuInit", 0u);
    call("cuDevicePrimaryCtxRetain", &context, device);
    call("cuCtxPushCurrent_v2", context);
  }
  ~Context() {
    CUcontext context = nullptr;
    call("cuCtxPopCurrent_v2", &context);
    call("cuDevicePrimaryCtxRelease_v2", device);
  }
  Context(const Context &) = delete;
  Context &operator=(const Context &) = delete;
  const int device;
};

inline size_t free_memory() {
  size_t left = 0, total = 0;
  call("cuMemGetInfo_v2", &left, &total);
  return left;
}

struct Stream {
  Stream() { call("cuStreamCreate", &handle, 1u); }
  ~Stream() { call("cuStreamDestroy_v2", handle); }
  Stream(const Stream &) = delete;
  Stream &operator=(const Stream &) = delete;
  void wait() const { call("cuStreamSynchronize", handle); }
  CUstream handle = nullptr;
};

}  // namespace gpu
