// The Vulkan loader, found at run time: nothing links to it, and a machine without it is no error.
#pragma once
#define VK_NO_PROTOTYPES
#include <vulkan/vulkan_core.h>

#include "win32.h"

#include <memory>
#include <string>
#include <vector>

namespace seer::vulkan {

// Entry points by what they are asked from. Those marked OPTIONAL may be null.
#define SEER_VK_GLOBAL_FUNCTIONS(X)         \
  X(vkEnumerateInstanceExtensionProperties) \
  X(vkEnumerateInstanceLayerProperties)     \
  X(vkCreateInstance)
#define SEER_VK_INSTANCE_FUNCTIONS(X)            \
  X(vkDestroyInstance)                           \
  X(vkEnumeratePhysicalDevices)                  \
  X(vkGetPhysicalDeviceProperties)               \
  X(vkGetPhysicalDeviceProperties2)              \
  X(vkGetPhysicalDeviceFeatures2)                \
  X(vkGetPhysicalDeviceMemoryProperties)         \
  X(vkGetPhysicalDeviceQueueFamilyProperties)    \
  X(vkEnumerateDeviceExtensionProperties)        \
  X(vkGetPhysicalDeviceExternalBufferProperties) \
  X(vkCreateDevice)                              \
  X(vkGetDeviceProcAddr)
#define SEER_VK_DEVICE_FUNCTIONS(X) \
  X(vkDestroyDevice)                \
  X(vkDeviceWaitIdle)               \
  X(vkGetDeviceQueue)               \
  X(vkGetDeviceQueue2)              \
  X(vkQueueSubmit)                  \
  X(vkAllocateMemory)               \
  X(vkFreeMemory)                   \
  X(vkMapMemory)                    \
  X(vkBindBufferMemory)             \
  X(vkCreateBuffer)                 \
  X(vkDestroyBuffer)                \
  X(vkGetBufferMemoryRequirements)  \
  X(vkCreateShaderModule)           \
  X(vkDestroyShaderModule)          \
  X(vkCreateDescriptorSetLayout)    \
  X(vkDestroyDescriptorSetLayout)   \
  X(vkCreatePipelineLayout)         \
  X(vkDestroyPipelineLayout)        \
  X(vkCreateComputePipelines)       \
  X(vkDestroyPipeline)              \
  X(vkCreatePipelineCache)          \
  X(vkDestroyPipelineCache)         \
  X(vkGetPipelineCacheData)         \
  X(vkCreateDescriptorPool)         \
  X(vkDestroyDescriptorPool)        \
  X(vkResetDescriptorPool)          \
  X(vkAllocateDescriptorSets)       \
  X(vkUpdateDescriptorSets)         \
  X(vkCreateCommandPool)            \
  X(vkDestroyCommandPool)           \
  X(vkResetCommandPool)             \
  X(vkAllocateCommandBuffers)       \
  X(vkBeginCommandBuffer)           \
  X(vkEndCommandBuffer)             \
  X(vkCreateFence)                  \
  X(vkDestroyFence)                 \
  X(vkResetFences)                  \
  X(vkWaitForFences)                \
  X(vkCmdBindPipeline)              \
  X(vkCmdBindDescriptorSets)        \
  X(vkCmdPushConstants)             \
  X(vkCmdDispatch)                  \
  X(vkCmdPipelineBarrier)           \
  X(vkCmdCopyBuffer)                \
  X(vkCmdUpdateBuffer)              \
  X(vkCmdFillBuffer)                \
  X(vkCreateQueryPool)              \
  X(vkDestroyQueryPool)             \
  X(vkCmdResetQueryPool)            \
  X(vkCmdWriteTimestamp)            \
  X(vkGetQueryPoolResults)
#define SEER_VK_OPTIONAL_DEVICE_FUNCTIONS(X) \
  X(vkCmdPushDescriptorSetKHR)               \
  X(vkGetMemoryFdKHR)                        \
  X(vkGetMemoryWin32HandleKHR)               \
  X(vkGetMemoryHostPointerPropertiesEXT)

struct InstanceFunctions {
#define SEER_VK_DECLARE(name) PFN_##name name = nullptr;
  SEER_VK_INSTANCE_FUNCTIONS(SEER_VK_DECLARE)
};
struct DeviceFunctions {
  SEER_VK_DEVICE_FUNCTIONS(SEER_VK_DECLARE)
  SEER_VK_OPTIONAL_DEVICE_FUNCTIONS(SEER_VK_DECLARE)
};

// An instance of the library's own, shared by the devices and probes that are there at the same time, not across fork;
// or a caller's.
class Instance {
public:
  ~Instance();
  Instance(const Instance &) = delete;
  Instance &operator=(const Instance &) = delete;

  // Made once a process and never destroyed: drivers take tens of milliseconds for one. Throws unsupported saying what
  // is missing: the loader, a Vulkan 1.1 driver, the validation layer.
  static std::shared_ptr<Instance> get();
  // A caller's, to be used with at most this version of Vulkan and not destroyed. Throws unsupported, naming the
  // function that it lacks.
  static std::shared_ptr<Instance> adopt(PFN_vkGetInstanceProcAddr proc, VkInstance instance, uint32_t api_version);

  const InstanceFunctions &fn() const { return fn_; }
  PFN_vkVoidFunction proc(const char *name) const;       // null where absent
  double made_ms() const { return made_ms_; }            // what its making took; 0: a caller's
  uint32_t api_version() const { return api_version_; }  // the highest that devices may be used with
  const std::vector<VkPhysicalDevice> &devices() const { return devices_; }  // with Vulkan 1.1 and compute
  DeviceFunctions load_device(VkDevice device) const;

  // SEER_VK_VALIDATE: messages of the validation layer since the last call, one a line; empty: none.
  std::string take_validation_messages();

private:
  Instance() = default;
  void create();
  void load_functions();
  struct Messages;
  PFN_vkGetInstanceProcAddr get_proc_ = nullptr;
  bool own_ = false;
  VkInstance instance_ = VK_NULL_HANDLE;
  InstanceFunctions fn_;
  uint32_t api_version_ = VK_API_VERSION_1_1;
  std::vector<VkPhysicalDevice> devices_;
  std::unique_ptr<Messages> messages_;
  VkDebugUtilsMessengerEXT messenger_ = VK_NULL_HANDLE;
  uint64_t process_ = 0;
  double made_ms_ = 0;
};

const char *result_name(VkResult result);  // "VK_ERROR_DEVICE_LOST"; static

}  // namespace seer::vulkan
