// The Vulkan backend: any device with Vulkan 1.1, through a loader found at run time.
#include "../backend.h"

#include <cstdlib>

#include "kernels.h"
#include "rehearsal.h"
#include "selftest.h"

namespace seer {
namespace {

using vulkan::VulkanDevice;

VulkanDevice &vk(Device &device) { return static_cast<VulkanDevice &>(device); }

int32_t device_count() {
  try {
    return int32_t(vulkan::candidates(*vulkan::Instance::get()).size());
  } catch (const Error &) {
    return 0;  // create says why
  }
}

DeviceInfo device_info(int32_t ordinal) {
  const auto all = vulkan::candidates(*vulkan::Instance::get());
  SEER_REQUIRE(ordinal >= 0 && size_t(ordinal) < all.size(), Status::invalid_argument,
               "device is %d; backend vulkan has %zu", ordinal, all.size());
  DeviceInfo info = vulkan::describe(all[size_t(ordinal)].caps);
  info.ordinal = ordinal;
  return info;
}

// A driver that computes on the CPU does it slower than the CPU backend.
std::string not_automatic(int32_t ordinal) {
  const auto all = vulkan::candidates(*vulkan::Instance::get());
  const char *allowed = std::getenv("SEER_VK_ALLOW_CPU");
  if (size_t(ordinal) >= all.size() || !all[size_t(ordinal)].caps.software()) return {};
  if (allowed && std::atoi(allowed) != 0) return {};
  return all[size_t(ordinal)].caps.name + " computes on the CPU, as the CPU backend does better";
}

Memory alloc(Device &device, uint64_t bytes) { return vk(device).memory->alloc(bytes); }
void free_memory(Device &device, Memory memory) noexcept { vk(device).memory->free(memory); }
void write(Device &device, Memory dst, uint64_t offset, const void *src, uint64_t bytes) {
  vk(device).recorder->write(static_cast<char *>(dst.address) + offset, src, bytes);
}
void read(Device &device, Memory src, uint64_t offset, void *dst, uint64_t bytes) {
  vk(device).recorder->read(static_cast<char *>(src.address) + offset, dst, bytes);
}

// Where device memory is host memory. Elsewhere kernels would read it through the bus, and most of it many times.
Memory in_place(Device &device, void *data, uint64_t bytes) {
  const vulkan::Caps &caps = vk(device).caps;
  if (!caps.unified_memory || !caps.host_alignment || bytes == 0 || bytes % 4 != 0) return {};
  try {
    return vk(device).memory->import_host(data, bytes);
  } catch (const Error &error) {
    device.log(LogLevel::debug, "host memory is copied: %s", error.what());
    return {};
  }
}

void pool(Device &device, Exec &exec, const PoolArgs &args) { vulkan::pool(vk(device), exec, args); }
void project(Device &device, Exec &exec, const ProjectArgs &args) { vulkan::project(vk(device), exec, args); }
void score(Device &device, Exec &exec, const ScoreArgs &args) { vulkan::score(vk(device), exec, args); }
void select(Device &device, Exec &exec, const SelectArgs &args) { vulkan::select(vk(device), exec, args); }
void attend(Device &device, Exec &exec, const AttendArgs &args) { vulkan::attend(vk(device), exec, args); }
uint64_t select_scratch(const Device &device, const SelectArgs &args) {
  return vulkan::select_scratch(static_cast<const VulkanDevice &>(device), args);
}
uint64_t attend_scratch(const Device &device, const AttendArgs &args) {
  return vulkan::attend_scratch(static_cast<const VulkanDevice &>(device), args);
}
void pack_mask(Device &device, Exec &exec, const MaskBytesArgs &args) { vulkan::pack_mask(vk(device), exec, args); }
void unpack_mask(Device &device, Exec &exec, const MaskBytesArgs &args) { vulkan::unpack_mask(vk(device), exec, args); }

uint64_t record(Device &device, void *) { return vk(device).recorder->submit(); }
bool fence_wait(Device &device, uint64_t fence, uint64_t timeout_ns) {
  vulkan::Recorder &recorder = *vk(device).recorder;
  if (!recorder.wait(fence, timeout_ns)) return false;
  recorder.recycle();
  vk(device).gpu->save();  // a program may end without releasing anything
  return true;
}

void begin(Device &device, Exec &) { vk(device).recorder->begin_call(); }
void clear(Device &device, Memory dst, uint64_t offset, uint64_t bytes) {
  vk(device).recorder->fill_zero(static_cast<char *>(dst.address) + offset, bytes);
}
void mark(Device &device, Mark what) { vk(device).recorder->stamp(what); }
std::unique_ptr<PendingCall> end(Device &device, const SelectStats *stats) {
  return vk(device).recorder->end_call(stats);
}
std::unique_ptr<Device> rehearse(Device &device) { return std::make_unique<vulkan::Rehearsal>(vk(device)); }
void rehearsed(Device &device, Device &rehearsal) {
  const vulkan::Stopwatch watch;
  const size_t made = vulkan::Rehearsal::of(rehearsal).make_kernels();
  if (made) device.log(LogLevel::debug, "%zu kernels at once: %.1f ms", made, watch.total_ms());
}

std::unique_ptr<Device> create(const DeviceParams &params);

const BackendFns kFns = {
    .name = "vulkan",
    .kind = BackendKind::vulkan,
    .device_count = device_count,
    .device_info = device_info,
    .create = create,
    .not_automatic = not_automatic,
    .alloc = alloc,
    .free = free_memory,
    .write = write,
    .read = read,
    .in_place = in_place,
    .pool = pool,
    .project = project,
    .score = score,
    .select = select,
    .attend = attend,
    .attend_scratch = attend_scratch,
    .select_scratch = select_scratch,
    .pack_mask = pack_mask,
    .unpack_mask = unpack_mask,
    .record = record,
    .fence_wait = fence_wait,
    .begin = begin,
    .clear = clear,
    .mark = mark,
    .end = end,
    .rehearse = rehearse,
    .rehearsed = rehearsed,
};

std::unique_ptr<Device> finish_device(std::shared_ptr<vulkan::Gpu> gpu, const DeviceParams &params, int32_t ordinal,
                                      vulkan::Stopwatch &watch) {
  auto device = std::make_unique<VulkanDevice>(std::move(gpu));
  device->fns = &kFns;
  device->log = params.log;
  watch.lap("recorder");
  vulkan::self_test(*device);
  device->info = vulkan::describe(device->caps);  // what the test has left
  device->info.detail += device->gpu->timestamp_mask ? ", times of the device" : ", times of the host";
  device->info.ordinal = ordinal;
  watch.lap("self-test");
  params.log(LogLevel::debug, "vulkan start: %s", watch.text().c_str());
  return device;
}

std::unique_ptr<Device> create(const DeviceParams &params) {
  vulkan::Stopwatch watch;
  if (params.vulkan) return finish_device(vulkan::open_imported(*params.vulkan, params.log, watch), params, -1, watch);
  auto instance = vulkan::Instance::get();
  params.log(LogLevel::debug, "vulkan start: the process's instance took %.1f ms", instance->made_ms());
  const auto all = vulkan::candidates(*instance);
  SEER_REQUIRE(!all.empty(), Status::unsupported, "backend vulkan: no driver offers a Vulkan 1.1 device");
  SEER_REQUIRE(params.ordinal >= 0 && size_t(params.ordinal) < all.size(), Status::invalid_argument,
               "device is %d; backend vulkan has %zu", params.ordinal, all.size());
  watch.lap("caps");
  return finish_device(vulkan::open_gpu(std::move(instance), all[size_t(params.ordinal)], params.log, watch), params,
                       params.ordinal, watch);
}

}  // namespace

const BackendFns &vulkan_backend() { return kFns; }

}  // namespace seer
