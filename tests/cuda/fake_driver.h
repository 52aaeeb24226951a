// A CUDA driver without a GPU, for tests of the host code: SEER_CUDA_DRIVER names it. Device memory is host memory.
// Streams are lists of work that runs when somebody waits for it, and no sooner: what is reused or freed too early
// gives wrong bytes. Kernels do nothing; their launches can be looked at. Any call can be made to fail. Streams,
// events, modules and memory are of a device; using them while another's context is current is a violation. Stream 2 is
// the calling thread's own.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "../../cuda/launch.h"
#include "../../cuda/launch_attend80.h"

namespace fake {

struct Launch {
  std::string kernel;
  void *stream = nullptr;
  int device = 0;
  uint32_t grid[3] = {}, threads = 0, shared = 0, cluster = 1;
  bool captured = false;
  seer::cuda::AttendParams attend{};                         // of attend_{bf16,f16}_*
  seer::cuda::AttendParams80 attend80{};                     // of attend_sm80_* and attend_plain_*
  std::vector<seer::cuda::AttendSequence> attend_sequences;  // as the kernel will find them when it runs
  seer::cuda::PoolParams pool{};                             // of pool_*
  std::vector<seer::cuda::PoolSequence> pool_sequences;
};

struct Map {  // cuTensorMapEncodeTiled's arguments, in order of the calls
  int type = 0;
  const void *address = nullptr;
  uint64_t extent[5] = {}, stride[4] = {};
  uint32_t box[5] = {};
};

struct Lookup {                 // the last one
  const void *image = nullptr;  // of cuModuleLoadData
  std::string kernel;           // of cuModuleGetFunction
  std::string variable;         // of cuModuleGetGlobal
};

struct Counts {
  int64_t device_memory = 0, pinned_memory = 0, streams = 0, events = 0, modules = 0, contexts = 0;
  int64_t bytes = 0, peak_bytes = 0;  // of device memory
  bool operator==(const Counts &) const = default;
};

// The driver's own side; its methods are virtual so that they work across the border of two modules.
class Control {
public:
  virtual ~Control() = default;
  virtual void reset() = 0;         // errors, launches, maps, violations; not what is alive
  virtual void reset_errors() = 0;  // those alone
  // The `nth` call of a function from now on (1: the next), "" for any, gives this error; every later call of
  // anything as well, if it is sticky.
  virtual void fail(const std::string &function, int nth, int error, bool sticky) = 0;
  virtual uint64_t calls(const std::string &function) const = 0;  // since reset; "" counts all
  virtual std::vector<Launch> launches() const = 0;
  virtual std::vector<Map> maps() const = 0;
  virtual Lookup lookup() const = 0;
  virtual Counts counts() const = 0;
  // What no real driver would bear: use of freed memory, a stream waited for while it is captured, and the like.
  virtual std::vector<std::string> violations() const = 0;
  virtual void *make_stream(int device = 0) = 0;  // a caller's
  virtual void destroy_stream(void *stream) = 0;
  virtual void renew_stream(void *stream) = 0;  // destroys it and makes another of the same address
  virtual void capture(void *stream, bool on) = 0;
  virtual uint64_t enqueued(void *stream) const = 0;  // launches, copies, memsets, events, waits: all since it was made
  virtual uint64_t left(void *stream) const = 0;      // launches, copies and memsets that are not done
  virtual void *allocate(uint64_t bytes, int device = 0) = 0;  // a caller's device memory
  virtual void release(void *memory) = 0;
  virtual void run_all() = 0;                    // all work on all streams
  virtual uint64_t waits() const = 0;            // calls that waited for the device, since reset
  virtual void limit_memory(int64_t bytes) = 0;  // of the device
  virtual void chip(int sm) = 0;                 // 90: compute capability 9.0
  virtual void devices(int count) = 0;           // 1 or 2
};

using ControlFn = Control *(*)();  // fake_cuda_control, exported

}  // namespace fake
