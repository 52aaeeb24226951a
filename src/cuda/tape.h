// What a call puts on its stream, noted while the call is recorded and put there in one go when nothing can fail any
// more but the device: a call that fails before that (a kernel that does not load, memory that cannot be had, a cancel)
// has enqueued nothing.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "driver.h"

namespace seer::cuda {

struct Gpu;

// A kernel of a module; valid as long as the device. Made by CudaDevice::kernel.
struct Kernel {
  CUfunction function = nullptr;
  std::string name;
  int32_t shared = 0;      // the value of the module's `int NAME_shared`, if it has one: bytes the kernel asks for
  int32_t max_shared = 0;  // dynamic shared memory that the device gives it, bytes
};

struct Launch {
  uint64_t blocks = 0;  // grid x; 0 records nothing
  uint32_t blocks_y = 1, blocks_z = 1;
  uint32_t threads = 128;  // of a block
  uint64_t shared = 0;     // dynamic, bytes
  uint32_t cluster = 1;    // blocks of a cluster, along x
  // Programmatic dependent launch: the kernel may start while the one before still runs, and calls
  // cudaGridDependencySynchronize (griddepcontrol.wait) before it touches anything that one wrote.
  bool overlap = false;
};

// As the driver takes it.
struct LaunchConfig {
  CUlaunchAttribute attributes[2] = {};
  CUlaunchConfig config{};

  LaunchConfig(const Launch &launch, CUstream stream);
  LaunchConfig(const LaunchConfig &) = delete;
  LaunchConfig &operator=(const LaunchConfig &) = delete;
};

// Not thread-safe.
class Tape {
public:
  // A kernel's parameters are copied; `kernel` must stay.
  void launch(const Kernel &kernel, const Launch &launch, std::span<const std::span<const std::byte>> params);
  // What is copied from or to host memory must stay there until the work is done.
  void copy_in(CUdeviceptr dst, const void *src, uint64_t bytes) { ops_.push_back(CopyIn{dst, src, bytes}); }
  void copy_out(void *dst, CUdeviceptr src, uint64_t bytes) { ops_.push_back(CopyOut{dst, src, bytes}); }
  void zero(CUdeviceptr dst, uint64_t bytes) { ops_.push_back(Zero{dst, bytes}); }
  void record(CUevent event) { ops_.push_back(Record{event}); }
  void wait(CUevent event) { ops_.push_back(Wait{event}); }

  // Enqueues all of it, in order. Throws at the first that the driver refuses.
  void play(Gpu &gpu, CUstream stream);
  void clear();

private:
  struct Start {
    const Kernel *kernel;
    Launch launch;
    size_t first;  // of its parameters, in offsets_
  };
  struct CopyIn {
    CUdeviceptr dst;
    const void *src;
    uint64_t bytes;
  };
  struct CopyOut {
    void *dst;
    CUdeviceptr src;
    uint64_t bytes;
  };
  struct Zero {
    CUdeviceptr dst;
    uint64_t bytes;
  };
  struct Record {
    CUevent event;
  };
  struct Wait {
    CUevent event;
  };
  struct alignas(CUtensorMap) Line {
    std::byte bytes[64];
  };

  std::vector<std::variant<Start, CopyIn, CopyOut, Zero, Record, Wait>> ops_;
  std::vector<Line> params_;      // each parameter begins a line
  std::vector<size_t> offsets_;   // of each, in lines
  std::vector<void *> pointers_;  // the same as addresses, once all are there
};

}  // namespace seer::cuda
