// A case folder: config.json and gate weights, inputs q k v, and what the original code computes from them in float64.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "tensors.h"

namespace seer::tool {

struct GoldenCase {
  std::string dir, name;
  int layer = 0;
  bool by_threshold = true;  // else nz_ratio
  double threshold = 0;
  double rope_scaling = 1, gate_rope_scaling = 1;
  Qkv inputs;
  // Expectations, f32: [B, Hq, nQ, nK], [B, Hq, S], [B, rows, Hq, D]. Rows that select nothing are NaN in lse and out.
  std::vector<float> gate_logits, gate_probs, lse, out, inv_freq, gate_inv_freq;
  std::vector<uint8_t> block_mask;  // [B, Hq, nQ, nK]
  std::vector<int32_t> out_rows;    // tokens

  int64_t block = 64;
  int64_t blocks() const { return (inputs.tokens() + block - 1) / block; }
};

// Throws naming the file and what is missing, mistyped or misshapen.
GoldenCase load_case(const std::string &dir);

}  // namespace seer::tool
