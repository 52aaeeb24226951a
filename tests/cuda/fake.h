// The fake driver as tests see it: SEER_CUDA_DRIVER names the one that the library loads.
#pragma once
#include <dlfcn.h>

#include <cstdlib>

#include "fake_driver.h"

namespace fake {

inline Control &control() {
  static Control *const found = [] {
    void *library = dlopen(std::getenv("SEER_CUDA_DRIVER"), RTLD_NOW | RTLD_LOCAL);
    return library ? reinterpret_cast<ControlFn>(dlsym(library, "fake_cuda_control"))() : nullptr;
  }();
  return *found;
}

// A caller's device memory.
struct Memory {
  explicit Memory(uint64_t bytes, int device = 0) : address(control().allocate(bytes, device)), size(bytes) {}
  ~Memory() { control().release(address); }
  Memory(const Memory &) = delete;
  Memory &operator=(const Memory &) = delete;
  void *const address;
  const uint64_t size;
};

// A caller's stream.
struct Stream {
  explicit Stream(int device = 0) : handle(control().make_stream(device)) {}
  ~Stream() { control().destroy_stream(handle); }
  Stream(const Stream &) = delete;
  Stream &operator=(const Stream &) = delete;
  void *const handle;
};

}  // namespace fake
