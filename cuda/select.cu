// select from scores that exist, sm_80 and up: the caller's, or the logits of a band of rows that ratio and budget look
// at. A warp has a row.
//
// The best of a row: a histogram of its scores, linear between the least and the greatest, names the bin of the last
// one kept; the few scores in that bin are ranked among each other. Where they are not few (equal scores, outliers), a
// radix search over the bits of the scores finds the same value. Of scores equal to it the first are kept.
#include <cmath>

#include "gate_mma.cuh"
#include "launch_gate.h"

namespace seer::cuda {
namespace {

constexpr int kBins = 256;

// Scores above `value` are kept, and the first `ties` of those equal to it.
struct Cut {
  float value;
  int ties;
};

// -0 is 0 here, as it is to a comparison.
__device__ __forceinline__ uint32_t to_key(float x) {
  const uint32_t bits = __float_as_uint(x + 0.f);
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
}
__device__ __forceinline__ float from_key(uint32_t key) {
  return __uint_as_float(key ^ (key & 0x80000000u ? 0x80000000u : ~0u));
}

// A row's scores up to `count`, and what the warp that has it needs.
struct Row {
  const float *score;
  int count, lane;
  uint32_t *bins;  // kBins, of this warp

  template <class Body>  // body(score, whether it may be kept at all)
  __device__ __forceinline__ void each(Body body) const {
#pragma unroll 4
    for (int at = lane; at - lane < count; at += 32) {
      const float x = at < count ? score[at] : -INFINITY;
      body(x, x > -INFINITY);
    }
  }

  __device__ __forceinline__ void clear() const {
    __syncwarp();
    for (int i = lane; i < kBins; i += 32) bins[i] = 0;
    __syncwarp();
  }

  // The bin that holds the `need`-th from above. need becomes its rank in the bin; `held`: scores in the bin.
  __device__ __forceinline__ int find_bin(int &need, int &held) const {
    __syncwarp();
    constexpr int kMine = kBins / 32;
    uint32_t mine[kMine], sum = 0;
#pragma unroll
    for (int i = 0; i < kMine; ++i) mine[i] = bins[lane * kMine + i], sum += mine[i];
    uint32_t from_here = sum;  // of this lane's bins and those above
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const uint32_t other = __shfl_down_sync(~0u, from_here, step);
      if (lane + step < 32) from_here += other;
    }
    const uint32_t wanted = need;
    const int owner = 31 - __clz(__ballot_sync(~0u, from_here >= wanted));
    uint32_t above = from_here - sum;
    int bin = 0;
    uint32_t rank = 0, size = 0;
    bool found = false;
#pragma unroll
    for (int i = kMine - 1; i >= 0; --i) {
      if (!found && above + mine[i] >= wanted)
        found = true, bin = lane * kMine + i, rank = wanted - above, size = mine[i];
      above += mine[i];
    }
    need = __shfl_sync(~0u, rank, owner);
    held = __shfl_sync(~0u, size, owner);
    return __shfl_sync(~0u, bin, owner);
  }

  __device__ __forceinline__ Cut best(int keep) const {
    float low = INFINITY, high = -INFINITY;
    int valid = 0;
    each([&](float x, bool real) {
      valid += real;
      if (real) low = fminf(low, x), high = fmaxf(high, x);
    });
    valid = __reduce_add_sync(~0u, valid);
    if (valid <= keep) return {-INFINITY, 0};
    const uint32_t least = __reduce_min_sync(~0u, to_key(low)), most = __reduce_max_sync(~0u, to_key(high));
    low = fmaxf(from_key(least), kLowest), high = fminf(from_key(most), kHighest);
    const float scale = high > low ? kBins / (high - low) : 0.f;
    const auto bin_of = [&](float x) {
      return min(static_cast<int>((fminf(fmaxf(x, kLowest), kHighest) - low) * scale), kBins - 1);
    };
    int need = keep, held = 0;
    clear();
    each([&](float x, bool real) {
      if (real) atomicAdd(bins + bin_of(x), 1u);
    });
    const int bin = find_bin(need, held);
    if (held <= kBins) return rank(bin_of, bin, held, need);
    return search(least, most, keep);
  }

  // Of the `held` scores in a bin, the need-th.
  template <class BinOf>
  __device__ __forceinline__ Cut rank(BinOf bin_of, int bin, int held, int need) const {
    float *const list = reinterpret_cast<float *>(bins);
    __syncwarp();
    int at = 0;
    each([&](float x, bool real) {
      const bool in = real && bin_of(x) == bin;
      const uint32_t all = __ballot_sync(~0u, in);
      if (in) list[at + __popc(all & ((1u << lane) - 1))] = x;
      at += __popc(all);
    });
    __syncwarp();
    Cut cut{-INFINITY, 0};
    for (int from = 0; from < held; from += 32) {
      const float mine = from + lane < held ? list[from + lane] : NAN;
      int above = 0, equal = 0;
      for (int i = 0; i < held; ++i) above += list[i] > mine, equal += list[i] == mine;
      const uint32_t found = __ballot_sync(~0u, above < need && need <= above + equal);
      if (found == 0) continue;
      const int owner = __ffs(found) - 1;
      cut = {__shfl_sync(~0u, mine, owner), need - __shfl_sync(~0u, above, owner)};
      break;
    }
    return cut;
  }

  __device__ __forceinline__ Cut search(uint32_t least, uint32_t most, int need) const {
    int held = 0;
    while (true) {
      const int width = 32 - __clz(most - least), shift = max(width - 8, 0);
      clear();
      each([&](float x, bool real) {
        const uint32_t key = to_key(x);
        if (real && key >= least && key <= most) atomicAdd(bins + ((key - least) >> shift), 1u);
      });
      least += static_cast<uint32_t>(find_bin(need, held)) << shift;
      if (shift == 0) return {from_key(least), need};
      most = least + ((1u << shift) - 1);
    }
  }
};

__device__ __forceinline__ void select_row(const SelectRowsParams &p, uint32_t *bins, unsigned long long (&counts)[3]) {
  const int lane = threadIdx.x % 32;
  const int64_t index = int64_t{blockIdx.x} * (kSelectThreads / 32) + threadIdx.x / 32;
  if (index >= int64_t{p.items} * p.q_heads) return;
  const int item = static_cast<int>(index / p.q_heads), head = static_cast<int>(index % p.q_heads);
  const GateSequence seq = find_sequence(p.sequence, p.only, p.sequences, item);
  const int r = seq.first_row + item - seq.first_item;
  const int causal = causal_blocks(seq, r, p.block);
  const float *score = p.scores + seq.scores_at + head * p.scores_head + r * p.scores_row;
  uint32_t *to = p.mask + seq.mask_at + head * p.mask_head + r * p.mask_row;

  const bool dense = r >= seq.dense_row;
  Cut cut{p.threshold, 0};
  if (!dense && seq.keep > 0) cut = Row{score, causal, lane, bins}.best(seq.keep);
  int kept = 0;
  for (int word = 0; word * 32 < causal; ++word) {
    const int at = word * 32 + lane;
    const float x = !dense && at < causal ? score[at] : -INFINITY;
    uint32_t bits = __ballot_sync(~0u, dense || x > cut.value);
    if (cut.ties > 0) {
      uint32_t equal = __ballot_sync(~0u, x == cut.value);
      for (; equal != 0 && cut.ties > 0; --cut.ties) {
        bits |= equal & -equal;
        equal &= equal - 1;
      }
    }
    const int left = causal - word * 32;
    if (word == 0 && (p.flags & kSelectFirst)) bits |= 1u;
    if ((p.flags & kSelectDiagonal) && left <= 32) bits |= 1u << (left - 1);
    if (left < 32) bits &= (1u << left) - 1;
    kept += __popc(bits);
    if (left <= 32 && kept == 0) {
      bits = 1u << (left - 1);
      kept = 1;
      counts[2] += lane == 0;
    }
    if (lane == 0) to[word] = bits;
  }
  for (int word = (causal + 31) / 32 + lane; word < p.words; word += 32) to[word] = 0;
  if (lane == 0) counts[0] += kept, counts[1] += causal;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kSelectThreads) select_rows(const __grid_constant__ SelectRowsParams p) {
  __shared__ uint32_t bins[kSelectThreads / 32][kBins];
  __shared__ unsigned long long sums[3];
  wait_for_previous();
  let_next_start();
  if (threadIdx.x < 3) sums[threadIdx.x] = 0;
  __syncthreads();
  unsigned long long counts[3] = {};
  select_row(p, bins[threadIdx.x / 32], counts);
#pragma unroll
  for (int i = 0; i < 3; ++i)
    if (counts[i]) atomicAdd(&sums[i], counts[i]);
  __syncthreads();
  if (p.stats != nullptr && threadIdx.x < 3 && sums[threadIdx.x]) atomicAdd(p.stats + threadIdx.x, sums[threadIdx.x]);
}

}  // namespace seer::cuda
