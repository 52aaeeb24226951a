#include "foreign.h"

#include <chrono>
#include <cstdlib>
#include <thread>
#include <utility>

namespace foreign {
namespace {

void good(VkResult result) { REQUIRE(result == VK_SUCCESS); }

}  // namespace

bool Gpu::validated() {
  const char *value = std::getenv("SEER_VK_VALIDATE");
  return value && std::atoi(value) > 0;
}

VKAPI_ATTR VkBool32 VKAPI_CALL Gpu::message(VkDebugUtilsMessageSeverityFlagBitsEXT, VkDebugUtilsMessageTypeFlagsEXT,
                                            const VkDebugUtilsMessengerCallbackDataEXT *data, void *user) {
  auto &self = *static_cast<Gpu *>(user);
  const std::lock_guard lock(self.message_mutex_);
  self.messages_ += std::string(data->pMessage) + "\n";
  return VK_FALSE;
}

Gpu::Gpu(const Wish &wish) : OwnDevice(wish.api_version) {
  load();
  const char *layer = "VK_LAYER_KHRONOS_validation";
  const char *instance_extensions[] = {VK_EXT_DEBUG_UTILS_EXTENSION_NAME, VK_EXT_VALIDATION_FEATURES_EXTENSION_NAME};
  const VkValidationFeatureEnableEXT hazards = VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT;
  VkValidationFeaturesEXT validation = {};
  validation.sType = VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT;
  validation.enabledValidationFeatureCount = 1;
  validation.pEnabledValidationFeatures = &hazards;
  VkInstanceCreateInfo info = {};
  if (validated()) {
    info.pNext = &validation;
    info.enabledLayerCount = 1;
    info.ppEnabledLayerNames = &layer;
    info.enabledExtensionCount = 2;
    info.ppEnabledExtensionNames = instance_extensions;
  }
  make_instance(info);
#define FOREIGN_LOAD(name) fn.name = get<PFN_##name>(#name);
  FOREIGN_FUNCTIONS(FOREIGN_LOAD)
  if (validated()) {
    VkDebugUtilsMessengerCreateInfoEXT messenger = {};
    messenger.sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT;
    messenger.messageSeverity =
        VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT;
    messenger.messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT;
    messenger.pfnUserCallback = message;
    messenger.pUserData = this;
    good(get<PFN_vkCreateDebugUtilsMessengerEXT>("vkCreateDebugUtilsMessengerEXT")(instance, &messenger, nullptr,
                                                                                   &messenger_));
  }
  pick();
  if (wish.recommended) recommend(seer_vulkan_recommend);
  make_device();
  fn.vkGetDeviceQueue(device, family, 0, &queue);
}

Gpu::~Gpu() {
  fn.vkDestroyDevice(device, nullptr);
  if (messenger_)
    get<PFN_vkDestroyDebugUtilsMessengerEXT>("vkDestroyDebugUtilsMessengerEXT")(instance, messenger_, nullptr);
  fn.vkDestroyInstance(instance, nullptr);
  CHECK_MESSAGE(messages_.empty(), messages_);
}

std::string Gpu::take_messages() {
  const std::lock_guard lock(message_mutex_);
  return std::exchange(messages_, {});
}

seer_vulkan_import Gpu::import() {
  seer_vulkan_import i = OwnDevice::import();
  i.lock_queue = [](void *user) {
    auto &gpu = *static_cast<Gpu *>(user);
    gpu.queue_mutex.lock();
    gpu.locks++;
  };
  i.unlock_queue = [](void *user) { static_cast<Gpu *>(user)->queue_mutex.unlock(); };
  i.user = this;
  i.release = [](void *user) { static_cast<Gpu *>(user)->released++; };
  return i;
}

seer_context *Gpu::context(const seer_context_params *params) {
  const seer_vulkan_import i = import();
  seer_context *ctx = nullptr;
  const seer_status status = seer_vulkan_context_create(params, &i, &ctx);
  INFO(std::string(seer_last_error()));
  REQUIRE(status == SEER_OK);
  return ctx;
}

void Gpu::wait_for_release(int contexts) {
  for (int i = 0; released < contexts && i < 1000; i++) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  REQUIRE(released == contexts);
}

Buffer::Buffer(Gpu &gpu, uint64_t bytes, VkBufferUsageFlags usage) : size(bytes), gpu_(gpu) {
  VkBufferCreateInfo info = {};
  info.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO;
  info.size = bytes;
  info.usage = usage;
  good(gpu.fn.vkCreateBuffer(gpu.device, &info, nullptr, &buffer));
  VkMemoryRequirements needs;
  gpu.fn.vkGetBufferMemoryRequirements(gpu.device, buffer, &needs);
  VkPhysicalDeviceMemoryProperties properties;
  gpu.fn.vkGetPhysicalDeviceMemoryProperties(gpu.physical, &properties);
  constexpr VkMemoryPropertyFlags host = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
  VkMemoryAllocateInfo allocation = {};
  allocation.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO;
  allocation.allocationSize = needs.size;
  while (!(needs.memoryTypeBits >> allocation.memoryTypeIndex & 1) ||
         (properties.memoryTypes[allocation.memoryTypeIndex].propertyFlags & host) != host)
    REQUIRE(++allocation.memoryTypeIndex < properties.memoryTypeCount);
  good(gpu.fn.vkAllocateMemory(gpu.device, &allocation, nullptr, &memory_));
  good(gpu.fn.vkBindBufferMemory(gpu.device, buffer, memory_, 0));
  good(gpu.fn.vkMapMemory(gpu.device, memory_, 0, VK_WHOLE_SIZE, 0, &mapped));
}

Buffer::~Buffer() {
  gpu_.fn.vkDestroyBuffer(gpu_.device, buffer, nullptr);
  gpu_.fn.vkFreeMemory(gpu_.device, memory_, nullptr);
}

Timeline::Timeline(Gpu &gpu) : gpu_(gpu) {
  VkSemaphoreTypeCreateInfo type = {};
  type.sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO;
  type.semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE;
  VkSemaphoreCreateInfo info = {};
  info.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO;
  info.pNext = &type;
  good(gpu.fn.vkCreateSemaphore(gpu.device, &info, nullptr, &semaphore));
}

Timeline::~Timeline() { gpu_.fn.vkDestroySemaphore(gpu_.device, semaphore, nullptr); }

uint64_t Timeline::value() const {
  uint64_t value = 0;
  good(gpu_.fn.vkGetSemaphoreCounterValue(gpu_.device, semaphore, &value));
  return value;
}

void Timeline::signal(uint64_t value) {
  VkSemaphoreSignalInfo info = {};
  info.sType = VK_STRUCTURE_TYPE_SEMAPHORE_SIGNAL_INFO;
  info.semaphore = semaphore;
  info.value = value;
  good(gpu_.fn.vkSignalSemaphore(gpu_.device, &info));
}

DescriptorPool::DescriptorPool(Gpu &gpu, uint32_t sets, uint32_t descriptors) : gpu_(gpu) {
  if (sets == 0) return;
  const VkDescriptorPoolSize size = {VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, descriptors};
  VkDescriptorPoolCreateInfo info = {};
  info.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO;
  info.maxSets = sets;
  info.poolSizeCount = 1;
  info.pPoolSizes = &size;
  good(gpu.fn.vkCreateDescriptorPool(gpu.device, &info, nullptr, &handle));
}

DescriptorPool::~DescriptorPool() { gpu_.fn.vkDestroyDescriptorPool(gpu_.device, handle, nullptr); }

Commands::Commands(Gpu &gpu) : gpu_(gpu) {
  VkCommandPoolCreateInfo info = {};
  info.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO;
  info.flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT;
  info.queueFamilyIndex = gpu.family;
  good(gpu.fn.vkCreateCommandPool(gpu.device, &info, nullptr, &pool_));
  VkCommandBufferAllocateInfo allocation = {};
  allocation.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO;
  allocation.commandPool = pool_;
  allocation.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY;
  allocation.commandBufferCount = 1;
  good(gpu.fn.vkAllocateCommandBuffers(gpu.device, &allocation, &handle));
}

Commands::~Commands() { gpu_.fn.vkDestroyCommandPool(gpu_.device, pool_, nullptr); }

void Commands::begin() {
  VkCommandBufferBeginInfo info = {};
  info.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO;
  good(gpu_.fn.vkBeginCommandBuffer(handle, &info));
}

void Commands::barrier() {
  VkMemoryBarrier memory = {};
  memory.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER;
  memory.srcAccessMask = VK_ACCESS_MEMORY_WRITE_BIT;
  memory.dstAccessMask = VK_ACCESS_MEMORY_READ_BIT | VK_ACCESS_MEMORY_WRITE_BIT;
  gpu_.fn.vkCmdPipelineBarrier(handle, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT,
                               VK_PIPELINE_STAGE_ALL_COMMANDS_BIT | VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &memory, 0,
                               nullptr, 0, nullptr);
}

void Commands::run() {
  barrier();
  good(gpu_.fn.vkEndCommandBuffer(handle));
  run_again();
}

void Commands::run_again() {
  VkSubmitInfo info = {};
  info.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO;
  info.commandBufferCount = 1;
  info.pCommandBuffers = &handle;
  const std::lock_guard lock(gpu_.queue_mutex);
  good(gpu_.fn.vkQueueSubmit(gpu_.queue, 1, &info, VK_NULL_HANDLE));
  good(gpu_.fn.vkQueueWaitIdle(gpu_.queue));
}

}  // namespace foreign
