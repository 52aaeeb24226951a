// Logits for select on cooperative matrices: see shaders/score_split.comp and score_coopmat.comp.
#pragma once
#include <optional>

#include "score.h"

namespace seer::vulkan {

// How score_coopmat.comp is cut; its specialization constants.
struct ScoreTile {
  uint32_t threads = 0, size = 0;  // of a workgroup, of a subgroup
  CoopShape shape;
  uint32_t rows = 0, cols = 0, subgroup_rows = 0, subgroup_cols = 0, depth = 0;
  uint32_t shared_bytes() const;
};

// Nothing: the device or `dim` does not allow it. Depends on nothing else, so that a prompt in chunks is judged by the
// same logits as a whole one.
std::optional<ScoreTile> score_tile(const Caps &caps, int64_t dim);

// Gate vectors of one side of a sequence, taken apart.
uint64_t split_bytes(int64_t vectors, int64_t dim);
void record_split(VulkanDevice &device, Exec &exec, const float *from, int64_t vectors, int64_t dim, void *to,
                  bool beside);

// Like record_logits without `fill`; the columns are key blocks 0 .. cols - 1. split_q has `q_vectors` vectors and
// begins with block row 0 of the sequence, split_k has k_vectors and begins with key block 0.
struct SplitLogits {
  const void *split_q = nullptr, *split_k = nullptr;
  int64_t q_vectors = 0, k_vectors = 0;
};
void record_split_logits(VulkanDevice &device, Exec &exec, const ScoreTile &tile, const Logits &logits,
                         const SplitLogits &split, bool beside);

}  // namespace seer::vulkan
