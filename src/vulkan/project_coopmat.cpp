#include "project_coopmat.h"

#include <algorithm>

#include "../../shaders/args.h"

namespace seer::vulkan {

uint32_t ProjectTile::shared_bytes() const {
  const uint32_t slices = 3 * rows * (depth / 8 | 1) + depth * (2 * pairs / 8 | 1);
  return 16 * std::max(slices, rows * (2 * pairs / 4 | 1));
}

KernelKey ProjectTile::key(bool rotates) const {
  return {.module = "project_coopmat",
          .constants = {threads, size, shape.m, shape.n, shape.k, rows, pairs, subgroup_rows, subgroup_pairs, depth,
                        uint32_t(rotates)},
          .bindings = 4,
          .push_bytes = sizeof(ProjectPush),
          .subgroup_size = size,
          .full_subgroups = true,
          .shared_bytes = shared_bytes()};
}

std::optional<ProjectTile> project_tile(const Caps &caps, const ProjectArgs &args) {
  if (!caps.coopmat || !caps.bf16_coopmat || !caps.coopmat_project || !caps.fp16 || !caps.subgroup_size_control ||
      !caps.full_subgroups || args.weight.dtype != DType::bf16)
    return std::nullopt;
  const auto divides = [](uint32_t a, int64_t b) { return a > 0 && b % a == 0; };
  for (const CoopShape &shape : caps.coop_shapes) {
    ProjectTile t{.size = caps.subgroup_size,
                  .shape = shape,
                  .rows = 64,
                  .pairs = args.out % 128 == 0 ? 64u : 32u,
                  .subgroup_rows = 32,
                  .subgroup_pairs = 32,
                  .depth = 32};
    t.threads = t.rows / t.subgroup_rows * (t.pairs / t.subgroup_pairs) * t.size;
    if (shape.bf16 && divides(shape.m, t.subgroup_rows) && divides(shape.n, t.subgroup_pairs) &&
        divides(shape.k, t.depth) && divides(8, shape.n) && divides(8, shape.k) && divides(2 * t.pairs, args.out) &&
        divides(t.depth, args.in) && divides(t.threads, t.rows * t.depth / 8) &&
        divides(t.threads, t.depth * t.pairs / 4) && t.threads <= caps.max_invocations &&
        t.shared_bytes() <= caps.max_shared)
      return t;
  }
  return std::nullopt;
}

}  // namespace seer::vulkan
