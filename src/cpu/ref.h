// What the reference kernels share: rows of any dtype as f32, and the rotation of RoPE.
#pragma once
#include <algorithm>
#include <vector>

#include "../stages.h"

namespace seer::cpu {

// x[token][head] of a batch as f32.
inline void load_row(const TokenView &x, int64_t batch, int64_t token, int64_t head, float *to) {
  dispatch_float(x.dtype, [&](auto tag) {
    const auto *from = x.at<const decltype(tag)>(batch, token, head);
    for (int64_t d = 0; d < x.dim; ++d) to[d] = to_f32(from[d]);
  });
}

inline void store_row(const TokenView &x, int64_t batch, int64_t token, int64_t head, const float *from) {
  dispatch_float(x.dtype, [&](auto tag) {
    using T = decltype(tag);
    T *to = x.at<T>(batch, token, head);
    for (int64_t d = 0; d < x.dim; ++d) to[d] = from_f32<T>(from[d]);
  });
}

// Rotates x by row `row` of the tables: channel d with channel d + half.
inline void rotate(float *x, const RopeView &rope, int64_t row) {
  if (!rope.inv_freq) return;
  const float *cos = rope.cos + row * rope.half, *sin = rope.sin + row * rope.half;
  for (int64_t d = 0; d < rope.half; ++d) {
    const float a = x[d], b = x[d + rope.half];
    x[d] = a * cos[d] - b * sin[d];
    x[d + rope.half] = b * cos[d] + a * sin[d];
  }
}

// The logits of block row r against its `causal` first key blocks.
void score_row(const GateVectors &gate, const Sequence &sequence, int64_t head, int64_t r, int64_t causal,
               float *logits);
// Softmax in place. NaN counts as -inf; a row of nothing else becomes zeros; +inf shares the probability among its
// like.
void softmax_row(float *x, int64_t n);

}  // namespace seer::cpu
