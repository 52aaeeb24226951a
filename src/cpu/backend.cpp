// The CPU backend: host memory, the reference kernels or the vectorised ones on a thread pool.
#include "../backend.h"

#include <cstring>
#include <new>

#include "../os.h"
#include "kernels.h"

namespace seer {
namespace {

constexpr uint64_t kAlignment = 4096;  // a page: packed keys and values then share no cache set by accident

struct CpuDevice : Device {
  explicit CpuDevice(const DeviceParams &params)
      : pool(params.reference ? 1 : params.threads), reference(params.reference), allocator(params.allocator) {}
  ThreadPool pool;
  bool reference;
  HostAllocator allocator;
};

CpuDevice &cpu(Device &device) { return static_cast<CpuDevice &>(device); }

int32_t device_count() { return 1; }

DeviceInfo device_info(int32_t) {
  DeviceInfo info;
  info.backend = BackendKind::cpu;
  info.memory_bytes = os::memory_bytes();
  for (DType t : {DType::f32, DType::f16, DType::bf16}) info.dtype_bits |= uint64_t{1} << int(t);
  info.name = os::cpu_name();
  info.detail = std::string("kernels ") + cpu::simd_target();
  return info;
}

Memory alloc(Device &device, uint64_t bytes) {
  const HostAllocator &a = cpu(device).allocator;
  const uint64_t size = bytes ? bytes : 1;
  void *address =
      a.alloc ? a.alloc(a.user, size, kAlignment) : ::operator new (size, std::align_val_t{kAlignment}, std::nothrow);
  SEER_REQUIRE(address, Status::out_of_memory, "%llu bytes of host memory cannot be had", (unsigned long long)bytes);
  return {.address = address, .handle = 0, .size = bytes};
}

void free_memory(Device &device, Memory memory) noexcept {
  const HostAllocator &a = cpu(device).allocator;
  if (!memory.address) return;
  if (a.alloc)
    a.free(a.user, memory.address, memory.size ? memory.size : 1);
  else
    ::operator delete (memory.address, std::align_val_t{kAlignment});
}

void write(Device &, Memory dst, uint64_t offset, const void *src, uint64_t bytes) {
  if (bytes) std::memcpy(static_cast<char *>(dst.address) + offset, src, bytes);
}
void read(Device &, Memory src, uint64_t offset, void *dst, uint64_t bytes) {
  if (bytes) std::memcpy(dst, static_cast<const char *>(src.address) + offset, bytes);
}

// Calls the device's variant of a stage.
#define SEER_STAGE(stage, Args)                              \
  void stage(Device &device, Exec &exec, const Args &args) { \
    cpu::Workers workers{cpu(device).pool, exec};            \
    if (cpu(device).reference)                               \
      cpu::stage##_ref(workers, args);                       \
    else                                                     \
      cpu::stage##_simd(workers, args);                      \
  }
SEER_STAGE(pool, PoolArgs)
SEER_STAGE(project, ProjectArgs)
SEER_STAGE(score, ScoreArgs)
SEER_STAGE(select, SelectArgs)
SEER_STAGE(attend, AttendArgs)
#undef SEER_STAGE

uint64_t attend_scratch(const Device &device, const AttendArgs &args) {
  const auto &self = static_cast<const CpuDevice &>(device);
  return self.reference ? 0 : cpu::attend_simd_scratch(args, self.pool.size());
}

std::unique_ptr<Device> create(const DeviceParams &params);

const BackendFns kFns = {
    .name = "cpu",
    .kind = BackendKind::cpu,
    .device_count = device_count,
    .device_info = device_info,
    .create = create,
    .alloc = alloc,
    .free = free_memory,
    .write = write,
    .read = read,
    .pool = pool,
    .project = project,
    .score = score,
    .select = select,
    .attend = attend,
    .attend_scratch = attend_scratch,
};

std::unique_ptr<Device> create(const DeviceParams &params) {
  auto device = std::make_unique<CpuDevice>(params);
  device->fns = &kFns;
  device->info = device_info(0);
  device->info.detail = params.reference
                            ? std::string("reference kernels")
                            : device->info.detail + ", " + std::to_string(device->pool.size()) + " threads";
  device->limits.attend_rotates_q = device->limits.attend_rotates_k = true;
  device->limits.max_head_dim = 1 << 16;
  device->limits.alignment = int64_t{kAlignment};
  device->log = params.log;
  return device;
}

}  // namespace

const BackendFns &cpu_backend() { return kFns; }

}  // namespace seer
