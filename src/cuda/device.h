// A CUDA device in use.
//
// What a stage needs to know (see pool.cpp for a whole one):
//
//   void pool(CudaDevice &device, Exec &exec, const PoolArgs &args) {
//     Recorder &recorder = *device.recorder;
//     recorder.stage(exec);                                       // first of all
//     const Kernel &kernel = device.kernel("pool", "pool_bf16_128");  // cuda/pool.cu's extern "C" kernel
//     PoolParams p{...};                                          // device pointers are plain pointers
//     p.sequence = recorder.upload(std::span<const PoolSequence>(list));
//     recorder.launch(kernel, {.blocks = items, .threads = 128, .shared = bytes}, p);
//   }
//
// Nothing may wait for the device or depend on what it has computed. What a kernel needs that is not the call's own
// (tables, counters) is made with alloc() and, if it can be replaced, given back with free() below. Every entry of
// backend.cpp makes the context current before it calls a stage.
#pragma once
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "../backend.h"
#include "dispatch.h"
#include "images.h"
#include "loader.h"
#include "memory.h"
#include "rope.h"

namespace seer::cuda {

struct Caps {
  CUdevice device = 0;
  int32_t ordinal = 0;
  std::string name;
  uint8_t uuid[16] = {};
  uint64_t memory_bytes = 0;
  int32_t sm = 0;  // 90: compute capability 9.0
  int32_t multiprocessors = 0;
  int32_t max_shared = 0;  // dynamic shared memory of a block, opted in
  int32_t driver = 0;      // 13000
};

// Whether an error means that nothing of the context works any more.
bool is_sticky(CUresult result);

// A device's primary context, which frameworks use too, and the modules in it: shared by the library's contexts on it.
// Thread-safe.
struct Gpu {
  explicit Gpu(const Caps &caps);
  ~Gpu();
  Gpu(const Gpu &) = delete;
  Gpu &operator=(const Gpu &) = delete;

  // Throws device_lost, device_out_of_memory or internal unless ok. `what` names the call.
  void check(CUresult result, const char *what);
  const Kernel &kernel(const char *image, const std::string &name);
  int32_t constant(const char *image, const std::string &name);  // the value of a module's `__constant__ int`

  const Driver &fn;
  const Caps caps;
  CUcontext context = nullptr;
  std::atomic<bool> lost{false};

private:
  CUmodule module(const char *image);
  std::optional<int32_t> find_constant(CUmodule module, const std::string &name);

  std::mutex mutex_;
  std::map<std::string, CUmodule> modules_;
  std::map<std::pair<std::string, std::string>, Kernel> kernels_;
  std::map<std::pair<std::string, std::string>, int32_t> constants_;
};

// While it lives, the context is this thread's, and calls that a capture elsewhere in the process would forbid are not.
class Current {
public:
  explicit Current(Gpu &gpu);
  ~Current();
  Current(const Current &) = delete;
  Current &operator=(const Current &) = delete;

private:
  const Driver &fn_;
  CUstreamCaptureMode mode_ = CU_STREAM_CAPTURE_MODE_RELAXED;
};

// A context's share of it: what it records, one call at a time.
struct CudaDevice : Device {
  CudaDevice(std::shared_ptr<Gpu> opened, const DeviceParams &params);
  ~CudaDevice() override;

  const std::shared_ptr<Gpu> gpu;
  const Driver &fn;
  const Caps &caps;
  const HostAllocator allocator;
  std::unique_ptr<Recorder> recorder;
  std::unique_ptr<RopeTables> rope;
  uint32_t *counter = nullptr;  // kAttendCounters words of 0 for attend
  uint64_t *clocks = nullptr;   // two words for AttendParams

  // Throws unsupported if the image has no code for this device.
  const Kernel &kernel(const char *image, const std::string &name) { return gpu->kernel(image, name); }
  void check(CUresult result, const char *what) { gpu->check(result, what); }

private:
  void release() noexcept;  // with the context current
};

// The devices that could be used, in the driver's order. Throws unsupported if there is no driver, or none that works
// in this process (in the child of a fork it does not).
std::vector<Caps> devices();
DeviceInfo describe(const Caps &caps);
// The device, opened, or opened before and not lost.
std::shared_ptr<Gpu> open_gpu(const Caps &caps);

}  // namespace seer::cuda
