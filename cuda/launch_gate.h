// launch.h for the gate: what project, score and select take by value, and what a launch of them must know.
// Included by kernels and by host code; plain structs only.
#pragma once
#include <cstdint>

namespace seer::cuda {

// A sequence as project sees it.
struct ProjectSequence {
  int32_t blocks;      // rows to make
  int32_t pooled_row;  // of the first
  int32_t gate_row;    // where it goes
  int32_t position;    // of its first token, in blocks
  int32_t first_item;  // tiles of rows of the sequences before it
};

// project_<weight dtype>_<out>: a grid of items * gate_heads blocks of kProjectThreads threads, dynamic shared memory
// as the symbol <name>_shared says. in is a multiple of 4 and pooled aligned to 16 bytes. project_any_<weight dtype>:
// the same grid for any in and out, no shared memory. project_none: gate = rope(pooled); the same grid, in == out.
constexpr int kProjectThreads = 256;
constexpr int kProjectRows = 32;  // of a tile
constexpr int kProjectAhead = 3;  // tiles of a bf16 matrix in shared memory
// 64 channels of two tiles of rows as 3 terms of bf16; of the matrix as 1 (bf16), 2 (f16) or 3 (f32).
constexpr int project_shared(int out, int weight_terms) {
  return (2 * kProjectRows * 3 + out * (weight_terms == 1 ? kProjectAhead : weight_terms)) * 64 * 2;
}

struct ProjectParams {
  const float *pooled;  // [row][pooled_heads][in]
  const void *weight;   // [gate_heads][in][out]
  float *gate;          // [row][gate_heads][out]
  int32_t pooled_heads, gate_heads;
  int32_t in, out;
  int32_t items, sequences;
  const ProjectSequence *sequence;  // device; null: `only`
  ProjectSequence only;
  const float *coarse, *fine;  // as PoolParams', positions being blocks; null: no rotation
};

// Pooled vectors of bf16 tokens as terms of bf16 that add up to them: one for a maximum or a minimum, three for an
// average, lowest first. [head][tile of kTermRows rows][kind][64 channels][term], each kTermRows rows of 64 channels as
// wgmma reads them: 16 bytes c of row r at place c ^ r % 8 of the row's 128.
constexpr int kTermRows = 64;
constexpr int kTermTile = kTermRows * 64 * 2;  // bytes
constexpr int pool_terms(uint32_t bits) { return int(bits & 1) + int(bits >> 1 & 1) + 3 * int(bits >> 2 & 1); }

// project_terms_{64,128} of project_sm90.cu: vectors of 128 channels, matrices of bf16 with 128 columns, 64 or 128 rows
// a tile; a grid of min(SMs, items) blocks of project_terms_threads(rows) threads, dynamic shared memory:
// project_terms_shared(rows). A tensor map comes before these parameters: the matrices, (128, gate_heads * in), boxes
// of (64, 64), 128-byte swizzle.
constexpr int term_slots(int rows) { return rows == 64 ? 10 : 6; }
constexpr int kWeightSlots = 6;
constexpr int project_terms_threads(int rows) { return 2 * rows + 128; }
constexpr int project_terms_shared(int rows) {
  return 1024 + term_slots(rows) * rows * 128 + kWeightSlots * 64 * 128 * 2 + 64 * 64 * 2 * 4;
}

struct ProjectTermsParams {
  const void *terms;
  float *gate;  // [row][gate_heads][128]
  int32_t pooled_heads, gate_heads;
  uint32_t bits;                    // what was pooled: PoolBits of src/gate.h
  int32_t tiles;                    // of terms, for each head
  int32_t first_tile;               // that has a row wanted
  int32_t items;                    // tiles from there on * gate_heads
  int32_t sequences;                // by rising pooled_row
  const ProjectSequence *sequence;  // device; null: `only`
  ProjectSequence only;
  const float *coarse, *fine;  // as ProjectParams'
};

// Some block rows of a sequence as score and select see them.
struct GateSequence {
  int64_t scores_at, mask_at;  // where block row 0 of head 0 is, elements or words from the start
  int32_t q_len, offset;       // tokens; offset = k_len - q_len
  int32_t first_row, rows;     // block rows wanted
  int32_t q_row, k_row;        // of block row 0 in gate Q, of key block 0 in gate K
  int32_t dense_row;           // rows from it on keep everything
  int32_t keep;                // select_rows: the best of each row; 0: those above the threshold instead
  int32_t first_item;          // items (tiles of rows; select_rows: rows) before it
  int32_t unused;
};

// What score and select share.
struct ScoreParams {
  const float *q, *k;  // [row][heads][dim]
  int32_t q_heads, k_heads, dim;
  float scale;    // of the logits
  int32_t block;  // tokens
  int32_t items, sequences;
  const GateSequence *sequence;  // device; null: `only`
  GateSequence only;
  int32_t stash;  // tiles of columns whose logits are kept in shared memory between the two passes

  // score_logits, score_probs: strides in elements; columns to write, the triangle's or `cols` with what lies outside.
  // score_logits: tiles of columns of a block of threads, so that few rows make many; 0: all.
  float *scores;
  int64_t scores_head, scores_row;
  int32_t cols, fill, col_tiles;

  // select_threshold: strides in words.
  uint32_t *mask;
  int64_t mask_head, mask_row;
  int32_t words;              // to write in each row
  float threshold;            // log2 of it; +inf: nothing is above it
  uint32_t flags;             // SelectFlags
  unsigned long long *stats;  // SelectStats of src/stages.h, or null
};

enum SelectFlags : uint32_t { kSelectFirst = 1, kSelectDiagonal = 2 };

// score_logits_{32,64,32_any}, score_probs_{32,32_any}, select_threshold_{32,64,128,32_any}: tiles of so many block
// rows; a grid of items * q_heads blocks of score_threads(rows) threads, in y score_logits' groups of columns. _any for
// dim > kScoreDim, no multiple of 4, or vectors that are not aligned to 16 bytes. Dynamic shared memory:
// score_shared(rows, stash); only select_threshold_{32,64} and score_probs stash.
// select_threshold_{64,128}x{64,128} of select_sm90.cu, rows x dim: a grid of items * q_heads blocks of 2 * rows
// threads, dynamic shared memory: select_sm90_shared; vectors aligned to 16 bytes, scale > 0.
constexpr int kScoreCols = 64;  // columns of a tile
constexpr int kScoreDim = 128;  // channels that fit at once
constexpr int score_threads(int rows) { return rows == 128 ? 256 : 128; }
constexpr int select_sm90_shared(int dim) { return 128 * dim * 2 * 2 * 2; }  // two tiles of K, each as two of bf16
// Q and K as two halves of f16, their scales, the rows' statistics and a flag; then the stash.
constexpr int score_shared(int rows, int stash) {
  return (rows + kScoreCols) * (kScoreDim * 4 + 4) + rows * 16 + 16 + stash * rows * kScoreCols * 4;
}

// select_cluster_{64,128} of select_cluster.cu, dim: a grid of clusters of 1, 2, 4 or 8 blocks of
// kSelectClusterThreads threads, each block with kSelectClusterWords words of a row at most. Items are tiles of
// kSelectClusterRows block rows: of a sequence those of one head after the other's, the first rows first. Cluster i has
// those from start[i] to start[i + 1]. Dynamic shared memory: select_cluster_shared; vectors aligned to 16 bytes,
// scale > 0.
constexpr int kSelectClusterThreads = 256, kSelectClusterRows = 64;
constexpr int kSelectClusterWords = 8, kSelectClusterMost = 8;
constexpr int kSelectClusters = 160;  // of a grid
constexpr int select_cluster_shared(int dim, int cluster) {
  // K as two of bf16; Q of two tiles; for each two rows' maxima and sums.
  return kSelectClusterWords * 32 * dim * 4 + 2 * kSelectClusterRows * dim * 4 + 4 * cluster * kSelectClusterRows * 8;
}

struct SelectClusterParams {
  ScoreParams score;
  int32_t start[kSelectClusters + 1];
};

// select_rows: a grid of ceil(items * q_heads / (kSelectThreads / 32)) blocks of kSelectThreads threads: a warp for
// each row whose scores exist.
constexpr int kSelectThreads = 256;

struct SelectRowsParams {
  const float *scores;  // null: every row is dense
  int64_t scores_head, scores_row;
  float threshold;  // of the scores as they are; -inf: all that have a score
  int32_t block, q_heads;
  int32_t items, sequences;
  const GateSequence *sequence;  // device; null: `only`
  GateSequence only;
  uint32_t *mask;
  int64_t mask_head, mask_row;
  int32_t words;
  uint32_t flags;
  unsigned long long *stats;
};

}  // namespace seer::cuda
