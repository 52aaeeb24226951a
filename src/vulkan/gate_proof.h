// Small problems with known answers for the gate's kernels on cooperative matrices: what one must get right on a device
// before it is used.
#pragma once
#include "project_coopmat.h"
#include "select_coopmat.h"

namespace seer::vulkan {

// Whether the kernel builds and computes what it should. What was found is remembered (Pipelines::judge), a fault
// logged.
bool select_proven(VulkanDevice &device, const SelectTile &tile);
bool project_proven(VulkanDevice &device, const ProjectTile &tile, bool rotates);

}  // namespace seer::vulkan
