// The features that the backend can use, wherever in a VkPhysicalDeviceFeatures2 chain they stand: most have a
// structure of their own and one of a Vulkan version's.
#pragma once
#include <string>
#include <vector>

#include "loader.h"

namespace seer::vulkan {

struct Features {
  bool storage16 = false, fp16 = false;
  bool memory_model = false, memory_model_device_scope = false;
  bool subgroup_size_control = false, full_subgroups = false;
  bool timeline = false;
  bool coopmat = false, bf16 = false, bf16_coopmat = false;
  bool workgroup_scope = false, flexible_dimensions = false, reductions = false, conversions = false;
  bool per_element_operations = false, tensor_addressing = false, block_loads = false;
};

// What a caller says was enabled on a device: nobody else can be asked.
struct Enabled {
  std::vector<std::string> extensions;
  Features features;
};

// Those that are set in any structure of the chain.
Features read_features(const void *chain);
// Sets them in the structures of the chain that have a place for them.
void set_features(void *chain, const Features &features);
// Throws unsupported, naming the first feature or extension that `enabled` has and the device has not, or whose
// extension is not enabled with it; else returns what of `offered` is enabled. `extensions` are the device's.
Features check_enabled(const Enabled &enabled, const Features &offered, const std::vector<std::string> &extensions,
                       uint32_t api_version);
// By which memory is shared on this system.
const char *external_memory_extension();
// The extensions that these features need with this version of Vulkan, and those that are of use by themselves.
std::vector<const char *> extensions_for(const Features &features, uint32_t api_version);

}  // namespace seer::vulkan
