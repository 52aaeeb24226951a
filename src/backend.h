// The backend table: what a backend must and may provide, how backends are found, and the check at creation.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "log.h"
#include "stages.h"
#include "status.h"
#include "tensor.h"

namespace seer {

// Same values as seer_backend.
enum class BackendKind : int32_t { automatic = 0, cuda = 1, vulkan = 2, cpu = 3 };

struct DeviceInfo {
  BackendKind backend = BackendKind::cpu;
  int32_t ordinal = 0;
  uint32_t vendor_id = 0;
  uint8_t uuid[16] = {};
  uint64_t memory_bytes = 0;
  uint64_t dtype_bits = 0;  // 1 << DType
  std::string name, detail;
};

// What the planner needs to know of a device.
struct DeviceLimits {
  // attend applies RoPE itself to q, to k; else the pipeline asks pool for rotated copies.
  bool attend_rotates_q = false, attend_rotates_k = false;
  bool rope_tables = true;  // stages read RopeView's cos and sin
  int64_t max_head_dim = 256;
  int64_t alignment = 64;  // of workspace parts, bytes
  // Bytes of workspace for pooled tokens, gate vectors and select's scratch, above which the gate goes through the KV
  // heads in several passes; 0: it never does.
  int64_t gate_bytes = 0;
  // Whether project without a matrix works in place: pooled Q then lies where gate Q will.
  bool project_in_place = false;
  int64_t pooled_rows = 1;  // rows of pooled K are rounded up to a multiple of it
};

struct HostAllocator {  // fn pointers of seer_allocator; null = aligned new
  void *(*alloc)(void *user, uint64_t size, uint64_t align) = nullptr;
  void (*free)(void *user, void *ptr, uint64_t size) = nullptr;
  void *(*device_alloc)(void *user, uint64_t size, void *stream) = nullptr;
  void (*device_free)(void *user, void *ptr, uint64_t size, void *stream) = nullptr;
  void *user = nullptr;
};

struct VulkanImport;  // vulkan/interop.h

struct DeviceParams {
  int32_t ordinal = 0;
  int32_t threads = 0;  // cpu: 0 = all
  bool reference = false;
  HostAllocator allocator;
  Log log;
  const VulkanImport *vulkan = nullptr;  // vulkan: the caller's device instead of one of its own
};

// Memory of a device. address is a host pointer (cpu), a device pointer (cuda), or a number that only the backend can
// resolve (vulkan); arithmetic on it is that of pointers in every case.
struct Memory {
  void *address = nullptr;
  uint64_t handle = 0;
  uint64_t size = 0;
};

// What a call has to tell when its work is done. Times are the device's.
struct CallResult {
  SelectStats select;
  uint64_t device_ns = 0, gate_ns = 0, attend_ns = 0;
};

// A call whose work was recorded and may still run. Waits for it when it goes, if nobody has.
class PendingCall {
public:
  virtual ~PendingCall() = default;
  // Any thread, beside the recording of other calls. Throws device_lost.
  virtual CallResult wait() = 0;
};

enum class Mark { gate_begin, gate_end, attend_begin, attend_end };

// One call in flight: cancellation and progress. Stages call step() as they finish units and stop early (by throwing
// Error(cancelled)) when it says so. Thread-safe.
class Exec {
public:
  std::function<bool()> cancelled = [] { return false; };
  std::function<void(uint64_t units)> step = [](uint64_t) {};
  // cuda: the stream that the call goes to, if caller_stream; else the context's own.
  void *stream = nullptr;
  bool caller_stream = false;
  std::unique_ptr<PendingCall> pending;  // what a call has left running; see pipeline.h
  void check_cancelled() const;          // throws Error(cancelled)
};

struct BackendFns;

// A device in use. Each backend derives its own. One call at a time runs stages on it.
struct Device {
  const BackendFns *fns = nullptr;
  DeviceInfo info;
  DeviceLimits limits;
  Log log;
  virtual ~Device() = default;
  // Whether memory of the one can be used by stages of the other.
  virtual bool shares_memory(const Device &other) const {
    return info.backend == other.info.backend && info.ordinal == other.info.ordinal;
  }
};

struct BackendFns {
  const char *name = nullptr;
  BackendKind kind = BackendKind::automatic;

  // Probe. Devices that could be created; 0 where the driver is missing, and create then throws why. Required.
  int32_t (*device_count)() = nullptr;
  DeviceInfo (*device_info)(int32_t ordinal) = nullptr;
  std::unique_ptr<Device> (*create)(const DeviceParams &params) = nullptr;
  // Why `automatic` passes over a device that works, empty: it does not. Optional: NULL = it passes over none.
  std::string (*not_automatic)(int32_t ordinal) = nullptr;

  // Memory. Required. alloc throws (device_)out_of_memory; alloc and free may be called from any thread, beside a
  // stage. read and write block and are ordered with the stages.
  Memory (*alloc)(Device &, uint64_t bytes) = nullptr;
  void (*free)(Device &, Memory) noexcept = nullptr;
  void (*write)(Device &, Memory dst, uint64_t offset, const void *src, uint64_t bytes) = nullptr;
  void (*read)(Device &, Memory src, uint64_t offset, void *dst, uint64_t bytes) = nullptr;

  // Host memory as memory that stages use where it lies, for the length of a call; of size 0: it is to be copied, since
  // it cannot be used or a copy is faster. Optional: NULL = it is always copied.
  Memory (*in_place)(Device &, void *data, uint64_t bytes) = nullptr;

  // Stages. Required.
  void (*pool)(Device &, Exec &, const PoolArgs &) = nullptr;
  void (*project)(Device &, Exec &, const ProjectArgs &) = nullptr;
  void (*score)(Device &, Exec &, const ScoreArgs &) = nullptr;
  void (*select)(Device &, Exec &, const SelectArgs &) = nullptr;
  void (*attend)(Device &, Exec &, const AttendArgs &) = nullptr;

  // The four calls of pool and project of a gate at once. Optional: NULL = one after the other.
  void (*gate_vectors)(Device &, Exec &, const GateVectorArgs &) = nullptr;

  // Bytes of workspace that attend wants for calls of these sizes (the tensors' memory is not looked at), and for any
  // part of their sequences. Optional: NULL = none.
  uint64_t (*attend_scratch)(const Device &, const AttendArgs &) = nullptr;
  // The same for select: of calls with these lengths, heads, gate dim and rule (no memory is looked at). Optional: NULL
  // = none.
  uint64_t (*select_scratch)(const Device &, const SelectArgs &) = nullptr;

  // Masks of bytes. Optional: NULL = masks are host memory and the pipeline converts them.
  void (*pack_mask)(Device &, Exec &, const MaskBytesArgs &) = nullptr;    // bytes -> bits, non-zero = keep
  void (*unpack_mask)(Device &, Exec &, const MaskBytesArgs &) = nullptr;  // bits -> bytes, 0 or 1

  // Completion. Optional: NULL = a stage is complete when it returns.
  uint64_t (*record)(Device &, void *stream) = nullptr;                         // a fence after all work so far
  bool (*fence_wait)(Device &, uint64_t fence, uint64_t timeout_ns) = nullptr;  // false: timeout. Throws device_lost

  // Calls that nothing waits for before their end. Optional, all or none: NULL = the pipeline waits for the gate and
  // for attend, and looks at the clock. What this thread records from begin to end is one call, on exec's stream.
  void (*begin)(Device &, Exec &exec) = nullptr;
  void (*clear)(Device &, Memory dst, uint64_t offset, uint64_t bytes) = nullptr;  // to 0, in order with the stages
  void (*mark)(Device &, Mark mark) = nullptr;
  // stats: device memory; null: the call failed.
  std::unique_ptr<PendingCall> (*end)(Device &, const SelectStats *stats) = nullptr;

  // A device on which a call does nothing but to say what it takes, and what is then done with what it took: kernels
  // that are not there yet can be made together. Optional, both or none.
  std::unique_ptr<Device> (*rehearse)(Device &) = nullptr;
  void (*rehearsed)(Device &, Device &rehearsal) = nullptr;

  // Bytes from an address that a caller calls device memory to the end of what can be reached there, or `wanted` if
  // that is less; 0: not memory that the device can use. Optional.
  uint64_t (*reachable)(const Device &, const void *address, uint64_t wanted) = nullptr;
};

// The backends of this build, best first: cuda, vulkan, cpu. A backend that is not built in is a stub without devices.
std::span<const BackendFns *const> backends();
const BackendFns &backend(BackendKind kind);  // throws on automatic and unknown kinds
// Creates a device: `automatic` takes the first backend that has one and works, logging why others did not. Checks the
// table and the invariants of info and limits, so that a broken backend fails here and not in its first call.
std::unique_ptr<Device> create_device(BackendKind kind, const DeviceParams &params);

// Waits for all work so far. What it ends with (a lost device) is told to who waits next.
void complete(Device &device, void *stream) noexcept;

const BackendFns &cpu_backend();
const BackendFns &cuda_backend();
const BackendFns &vulkan_backend();

}  // namespace seer
