// A Vulkan device in use.
#pragma once
#include <memory>
#include <string>

#include "../backend.h"
#include "caps.h"
#include "dispatch.h"
#include "memory.h"
#include "pipelines.h"

namespace seer::vulkan {

struct VulkanDevice : Device {
  std::shared_ptr<Instance> instance;
  VkPhysicalDevice physical = VK_NULL_HANDLE;
  VkDevice handle = VK_NULL_HANDLE;
  DeviceFunctions fn;
  Caps caps;
  VkPhysicalDeviceMemoryProperties memory_properties = {};
  uint32_t queue_family = 0;
  VkQueue queue = VK_NULL_HANDLE;
  std::unique_ptr<MemoryMap> memory;
  std::unique_ptr<Pipelines> pipelines;
  std::unique_ptr<Recorder> recorder;
  std::atomic<bool> lost{false};

  ~VulkanDevice() override;
  const Kernel &kernel(const KernelKey &key) { return pipelines->get(key); }
  // Throws device_lost, device_out_of_memory, out_of_memory or internal unless ok. `what` names the call.
  void check(VkResult result, const char *what);
};

// By the ordinal of device_count and device_info. Throws.
std::unique_ptr<VulkanDevice> create_device(int32_t ordinal, const Log &log);

}  // namespace seer::vulkan
