#include "caps.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "../status.h"
#include "chain.h"

namespace seer::vulkan {
namespace {

std::vector<std::string> device_extensions(const Instance &instance, VkPhysicalDevice device) {
  const InstanceFunctions &fn = instance.fn();
  uint32_t count = 0;
  fn.vkEnumerateDeviceExtensionProperties(device, nullptr, &count, nullptr);
  std::vector<VkExtensionProperties> offered(count);
  fn.vkEnumerateDeviceExtensionProperties(device, nullptr, &count, offered.data());
  offered.resize(count);
  std::vector<std::string> names;
  for (const VkExtensionProperties &e : offered) names.push_back(e.extensionName);
  return names;
}

bool contains(const std::vector<std::string> &all, const char *name) {
  return std::find(all.begin(), all.end(), name) != all.end();
}

uint32_t rank(const CoopShape &s) {
  const auto is = [&](uint32_t m, uint32_t n, uint32_t k) { return s.m == m && s.n == n && s.k == k; };
  if (is(16, 16, 16)) return 0;
  if (is(8, 16, 16)) return 1;  // Intel Xe2
  if (is(8, 8, 16)) return 2;   // Intel Xe
  if (is(16, 8, 16)) return 3;
  if (is(8, 8, 8)) return 4;
  return 5;
}

void query_coopmat(const Instance &instance, VkPhysicalDevice device, bool second, Caps &caps) {
  const auto list = reinterpret_cast<ext::GetCooperativeMatrixProperties>(
      instance.proc("vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR"));
  uint32_t count = 0;
  if (!list || list(device, &count, nullptr) != VK_SUCCESS) {
    caps.coopmat = false;
    return;
  }
  std::vector<ext::CooperativeMatrixProperties> entries(count);
  list(device, &count, entries.data());
  entries.resize(count);
  for (const auto &e : entries) {
    const bool f32 = e.CType == ext::kFloat32 && e.ResultType == ext::kFloat32;
    const bool f16 = e.AType == ext::kFloat16 && e.BType == ext::kFloat16;
    const bool bf16 = e.AType == ext::kBfloat16 && e.BType == ext::kBfloat16 && caps.bf16_coopmat;
    if (e.scope == ext::kScopeSubgroup && f32 && (f16 || bf16) && !e.saturatingAccumulation)
      caps.coop_shapes.push_back({e.MSize, e.NSize, e.KSize, bf16});
  }
  for (CoopShape &s : caps.coop_shapes) {
    s.f16_accumulators = std::any_of(entries.begin(), entries.end(), [&](const ext::CooperativeMatrixProperties &e) {
      return e.scope == ext::kScopeSubgroup && e.MSize == s.m && e.NSize == s.n &&
             (e.CType == ext::kFloat16 || e.ResultType == ext::kFloat16);
    });
    s.f16_sums = std::any_of(entries.begin(), entries.end(), [&](const ext::CooperativeMatrixProperties &e) {
      return !s.bf16 && e.scope == ext::kScopeSubgroup && e.AType == ext::kFloat16 && e.BType == ext::kFloat16 &&
             e.CType == ext::kFloat16 && e.ResultType == ext::kFloat16 && !e.saturatingAccumulation && e.MSize == s.m &&
             e.NSize == s.n && e.KSize == s.k;
    });
  }
  std::stable_sort(caps.coop_shapes.begin(), caps.coop_shapes.end(),
                   [](const CoopShape &a, const CoopShape &b) { return rank(a) < rank(b); });
  if (!second) return;
  const auto flexible = reinterpret_cast<ext::GetFlexibleDimensionsProperties>(
      instance.proc("vkGetPhysicalDeviceCooperativeMatrixFlexibleDimensionsPropertiesNV"));
  if (!flexible || flexible(device, &count, nullptr) != VK_SUCCESS) return;
  std::vector<ext::FlexibleDimensionsProperties> sizes(count);
  flexible(device, &count, sizes.data());
  sizes.resize(count);
  for (const auto &e : sizes) {
    const bool f32 = e.CType == ext::kFloat32 && e.ResultType == ext::kFloat32;
    const bool f16 = e.AType == ext::kFloat16 && e.BType == ext::kFloat16;
    const bool bf16 = e.AType == ext::kBfloat16 && e.BType == ext::kBfloat16 && caps.bf16_coopmat;
    if (f32 && (f16 || bf16) && !e.saturatingAccumulation)
      caps.coop_flexible.push_back({e.MGranularity, e.NGranularity, e.KGranularity, bf16,
                                    e.scope == ext::kScopeWorkgroup, e.workgroupInvocations});
  }
}

}  // namespace

Features offered_features(const Instance &instance, VkPhysicalDevice device,
                          const std::vector<std::string> &extensions) {
  VkPhysicalDeviceProperties plain;
  instance.fn().vkGetPhysicalDeviceProperties(device, &plain);
  const uint32_t version = std::min(plain.apiVersion, instance.api_version());
  FeatureChain features(version, [&](const char *name) { return contains(extensions, name); });
  instance.fn().vkGetPhysicalDeviceFeatures2(device, &features.head);
  return read_features(&features.head);
}

Caps query_caps(const Instance &instance, VkPhysicalDevice device, std::vector<std::string> *extensions,
                const Enabled *enabled) {
  const InstanceFunctions &fn = instance.fn();
  const std::vector<std::string> offered = device_extensions(instance, device);
  if (extensions) *extensions = offered;
  const auto has = [&](const char *name) { return contains(enabled ? enabled->extensions : offered, name); };
  // Properties can be asked for whatever is enabled.
  const auto offers = [&](const char *name) { return contains(offered, name); };

  Caps caps;
  VkPhysicalDeviceProperties plain;
  fn.vkGetPhysicalDeviceProperties(device, &plain);
  caps.api_version = std::min(plain.apiVersion, instance.api_version());
  const auto core = [&](uint32_t version, const char *extension) {
    return caps.api_version >= version || has(extension);
  };

  const bool has_coopmat = has(ext::kCooperativeMatrix), has_coopmat2 = has_coopmat && has(ext::kCooperativeMatrix2);
  const bool has_control = core(VK_API_VERSION_1_3, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME);
  const bool has_driver = caps.api_version >= VK_API_VERSION_1_2 || offers(VK_KHR_DRIVER_PROPERTIES_EXTENSION_NAME);
  const bool has_sm = offers(VK_NV_SHADER_SM_BUILTINS_EXTENSION_NAME),
             has_amd = offers("VK_AMD_shader_core_properties2");

  // Properties.
  auto properties = typed<VkPhysicalDeviceProperties2>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2);
  auto id = typed<VkPhysicalDeviceIDProperties>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_ID_PROPERTIES);
  auto maintenance3 =
      typed<VkPhysicalDeviceMaintenance3Properties>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES);
  auto subgroup = typed<VkPhysicalDeviceSubgroupProperties>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES);
  auto driver = typed<VkPhysicalDeviceDriverProperties>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES);
  auto control = typed<VkPhysicalDeviceSubgroupSizeControlProperties>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES);
  auto sm = typed<VkPhysicalDeviceShaderSMBuiltinsPropertiesNV>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_SM_BUILTINS_PROPERTIES_NV);
  auto amd =
      typed<VkPhysicalDeviceShaderCoreProperties2AMD>(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_CORE_PROPERTIES_2_AMD);
  auto dot = typed<VkPhysicalDeviceShaderIntegerDotProductProperties>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_PROPERTIES);
  ext::CooperativeMatrixStages coop_stages;
  ext::CooperativeMatrix2Properties coop2;
  const bool has_host = has(VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME);
  auto host = typed<VkPhysicalDeviceExternalMemoryHostPropertiesEXT>(
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_MEMORY_HOST_PROPERTIES_EXT);
  Chain property_chain(properties);
  if (has_host) property_chain.add(host);
  property_chain.add(id);
  property_chain.add(maintenance3);
  property_chain.add(subgroup);
  if (has_driver) property_chain.add(driver);
  if (has_control) property_chain.add(control);
  if (has_sm) property_chain.add(sm);
  if (has_amd) property_chain.add(amd);
  if (caps.api_version >= VK_API_VERSION_1_3) property_chain.add(dot);
  if (has_coopmat) property_chain.add(coop_stages);
  if (has_coopmat2) property_chain.add(coop2);
  fn.vkGetPhysicalDeviceProperties2(device, &properties);

  Features features = offered_features(instance, device, offered);
  if (enabled) features = check_enabled(*enabled, features, offered, caps.api_version);

  caps.vendor_id = plain.vendorID;
  caps.device_id = plain.deviceID;
  caps.driver_version = plain.driverVersion;
  caps.driver_id = uint32_t(driver.driverID);
  caps.type = plain.deviceType;
  caps.name = plain.deviceName;
  caps.driver = has_driver ? driver.driverName : "unknown driver";
  if (driver.driverInfo[0]) caps.driver += std::string(" ") + driver.driverInfo;
  std::memcpy(caps.device_uuid, id.deviceUUID, sizeof caps.device_uuid);
  std::memcpy(caps.driver_uuid, id.driverUUID, sizeof caps.driver_uuid);
  std::memcpy(caps.cache_uuid, plain.pipelineCacheUUID, sizeof caps.cache_uuid);

  const VkPhysicalDeviceLimits &limits = plain.limits;
  caps.max_shared = limits.maxComputeSharedMemorySize;
  caps.max_invocations = std::min(limits.maxComputeWorkGroupInvocations, limits.maxComputeWorkGroupSize[0]);
  caps.max_groups_x = limits.maxComputeWorkGroupCount[0];
  caps.max_groups_y = limits.maxComputeWorkGroupCount[1];
  caps.max_bindings = std::min(
      {limits.maxPerStageDescriptorStorageBuffers, limits.maxDescriptorSetStorageBuffers, limits.maxPerStageResources});
  caps.max_push = limits.maxPushConstantsSize;
  caps.max_range = limits.maxStorageBufferRange;
  caps.max_allocation = maintenance3.maxMemoryAllocationSize;
  caps.offset_alignment = uint32_t(std::max<VkDeviceSize>(4, limits.minStorageBufferOffsetAlignment));
  caps.timestamp_ns = limits.timestampPeriod;
  caps.warps_per_core = has_sm ? sm.shaderWarpsPerSM : 0;
  caps.mixed_dot = dot.integerDotProduct4x8BitPackedMixedSignednessAccelerated;
  caps.cores = has_sm ? sm.shaderSMCount : has_amd ? amd.activeComputeUnitCount : 0;

  VkPhysicalDeviceMemoryProperties memory;
  fn.vkGetPhysicalDeviceMemoryProperties(device, &memory);
  bool all_local = true;
  for (uint32_t i = 0; i < memory.memoryHeapCount; i++) {
    const bool local = memory.memoryHeaps[i].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT;
    if (local) caps.heap_bytes = std::max<uint64_t>(caps.heap_bytes, memory.memoryHeaps[i].size);
    all_local &= local;
  }
  caps.unified_memory = all_local || plain.deviceType == VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU || caps.software();

  caps.subgroup_size = caps.min_subgroup_size = caps.max_subgroup_size = subgroup.subgroupSize;
  if (subgroup.supportedStages & VK_SHADER_STAGE_COMPUTE_BIT) caps.subgroup_ops = subgroup.supportedOperations;
  if (has_control && features.subgroup_size_control) {
    caps.subgroup_size_control = control.requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT;
    caps.full_subgroups = features.full_subgroups;
    caps.min_subgroup_size = control.minSubgroupSize;
    caps.max_subgroup_size = control.maxSubgroupSize;
  }
  caps.fp16 = features.fp16;
  caps.storage16 = features.storage16;
  // Atomics are of device scope, which is a feature of its own once the memory model is on.
  caps.memory_model = features.memory_model && features.memory_model_device_scope;
  caps.timeline = features.timeline;
  caps.external = has(external_memory_extension());
  caps.host_alignment = has_host ? host.minImportedHostPointerAlignment : 0;
  caps.push_descriptor = has(VK_KHR_PUSH_DESCRIPTOR_EXTENSION_NAME);

  caps.bf16_coopmat = features.bf16 && features.bf16_coopmat;
  caps.coopmat = has_coopmat && features.coopmat && (coop_stages.supportedStages & VK_SHADER_STAGE_COMPUTE_BIT) &&
                 caps.memory_model;
  if (caps.coopmat) {
    query_coopmat(instance, device, has_coopmat2, caps);
    caps.coopmat2_flexible = features.flexible_dimensions;
    caps.coopmat2_reductions = features.reductions;
    caps.coopmat2_conversions = features.conversions;
    caps.coopmat2_per_element = features.per_element_operations;
    caps.coopmat2_workgroup = features.workgroup_scope;
    caps.coopmat2_tensor = features.tensor_addressing;
    caps.coopmat2_block_loads = features.block_loads;
    caps.coopmat2_max_dimension = coop2.flexibleDimensionsMaxDimension;
    caps.coopmat2_max_workgroup = coop2.workgroupScopeMaxWorkgroupSize;
    caps.coopmat2_reserved_shared = coop2.workgroupScopeReservedSharedMemory;
  }
  return caps;
}

namespace {

// The value of SEER_VK_<name>, or fallback where it is not set.
double number(const char *name, double fallback) {
  const std::string variable = std::string("SEER_VK_") + name;
  const char *text = std::getenv(variable.c_str());
  if (!text || !*text) return fallback;
  char *end = nullptr;
  const double value = std::strtod(text, &end);
  SEER_REQUIRE(end && *end == 0 && value >= 0, Status::invalid_argument, "%s is '%s'; expected a number of at least 0",
               variable.c_str(), text);
  return value;
}

template <class T>
void shrink(const char *name, T &limit) {
  limit = static_cast<T>(std::min(number(name, double(limit)), double(limit)));
}
void take_away(const char *name, bool &feature) { feature = feature && number(name, 1) != 0; }

}  // namespace

void override_caps(Caps &caps) {
  shrink("MAX_SHARED", caps.max_shared);
  shrink("MAX_INVOCATIONS", caps.max_invocations);
  shrink("MAX_GROUPS_X", caps.max_groups_x);
  shrink("MAX_GROUPS_Y", caps.max_groups_y);
  shrink("MAX_BINDINGS", caps.max_bindings);
  shrink("MAX_PUSH", caps.max_push);
  shrink("MAX_RANGE", caps.max_range);
  shrink("MAX_ALLOCATION", caps.max_allocation);
  take_away("UNIFIED_MEMORY", caps.unified_memory);
  take_away("SUBGROUP_SIZE_CONTROL", caps.subgroup_size_control);
  take_away("FULL_SUBGROUPS", caps.full_subgroups);
  if (number("SUBGROUP_OPS", 1) == 0) caps.subgroup_ops = 0;
  take_away("FP16", caps.fp16);
  take_away("STORAGE16", caps.storage16);
  take_away("MEMORY_MODEL", caps.memory_model);
  take_away("PUSH_DESCRIPTOR", caps.push_descriptor);
  take_away("COOPMAT", caps.coopmat);
  caps.coopmat = caps.coopmat && caps.memory_model;
  take_away("BF16_COOPMAT", caps.bf16_coopmat);
  take_away("COOPMAT_SCORE", caps.coopmat_score);
  take_away("COOPMAT_PROJECT", caps.coopmat_project);
  take_away("COOPMAT_SELECT", caps.coopmat_select);
  take_away("COOPMAT2_FLEXIBLE", caps.coopmat2_flexible);
  take_away("COOPMAT2_WORKGROUP", caps.coopmat2_workgroup);
  take_away("COOPMAT2_TENSOR", caps.coopmat2_tensor);
  if (!caps.coopmat) take_coopmat_away(caps);
  if (const char *tier = std::getenv("SEER_VK_TIER"); tier && *tier) {
    constexpr const char *kNames[] = {"scalar", "coopmat", "flexible"};
    const auto *named =
        std::find_if(std::begin(kNames), std::end(kNames), [&](auto n) { return !std::strcmp(n, tier); });
    SEER_REQUIRE(named != std::end(kNames), Status::invalid_argument,
                 "SEER_VK_TIER is '%s'; expected scalar, coopmat or flexible", tier);
    caps.tier = std::min(caps.tier, AttendTier(named - std::begin(kNames)));
  }
  if (!caps.bf16_coopmat) {
    std::erase_if(caps.coop_shapes, [](const CoopShape &s) { return s.bf16; });
    std::erase_if(caps.coop_flexible, [](const CoopFlexible &s) { return s.bf16; });
  }
  // Not limits of the device but choices: any value will do.
  caps.offset_alignment = std::max(caps.offset_alignment, uint32_t(number("OFFSET_ALIGNMENT", caps.offset_alignment)));
  SEER_REQUIRE((caps.offset_alignment & (caps.offset_alignment - 1)) == 0, Status::invalid_argument,
               "SEER_VK_OFFSET_ALIGNMENT is %u; expected a power of two", caps.offset_alignment);
  caps.cores = uint32_t(number("CORES", caps.cores));
  if (number("TIMESTAMPS", 1) == 0) caps.timestamp_ns = 0;
  if (number("HOST_POINTERS", 1) == 0) caps.host_alignment = 0;
  caps.submit_ms = number("SUBMIT_MS", caps.submit_ms);
  caps.chunk_items = uint32_t(number("CHUNK_ITEMS", caps.chunk_items));
  caps.f16_sums = number("F16_SUMS", caps.f16_sums) != 0;
}

void take_coopmat_away(Caps &caps) {
  caps.coopmat = caps.bf16_coopmat = false;
  caps.coop_shapes.clear();
  caps.coop_flexible.clear();
  caps.coopmat2_flexible = caps.coopmat2_reductions = caps.coopmat2_conversions = caps.coopmat2_per_element =
      caps.coopmat2_workgroup = caps.coopmat2_tensor = caps.coopmat2_block_loads = false;
}

std::string refusal(const Caps &caps) {
  const auto lacks = [](const char *what, uint64_t has, uint64_t needs) {
    return std::string(what) + ": " + std::to_string(has) + " of at least " + std::to_string(needs);
  };
  if (caps.max_bindings < 8) return lacks("storage buffers of a kernel", caps.max_bindings, 8);
  if (caps.max_invocations < 128) return lacks("invocations of a workgroup", caps.max_invocations, 128);
  if (caps.max_shared < 16384) return lacks("bytes of shared memory", caps.max_shared, 16384);
  if (caps.max_push < 128) return lacks("bytes of push constants", caps.max_push, 128);
  return {};
}

}  // namespace seer::vulkan
