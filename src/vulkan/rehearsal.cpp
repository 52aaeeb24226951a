#include "rehearsal.h"

namespace seer::vulkan {

BackendFns Rehearsal::functions() {
  BackendFns f = vulkan_backend();
  f.create = nullptr;
  f.rehearse = nullptr;
  f.alloc = [](Device &device, uint64_t bytes) {
    Rehearsal &d = of(device);
    d.memory->free(d.workspace);
    d.workspace = {};
    return d.workspace = d.memory->borrow(VK_NULL_HANDLE, 0, bytes);
  };
  f.free = [](Device &, Memory) noexcept {};  // the next alloc does, and the end
  f.record = nullptr;
  f.fence_wait = nullptr;
  f.begin = [](Device &, Exec &) {};
  f.clear = [](Device &device, Memory dst, uint64_t offset, uint64_t bytes) {
    of(device).recorder->fill_zero(static_cast<char *>(dst.address) + offset, bytes);
  };
  f.mark = [](Device &, Mark) {};
  f.end = [](Device &, const SelectStats *) -> std::unique_ptr<PendingCall> { return nullptr; };
  return f;
}

Rehearsal::Rehearsal(VulkanDevice &context, std::unique_ptr<Recorder> target, RopeBuffers::Keep keep)
    : VulkanDevice(context, std::move(target), keep), kernels(*gpu->pipelines) {
  planned = &kernels;
  tests_on = &context;
}

Rehearsal::Rehearsal(VulkanDevice &context)
    : Rehearsal(context, std::make_unique<Recorder>(*context.gpu, Target{}), RopeBuffers::Keep::none) {
  static const BackendFns fns_of_all = functions();
  fns = &fns_of_all;
}

Rehearsal::~Rehearsal() { memory->free(workspace); }

}  // namespace seer::vulkan
