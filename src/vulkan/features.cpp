#include "features.h"

#include <algorithm>
#include <cstddef>

#include "../status.h"
#include "extensions.h"

namespace seer::vulkan {
namespace {

// A feature's place in a structure.
struct Field {
  VkStructureType type;
  size_t offset;
  bool Features::*feature;
};

#define SEER_VK_FIELD(TYPE, STRUCT, field, feature) \
  { VkStructureType(TYPE), offsetof(STRUCT, field), &Features::feature }

constexpr auto kCoop2 = 1000593000;

const Field kFields[] = {
    SEER_VK_FIELD(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES, VkPhysicalDeviceVulkan11Features,
                  storageBuffer16BitAccess, storage16),
    SEER_VK_FIELD(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES, VkPhysicalDevice16BitStorageFeatures,
                  storageBuffer16BitAccess, storage16),
    SEER_VK_FIELD(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES, VkPhysicalDeviceVulkan12Features,
                  shaderFloat16, fp16),
    SEER_VK_FIELD(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES, VkPhysicalDeviceVulkan12Features,
                  vulkanMemoryModel, memory_model),
    SEER_VK_FIELD(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES, VkPhysicalDeviceVulkan12Features,
                  vulkanMemoryModelDeviceScope, memory_model_device_scope),
    SEER_VK_FIELD(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES, VkPhysicalDeviceVulkan12Features,
                  timelineSemaphore, timeline),
    SEER_VK_FIELD(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES,
                  VkPhysicalDeviceShaderFloat16Int8Features, shaderFloat16, fp16),
    SEER_VK_FIELD(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_MEMORY_MODEL_FEATURES,
                  VkPhysicalDeviceVulkanMemoryModelFeatures, vulkanMemoryModel, memory_model),
    SEER_VK_FIELD(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_MEMORY_MODEL_FEATURES,
                  VkPhysicalDeviceVulkanMemoryModelFeatures, vulkanMemoryModelDeviceScope, memory_model_device_scope),
    SEER_VK_FIELD(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES,
                  VkPhysicalDeviceTimelineSemaphoreFeatures, timelineSemaphore, timeline),
    SEER_VK_FIELD(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES, VkPhysicalDeviceVulkan13Features,
                  subgroupSizeControl, subgroup_size_control),
    SEER_VK_FIELD(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES, VkPhysicalDeviceVulkan13Features,
                  computeFullSubgroups, full_subgroups),
    SEER_VK_FIELD(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES,
                  VkPhysicalDeviceSubgroupSizeControlFeatures, subgroupSizeControl, subgroup_size_control),
    SEER_VK_FIELD(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES,
                  VkPhysicalDeviceSubgroupSizeControlFeatures, computeFullSubgroups, full_subgroups),
    SEER_VK_FIELD(1000506000, ext::CooperativeMatrixFeatures, cooperativeMatrix, coopmat),
    SEER_VK_FIELD(1000141000, ext::ShaderBfloat16Features, type, bf16),
    SEER_VK_FIELD(1000141000, ext::ShaderBfloat16Features, cooperativeMatrix, bf16_coopmat),
    SEER_VK_FIELD(kCoop2, ext::CooperativeMatrix2Features, workgroupScope, workgroup_scope),
    SEER_VK_FIELD(kCoop2, ext::CooperativeMatrix2Features, flexibleDimensions, flexible_dimensions),
    SEER_VK_FIELD(kCoop2, ext::CooperativeMatrix2Features, reductions, reductions),
    SEER_VK_FIELD(kCoop2, ext::CooperativeMatrix2Features, conversions, conversions),
    SEER_VK_FIELD(kCoop2, ext::CooperativeMatrix2Features, perElementOperations, per_element_operations),
    SEER_VK_FIELD(kCoop2, ext::CooperativeMatrix2Features, tensorAddressing, tensor_addressing),
    SEER_VK_FIELD(kCoop2, ext::CooperativeMatrix2Features, blockLoads, block_loads),
};
#undef SEER_VK_FIELD

// Where a feature comes from: an extension, until a version of Vulkan made it its own (0: none did).
struct Origin {
  bool Features::*feature;
  const char *name;
  const char *extension;
  uint32_t core;
};

const Origin kOrigins[] = {
    {&Features::storage16, "storageBuffer16BitAccess", VK_KHR_16BIT_STORAGE_EXTENSION_NAME, VK_API_VERSION_1_1},
    {&Features::fp16, "shaderFloat16", VK_KHR_SHADER_FLOAT16_INT8_EXTENSION_NAME, VK_API_VERSION_1_2},
    {&Features::memory_model, "vulkanMemoryModel", VK_KHR_VULKAN_MEMORY_MODEL_EXTENSION_NAME, VK_API_VERSION_1_2},
    {&Features::memory_model_device_scope, "vulkanMemoryModelDeviceScope", VK_KHR_VULKAN_MEMORY_MODEL_EXTENSION_NAME,
     VK_API_VERSION_1_2},
    {&Features::timeline, "timelineSemaphore", VK_KHR_TIMELINE_SEMAPHORE_EXTENSION_NAME, VK_API_VERSION_1_2},
    {&Features::subgroup_size_control, "subgroupSizeControl", VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME,
     VK_API_VERSION_1_3},
    {&Features::full_subgroups, "computeFullSubgroups", VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME,
     VK_API_VERSION_1_3},
    {&Features::coopmat, "cooperativeMatrix", ext::kCooperativeMatrix, 0},
    {&Features::bf16, "shaderBFloat16Type", ext::kShaderBfloat16, 0},
    {&Features::bf16_coopmat, "shaderBFloat16CooperativeMatrix", ext::kShaderBfloat16, 0},
    {&Features::workgroup_scope, "cooperativeMatrixWorkgroupScope", ext::kCooperativeMatrix2, 0},
    {&Features::flexible_dimensions, "cooperativeMatrixFlexibleDimensions", ext::kCooperativeMatrix2, 0},
    {&Features::reductions, "cooperativeMatrixReductions", ext::kCooperativeMatrix2, 0},
    {&Features::conversions, "cooperativeMatrixConversions", ext::kCooperativeMatrix2, 0},
    {&Features::per_element_operations, "cooperativeMatrixPerElementOperations", ext::kCooperativeMatrix2, 0},
    {&Features::tensor_addressing, "cooperativeMatrixTensorAddressing", ext::kCooperativeMatrix2, 0},
    {&Features::block_loads, "cooperativeMatrixBlockLoads", ext::kCooperativeMatrix2, 0},
};

bool contains(const std::vector<std::string> &all, const char *name) {
  return std::find(all.begin(), all.end(), name) != all.end();
}

bool is_core(const Origin &origin, uint32_t api_version) { return origin.core && api_version >= origin.core; }

}  // namespace

Features read_features(const void *chain) {
  Features features;
  for (auto *s = static_cast<const VkBaseInStructure *>(chain); s; s = s->pNext)
    for (const Field &field : kFields)
      if (field.type == s->sType &&
          *reinterpret_cast<const VkBool32 *>(reinterpret_cast<const char *>(s) + field.offset))
        features.*field.feature = true;
  return features;
}

void set_features(void *chain, const Features &features) {
  for (auto *s = static_cast<VkBaseOutStructure *>(chain); s; s = s->pNext)
    for (const Field &field : kFields)
      if (field.type == s->sType && features.*field.feature)
        *reinterpret_cast<VkBool32 *>(reinterpret_cast<char *>(s) + field.offset) = VK_TRUE;
}

Features check_enabled(const Enabled &enabled, const Features &offered, const std::vector<std::string> &extensions,
                       uint32_t api_version) {
  for (const std::string &name : enabled.extensions)
    SEER_REQUIRE(contains(extensions, name.c_str()), Status::unsupported,
                 "extensions names %s as enabled, which the device does not offer", name.c_str());
  Features both;
  for (const Origin &origin : kOrigins) {
    if (!(enabled.features.*origin.feature)) continue;
    SEER_REQUIRE(offered.*origin.feature, Status::unsupported,
                 "features has %s as enabled, which the device does not offer", origin.name);
    SEER_REQUIRE(is_core(origin, api_version) || contains(enabled.extensions, origin.extension), Status::unsupported,
                 "features has %s as enabled, but extensions lacks %s", origin.name, origin.extension);
    both.*origin.feature = true;
  }
  return both;
}

const char *external_memory_extension() {
#if defined(_WIN32)
  return ext::kExternalMemoryWin32;
#else
  return VK_KHR_EXTERNAL_MEMORY_FD_EXTENSION_NAME;
#endif
}

std::vector<const char *> extensions_for(const Features &features, uint32_t api_version) {
  std::vector<const char *> names = {VK_KHR_PUSH_DESCRIPTOR_EXTENSION_NAME, external_memory_extension(),
                                     VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME};
  for (const Origin &origin : kOrigins)
    if (features.*origin.feature && !is_core(origin, api_version) &&
        std::find(names.begin(), names.end(), origin.extension) == names.end())
      names.push_back(origin.extension);
  return names;
}

}  // namespace seer::vulkan
