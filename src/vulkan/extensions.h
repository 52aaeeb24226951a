// Vulkan structures that are newer than the headers of the distributions we build on (Debian 12: 1.3.239). Declared
// under names of our own, so that any header version will do; values are those of the Vulkan registry.
#pragma once
#include "loader.h"

namespace seer::vulkan::ext {

constexpr const char *kCooperativeMatrix = "VK_KHR_cooperative_matrix";
constexpr const char *kCooperativeMatrix2 = "VK_NV_cooperative_matrix2";
constexpr const char *kCooperativeMatrixMaintenance1 = "VK_EXT_cooperative_matrix_maintenance1";
constexpr const char *kShaderBfloat16 = "VK_KHR_shader_bfloat16";

// VkComponentTypeKHR
enum ComponentType : int32_t { kFloat16 = 0, kFloat32 = 1, kBfloat16 = 1000141000 };
// VkScopeKHR
enum Scope : int32_t { kScopeWorkgroup = 2, kScopeSubgroup = 3 };

struct CooperativeMatrixFeatures {
  VkStructureType sType = VkStructureType(1000506000);
  void *pNext = nullptr;
  VkBool32 cooperativeMatrix = VK_FALSE;
  VkBool32 cooperativeMatrixRobustBufferAccess = VK_FALSE;
};
struct CooperativeMatrixProperties {  // an entry of vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR
  VkStructureType sType = VkStructureType(1000506001);
  void *pNext = nullptr;
  uint32_t MSize = 0, NSize = 0, KSize = 0;
  int32_t AType = 0, BType = 0, CType = 0, ResultType = 0;
  VkBool32 saturatingAccumulation = VK_FALSE;
  int32_t scope = 0;
};
struct CooperativeMatrixStages {  // VkPhysicalDeviceCooperativeMatrixPropertiesKHR
  VkStructureType sType = VkStructureType(1000506002);
  void *pNext = nullptr;
  VkShaderStageFlags supportedStages = 0;
};
using GetCooperativeMatrixProperties = VkResult(VKAPI_PTR *)(VkPhysicalDevice, uint32_t *count,
                                                             CooperativeMatrixProperties *);

struct CooperativeMatrix2Features {
  VkStructureType sType = VkStructureType(1000593000);
  void *pNext = nullptr;
  VkBool32 workgroupScope = VK_FALSE;
  VkBool32 flexibleDimensions = VK_FALSE;
  VkBool32 reductions = VK_FALSE;
  VkBool32 conversions = VK_FALSE;
  VkBool32 perElementOperations = VK_FALSE;
  VkBool32 tensorAddressing = VK_FALSE;
  VkBool32 blockLoads = VK_FALSE;
};
struct FlexibleDimensionsProperties {
  VkStructureType sType = VkStructureType(1000593001);
  void *pNext = nullptr;
  uint32_t MGranularity = 0, NGranularity = 0, KGranularity = 0;
  int32_t AType = 0, BType = 0, CType = 0, ResultType = 0;
  VkBool32 saturatingAccumulation = VK_FALSE;
  int32_t scope = 0;
  uint32_t workgroupInvocations = 0;
};
struct CooperativeMatrix2Properties {
  VkStructureType sType = VkStructureType(1000593002);
  void *pNext = nullptr;
  uint32_t workgroupScopeMaxWorkgroupSize = 0;
  uint32_t flexibleDimensionsMaxDimension = 0;
  uint32_t workgroupScopeReservedSharedMemory = 0;
};
using GetFlexibleDimensionsProperties = VkResult(VKAPI_PTR *)(VkPhysicalDevice, uint32_t *count,
                                                              FlexibleDimensionsProperties *);

struct ShaderBfloat16Features {
  VkStructureType sType = VkStructureType(1000141000);
  void *pNext = nullptr;
  VkBool32 type = VK_FALSE;
  VkBool32 dotProduct = VK_FALSE;
  VkBool32 cooperativeMatrix = VK_FALSE;
};

struct CooperativeMatrixMaintenance1Features {
  VkStructureType sType = VkStructureType(1000659000);
  void *pNext = nullptr;
  VkBool32 properties2 = VK_FALSE;
  VkBool32 reductions = VK_FALSE;
  VkBool32 conversions = VK_FALSE;
  VkBool32 perElementOperations = VK_FALSE;
  VkBool32 getCoordinate = VK_FALSE;
};

}  // namespace seer::vulkan::ext
