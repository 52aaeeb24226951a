#include "loader.h"

#include <cstdlib>
#include <mutex>
#include <string>

#include "../status.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace seer::cuda {
namespace {

constexpr int kOldest = 12000;  // cuTensorMapEncodeTiled and launch attributes

#if defined(_WIN32)
constexpr const char *kLibraries[] = {"nvcuda.dll"};
void *open(const char *name) { return reinterpret_cast<void *>(LoadLibraryA(name)); }
void *find(void *library, const char *symbol) {
  return reinterpret_cast<void *>(GetProcAddress(reinterpret_cast<HMODULE>(library), symbol));
}
#else
constexpr const char *kLibraries[] = {"libcuda.so.1", "libcuda.so"};
void *open(const char *name) { return dlopen(name, RTLD_NOW | RTLD_LOCAL); }
void *find(void *library, const char *symbol) { return dlsym(library, symbol); }
#endif

// The driver stays loaded: it leaves threads behind that a dlclose would unmap.
void *open_library() {
  if (const char *named = std::getenv("SEER_CUDA_DRIVER"); named && *named) {
    void *library = open(named);
    SEER_REQUIRE(library, Status::unsupported, "backend cuda: SEER_CUDA_DRIVER is %s, which cannot be loaded", named);
    return library;
  }
  for (const char *name : kLibraries)
    if (void *library = open(name)) return library;
  fail(Status::unsupported, "backend cuda: there is no NVIDIA driver (%s) on this machine", kLibraries[0]);
}

Driver load() {
  void *library = open_library();
  Driver fn;
#define SEER_CU_LOAD(name, symbol, parameters)                          \
  fn.name = reinterpret_cast<decltype(fn.name)>(find(library, symbol)); \
  SEER_REQUIRE(fn.name, Status::unsupported,                            \
               "backend cuda: the NVIDIA driver lacks " symbol          \
               "; "                                                     \
               "it must be of CUDA 12.0 or later");
  SEER_CU_FUNCTIONS(SEER_CU_LOAD)
#undef SEER_CU_LOAD
  const CUresult result = fn.cuInit(0);
  SEER_REQUIRE(result != CUDA_ERROR_NO_DEVICE, Status::unsupported,
               "backend cuda: there is an NVIDIA driver, but no device that it can use");
  SEER_REQUIRE(result == CUDA_SUCCESS, Status::unsupported, "backend cuda: the NVIDIA driver does not start: %s: %s",
               fn.name(result), fn.text(result));
  fn.cuDriverGetVersion(&fn.version);
  SEER_REQUIRE(fn.version >= kOldest, Status::unsupported,
               "backend cuda: the NVIDIA driver is of CUDA %d.%d; it must be of 12.0 or later", fn.version / 1000,
               fn.version % 1000 / 10);
  return fn;
}

}  // namespace

const char *Driver::name(CUresult result) const {
  const char *text = nullptr;
  return cuGetErrorName(result, &text) == CUDA_SUCCESS && text ? text : "an unknown error";
}

const char *Driver::text(CUresult result) const {
  const char *text = nullptr;
  return cuGetErrorString(result, &text) == CUDA_SUCCESS && text ? text : "no text";
}

const Driver &driver() {
  static const Driver loaded = load();  // one that throws is tried again by the next call
  return loaded;
}

}  // namespace seer::cuda
