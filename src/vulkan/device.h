// A Vulkan device in use.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../backend.h"
#include "caps.h"
#include "dispatch.h"
#include "memory.h"
#include "pipelines.h"
#include "rope.h"
#include "stopwatch.h"
#include "verdicts.h"

namespace seer::vulkan {

// A physical device opened: what all contexts on it share, so that models and buffers serve each of them. Thread-safe.
struct Gpu {
  std::shared_ptr<Instance> instance;
  VkPhysicalDevice physical = VK_NULL_HANDLE;
  VkDevice handle = VK_NULL_HANDLE;
  DeviceFunctions fn;
  Caps caps;
  VkPhysicalDeviceMemoryProperties memory_properties = {};
  uint32_t queue_family = 0;
  uint64_t timestamp_mask = 0;  // bits of the queue's time stamps that count; 0: none
  VkQueue queue = VK_NULL_HANDLE;
  std::mutex queue_mutex;  // held while it is submitted to
  // Of the caller's device: it and its instance are not destroyed.
  bool imported = false;
  void (*lock_queue)(void *user) = nullptr;
  void (*unlock_queue)(void *user) = nullptr;
  void *lock_user = nullptr;
  VkAllocationCallbacks allocation_callbacks = {};
  const VkAllocationCallbacks *allocation = nullptr;  // those, or none
  std::unique_ptr<MemoryMap> memory;
  std::unique_ptr<Pipelines> pipelines;
  Verdicts verdicts;
  std::atomic<bool> lost{false};
  Caps requested;  // before the self-test took anything away
  std::mutex self_test_mutex;
  bool self_tested = false;       // under it
  uint64_t test_fingerprint = 0;  // likewise; of what was tested, 0: nothing
  uint32_t taken = 0;             // Taken bits, under it
  std::mutex layouts_mutex;
  std::vector<std::pair<CoopShape, std::optional<CoopLayout>>> layouts;  // asked for so far (attend_layout.h), under it

  Gpu() = default;
  ~Gpu();
  Gpu(const Gpu &) = delete;
  Gpu &operator=(const Gpu &) = delete;
  // Throws device_lost, device_out_of_memory, out_of_memory or internal unless ok. `what` names the call.
  void check(VkResult result, const char *what);
  // Throws as check does. Nobody else submits meanwhile, the caller of an imported queue included.
  void submit(const VkSubmitInfo &info, VkFence fence);
  // Writes what the next process can use: pipelines and verdicts, if there is anything new.
  void save() noexcept;
};

// A context's share of it: what it records, one call at a time.
struct VulkanDevice : Device {
  explicit VulkanDevice(std::shared_ptr<Gpu> opened);
  // One that records for somebody else.
  VulkanDevice(const VulkanDevice &context, std::unique_ptr<Recorder> target, RopeBuffers::Keep keep);

  const std::shared_ptr<Gpu> gpu;
  const Caps &caps;
  MemoryMap *const memory;
  std::unique_ptr<Recorder> recorder;
  std::unique_ptr<RopeBuffers> rope;

  const Kernel &kernel(const KernelKey &key);
  PlannedKernels *planned = nullptr;  // of a plan or a rehearsal: where its kernels come from
  // Whether kernels are only noted: what is taken now may turn out to be wrong when it is tried.
  bool collects() const { return planned && planned->step == PlannedKernels::Step::collecting; }
  // Where kernels can be tried out: work is done there, not recorded for later. Only while it is planned.
  VulkanDevice &tester() { return tests_on ? *tests_on : *this; }
  VulkanDevice *tests_on = nullptr;
  void check(VkResult result, const char *what) { gpu->check(result, what); }
  bool shares_memory(const Device &other) const override {
    return other.info.backend == info.backend && static_cast<const VulkanDevice &>(other).gpu == gpu;
  }
};

// A physical device with what it can do, overrides applied.
struct Candidate {
  VkPhysicalDevice physical = VK_NULL_HANDLE;
  Caps caps;
  std::vector<std::string> extensions;
};
// The devices in the order of their ordinals: GPUs before software, no device twice.
std::vector<Candidate> candidates(const Instance &instance);
DeviceInfo describe(const Caps &caps);
// The device, opened, or opened before with the same caps and not lost. Throws unsupported, saying what it lacks.
std::shared_ptr<Gpu> open_gpu(std::shared_ptr<Instance> instance, const Candidate &candidate, const Log &log,
                              Stopwatch &watch);
// The caller's device, or what an earlier context on it uses if everything is the same. Throws unsupported or
// invalid_argument, naming what is missing.
std::shared_ptr<Gpu> open_imported(const VulkanImport &import, const Log &log, Stopwatch &watch);
// The queue families of a device.
std::vector<VkQueueFamilyProperties> queue_families(const Instance &instance, VkPhysicalDevice device);
// The rest of making one, with handle, instance, functions, caps, queue and family (one of `families`) set.
void finish_gpu(Gpu &gpu, const std::vector<VkQueueFamilyProperties> &families, const Log &log, Stopwatch &watch,
                VkPipelineCache cache = VK_NULL_HANDLE);

}  // namespace seer::vulkan
