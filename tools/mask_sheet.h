// The picture of a prefill's block mask: one sheet, a panel per head, kept blocks drawn over the gate's scores.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "picture.h"

namespace seer::tool {

struct MaskSheet {
  std::string title;                        // "SmolLM2, layer 12"
  std::string subtitle;                     // tokens, selection, density
  int64_t batch = 1, heads = 0, group = 1;  // group: query heads per KV head
  int64_t q_len = 0, k_len = 0, block = 64;
  const float *probs = nullptr;   // [batch][heads][q_blocks][k_blocks]
  const uint8_t *mask = nullptr;  // same shape, 0 or 1
};

Picture draw_mask_sheet(const MaskSheet &sheet);

}  // namespace seer::tool
