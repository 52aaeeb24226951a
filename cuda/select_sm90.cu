// select by threshold for Hopper (sm_90a): what score.cu's select_threshold does, by wgmma, for gate vectors of 64 or
// 128 channels.
//
// A warpgroup has 64 block rows, whose vectors stay in registers as two bf16 that add up to them within 2^-17; the
// threads split 64 key blocks at a time likewise into shared memory, where all warpgroups of the block read them. While
// wgmma makes one tile's logits, of three products, the threads take those of the tile before and split the next.
//
// Rows in which something is not finite show by the sum of their exponentials, which is NaN; f32 instructions compute
// them anew.
#include "select_sm90.cuh"

namespace seer::cuda {
namespace {

constexpr int kCols = 128;          // columns of a tile; of 64 wgmma would wait for Q
constexpr int kHalf = kCols * 128;  // bytes of 64 channels of a tile

// kGroups warpgroups; kSteps: of 16 channels.
template <int kGroups, int kSteps>
struct Selector {
  static constexpr int kThreads = kGroups * 128, kRows = kGroups * 64, kWarps = kThreads / 32;
  static constexpr int kLoads = 8;                        // vectors of K that a thread holds
  static constexpr int kParts = kCols / kWarps / kLoads;  // that make a tile
  static constexpr int kPart = kHalf * (kSteps > 4 ? 2 : 1), kBuffer = 2 * kPart;
  static_assert(2 * kBuffer == select_sm90_shared(kSteps * 16));

  const ScoreParams &p;
  char *tiles;  // two buffers of K: high, low
  int lane, warp;
  const float *k;
  int k_stride, keys, columns;  // keys: that exist; columns: tiles of them
  uint32_t q_high[kSteps][4], q_low[kSteps][4];
  float4 next[kLoads];

  // Of a thread's two rows, 8 apart:
  int causal[2];
  float most[2], sum[2];  // in the second pass: `most` is the cut
  uint32_t any = 0;
  unsigned kept = 0;

  __device__ __forceinline__ void load_q(const float *q, int q_stride, int rows) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const float *row = q + min(warp * 16 + lane / 4 + side * 8, rows - 1) * q_stride + lane % 4 * 2;
#pragma unroll
      for (int step = 0; step < kSteps; ++step)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float2 v = __ldg(reinterpret_cast<const float2 *>(row + step * 16 + half * 8));
          split(v.x, v.y, q_high[step][half * 2 + side], q_low[step][half * 2 + side]);
        }
    }
  }
  __device__ __forceinline__ int column(int part, int i) const { return (part * kLoads + i) * kWarps + warp; }
  __device__ __forceinline__ void load_k(int tile, int part = 0) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int col = min(tile * kCols + column(part, i), keys - 1);  // what is beyond is not looked at
      if (kSteps == 8 || lane < 16) next[i] = __ldg(reinterpret_cast<const float4 *>(k + col * k_stride) + lane);
    }
  }
  __device__ __forceinline__ void store_k(int buffer, int part = 0) const {
    if (kSteps < 8 && lane >= 16) return;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int col = column(part, i);
      char *to =
          tiles + buffer * kBuffer + lane / 16 * kHalf + col * 128 + ((lane % 16 / 2) ^ (col & 7)) * 16 + lane % 2 * 8;
      uint2 high, low;
      split(next[i].x, next[i].y, high.x, low.x);
      split(next[i].z, next[i].w, high.y, low.y);
      *reinterpret_cast<uint2 *>(to) = high;
      *reinterpret_cast<uint2 *>(to + kPart) = low;
    }
  }
  __device__ __forceinline__ void issue(float (&x)[64], int buffer) {
    const uint32_t at = smem_address(tiles + buffer * kBuffer);
    sm90::wgmma_fence();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const uint32_t place = at + step / 4 * kHalf + step % 4 * 32;
      const uint64_t high = sm90::descriptor(place, 16, 1024), low = sm90::descriptor(place + kPart, 16, 1024);
      sm90::wgmma_abt(__nv_bfloat16{}, x, q_low[step], high, step != 0);
      sm90::wgmma_abt(__nv_bfloat16{}, x, q_high[step], low, 1);
      sm90::wgmma_abt(__nv_bfloat16{}, x, q_high[step], high, 1);
    }
    sm90::wgmma_commit();
  }

  // The first pass: maximum and sum of a thread's columns.
  __device__ __forceinline__ void gather(float (&x)[64], int tile, bool inside, float scale) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      if (!inside) {
#pragma unroll
        for (int n = 0; n < 16; ++n)
#pragma unroll
          for (int i = 0; i < 2; ++i)
            if (tile * kCols + n * 8 + lane % 4 * 2 + i >= causal[side]) x[n * 4 + side * 2 + i] = -INFINITY;
      }
      float top = most[side];
#pragma unroll
      for (int n = 0; n < 16; ++n) top = fmaxf(top, fmaxf(x[n * 4 + side * 2], x[n * 4 + side * 2 + 1]));
      const float base = top > kLowest ? -top * scale : 0.f;  // of nothing: not what rounding leaves of it
      float part[2] = {sum[side] * exp2_approx(fmaf(most[side], scale, base)), 0.f};
#pragma unroll
      for (int n = 0; n < 16; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) part[i] += exp2_approx(fmaf(x[n * 4 + side * 2 + i], scale, base));
      sum[side] = part[0] + part[1];
      most[side] = top;
    }
  }
  // Between the passes: the rows' cuts, of logits as wgmma leaves them. NaN: a row that it cannot do.
  __device__ __forceinline__ void cut(float scale) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
#pragma unroll
      for (int step = 1; step < 4; step *= 2) {
        const float other = __shfl_xor_sync(~0u, most[side], step), other_sum = __shfl_xor_sync(~0u, sum[side], step);
        const float top = fmaxf(most[side], other);
        sum[side] =
            sum[side] * exp2_approx((most[side] - top) * scale) + other_sum * exp2_approx((other - top) * scale);
        most[side] = top;
      }
      most[side] = sum[side] == sum[side] ? most[side] + (log2f(sum[side]) + p.threshold) / scale : NAN;
    }
  }
  // The second: lane l writes words l % 2 * 2 and the next of row l % 4 / 2 of the two.
  __device__ __forceinline__ void emit(const float (&x)[64], int tile, uint32_t *to, bool dense, bool odd) {
    uint32_t mine[2] = {};
#pragma unroll
    for (int side = 0; side < 2; ++side)
#pragma unroll
      for (int word = 0; word < 4; ++word) {
        uint32_t bits = 0;
#pragma unroll
        for (int n = 0; n < 4; ++n)
#pragma unroll
          for (int i = 0; i < 2; ++i)
            if (x[(word * 4 + n) * 4 + side * 2 + i] > most[side]) bits |= 1u << (n * 8 + i);
        bits <<= lane % 4 * 2;
        bits |= __shfl_xor_sync(~0u, bits, 1);
        bits |= __shfl_xor_sync(~0u, bits, 2);
        if (lane % 4 == side * 2 + word / 2) mine[word % 2] = bits;
      }
    if (to != nullptr && !odd) put(mine[0], mine[1], tile, to, dense);
  }
  __device__ __forceinline__ void put(uint32_t word, uint32_t next_word, int tile, uint32_t *to, bool dense) {
    const int side = lane % 4 / 2;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int from = tile * kCols + lane % 2 * 64 + i * 32, left = (side ? causal[1] : causal[0]) - from;
      uint32_t bits = dense ? ~0u : i ? next_word : word;
      if (from == 0 && (p.flags & kSelectFirst)) bits |= 1u;
      if ((p.flags & kSelectDiagonal) && left >= 1 && left <= 32) bits |= 1u << (left - 1);
      bits &= left >= 32 ? ~0u : left <= 0 ? 0u : (1u << left) - 1;
      any |= bits;
      kept += __popc(bits);
      if (from / 32 < p.words) to[from / 32] = bits;
    }
  }
};

template <int kGroups, int kSteps>
__device__ __forceinline__ void select(const ScoreParams &p) {
  using S = Selector<kGroups, kSteps>;
  extern __shared__ __align__(1024) char shared[];
  __shared__ GateSequence seq;  // registers are short
  __shared__ unsigned counts[3];
  const int thread = threadIdx.x;
  // Long rows first: a tail of short ones fills the machine's end.
  const int block = blockIdx.x, item = p.items - 1 - block / p.q_heads, head = block % p.q_heads;
  if (thread == 0) seq = find_sequence(p.sequence, p.only, p.sequences, item);
  if (thread < 3) counts[thread] = 0;
  __syncthreads();
  const int first = seq.first_row + (item - seq.first_item) * S::kRows;
  const int rows = min(S::kRows, seq.first_row + seq.rows - first);

  S s{p};
  s.tiles = shared;
  s.lane = thread % 32, s.warp = thread / 32;
  s.keys = causal_blocks(seq, first + rows - 1, p.block);
  s.columns = (s.keys + kCols - 1) / kCols;
  s.k_stride = p.k_heads * p.dim;
  s.k = p.k + int64_t{seq.k_row} * s.k_stride + head * p.k_heads / p.q_heads * p.dim;
  const int inside = causal_blocks(seq, first, p.block) / kCols;  // tiles that all rows see
  const int my_row = s.warp * 16 + s.lane / 4;                    // and 8 on
  const int side = s.lane % 4 / 2, mine = my_row + side * 8;      // the row whose words this thread writes
  const float scale = p.scale * kLog2e;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    s.causal[i] = my_row + i * 8 < rows ? causal_blocks(seq, first + my_row + i * 8, p.block) : 0;
    s.most[i] = kLowest, s.sum[i] = 0.f;
  }
  uint32_t *const to =
      mine < rows ? p.mask + seq.mask_at + head * p.mask_head + (int64_t{first} + mine) * p.mask_row : nullptr;
  const bool dense = first + mine >= seq.dense_row;

  wait_for_previous();
  let_next_start();
  if (first < seq.dense_row) {
    const int steps = 2 * s.columns;
    bool odd = false;
    const auto take = [&](float(&x)[64], int step) {
      if (step < s.columns) {
        s.gather(x, step, step < inside, scale);
        if (step == s.columns - 1) {
          s.cut(scale);
          odd = (side ? s.most[1] : s.most[0]) != (side ? s.most[1] : s.most[0]);
        }
      } else {
        s.emit(x, step - s.columns, to, dense, odd && !dense);
      }
    };
    s.load_k(0);
    s.load_q(p.q + (int64_t{seq.q_row} + first) * p.q_heads * p.dim + head * p.dim, p.q_heads * p.dim, rows);
    s.store_k(0);
#pragma unroll
    for (int part = 1; part < S::kParts; ++part) {
      s.load_k(0, part);
      s.store_k(0, part);
    }
    s.load_k(1 % s.columns);
    sm90::fence_async_proxy();
    __syncthreads();
    float x[64];
    for (int step = 0; step < steps; ++step) {
      s.issue(x, step % 2);
      // Behind the last step comes one more tile that nobody looks at.
      const int after = (step + 1) % s.columns;
#pragma unroll
      for (int part = 0; part < S::kParts; ++part) {
        s.store_k((step + 1) % 2, part);
        s.load_k(part + 1 < S::kParts ? after : (step + 2) % s.columns, (part + 1) % S::kParts);
      }
      sm90::fence_async_proxy();
      sm90::wgmma_wait<0>();
      sm90::hold(x);
      __syncthreads();
      take(x, step);
    }

    const uint32_t strange = __ballot_sync(~0u, odd && !dense && to != nullptr);
    for (int l = 0; l < 32; l += 2) {  // lanes l and l + 1 share a row
      if (!(strange >> l & 1)) continue;
      const int row = s.warp * 16 + l / 4 + l % 4 / 2 * 8;
      uint32_t *words = p.mask + seq.mask_at + head * p.mask_head + (int64_t{first} + row) * p.mask_row;
      const float *q = p.q + (int64_t{seq.q_row} + first + row) * p.q_heads * p.dim + head * p.dim;
      bool empty;
      unsigned kept = 0;
      select_odd_row(p, q, s.k, s.k_stride, causal_blocks(seq, first + row, p.block), words,
                     min(p.words, s.columns * (kCols / 32)), empty, kept);
      if (s.lane == l) s.kept += kept, s.any = empty ? 0 : 1;
      if (s.lane == l && empty) --s.kept;  // counted again below
      if (s.lane == l + 1) s.any = 0;
    }
  } else if (to != nullptr) {
    for (int tile = 0; tile < s.columns; ++tile) s.put(0, 0, tile, to, true);
  }

  for (int row = s.warp; row < rows; row += S::kWarps) {
    uint32_t *words = p.mask + seq.mask_at + head * p.mask_head + (int64_t{first} + row) * p.mask_row;
    for (int word = s.columns * (kCols / 32) + s.lane; word < p.words; word += 32) words[word] = 0u;
  }
  // Empty rows keep their diagonal block; then the counts.
  unsigned fallback = 0, causal = 0;
  const uint32_t any = s.any | __shfl_xor_sync(~0u, s.any, 1);
  __syncwarp();
  if (to != nullptr && s.lane % 2 == 0) {
    causal = side ? s.causal[1] : s.causal[0];
    if (any == 0) {
      to[(causal - 1) / 32] = 1u << ((causal - 1) % 32);
      fallback = 1, ++s.kept;
    }
  }
  if (p.stats == nullptr) return;
  const unsigned sums[3] = {__reduce_add_sync(~0u, s.kept), __reduce_add_sync(~0u, causal),
                            __reduce_add_sync(~0u, fallback)};
  add_counts(p.stats, counts, thread, s.lane, sums);
}

}  // namespace

#define SEER_SELECT(name, kGroups, kSteps)                                                                     \
  extern "C" __global__ void __launch_bounds__(kGroups * 128, 1) name(const __grid_constant__ ScoreParams p) { \
    select<kGroups, kSteps>(p);                                                                                \
  }
SEER_SELECT(select_threshold_64x128, 1, 8)
SEER_SELECT(select_threshold_128x128, 2, 8)
SEER_SELECT(select_threshold_64x64, 1, 4)
SEER_SELECT(select_threshold_128x64, 2, 4)

}  // namespace seer::cuda
