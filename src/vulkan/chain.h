// Vulkan's structures that hang off one another.
#pragma once
#include "extensions.h"
#include "loader.h"

namespace seer::vulkan {

template <class Struct>
Struct typed(VkStructureType type) {
  Struct s{};
  s.sType = type;
  return s;
}

// Hangs structures behind a head. They outlive it.
template <class Head>
class Chain {
public:
  explicit Chain(Head &head) : tail_(&head.pNext) {}
  template <class Struct>
  void add(Struct &s) {
    *tail_ = &s;
    tail_ = &s.pNext;
  }

private:
  void **tail_;
};

// The structures that the backend's features stand in (features.h), of those that a device of this version knows with
// these extensions: has(name).
class FeatureChain {
public:
  template <class Has>
  FeatureChain(uint32_t api_version, Has has) {
    const auto core = [&](uint32_t since, const char *extension) { return api_version >= since || has(extension); };
    Chain chain(head);
    chain.add(storage16_);
    if (core(VK_API_VERSION_1_2, VK_KHR_SHADER_FLOAT16_INT8_EXTENSION_NAME)) chain.add(float16_);
    if (core(VK_API_VERSION_1_2, VK_KHR_VULKAN_MEMORY_MODEL_EXTENSION_NAME)) chain.add(memory_model_);
    if (core(VK_API_VERSION_1_2, VK_KHR_TIMELINE_SEMAPHORE_EXTENSION_NAME)) chain.add(timeline_);
    if (core(VK_API_VERSION_1_3, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME)) chain.add(size_control_);
    if (has(ext::kCooperativeMatrix)) chain.add(coop_);
    if (has(ext::kCooperativeMatrix) && has(ext::kCooperativeMatrix2)) chain.add(coop2_);
    if (has(ext::kShaderBfloat16)) chain.add(bfloat16_);
  }
  FeatureChain(const FeatureChain &) = delete;
  FeatureChain &operator=(const FeatureChain &) = delete;

  VkPhysicalDeviceFeatures2 head = typed<VkPhysicalDeviceFeatures2>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2);

private:
  VkPhysicalDevice16BitStorageFeatures storage16_ =
      typed<VkPhysicalDevice16BitStorageFeatures>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES);
  VkPhysicalDeviceShaderFloat16Int8Features float16_ =
      typed<VkPhysicalDeviceShaderFloat16Int8Features>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES);
  VkPhysicalDeviceVulkanMemoryModelFeatures memory_model_ =
      typed<VkPhysicalDeviceVulkanMemoryModelFeatures>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_MEMORY_MODEL_FEATURES);
  VkPhysicalDeviceTimelineSemaphoreFeatures timeline_ =
      typed<VkPhysicalDeviceTimelineSemaphoreFeatures>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES);
  VkPhysicalDeviceSubgroupSizeControlFeatures size_control_ = typed<VkPhysicalDeviceSubgroupSizeControlFeatures>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES);
  ext::CooperativeMatrixFeatures coop_;
  ext::CooperativeMatrix2Features coop2_;
  ext::ShaderBfloat16Features bfloat16_;
};

}  // namespace seer::vulkan
