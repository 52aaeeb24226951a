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
  int32_t items;       // its own: heads * (ceil(ceil(q_len / 64) / rows per item) + split - 1)
};

// attend_{bf16,f16}_{64,128}: a grid of min(SMs, items) blocks of 512 threads; dynamic shared memory as the symbol
// <name>_shared says, plus 4 * (8 * list_words + 1) bytes. Three tensor maps come before these parameters: q, k and v,
// each of dimensions (64, tokens, dim / 64, heads, batch), boxes of (64, 64, dim / 64, 1, 1), 128-byte swizzle. It
// may be launched with programmatic stream serialization: nothing is read before the grids ahead of it are done. The
// lists of a sequence must fit in shared memory, which they do up to a million tokens.
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
  // The last rows of a head are often the longest by far, and a few heads are too few to keep the device busy beside
  // them: the first item of each head may be walked in `split` parts, each by a block of threads of its own. 1: it is
  // not.
  int32_t split;
  float *partial;     // device: kAttendPartial for each part, group and first item; null if split is 1
  uint32_t *counter;  // device, kAttendCounters words, 0 before the launch; 0 again after it
  uint64_t *clocks;   // device, null or 2 words: adds SM clocks and nanoseconds that the first block of threads ran
  // Angles, as in PoolParams below, for all positions of keys. Null: q has its RoPE.
  const float *coarse, *fine;
};

constexpr int kAttendGroups = 3;      // rows of 64 tokens of an item
constexpr int kAttendCounters = 512;  // two, and one for each group of a first item that is split
constexpr int kAttendPartial[2] = {128 * (64 / 2 + 4), 128 * (128 / 2 + 4)};  // floats; of 64 and of 128 channels

// pool_{bf16,f16}_{64,128} of pool.cu, pool_rotate_{bf16,f16}_{64,128} of pool_rotate.cu if a side is to be rotated: a
// grid of items * heads of both sides, blocks of kPoolThreads threads. pool_plain_* of pool_plain.cu: side 0 alone, a
// grid of items x heads.
constexpr int kPoolThreads = 128;

// A sequence as pool sees it: the tokens of q or of k.
struct PoolSequence {
  int32_t batch, begin, length;
  int32_t position;       // of its first token
  int32_t first_block;    // blocks before it are not pooled (their gate K is cached)
  int32_t first_row;      // of that block in `pooled`
  int32_t first_item;     // blocks of the sequences before it
  int32_t gate_position;  // of block 0, in blocks
};

// The blocks of q or of k.
struct PoolSide {
  // q or k before RoPE, [batch][token][head][dim], rows aligned to 16 bytes; strides in elements.
  const void *x;
  int64_t x_batch, x_token, x_head;
  // Where x with RoPE at token positions goes, laid out likewise. Null: nowhere.
  void *rotated;
  int64_t rotated_batch, rotated_token, rotated_head;
  // [row][head][pools * dim] f32 in order max, min, avg; or terms (launch_gate.h), if `tiles`. Null: not wanted.
  void *pooled;
  int32_t tiles;  // of terms, for each head; 0: f32
  uint32_t bits;  // PoolBits of src/gate.h
  int32_t heads;
  int32_t items, sequences;      // items: blocks of all sequences
  const PoolSequence *sequence;  // device; null: `only`
  PoolSequence only;
  // Pairs (cos, sin) of positions 64 i, times the attention scaling, and of positions 0 .. 63 without it: [i][dim / 2].
  // Position p turns by the sum of the angles of row p / 64 and of row p % 64: two small tables instead of a large one.
  const float *coarse, *fine;
  // The same of blocks, by which one kind of pool in f32 is turned. Null: it is not. Not of pool_plain.
  const float *gate_coarse, *gate_fine;
};

struct PoolParams {
  PoolSide side[2];
  int32_t block;  // tokens
  int32_t first;  // blocks of threads of side 0
};

}  // namespace seer::cuda
