// A program's own Vulkan: a device, buffers, command buffers, semaphores, made without the library. The validation
// layer watches if SEER_VK_VALIDATE is set; what it says fails the test.
#pragma once
#include <doctest/doctest.h>

#include <atomic>
#include <mutex>
#include <string>
#include <vector>

#include "own_device.h"

namespace foreign {

#define FOREIGN_FUNCTIONS(X)             \
  X(vkDestroyInstance)                   \
  X(vkGetPhysicalDeviceProperties)       \
  X(vkGetPhysicalDeviceMemoryProperties) \
  X(vkGetPhysicalDeviceFeatures2)        \
  X(vkDestroyDevice)                     \
  X(vkGetDeviceQueue)                    \
  X(vkQueueSubmit)                       \
  X(vkQueueWaitIdle)                     \
  X(vkCreateBuffer)                      \
  X(vkDestroyBuffer)                     \
  X(vkGetBufferMemoryRequirements)       \
  X(vkAllocateMemory)                    \
  X(vkFreeMemory)                        \
  X(vkBindBufferMemory)                  \
  X(vkMapMemory)                         \
  X(vkCreateSemaphore)                   \
  X(vkDestroySemaphore)                  \
  X(vkSignalSemaphore)                   \
  X(vkGetSemaphoreCounterValue)          \
  X(vkCreateCommandPool)                 \
  X(vkDestroyCommandPool)                \
  X(vkAllocateCommandBuffers)            \
  X(vkBeginCommandBuffer)                \
  X(vkEndCommandBuffer)                  \
  X(vkCmdPipelineBarrier)                \
  X(vkCmdFillBuffer)                     \
  X(vkCreateDescriptorPool)              \
  X(vkDestroyDescriptorPool)             \
  X(vkCreatePipelineCache)               \
  X(vkDestroyPipelineCache)              \
  X(vkGetPipelineCacheData)

struct Functions {
#define FOREIGN_DECLARE(name) PFN_##name name = nullptr;
  FOREIGN_FUNCTIONS(FOREIGN_DECLARE)
};

// What to make the device with.
struct Wish {
  uint32_t api_version = VK_API_VERSION_1_3;
  bool recommended = true;  // extensions and features: those that the library recommends, or none
};

class Gpu : public OwnDevice {
public:
  explicit Gpu(const Wish &wish = {});
  ~Gpu();

  seer_vulkan_import import();  // as the device was made; counts locks
  seer_context *context(const seer_context_params *params = nullptr);
  std::string take_messages();  // of the validation layer; what is left fails the test
  static bool validated();
  // Waits until the library has released the contexts of context().
  void wait_for_release(int contexts = 1);

  Functions fn;
  VkQueue queue = VK_NULL_HANDLE;
  std::mutex queue_mutex;
  int locks = 0;  // under it
  std::atomic<int> released{0};

private:
  static VKAPI_ATTR VkBool32 VKAPI_CALL message(VkDebugUtilsMessageSeverityFlagBitsEXT, VkDebugUtilsMessageTypeFlagsEXT,
                                                const VkDebugUtilsMessengerCallbackDataEXT *data, void *user);
  std::mutex message_mutex_;
  std::string messages_;
  VkDebugUtilsMessengerEXT messenger_ = VK_NULL_HANDLE;
};

// A buffer in memory that the host sees.
class Buffer {
public:
  Buffer(Gpu &gpu, uint64_t bytes,
         VkBufferUsageFlags usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT |
                                    VK_BUFFER_USAGE_TRANSFER_DST_BIT);
  ~Buffer();
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;

  uint64_t handle() const { return reinterpret_cast<uint64_t>(buffer); }
  template <class T>
  T *at(uint64_t offset) const {
    return reinterpret_cast<T *>(static_cast<char *>(mapped) + offset);
  }

  VkBuffer buffer = VK_NULL_HANDLE;
  uint64_t size = 0;
  void *mapped = nullptr;

private:
  Gpu &gpu_;
  VkDeviceMemory memory_ = VK_NULL_HANDLE;
};

class Timeline {
public:
  explicit Timeline(Gpu &gpu);
  ~Timeline();
  Timeline(const Timeline &) = delete;
  Timeline &operator=(const Timeline &) = delete;
  seer_vulkan_semaphore at(uint64_t value) const { return {reinterpret_cast<uint64_t>(semaphore), value}; }
  uint64_t value() const;
  void signal(uint64_t value);

  VkSemaphore semaphore = VK_NULL_HANDLE;

private:
  Gpu &gpu_;
};

// A descriptor pool; none of 0 sets.
class DescriptorPool {
public:
  DescriptorPool(Gpu &gpu, uint32_t sets, uint32_t descriptors);
  ~DescriptorPool();
  DescriptorPool(const DescriptorPool &) = delete;
  DescriptorPool &operator=(const DescriptorPool &) = delete;
  VkDescriptorPool handle = VK_NULL_HANDLE;

private:
  Gpu &gpu_;
};

// One command buffer, recorded by `record` and run to its end.
class Commands {
public:
  explicit Commands(Gpu &gpu);
  ~Commands();
  Commands(const Commands &) = delete;
  Commands &operator=(const Commands &) = delete;
  void begin();
  void barrier();  // all that is before it, for all that follows
  void run();      // ends, submits and waits
  void run_again();

  VkCommandBuffer handle = VK_NULL_HANDLE;

private:
  Gpu &gpu_;
  VkCommandPool pool_ = VK_NULL_HANDLE;
};

}  // namespace foreign
