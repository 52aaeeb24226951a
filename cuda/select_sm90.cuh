// What the kernels of select for Hopper share: values as two bf16, and rows that tensor cores cannot compute.
#pragma once
#include <cmath>

#include "gate_mma.cuh"
#include "sm90.cuh"

namespace seer::cuda {

// Two values as pairs of bf16: high + low.
__device__ __forceinline__ void split(float x, float y, uint32_t &high, uint32_t &low) {
  high = pack(__nv_bfloat16{}, x, y);
  low = pack(__nv_bfloat16{}, x - __uint_as_float(high << 16), y - __uint_as_float(high & 0xffff0000u));
}

// The first `count` words of a row that tensor cores cannot compute: a warp's lanes take its columns in turn.
__device__ inline void select_odd_row(const ScoreParams &p, const float *q, const float *k, int k_stride, int causal,
                                      uint32_t *words, int count, bool &empty, unsigned &kept) {
  const int lane = threadIdx.x % 32;
  const auto logit = [&](int j) {
    float sum = 0.f;
#pragma unroll 1
    for (int d = 0; d < p.dim; ++d) sum = fmaf(q[d], k[j * int64_t{k_stride} + d], sum);
    sum *= p.scale;
    return sum == sum ? fminf(sum, kHighest) : -INFINITY;
  };
  float most = kLowest, total = 0.f;
#pragma unroll 1
  for (int j = lane; j < causal; j += 32) most = fmaxf(most, logit(j));
#pragma unroll
  for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
#pragma unroll 1
  for (int j = lane; j < causal; j += 32) total += exp2_approx((logit(j) - most) * kLog2e);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(~0u, total, step);
  const float cut = log2f(total) + p.threshold;
  empty = true;
#pragma unroll 1
  for (int from = 0; from < causal; from += 32) {
    const float x = from + lane < causal ? logit(from + lane) : -INFINITY;
    const uint32_t found = __ballot_sync(~0u, (x - most) * kLog2e > cut), left = causal - from;
    uint32_t word = found;
    if (from == 0 && (p.flags & kSelectFirst)) word |= 1u;
    if ((p.flags & kSelectDiagonal) && left <= 32) word |= 1u << (left - 1);
    empty &= word == 0;
    if (left <= 32 && empty) word |= 1u << (left - 1);
    kept += __popc(word);
    if (lane == 0) words[from / 32] = word;
  }
#pragma unroll 1
  for (int word = (causal + 31) / 32 + lane; word < count; word += 32) words[word] = 0u;
}

// Adds what the threads of a block have counted to the call's statistics. `counts` is in shared memory and all 0.
__device__ __forceinline__ void add_counts(unsigned long long *stats, unsigned (&counts)[3], int thread, int lane,
                                           const unsigned (&sums)[3]) {
#pragma unroll
  for (int i = 0; i < 3; ++i)
    if (lane == 0 && sums[i]) atomicAdd(counts + i, sums[i]);
  __syncthreads();
  if (thread < 3 && counts[thread]) atomicAdd(stats + thread, static_cast<unsigned long long>(counts[thread]));
}

}  // namespace seer::cuda
