// The fake driver as tests see it: SEER_CUDA_DRIVER names the one that the library loads.
#pragma once
#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <dlfcn.h>
#endif

#include <cstdlib>
#include <string>

#include "fake_driver.h"

namespace fake {

inline Control &control() {
  static Control *const found = [] {
    const char *name = std::getenv("SEER_CUDA_DRIVER");
#if defined(_WIN32)
    const HMODULE library = LoadLibraryA(name);
    void *symbol = library ? reinterpret_cast<void *>(GetProcAddress(library, "fake_cuda_control")) : nullptr;
#else
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    void *symbol = library ? dlsym(library, "fake_cuda_control") : nullptr;
#endif
    return symbol ? reinterpret_cast<ControlFn>(symbol)() : nullptr;
  }();
  return *found;
}

// SEER_CUDA_TIER while it lives.
struct Tier {
  explicit Tier(const std::string &name) { set(name); }
  ~Tier() { set(""); }
  Tier(const Tier &) = delete;
  Tier &operator=(const Tier &) = delete;

private:
  static void set(const std::string &name) {
#if defined(_WIN32)
    _putenv_s("SEER_CUDA_TIER", name.c_str());
#else
    name.empty() ? unsetenv("SEER_CUDA_TIER") : setenv("SEER_CUDA_TIER", name.c_str(), 1);
#endif
  }
};

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
