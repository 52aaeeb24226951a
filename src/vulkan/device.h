// A Vulkan device in use.
#pragma once
#include <memory>
#include <string>

#include "../backend.h"
#include "caps.h"
#include "dispatch.h"
#include "memory.h"
#include "pipelines.h"
#include "rope.h"

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
  std::unique_ptr<RopeBuffers> rope;
  std::atomic<bool> lost{false};

  ~VulkanDevice() override;
  const Kernel &kernel(const KernelKey &key) { return pipelines->get(key); }
  // Throws device_lost, device_out_of_memory, out_of_memory or internal unless ok. `what` names the call.
  void check(VkResult result, const char *what);
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
// Throws unsupported, saying what the device lacks.
std::unique_ptr<VulkanDevice> open_device(std::shared_ptr<Instance> instance, const Candidate &candidate,
                                          const Log &log);

}  // namespace seer::vulkan
