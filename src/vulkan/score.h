// What score and select share: logits of some block rows, and the kernels' choice of how much of a row to keep in
// shared memory.
#pragma once
#include "../../shaders/args.h"
#include "kernels.h"
#include "pieces.h"

namespace seer::vulkan {

// Logits of some block rows of some heads of a sequence against key blocks 0 .. cols - 1, to `to`, which points to the
// first row of the first head. `fill`: -inf outside the causal triangle, which else is not written.
struct Logits {
  const GateVectors &gate;
  const Sequence &sequence;
  int64_t block = 0;
  Piece rows;
  int64_t cols = 0;
  float *to = nullptr;
  int64_t stride_head = 0, stride_row = 0;
  bool fill = false;
};

// Records them. `beside` as of Work, for the first dispatch; the others are beside it.
void record_logits(VulkanDevice &device, Exec &exec, const Logits &logits, bool beside);

// The scores of a row that a kernel of rows keeps in shared memory: at least `cols`, or 0 where they do not fit.
uint32_t cached_scores(const Caps &caps, int64_t cols);

}  // namespace seer::vulkan
