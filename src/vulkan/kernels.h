// The stages of the Vulkan backend: each records its dispatches and returns.
#pragma once
#include "device.h"

namespace seer::vulkan {

void pool(VulkanDevice &device, Exec &exec, const PoolArgs &args);
void project(VulkanDevice &device, Exec &exec, const ProjectArgs &args);
void score(VulkanDevice &device, Exec &exec, const ScoreArgs &args);
void select(VulkanDevice &device, Exec &exec, const SelectArgs &args);
void attend(VulkanDevice &device, Exec &exec, const AttendArgs &args);
uint64_t select_scratch(const VulkanDevice &device, const SelectArgs &args);
uint64_t attend_scratch(const VulkanDevice &device, const AttendArgs &args);
void pack_mask(VulkanDevice &device, Exec &exec, const MaskBytesArgs &args);
void unpack_mask(VulkanDevice &device, Exec &exec, const MaskBytesArgs &args);

}  // namespace seer::vulkan
