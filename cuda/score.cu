// score and select by threshold, sm_80 and up: a block of threads takes a tile of block rows of one head and walks its
// key blocks twice. The first pass finds each row's maximum and sum of exponentials; the second recomputes the logits
// and writes them, their softmax, or bits where probability > threshold. Recomputing costs less than an n x n matrix
// would, in bytes as in memory; rows short enough keep their logits in shared memory instead.
//
// A thread keeps the maximum and sum of those columns that it has; they meet at the end of the first pass, in an order
// that does not depend on timing.
#include "gate_tile.cuh"

namespace seer::cuda {
namespace {

enum class To { logits, probs, mask };

// The sum of exp2(x - most).
struct Softmax {
  float most = kLowest, sum = 0.f;
  __device__ __forceinline__ void merge(float other_most, float other_sum) {
    const float top = fmaxf(most, other_most);
    sum = sum * exp2_approx(most - top) + other_sum * exp2_approx(other_most - top);
    most = top;
  }
};

template <To kTo, int kM, int kRowWarps, bool kAny>
__device__ __forceinline__ void score(const ScoreParams &p) {
  using T = Tile<kM, kRowWarps, kAny>;
  constexpr int kRows = T::kRows;
  constexpr bool kStashes = kTo != To::logits && kRowWarps == 2;
  extern __shared__ __align__(128) char shared[];
  T tile(p, shared);
  // Long rows first: a tail of short ones fills the machine's end.
  const int item = p.items - 1 - static_cast<int>(blockIdx.x) / p.q_heads,
            head = static_cast<int>(blockIdx.x) % p.q_heads;
  __shared__ GateSequence seq;  // registers are short
  if (threadIdx.x == 0) seq = find_sequence(p.sequence, p.only, p.sequences, item);
  __syncthreads();
  const int first = seq.first_row + (item - seq.first_item) * kRows;
  const int rows = min(kRows, seq.first_row + seq.rows - first);
  const int seen = causal_blocks(seq, first + rows - 1, p.block);  // by the last row
  // Of columns; groups of them for logits, which nothing ties to each other.
  const int all_tiles = (seen + kScoreCols - 1) / kScoreCols, group = kTo == To::logits ? p.col_tiles : 0;
  const int first_tile = group > 0 ? blockIdx.y * group : 0;
  const int tiles = group > 0 ? min(all_tiles, first_tile + group) : all_tiles;
  const bool last_group = kTo != To::logits || blockIdx.y + 1 == gridDim.y;
  if (first_tile >= tiles && !(last_group && p.fill)) return;
  const int thread = tile.thread, lane = tile.lane;

  wait_for_previous();
  let_next_start();
  tile.place(seq.q_row + first, seq.k_row, head, seen);
  if (thread == 0) *tile.odd_flag() = 0;
  __syncthreads();
  const bool all_dense = kTo == To::mask && first >= seq.dense_row;
  if (!kAny && !all_dense) {
    tile.store_q(rows, 0);
    tile.load_k(first_tile, 0);
  }

  // Base 2 where there will be a softmax. What a row may not see, and NaN, is -inf.
  const float scale = kTo == To::logits ? p.scale : p.scale * kLog2e;
  const int inside =
      kTo == To::logits ? 0 : causal_blocks(seq, first, p.block) / kScoreCols;  // tiles that all rows see
  const auto clean = [&](float(&x)[kM][4][4], int t) {
    if (t < inside && !*tile.odd_flag()) return;
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const int causal = causal_blocks(seq, first + tile.row_of(m, side), p.block);
#pragma unroll
        for (int n = 0; n < 4; ++n)
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            float &v = x[m][n][2 * side + i];
            if (v != v || t * kScoreCols + tile.col_of(n, i) >= causal) v = -INFINITY;
          }
      }
  };
  float *const stash = tile.stash() + thread;
  constexpr int kStashTile = kRows * kScoreCols;
  const int stashed = kStashes ? min(p.stash, tiles) : 0;

  // Of each row (maximum, factor): a block is kept if x - maximum > factor; a probability is exp2(x - maximum) *
  // factor.
  float2 *const by_row = static_cast<float2 *>(tile.row_memory());  // first [column half][row], the parts
  if (kTo != To::logits && !all_dense) {
    Softmax part[kM][2];
    for (int t = 0; t < tiles; ++t) {
      float x[kM][4][4];
      // The second pass begins behind what is stashed.
      tile.logits(x, t, t + 1 < tiles ? t + 1 : stashed < tiles ? stashed : -1, rows, scale);
      clean(x, t);
#pragma unroll
      for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          Softmax &s = part[m][side];
          float top = s.most;
#pragma unroll
          for (int n = 0; n < 4; ++n) top = fmaxf(top, fmaxf(x[m][n][2 * side], x[m][n][2 * side + 1]));
          if (top > kHighest) {
            top = kHighest;
#pragma unroll
            for (int n = 0; n < 4; ++n)
#pragma unroll
              for (int i = 0; i < 2; ++i) x[m][n][2 * side + i] = fminf(x[m][n][2 * side + i], kHighest);
          }
          s.sum *= exp2_approx(s.most - top);
          s.most = top;
#pragma unroll
          for (int n = 0; n < 4; ++n)
            s.sum += exp2_approx(x[m][n][2 * side] - top) + exp2_approx(x[m][n][2 * side + 1] - top);
        }
      if (kStashes && t < stashed) {
#pragma unroll
        for (int i = 0; i < kM * 16; ++i) stash[t * kStashTile + i * T::kThreads] = x[i / 16][i / 4 % 4][i % 4];
      }
    }
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        Softmax &s = part[m][side];
#pragma unroll
        for (int step = 1; step < 4; step *= 2)
          s.merge(__shfl_xor_sync(~0u, s.most, step), __shfl_xor_sync(~0u, s.sum, step));
        if (lane % 4 == 0) by_row[tile.col_warp * kRows + tile.row_of(m, side)] = make_float2(s.most, s.sum);
      }
    __syncthreads();
    if (thread < kRows) {
      const float2 a = by_row[thread], b = by_row[kRows + thread];
      Softmax s{a.x, a.y};
      s.merge(b.x, b.y);
      const float factor = kTo == To::mask ? log2f(s.sum) + p.threshold : s.sum > 0.f ? 1.f / s.sum : 0.f;
      by_row[thread] = make_float2(s.most, factor);
    }
    __syncthreads();
  }

  const auto second = [&](float(&x)[kM][4][4], int t) {
    if (kStashes && t < stashed) {
#pragma unroll
      for (int i = 0; i < kM * 16; ++i) x[i / 16][i / 4 % 4][i % 4] = stash[t * kStashTile + i * T::kThreads];
    } else {
      tile.logits(x, t, t + 1 < tiles ? t + 1 : -1, rows, scale);
      if (kTo != To::logits) clean(x, t);
    }
  };

  if constexpr (kTo != To::mask) {
    float *to = p.scores + seq.scores_at + head * p.scores_head + first * p.scores_row;
    constexpr float kOutside = kTo == To::logits ? -INFINITY : 0.f;
    for (int t = first_tile; t < tiles; ++t) {
      float x[kM][4][4];
      second(x, t);
#pragma unroll
      for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          const int row = tile.row_of(m, side), causal = causal_blocks(seq, first + row, p.block);
          if (row >= rows) continue;
          const float2 soft = kTo == To::probs ? by_row[row] : float2{};
#pragma unroll
          for (int n = 0; n < 4; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              const int col = t * kScoreCols + tile.col_of(n, i);
              float v = x[m][n][2 * side + i];
              if constexpr (kTo == To::probs) v = exp2_approx(fminf(v, kHighest) - soft.x) * soft.y;
              if (col < causal || (p.fill && col < p.cols)) to[row * p.scores_row + col] = col < causal ? v : kOutside;
            }
        }
    }
    if (!last_group || !p.fill) return;
    for (int row = tile.warp; row < rows; row += T::kWarps)
      for (int col = all_tiles * kScoreCols + lane; col < p.cols; col += 32) to[row * p.scores_row + col] = kOutside;
  } else {
    // Lane l % 4 of the four that share rows writes the words of row (m, side) = l % 4.
    constexpr int kMine = kM * 2;
    const int mine = lane % 4, my_row = tile.row_of(mine / 2 % kM, mine % 2);
    const bool writer = mine < kMine && my_row < rows;
    const int my_causal = writer ? causal_blocks(seq, first + my_row, p.block) : 0;
    const bool my_dense = first + my_row >= seq.dense_row;
    uint32_t *const to = p.mask + seq.mask_at + head * p.mask_head + first * p.mask_row;
    uint32_t any = 0;
    unsigned kept = 0;
    for (int t = 0; t < tiles; ++t) {
      uint32_t word = 0;
      if (!all_dense) {
        float x[kM][4][4];
        second(x, t);
#pragma unroll
        for (int m = 0; m < kM; ++m)
#pragma unroll
          for (int side = 0; side < 2; ++side) {
            const float2 cut = by_row[tile.row_of(m, side)];
            if (cut.x >= kHighest) {
#pragma unroll
              for (int n = 0; n < 4; ++n)
#pragma unroll
                for (int i = 0; i < 2; ++i) x[m][n][2 * side + i] = fminf(x[m][n][2 * side + i], kHighest);
            }
            uint32_t bits = 0;
#pragma unroll
            for (int n = 0; n < 4; ++n)
#pragma unroll
              for (int i = 0; i < 2; ++i)
                if (x[m][n][2 * side + i] - cut.x > cut.y) bits |= 1u << (n * 8 + i);
            bits <<= lane % 4 * 2;
            bits |= __shfl_xor_sync(~0u, bits, 1);
            bits |= __shfl_xor_sync(~0u, bits, 2);
            if (mine == 2 * m + side) word = bits;
          }
      }
      if (!writer) continue;
      const int from = t * kScoreCols + tile.col_warp * 32, left = my_causal - from;  // columns within the triangle
      if (my_dense) word = ~0u;
      if (from == 0 && (p.flags & kSelectFirst)) word |= 1u;
      if ((p.flags & kSelectDiagonal) && left >= 1 && left <= 32) word |= 1u << (left - 1);
      word &= left >= 32 ? ~0u : left <= 0 ? 0u : (1u << left) - 1;
      any |= word;
      kept += __popc(word);
      if (from / 32 < p.words) to[my_row * p.mask_row + from / 32] = word;
    }
    const int done = tiles * (kScoreCols / 32);
    for (int row = tile.warp; row < rows; row += T::kWarps)
      for (int word = done + lane; word < p.words; word += 32) to[row * p.mask_row + word] = 0u;

    // Empty rows keep their diagonal block; then the counts.
    uint32_t *const anything = reinterpret_cast<uint32_t *>(by_row + kRows);  // [column half][row]
    if (writer) anything[tile.col_warp * kRows + my_row] = any;
    __syncthreads();
    unsigned fallback = 0, causal_sum = 0;
    if (writer && tile.col_warp == 0) {
      causal_sum = my_causal;
      if ((anything[my_row] | anything[kRows + my_row]) == 0) {
        to[my_row * p.mask_row + (my_causal - 1) / 32] = 1u << ((my_causal - 1) % 32);
        fallback = 1, ++kept;
      }
    }
    if (p.stats == nullptr) return;
    kept = __reduce_add_sync(~0u, kept);
    causal_sum = __reduce_add_sync(~0u, causal_sum);
    fallback = __reduce_add_sync(~0u, fallback);
    if (lane != 0) return;
    if (kept) atomicAdd(p.stats, static_cast<unsigned long long>(kept));
    if (causal_sum) atomicAdd(p.stats + 1, static_cast<unsigned long long>(causal_sum));
    if (fallback) atomicAdd(p.stats + 2, static_cast<unsigned long long>(fallback));
  }
}

}  // namespace

#define SEER_SCORE(name, kTo, kM, kRowWarps, kAny, kBlocks)                                                           \
  extern "C" __global__ void __launch_bounds__(kRowWarps * 64, kBlocks) name(const __grid_constant__ ScoreParams p) { \
    score<To::kTo, kM, kRowWarps, kAny>(p);                                                                           \
  }
// Rarer uses have fewer sizes, for the compiler's time.
SEER_SCORE(score_logits_32, logits, 1, 2, false, 3)
SEER_SCORE(score_logits_64, logits, 2, 2, false, 2)
SEER_SCORE(score_logits_32_any, logits, 1, 2, true, 2)
SEER_SCORE(score_probs_32, probs, 1, 2, false, 3)
SEER_SCORE(score_probs_32_any, probs, 1, 2, true, 2)
SEER_SCORE(select_threshold_32, mask, 1, 2, false, 3)
SEER_SCORE(select_threshold_64, mask, 2, 2, false, 2)
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900  // shared memory for one block of threads only
SEER_SCORE(select_threshold_128, mask, 2, 4, false, 1)
#else
SEER_SCORE(select_threshold_128, mask, 2, 4, false, 2)
#endif
SEER_SCORE(select_threshold_32_any, mask, 1, 2, true, 2)

}  // namespace seer::cuda
