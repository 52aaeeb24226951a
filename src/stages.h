// The arguments of the five stages: pool, project, score, select, attend. Every backend implements these signatures
// (backend.h) and the reference kernels (cpu/*_ref.cpp) define what they mean.
//
// Gate vectors (pooled, gate Q, gate K) are f32 in workspace or cache memory, flat rows [row][head][channel].
#pragma once
#include <cstdint>
#include <span>

#include "block_mask.h"
#include "dtype.h"
#include "gate.h"

namespace seer {

// One sequence of a batch. A dense batch [B, S, ...] is B sequences with batch = b and q_begin = k_begin = 0; a packed
// one has batch = 0 and q_begin, k_begin from cu_seqlens.
struct Sequence {
  int64_t batch = 0;
  int64_t q_begin = 0, q_len = 0;  // tokens
  int64_t k_begin = 0, k_len = 0;  // k_len >= q_len; query i is at position k_len - q_len + i
  int64_t total_len = 0;           // of the whole prompt, >= k_len
  int64_t mask_row = 0;            // first block row in mask and scores
  int64_t q_row = 0;               // first row in pooled Q and gate Q
  int64_t k_pool_row = 0;          // row of block `cached_blocks` in pooled K
  int64_t k_row = 0;               // row of block 0 in gate K
  int64_t cached_blocks = 0;       // leading blocks whose gate K is there already

  int64_t offset() const { return k_len - q_len; }
  int64_t q_blocks(int64_t block) const { return (q_len + block - 1) / block; }
  int64_t k_blocks(int64_t block) const { return (k_len + block - 1) / block; }
};

// Tokens in somebody's memory, [batch][token][head][dim], innermost stride 1.
struct TokenView {
  void *data = nullptr;             // null: absent
  uint64_t handle = 0, offset = 0;  // vulkan
  DType dtype = DType::none;
  int64_t heads = 0, dim = 0;
  int64_t stride_batch = 0, stride_token = 0, stride_head = 0;  // elements

  template <class T>
  T *at(int64_t batch, int64_t token, int64_t head) const {
    return static_cast<T *>(data) + batch * stride_batch + token * stride_token + head * stride_head;
  }
};

// [batch][head][token] f32 (lse) or [batch][head][row][key block] f32 (scores; stride_token is then a row's).
struct FloatView {
  float *data = nullptr;
  uint64_t handle = 0, offset = 0;
  int64_t stride_batch = 0, stride_head = 0, stride_token = 1;
  float *at(int64_t batch, int64_t head, int64_t token) const {
    return data + batch * stride_batch + head * stride_head + token * stride_token;
  }
};

// Rotation of vectors of 2 * half channels. Row i of the tables is position i * step.
struct RopeView {
  const float *inv_freq = nullptr;  // null: no rotation
  double attention_scaling = 1.0;
  int64_t half = 0;
  const float *cos = nullptr, *sin = nullptr;  // [positions][half], host. Null unless DeviceLimits::rope_tables
  int64_t step = 1;
};

enum class Side { q, k };

// x: q or k before RoPE. Writes pooled f32 [row][head][pools * dim] in order max, min, avg, for blocks 0.. of Q (rows
// from q_row) or blocks cached_blocks.. of K (rows from k_pool_row); a short last block pools the tokens it has.
// rotated, if present: x with `rope` applied at token positions, all tokens; for backends whose attend does not rotate
// it.
struct PoolArgs {
  std::span<const Sequence> sequences{};
  Side side = Side::q;
  int64_t block = 64;
  TokenView x{};
  uint32_t pool_bits = 0;
  float *pooled = nullptr;  // null: only rotate
  TokenView rotated{};
  RopeView rope{};
};

// gate[row][head] = rope(pooled[row][head * pooled_heads / gate_heads] W[head]), at the position of each block's first
// token. Without a matrix gate = rope(pooled).
struct ProjectArgs {
  std::span<const Sequence> sequences{};
  Side side = Side::q;
  int64_t block = 64;
  const float *pooled = nullptr;
  int64_t pooled_heads = 0;
  int64_t gate_heads = 0;
  int64_t in = 0, out = 0;  // channels; equal without a matrix
  GateMatrix weight{};      // data is device memory
  RopeView rope{};          // row i of its tables is block i
  float *gate = nullptr;
};

// pool and project of both sides, one after the other. What `pooled` holds afterwards is the backend's own business.
struct GateVectorArgs {
  PoolArgs pool_q, pool_k;
  ProjectArgs project_q, project_k;
};

// Gate vectors ready to be compared.
struct GateVectors {
  const float *q = nullptr, *k = nullptr;  // [row][heads][dim]
  int64_t q_heads = 0, k_heads = 0;        // query head h compares with head h * k_heads / q_heads of k
  int64_t dim = 0;
  double scale = 0;  // 1 / sqrt(dim)
};

// scores[h][i][j] = scale <q_i, k_j> for j below causal_blocks(i); their softmax over j if `softmax`. Outside the
// triangle, up to `cols` columns: 0 with softmax, -inf without.
struct ScoreArgs {
  std::span<const Sequence> sequences{};
  int64_t block = 64;
  GateVectors gate{};
  bool softmax = true;
  FloatView scores{};
  int64_t cols = 0;
};

struct SelectStats {
  uint64_t blocks_kept = 0, blocks_causal = 0, fallback_rows = 0;
};

// Writes every word of every row (bits outside the triangle 0), by `rule`, either from gate vectors (never writing an
// n x n matrix) or, if scores.data is set, from scores.
struct SelectArgs {
  std::span<const Sequence> sequences{};
  int64_t block = 64;
  int64_t q_heads = 0;
  GateVectors gate{};
  FloatView scores{};
  SelectRule rule{};  // method not model
  BlockMaskView mask{};
  int64_t mask_row_words = 0;    // words to write in each row: mask_words of the longest sequence
  SelectStats *stats = nullptr;  // added to; device memory of the backend
  void *scratch = nullptr;       // as many bytes as the backend's select_scratch asks for; undefined contents
};

// Softmax attention over the kept blocks, causal by token, scale * q k. RoPE on q by q_rope and on k by k_rope first,
// if they are set: only where the backend says attend_rotates_q, attend_rotates_k. A row that keeps nothing, or sees no
// key, gives 0 and lse -inf.
struct AttendArgs {
  std::span<const Sequence> sequences{};
  int64_t block = 64;
  TokenView q{}, k{}, v{}, out{};
  FloatView lse{};       // data null: not wanted
  BlockMaskView mask{};  // words null: dense
  double scale = 0;
  RopeView q_rope{}, k_rope{};
  void *scratch = nullptr;  // as many bytes as the backend's attend_scratch asks for; undefined contents
};

// A mask with a byte per block, [batch][head][row][cols]; what a caller may pass instead of bits.
struct ByteMaskView {
  uint8_t *bytes = nullptr;
  int64_t stride_batch = 0, stride_head = 0, stride_row = 0;
  int64_t cols = 0;
};

struct MaskBytesArgs {
  std::span<const Sequence> sequences{};
  int64_t block = 64, q_heads = 0;
  BlockMaskView bits{};
  int64_t row_words = 0;
  ByteMaskView bytes{};
};

}  // namespace seer
