// score, reference.
#include <cmath>
#include <limits>

#include "kernels.h"
#include "ref.h"

namespace seer::cpu {

void score_row(const GateVectors &gate, const Sequence &s, int64_t head, int64_t r, int64_t causal, float *logits) {
  const float *q = gate.q + ((s.q_row + r) * gate.q_heads + head) * gate.dim;
  const int64_t k_head = head * gate.k_heads / gate.q_heads;
  for (int64_t j = 0; j < causal; ++j) {
    const float *k = gate.k + ((s.k_row + j) * gate.k_heads + k_head) * gate.dim;
    float dot = 0.0f;
    for (int64_t d = 0; d < gate.dim; ++d) dot += q[d] * k[d];
    logits[j] = dot * static_cast<float>(gate.scale);
  }
}

void softmax_row(float *x, int64_t n) {
  constexpr float inf = std::numeric_limits<float>::infinity();
  float max = -inf;
  for (int64_t j = 0; j < n; ++j)
    if (x[j] > max) max = x[j];
  float sum = 0.0f;
  for (int64_t j = 0; j < n; ++j) {
    if (std::isnan(x[j]) || x[j] == -inf)
      x[j] = 0.0f;
    else if (max == inf)
      x[j] = x[j] == inf ? 1.0f : 0.0f;
    else
      x[j] = std::exp(x[j] - max);
    sum += x[j];
  }
  if (sum == 0.0f) return;
  for (int64_t j = 0; j < n; ++j) x[j] /= sum;
}

void score_ref(Workers &workers, const ScoreArgs &args) {
  const float outside = args.softmax ? 0.0f : -std::numeric_limits<float>::infinity();
  for (const Sequence &s : args.sequences)
    for (int64_t r = 0; r < s.q_blocks(args.block); ++r) {
      workers.exec.check_cancelled();
      const int64_t causal = causal_blocks(r, s.q_len, s.offset(), args.block);
      for (int64_t h = 0; h < args.gate.q_heads; ++h) {
        float *row = args.scores.at(s.batch, h, s.mask_row + r);
        score_row(args.gate, s, h, r, causal, row);
        if (args.softmax) softmax_row(row, causal);
        std::fill(row + causal, row + args.cols, outside);
      }
      workers.exec.step(1);
    }
}

}  // namespace seer::cpu
