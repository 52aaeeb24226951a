#version 450
#extension GL_GOOGLE_include_directive : require
// softmax, in place, of rows of logits that score left: over the causal blocks; 0 behind them.
#include "args.h"
#include "causal.glsl"
#include "item.glsl"

layout(local_size_x = kRowThreads) in;
layout(constant_id = 0) const uint CACHED = 0;

layout(push_constant) uniform Push { SoftmaxPush p; };
layout(binding = kSoftmaxScores) restrict buffer Scores { uint scores[]; };
#include "rows.glsl"

void main() {
  uint item;
  if (!find_item(p.first, p.count, item)) return;
  const uint thread = gl_LocalInvocationID.x;
  const uint row = item % p.rows, base = p.scores_skip / 4 + item / p.rows * p.scores_head + row * p.scores_row;
  const uint causal = causal_blocks(p.row + row, p.q_len, p.offset, p.block);

  if (CACHED != 0) {
    for (uint j = thread; j < causal; j += kRowThreads) cache_word(j, scores[base + j]);
    barrier();
  }
  const Softmax s = softmax_of(base, causal);
  for (uint j = thread; j < p.cols; j += kRowThreads)
    scores[base + j] = j < causal ? floatBitsToUint(probability(s, row_word(base, j))) : 0;
}
