// The boundary between host code and the attend kernels for everything that the Hopper kernel does not take:
// attend_sm80.cu (tensor cores) and attend_plain.cu (any type, size and alignment). As launch.h: plain structs that
// kernels take by value. Both kernels take the same parameters.
#pragma once
#include <cstdint>

#include "launch.h"

namespace seer::cuda {

constexpr int kAttendRows = 64;  // query rows of a work item

// A grid of `items` blocks of <kernel>_threads threads, <kernel>_shared bytes of dynamic shared memory: both `int`s of
// the kernel's module, for they differ from chip to chip.
//
// Tensors are [batch][token][head][dim] with the strides below, in elements; the channels of a head lie together.
//   attend_sm80_{bf16,f16}_{64,96,128,256}      dim a multiple of 8, at most the kernel's; q, k, v and out, and their
//                                               strides, aligned to 16 bytes
//   attend_plain_{f32,bf16,f16}_{64,128,256}    any dim up to the kernel's, any alignment of whole elements
// Nothing behind the end of a sequence is read, nor blocks that no row of a work item keeps.
struct AttendParams80 {
  const void *q, *k, *v;
  void *out;
  int64_t q_batch, q_token, q_head;
  int64_t k_batch, k_token, k_head;
  int64_t v_batch, v_token, v_head;
  int64_t out_batch, out_token, out_head;
  // Natural-log LSE, f32, -inf for rows that keep nothing. Null: not wanted.
  float *lse;
  int64_t lse_batch, lse_head, lse_token;
  // Block mask (src/block_mask.h), strides in words. Null: dense. Bits outside the causal triangle are ignored.
  const uint32_t *mask;
  int64_t mask_batch, mask_head, mask_row;
  int32_t block_log2;  // 5, 6 or 7
  float scale_log2;    // scale * log2(e), any finite number
  int32_t dim;
  int32_t heads, group;  // query heads; query heads per KV head
  int32_t items, sequences;
  int32_t section;  // KV heads whose items are interleaved, >= 1
  // Sequences with their items: heads * ceil(q_len / kAttendRows); none has 0.
  const AttendSequence *sequence;  // device; null: `only`
  AttendSequence only;
  // Angles, as in PoolParams, for all positions of keys: pairs (cos, sin) of dim / 2 channels. Null: q has its RoPE.
  const float *coarse, *fine;
};

}  // namespace seer::cuda
