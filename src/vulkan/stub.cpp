// What stands in for the Vulkan backend in builds without it: no devices, and a clear message.
#include "../backend.h"
#include "interop.h"

namespace seer {
namespace {

int32_t device_count() { return 0; }
DeviceInfo device_info(int32_t) { fail(Status::unsupported, "backend vulkan is not part of this build"); }
std::unique_ptr<Device> create(const DeviceParams &) {
  fail(Status::unsupported, "backend vulkan is not part of this build");
}

}  // namespace

const BackendFns &vulkan_backend() {
  static const BackendFns fns = {
      .name = "vulkan",
      .kind = BackendKind::vulkan,
      .device_count = device_count,
      .device_info = device_info,
      .create = create,
  };
  return fns;
}

// No device of this backend exists, so nothing but the first can be reached.
namespace vulkan {

std::vector<const char *> recommend(void *, void *, void *, uint32_t, void *) {
  fail(Status::unsupported, "backend vulkan is not part of this build");
}
bool is_imported(const Device &) { return false; }
std::shared_ptr<const Memory> borrow(Device &, uint64_t, uint64_t) { return nullptr; }
BufferRange range_of(const Device &, const Memory &) { return {}; }
Memory share_memory(Device &, uint64_t, External &) { return {}; }
Memory take_memory(Device &, const External &) { return {}; }
Memory host_memory(Device &, void *, uint64_t) { return {}; }
void check_semaphores(const Device &) { fail(Status::unsupported, "backend vulkan is not part of this build"); }
void wait_semaphores(Device &, const std::vector<Semaphore> &) {}
void signal_semaphores(Device &, const std::vector<Semaphore> &) {}
std::shared_ptr<Plan> Plan::make(std::shared_ptr<Context>, std::shared_ptr<const Model>, PlannedDesc,
                                 std::shared_ptr<ChunkCache>, double) {
  fail(Status::unsupported, "backend vulkan is not part of this build");
}

}  // namespace vulkan

}  // namespace seer
