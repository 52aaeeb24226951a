// The caller's device, buffers and semaphores.
#include <algorithm>
#include <cstring>

#include "deny.h"
#include "device.h"
#include "interop.h"

namespace seer::vulkan {
namespace {

VkQueue find_queue(const Gpu &gpu, const std::vector<VkQueueFamilyProperties> &families, const VulkanImport &import) {
  SEER_REQUIRE(import.queue_family < families.size(), Status::invalid_argument,
               "queue_family is %u; the device has %zu", import.queue_family, families.size());
  SEER_REQUIRE(families[import.queue_family].queueFlags & VK_QUEUE_COMPUTE_BIT, Status::unsupported,
               "queue_family %u lacks VK_QUEUE_COMPUTE_BIT", import.queue_family);
  if (import.queue) return static_cast<VkQueue>(import.queue);
  SEER_REQUIRE(import.queue_index < families[import.queue_family].queueCount, Status::invalid_argument,
               "queue_index is %u; family %u has %u queues", import.queue_index, import.queue_family,
               families[import.queue_family].queueCount);
  VkQueue queue = VK_NULL_HANDLE;
  // vkGetDeviceQueue finds only queues that were made without flags, vkGetDeviceQueue2 those with the same ones.
  if (import.queue_flags) {
    VkDeviceQueueInfo2 info{};
    info.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_INFO_2;
    info.flags = import.queue_flags;
    info.queueFamilyIndex = import.queue_family;
    info.queueIndex = import.queue_index;
    gpu.fn.vkGetDeviceQueue2(gpu.handle, &info, &queue);
  } else {
    gpu.fn.vkGetDeviceQueue(gpu.handle, import.queue_family, import.queue_index, &queue);
  }
  SEER_REQUIRE(queue, Status::invalid_argument, "the device has no queue %u of family %u with flags 0x%x",
               import.queue_index, import.queue_family, import.queue_flags);
  return queue;
}

bool same(const Gpu &a, const Gpu &b) {
  return a.handle == b.handle && a.queue == b.queue && a.requested == b.requested && a.lock_queue == b.lock_queue &&
         a.unlock_queue == b.unlock_queue && a.lock_user == b.lock_user &&
         std::memcmp(&a.allocation_callbacks, &b.allocation_callbacks, sizeof a.allocation_callbacks) == 0;
}

PFN_vkGetInstanceProcAddr proc_of(void *get_instance_proc_addr) {
  return reinterpret_cast<PFN_vkGetInstanceProcAddr>(get_instance_proc_addr);
}

}  // namespace

std::shared_ptr<Gpu> open_imported(const VulkanImport &import, const Log &log, Stopwatch &watch) {
  auto gpu = std::make_shared<Gpu>();
  gpu->imported = true;
  gpu->instance = Instance::adopt(proc_of(import.get_instance_proc_addr), static_cast<VkInstance>(import.instance),
                                  import.api_version);
  gpu->physical = static_cast<VkPhysicalDevice>(import.physical_device);
  gpu->handle = static_cast<VkDevice>(import.device);
  gpu->fn = gpu->instance->load_device(gpu->handle);
  watch.lap("functions");
  const Enabled enabled{.extensions = import.extensions, .features = read_features(import.features)};
  gpu->caps = query_caps(*gpu->instance, gpu->physical, nullptr, &enabled);
  deny_known_faults(gpu->caps);
  override_caps(gpu->caps);
  gpu->requested = gpu->caps;
  watch.lap("caps");
  if (const std::string why = refusal(gpu->caps); !why.empty())
    fail(Status::unsupported, "%s cannot be used: %s", gpu->caps.name.c_str(), why.c_str());
  gpu->queue_family = import.queue_family;
  const std::vector<VkQueueFamilyProperties> families = queue_families(*gpu->instance, gpu->physical);
  gpu->queue = find_queue(*gpu, families, import);
  gpu->lock_queue = import.lock;
  gpu->unlock_queue = import.unlock;
  gpu->lock_user = import.user;
  if (import.allocation_callbacks) {
    gpu->allocation_callbacks = *static_cast<const VkAllocationCallbacks *>(import.allocation_callbacks);
    gpu->allocation = &gpu->allocation_callbacks;
  }

  static std::mutex mutex;
  static std::vector<std::weak_ptr<Gpu>> opened;
  std::lock_guard lock(mutex);
  std::erase_if(opened, [](const std::weak_ptr<Gpu> &other) { return other.expired(); });
  for (const std::weak_ptr<Gpu> &weak : opened)
    if (const auto other = weak.lock(); other && same(*other, *gpu) && !other->lost) return other;
  finish_gpu(*gpu, families, log, watch, reinterpret_cast<VkPipelineCache>(import.pipeline_cache));
  opened.push_back(gpu);
  return gpu;
}

std::vector<const char *> recommend(void *get_instance_proc_addr, void *instance, void *physical_device,
                                    uint32_t api_version, void *features) {
  const auto adopted = Instance::adopt(proc_of(get_instance_proc_addr), static_cast<VkInstance>(instance), api_version);
  const auto physical = static_cast<VkPhysicalDevice>(physical_device);
  std::vector<std::string> offered;
  const Caps caps = query_caps(*adopted, physical, &offered);
  if (const std::string why = refusal(caps); !why.empty())
    fail(Status::unsupported, "%s cannot be used: %s", caps.name.c_str(), why.c_str());
  const Features wanted = offered_features(*adopted, physical, offered);
  if (features) set_features(features, wanted);
  std::vector<const char *> names = extensions_for(wanted, caps.api_version);
  std::erase_if(names,
                [&](const char *name) { return std::find(offered.begin(), offered.end(), name) == offered.end(); });
  return names;
}

bool is_imported(const Device &device) { return static_cast<const VulkanDevice &>(device).gpu->imported; }

std::shared_ptr<const Memory> borrow(Device &device, uint64_t buffer, uint64_t size) {
  const std::shared_ptr<Gpu> gpu = static_cast<VulkanDevice &>(device).gpu;
  if (!gpu->imported) return nullptr;
  struct Borrowed : Memory {
    explicit Borrowed(std::shared_ptr<Gpu> owner) : gpu(std::move(owner)) {}
    ~Borrowed() { gpu->memory->free(*this); }
    std::shared_ptr<Gpu> gpu;
  };
  auto borrowed = std::make_shared<Borrowed>(gpu);
  static_cast<Memory &>(*borrowed) = gpu->memory->borrow(reinterpret_cast<VkBuffer>(buffer), 0, size);
  return borrowed;
}

BufferRange range_of(const Device &device, const Memory &memory) {
  const Place place = static_cast<const VulkanDevice &>(device).memory->find(memory.address, memory.size);
  return {.buffer = reinterpret_cast<uint64_t>(place.buffer), .offset = place.offset, .size = memory.size};
}

Memory share_memory(Device &device, uint64_t bytes, External &external) {
  return static_cast<VulkanDevice &>(device).memory->share(bytes, external);
}

Memory take_memory(Device &device, const External &external) {
  return static_cast<VulkanDevice &>(device).memory->take(external);
}

Memory host_memory(Device &device, void *data, uint64_t bytes) {
  return static_cast<VulkanDevice &>(device).memory->import_host(data, bytes);
}

void check_semaphores(const Device &device) {
  const Gpu &gpu = *static_cast<const VulkanDevice &>(device).gpu;
  SEER_REQUIRE(gpu.imported, Status::unsupported,
               "the context made a VkDevice of its own; semaphores are of another and cannot be used");
  SEER_REQUIRE(gpu.caps.timeline, Status::unsupported,
               "the context's device was imported without the feature timelineSemaphore");
}

void wait_semaphores(Device &device, const std::vector<Semaphore> &list) {
  static_cast<VulkanDevice &>(device).recorder->wait_for(list);
}

void signal_semaphores(Device &device, const std::vector<Semaphore> &list) {
  static_cast<VulkanDevice &>(device).recorder->signal(list);
}

}  // namespace seer::vulkan
