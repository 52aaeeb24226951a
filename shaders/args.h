// What host code and kernels must agree on: push constants, bindings, specialization constants and modes. Compiles as
// C++ and as GLSL. A block for each stage.
//
// Names: `x_skip` is the Window::skip of binding x (bytes); strides and counts of elements unless said otherwise. Every
// offset within a binding fits 32 bits, because host code cuts the work into pieces whose windows do.
#ifndef SEER_SHADERS_ARGS_H
#define SEER_SHADERS_ARGS_H

#ifdef __cplusplus
#include <cstdint>
#define SEER_CONSTANT constexpr uint32_t
namespace seer::vulkan {
using uint = uint32_t;
#else
#define SEER_CONSTANT const uint
#endif

// ---- shared ---------------------------------------------------------------------------------------------------------

SEER_CONSTANT kDTypeNone = 0, kDTypeF32 = 1, kDTypeF16 = 2, kDTypeBf16 = 3;  // DType of src/dtype.h

// Angles of RoPE, (cos, sin) of `half` channels a row: 64 rows of positions 0 .. 63 without the attention scaling, then
// rows of positions 0, 64, 128, ... with it. Position p turns by the sum of the angles of row p & 63 and 64 + (p >> 6).
SEER_CONSTANT kRopeFineRows = 64, kRopeShift = 6;

// ---- pool -----------------------------------------------------------------------------------------------------------
// An item is a block of tokens of some units; a unit is a lane of a head: a few channels of its first half, and those
// of its second half that RoPE pairs them with.

SEER_CONSTANT kPoolThreads = 128;
SEER_CONSTANT kPoolX = 0, kPoolPooled = 1, kPoolRotated = 2, kPoolTable = 3;  // bindings
// Specialization constants: 0 DType; 1 words that a thread loads at once of each half of a head: 4, 1, or 0 for one
// element of 16 bits; 2 units of an item, a power of two; 3 what becomes of rotated; 4 whether it pools; 5 tokens whose
// loads a thread has in flight; 6 PoolBits of src/gate.h.
SEER_CONSTANT kPoolOnly = 0, kPoolRotates = 1, kPoolCopies = 2;
SEER_CONSTANT kPoolSharedBytes = 4 * kPoolThreads * (16 + 1);

struct PoolPush {
  uint first, count;
  uint x_skip, x_token, x_head;
  uint rotated_skip, rotated_token, rotated_head;
  uint pooled_skip, pooled_row, pooled_head;
  uint table_skip;
  uint tokens;         // from the first token of item 0's block to the end of the sequence
  uint position;       // of that token
  uint block;          // tokens
  uint unpooled;       // leading blocks that are only rotated; pooled's first row is the block behind them
  uint dim, half_dim;  // half_dim = (dim + 1) / 2
  uint lanes;          // of a head
  uint units;          // heads * lanes
  uint tiles;          // items of a block
};

// ---- project --------------------------------------------------------------------------------------------------------
// An item is a tile of block rows and pairs of channels of a head: with a matrix, for each thread some rows times 4
// pairs. Without one (DType none) it is kProjectThreads pairs.

SEER_CONSTANT kProjectThreads = 128, kProjectMostRows = 128, kProjectMostPairs = 64, kProjectDepth = 16;
SEER_CONSTANT kProjectPooled = 0, kProjectWeight = 1, kProjectGate = 2, kProjectTable = 3;  // bindings
// Specialization constants: 0 DType of the matrix; 1 whether pooled can be loaded by 4; 2 whether it rotates; 3 pairs
// of a tile: kProjectMostPairs or half of them; 4 whether the matrix can be loaded by 4; 5 rows of a thread: 8 or 4.
SEER_CONSTANT kProjectSharedBytes =  // of the largest tile: half the pairs, 8 rows a thread
    16 * kProjectMostRows * (kProjectDepth / 4 + 1) + 16 * kProjectDepth * (2 * (kProjectMostPairs / 2) / 4);

struct ProjectPush {
  uint first, count;
  uint pooled_skip, weight_skip, gate_skip, table_skip;
  uint rows;
  uint head;  // of the call, of item 0; weight's window begins with its matrix
  uint pooled_heads, gate_heads;
  uint in_dim, out_dim, half_dim;  // half_dim = (out_dim + 1) / 2
  uint position;                   // of row 0, in blocks
  uint row_tiles, pair_tiles;
};

// ---- score ----------------------------------------------------------------------------------------------------------
// score: an item is a tile of kScoreTile block rows by kScoreTile key blocks of a head. softmax: a row.

SEER_CONSTANT kScoreThreads = 128, kScoreTile = 64, kScoreDepth = 16;
SEER_CONSTANT kScoreQ = 0, kScoreK = 1, kScoreScores = 2;  // bindings
// Specialization constants: 0 whether q and k can be loaded by 4.
SEER_CONSTANT kScoreSharedBytes = 2 * 16 * kScoreTile * (kScoreDepth / 4 + 1);

struct ScorePush {
  uint first, count;
  uint q_skip, k_skip, scores_skip;
  uint q_heads, k_heads, dim;
  uint head;                     // of the call, of item 0; scores' window begins with it
  uint scores_head, scores_row;  // strides
  uint row, rows;                // block rows; q's and scores' windows begin with `row`
  uint col, cols;                // key blocks; k's and scores' windows begin with `col`
  uint row_tiles, col_tiles;
  uint block, q_len, offset;  // as causal_blocks of src/block_mask.h takes them
  uint fill;                  // whether to write -inf outside the triangle
  float scale;
};

// score_split: an item is kSplitVectors gate vectors. score_coopmat reads what it writes, all vectors of a side of a
// sequence, in bindings 3 and 4. Its specialization constants are named in the kernel.
SEER_CONSTANT kSplitThreads = 128, kSplitVectors = 4;
SEER_CONSTANT kSplitFrom = 0, kSplitTo = 1;  // bindings
SEER_CONSTANT kSplitSharedBytes = 4 * kSplitVectors;

struct SplitPush {
  uint first, count;
  uint from_skip, to_skip;
  uint vectors, dim;
};

struct ScoreSplitPush {
  uint first, count;
  uint q_skip, k_skip, scores_skip, split_q_skip, split_k_skip;
  uint powers_q, powers_k;  // words into their bindings
  uint q_heads, k_heads, dim;
  uint head;                     // as in ScorePush
  uint scores_head, scores_row;
  uint row, rows;                // q's windows begin with `row`, and split_q's and powers_q with its first vector
  uint cols;                     // key blocks, from 0 on
  uint row_tiles, col_tiles;
  uint block, q_len, offset;
  float scale;
};

// ---- rows of scores: softmax and select -----------------------------------------------------------------------------
// An item is a row of a head.

SEER_CONSTANT kRowThreads = 128;
// Bytes of shared memory of a kernel that keeps rows of up to `cached` scores there (0: it reads them again).
#ifdef __cplusplus
constexpr uint32_t row_shared_bytes(uint32_t cached) { return 4 * (cached + cached / 32 + 33 + 2 * kRowThreads + 3); }
#endif

// softmax, in place. Specialization constants: 0 scores that shared memory keeps.
SEER_CONSTANT kSoftmaxScores = 0;  // bindings

struct SoftmaxPush {
  uint first, count;
  uint scores_skip, scores_head, scores_row;
  uint row, rows;
  uint cols;  // to be written
  uint block, q_len, offset;
};

// ---- select ---------------------------------------------------------------------------------------------------------

SEER_CONSTANT kSelectScores = 0, kSelectMask = 1, kSelectStats = 2;  // bindings
// Specialization constants of select: 0 scores that shared memory keeps; 1 mode. Of select_subgroup, whose items are a
// row for each of its subgroups: 0 their size; 1 mode; 2 scores that a lane holds, a multiple of 4, or 0.
SEER_CONSTANT kSelectDense = 0;    // every causal block
SEER_CONSTANT kSelectAbove = 1;    // scores above the threshold
SEER_CONSTANT kSelectSoftmax = 2;  // the softmax of scores above the threshold
SEER_CONSTANT kSelectBest = 3;     // the `keep` best
SEER_CONSTANT kSelectKeepFirst = 1, kSelectKeepDiagonal = 2, kSelectCount = 4;  // flags

struct SelectPush {
  uint first, count;
  uint scores_skip, scores_head, scores_row;
  uint mask_skip, mask_head, mask_row;
  uint stats_skip;
  uint row, rows;  // block rows; the windows of scores and mask begin with `row`
  uint words;      // to be written of each row of the mask
  uint block, q_len, offset;
  uint flags, keep;
  uint causal_low, causal_high;  // what item 0 adds to blocks_causal
  float threshold;
  uint heads;
};

// select_coopmat: an item is some block rows of a head; tiles of that many key blocks. Its specialization constants are
// named in the kernel.
SEER_CONSTANT kSelectCols = 32;

struct SelectSplitPush {
  uint first, count;
  uint q_skip, k_skip, split_skip;
  uint powers;  // words into split's binding
  uint q_heads, k_heads;
  uint head, heads;  // of the call; the window of the mask begins with `head`
  uint mask_skip, mask_head, mask_row, stats_skip;
  uint row, rows, row_tiles;  // the windows of q and mask begin with `row`, those of k and split with key block 0
  uint words;                 // as in SelectPush, from here on
  uint block, q_len, offset;
  uint flags;
  uint causal_low, causal_high;
  float threshold, scale;
};

// ---- masks of bytes -------------------------------------------------------------------------------------------------
// Items are kBytesThreads words: of bits (pack) or of bytes (unpack).

SEER_CONSTANT kBytesThreads = 128;
SEER_CONSTANT kBytesBits = 0, kBytesBytes = 1;  // bindings

struct BytesPush {
  uint first, count;
  uint bits_skip, bits_head, bits_row;
  uint bytes_skip, bytes_head, bytes_row;
  uint rows, heads;
  uint words;  // of a row of bits
  uint cols;   // bytes of a row: pack reads, unpack writes that many
  uint lanes;  // threads of a row
};

#ifdef __cplusplus
}  // namespace seer::vulkan
#endif
#undef SEER_CONSTANT

#endif
