// project on cooperative matrices: see shaders/project_coopmat.comp.
#pragma once
#include <optional>

#include "../stages.h"
#include "caps.h"
#include "pipelines.h"

namespace seer::vulkan {

// How the kernel is cut; its specialization constants.
struct ProjectTile {
  uint32_t threads = 0, size = 0;  // of a workgroup, of a subgroup
  CoopShape shape;
  uint32_t rows = 0, pairs = 0, subgroup_rows = 0, subgroup_pairs = 0, depth = 0;
  uint32_t shared_bytes() const;
  KernelKey key(bool rotates) const;
};

// Nothing: the device does not allow it, or the matrices are not in bf16 or of odd sizes. What it reads and writes must
// begin at multiples of 16 bytes.
std::optional<ProjectTile> project_tile(const Caps &caps, const ProjectArgs &args);

}  // namespace seer::vulkan
