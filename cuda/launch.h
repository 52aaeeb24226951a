// The boundary between kernels and host code: plain structs that kernels take by value, and what a launch must know.
// Included by both sides; no CUDA type but CUtensorMap appears in it.
#pragma once
#include <cstdint>

namespace seer::cuda {

// A sequence of a batch (see Sequence in src/stages.h, whose fields these are), with its place in the list of work.
struct AttendSequence {
  int32_t batch, q_begin, q_len, k_begin, k_len;
  int32_t mask_row;
  int32_t first_item;  // work items of the sequences before it
  int32_t items;       // its own: heads * ceil(ceil(q_len / 64) / rows per item)
};

struct AttendParams {
  // Output [batch][token][head][dim], rows aligned to 16 bytes; strides in elements.
  void *out;
  int64_t out_batch, out_token, out_head;
  // Natural-log LSE, f32, -inf for rows that keep nothing. Null: not wanted.
  float *lse;
  int64_t lse_batch, lse_head, lse_token;
  // Block mask (src/block_mask.h), strides in words. Null: dense. Bits outside the causal triangle are ignored.
  const uint32_t *mask;
  int64_t mask_batch, mask_head, mask_row;
  int32_t mask_shift;    // 0: blocks of 64, 1: blocks of 128
  float scale_log2;      // scale * log2(e), > 0; for a scale of 0 the host passes 1e-30, for -inf * 0 is no mask
  int32_t heads, group;  // query heads; query heads per KV head
  int32_t list_words;    // words of the longest row, in blocks of 64
  int32_t items, sequences;
  int32_t section;      // KV heads whose items are interleaved, >= 1
  int32_t heads_first;  // 0: the rows of an item are consecutive rows of one head; 1: heads of a group, then rows
  const AttendSequence *sequence;  // device; null: `only`
  AttendSequence only;
  uint32_t *counter;  // device, two words, 0 before the launch; 0 again after it
  uint64_t *clocks;   // device, null or 2 words: adds SM clocks and nanoseconds that the first block of threads ran
};

}  // namespace seer::cuda
