// The CUDA backend: NVIDIA GPUs through the driver, which is found at run time.
#include "../backend.h"

#include "kernels.h"

namespace seer {
namespace {

using cuda::CudaDevice;
using cuda::Current;

constexpr int32_t kOldest = 80;  // compute capability of the oldest chip there are kernels for

CudaDevice &cu(Device &device) { return static_cast<CudaDevice &>(device); }
const CudaDevice &cu(const Device &device) { return static_cast<const CudaDevice &>(device); }

int32_t device_count() {
  try {
    return int32_t(cuda::devices().size());
  } catch (const Error &) {
    return 0;  // create says why
  }
}

cuda::Caps caps_of(int32_t ordinal) {
  const auto all = cuda::devices();
  SEER_REQUIRE(!all.empty(), Status::unsupported, "backend cuda: the driver has no device");
  SEER_REQUIRE(ordinal >= 0 && size_t(ordinal) < all.size(), Status::invalid_argument,
               "device is %d; backend cuda has %zu", ordinal, all.size());
  return all[size_t(ordinal)];
}

std::string refusal(const cuda::Caps &caps) {
  if (caps.sm >= kOldest) return {};
  return "compute capability is " + std::to_string(caps.sm / 10) + "." + std::to_string(caps.sm % 10) +
         "; there are kernels for 8.0 and later";
}

DeviceInfo device_info(int32_t ordinal) {
  const cuda::Caps caps = caps_of(ordinal);
  DeviceInfo info = cuda::describe(caps);
  if (const std::string why = refusal(caps); !why.empty()) info.detail += "; cannot be used: " + why;
  return info;
}

Memory alloc(Device &device, uint64_t bytes) {
  const Current current(*cu(device).gpu);
  return cuda::alloc(cu(device), bytes);
}
void free_memory(Device &device, Memory memory) noexcept {
  try {
    const Current current(*cu(device).gpu);
    cuda::free(cu(device), memory);
  } catch (const Error &) {
    // the driver is gone, and the memory with it
  }
}
void write(Device &device, Memory dst, uint64_t offset, const void *src, uint64_t bytes) {
  const Current current(*cu(device).gpu);
  cu(device).recorder->write(static_cast<char *>(dst.address) + offset, src, bytes);
}
void read(Device &device, Memory src, uint64_t offset, void *dst, uint64_t bytes) {
  const Current current(*cu(device).gpu);
  cu(device).recorder->read(static_cast<char *>(src.address) + offset, dst, bytes);
}
void clear(Device &device, Memory dst, uint64_t offset, uint64_t bytes) {
  const Current current(*cu(device).gpu);
  cu(device).recorder->fill_zero(static_cast<char *>(dst.address) + offset, bytes);
}

// A stage, with the context current.
enum class Stage { pool, project, score, select, attend, mask };
constexpr const char *kStageNames[] = {"pool", "project", "score", "select", "attend", "mask"};

template <Stage kStage, auto kRun, class Args>
void stage(Device &device, Exec &exec, const Args &args) {
  exec.check_cancelled();
  const Current current(*cu(device).gpu);
  kRun(cu(device), exec, args);
  cu(device).recorder->stage_done(kStageNames[int(kStage)]);
}
// As the stages that it takes the place of.
void gate_vectors(Device &device, Exec &exec, const GateVectorArgs &args) {
  exec.check_cancelled();
  const Current current(*cu(device).gpu);
  cuda::gate_vectors(cu(device), exec, args);
}
uint64_t select_scratch(const Device &device, const SelectArgs &args) { return cuda::select_scratch(cu(device), args); }
uint64_t attend_scratch(const Device &device, const AttendArgs &args) { return cuda::attend_scratch(cu(device), args); }

uint64_t record(Device &device, void *) {
  const Current current(*cu(device).gpu);
  return cu(device).recorder->record();
}
bool fence_wait(Device &device, uint64_t fence, uint64_t timeout_ns) {
  return cu(device).recorder->wait(fence, timeout_ns);
}
void begin(Device &device, Exec &exec) {
  SEER_REQUIRE(!cu(device).gpu->lost, Status::device_lost, "the CUDA device %s was lost", device.info.name.c_str());
  const Current current(*cu(device).gpu);
  cu(device).recorder->begin(exec);
}
void mark(Device &device, Mark what) {
  const Current current(*cu(device).gpu);
  cu(device).recorder->mark(what);
}
std::unique_ptr<PendingCall> end(Device &device, const SelectStats *stats) {
  const Current current(*cu(device).gpu);
  if (stats) return cu(device).recorder->end(stats);
  cu(device).recorder->drop();
  return nullptr;
}
uint64_t reachable(const Device &device, const void *address, uint64_t wanted) {
  const Current current(*cu(device).gpu);
  return cuda::reachable(cu(device), address, wanted);
}

std::unique_ptr<Device> create(const DeviceParams &params);

const BackendFns kFns = {
    .name = "cuda",
    .kind = BackendKind::cuda,
    .device_count = device_count,
    .device_info = device_info,
    .create = create,
    .alloc = alloc,
    .free = free_memory,
    .write = write,
    .read = read,
    .pool = stage<Stage::pool, cuda::pool, PoolArgs>,
    .project = stage<Stage::project, cuda::project, ProjectArgs>,
    .score = stage<Stage::score, cuda::score, ScoreArgs>,
    .select = stage<Stage::select, cuda::select, SelectArgs>,
    .attend = stage<Stage::attend, cuda::attend, AttendArgs>,
    .gate_vectors = gate_vectors,
    .attend_scratch = attend_scratch,
    .select_scratch = select_scratch,
    .pack_mask = stage<Stage::mask, cuda::pack_mask, MaskBytesArgs>,
    .unpack_mask = stage<Stage::mask, cuda::unpack_mask, MaskBytesArgs>,
    .record = record,
    .fence_wait = fence_wait,
    .begin = begin,
    .clear = clear,
    .mark = mark,
    .end = end,
    .reachable = reachable,
};

std::unique_ptr<Device> create(const DeviceParams &params) {
  const cuda::Caps caps = caps_of(params.ordinal);
  if (const std::string why = refusal(caps); !why.empty())
    fail(Status::unsupported, "%s cannot be used: %s", caps.name.c_str(), why.c_str());
  auto device = std::make_unique<CudaDevice>(cuda::open_gpu(caps), params);
  device->fns = &kFns;
  return device;
}

}  // namespace

const BackendFns &cuda_backend() { return kFns; }

}  // namespace seer
