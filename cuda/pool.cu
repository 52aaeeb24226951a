// pool, sm_80 and up: each block's maximum, minimum and average of q or k. pool_rotate.cu also rotates.
//
// A block of threads takes a block of tokens of kPoolHeads heads, one after the other. A thread has 16 channels of
// every kStride-th token. Memory is what bounds: loads go by cp.async, several heads ahead, so that no registers wait
// for them. A NaN among the tokens makes all three pools of its channel NaN, as in the reference
// (src/cpu/pool_ref.cpp).
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdint>

#include "gate_mma.cuh"
#include "launch.h"

namespace seer::cuda {
namespace {

constexpr int kUnroll = 4;                      // tokens of a thread in a unit
constexpr uint32_t kPoolMax = 1, kPoolMin = 2;  // of PoolBits in src/gate.h

__device__ __forceinline__ float2 widen(__nv_bfloat162 x) { return __bfloat1622float2(x); }
__device__ __forceinline__ float2 widen(__half2 x) { return __half22float2(x); }
__device__ __forceinline__ void narrow(float2 x, __nv_bfloat162 &y) { y = __float22bfloat162_rn(x); }
__device__ __forceinline__ void narrow(float2 x, __half2 &y) { y = __float22half2_rn(x); }

// max and min of two pairs. A NaN stays.
__device__ __forceinline__ void widen_range(uint32_t &high, uint32_t &low, __nv_bfloat162, uint32_t x) {
  asm("max.NaN.bf16x2 %0, %0, %1;" : "+r"(high) : "r"(x));
  asm("min.NaN.bf16x2 %0, %0, %1;" : "+r"(low) : "r"(x));
}
__device__ __forceinline__ void widen_range(uint32_t &high, uint32_t &low, __half2, uint32_t x) {
  asm("max.NaN.f16x2 %0, %0, %1;" : "+r"(high) : "r"(x));
  asm("min.NaN.f16x2 %0, %0, %1;" : "+r"(low) : "r"(x));
}
template <class Pair>
__device__ __forceinline__ float2 widen_bits(uint32_t x) {
  return widen(reinterpret_cast<const Pair &>(x));
}

// A block of tokens of some heads. Loads go by cp.async to places of shared memory that only their thread reads: no
// registers wait for them, and no barrier.
template <class Type, class Pair, int kDim>
struct Pooler {
  static constexpr int kHalf = kDim / 2, kLanes = kHalf / 8;  // threads that share a token
  static constexpr int kStride = kPoolThreads / kLanes;       // tokens at once
  static constexpr int kStages = kPoolStages;                 // of kUnroll tokens a thread
  static constexpr int kWarps = kPoolThreads / 32;
  using Slots = uint4[kStages][kUnroll][2][kPoolThreads];
  static_assert(sizeof(Slots) == kStages * kPoolUnit);
  using Parts = uint32_t[4][kWarps][kHalf];  // of warps: high, low, sum of even, of odd channels

  const PoolParams &p;
  const PoolSequence &seq;
  Slots &slots;
  Parts &parts;
  int block, count, first_head, units;  // a unit: kStride * kUnroll tokens of a head
  int units_of_head, column, token;

  __device__ __forceinline__ void issue(int unit) {
    if (unit < units) {
      const int head = first_head + unit / units_of_head, from = unit % units_of_head * (kStride * kUnroll) + token;
      const Type *x = static_cast<const Type *>(p.x) + seq.batch * p.x_batch + head * p.x_head +
                      (int64_t{seq.begin} + block * p.block + from) * p.x_token + column;
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (from + u * kStride >= count) break;
#pragma unroll
        for (int side = 0; side < 2; ++side)
          asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<uint32_t>(
                           __cvta_generic_to_shared(&slots[unit % kStages][u][side][threadIdx.x]))),
                       "l"(x + u * kStride * p.x_token + side * kHalf)
                       : "memory");
      }
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  }

  __device__ __forceinline__ void run() {
#pragma unroll
    for (int i = 0; i < kStages; ++i) issue(i);
    uint32_t high[8], low[8];
    float sum[16];
    for (int unit = 0; unit < units; ++unit) {
      const int head = first_head + unit / units_of_head, from = unit % units_of_head * (kStride * kUnroll) + token;
      if (unit % units_of_head == 0) {
        const Pair most = make_pair(-INFINITY), least = make_pair(INFINITY);
#pragma unroll
        for (int i = 0; i < 8; ++i)
          high[i] = reinterpret_cast<const uint32_t &>(most), low[i] = reinterpret_cast<const uint32_t &>(least);
#pragma unroll
        for (int i = 0; i < 16; ++i) sum[i] = 0.f;
      }
      asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 1) : "memory");
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int t = from + u * kStride;
        if (t >= count) break;
        take(unit, u, high, low, sum);
      }
      issue(unit + kStages);
      if (unit % units_of_head == units_of_head - 1 && p.pooled != nullptr && block >= seq.first_block)
        finish(head, high, low, sum);
    }
  }

  static __device__ __forceinline__ Pair make_pair(float x) {
    Pair pair;
    narrow(make_float2(x, x), pair);
    return pair;
  }

  __device__ __forceinline__ void take(int unit, int u, uint32_t (&high)[8], uint32_t (&low)[8], float (&sum)[16]) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const uint4 raw = slots[unit % kStages][u][side][threadIdx.x];
      const uint32_t word[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (p.bits & (kPoolMax | kPoolMin)) widen_range(high[4 * side + i], low[4 * side + i], Pair{}, word[i]);
        const float2 v = widen_bits<Pair>(word[i]);
        sum[8 * side + 2 * i] += v.x, sum[8 * side + 2 * i + 1] += v.y;
      }
    }
  }

  // The threads' parts of a head to its pools.
  __device__ __forceinline__ void finish(int head, uint32_t (&high)[8], uint32_t (&low)[8], float (&sum)[16]) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (p.bits & (kPoolMax | kPoolMin)) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int step = kLanes; step < 32; step *= 2) {
          uint32_t unused_high = high[i], unused_low = low[i];
          widen_range(high[i], unused_low, Pair{}, __shfl_xor_sync(~0u, high[i], step));
          widen_range(unused_high, low[i], Pair{}, __shfl_xor_sync(~0u, low[i], step));
        }
        if (lane < kLanes) {
          const int pair = (i / 4 * kHalf + column) / 2 + i % 4;
          parts[0][warp][pair] = high[i], parts[1][warp][pair] = low[i];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 16; ++i) {
#pragma unroll
      for (int step = kLanes; step < 32; step *= 2) sum[i] += __shfl_xor_sync(~0u, sum[i], step);
      if (lane < kLanes) parts[2 + i % 2][warp][(i / 8 * kHalf + column) / 2 + i % 8 / 2] = __float_as_uint(sum[i]);
    }
    __syncthreads();
    if (threadIdx.x < kDim) {
      const int pair = threadIdx.x / 2, odd = threadIdx.x % 2;
      uint32_t most = parts[0][0][pair], least = parts[1][0][pair], unused_high = most, unused_low = least;
      float total = __uint_as_float(parts[2 + odd][0][pair]);
#pragma unroll
      for (int i = 1; i < kWarps; ++i) {
        widen_range(most, unused_low, Pair{}, parts[0][i][pair]);
        widen_range(unused_high, least, Pair{}, parts[1][i][pair]);
        total += __uint_as_float(parts[2 + odd][i][pair]);
      }
      const float2 m = widen_bits<Pair>(most), l = widen_bits<Pair>(least);
      const float result[3] = {odd ? m.y : m.x, odd ? l.y : l.x, total / static_cast<float>(count)};
      float *out = p.pooled + threadIdx.x +
                   ((int64_t{seq.first_row} + block - seq.first_block) * p.heads + head) * __popc(p.bits) * kDim;
#pragma unroll
      for (int kind = 0; kind < 3; ++kind) {
        if ((p.bits >> kind & 1) == 0) continue;
        *out = result[kind];
        out += kDim;
      }
    }
    __syncthreads();  // `parts` is free again
  }
};

template <class Type, class Pair, int kDim>
__device__ __forceinline__ void pool(const PoolParams &p) {
  using P = Pooler<Type, Pair, kDim>;
  extern __shared__ __align__(16) char shared[];
  auto &slots = *reinterpret_cast<typename P::Slots *>(shared);
  __shared__ typename P::Parts parts;
  const int slices = (p.heads + kPoolHeads - 1) / kPoolHeads;
  const int slice = blockIdx.x % slices, item = blockIdx.x / slices;
  wait_for_previous();
  let_next_start();
  const PoolSequence seq = find_sequence(p.sequence, p.only, p.sequences, item);
  const int block = item - seq.first_item, count = min(p.block, seq.length - block * p.block);
  const int first_head = slice * kPoolHeads, heads = min(kPoolHeads, p.heads - first_head);
  const int units_of_head = (count + P::kStride * kUnroll - 1) / (P::kStride * kUnroll);
  P{p,
    seq,
    slots,
    parts,
    block,
    count,
    first_head,
    heads * units_of_head,
    units_of_head,
    static_cast<int>(threadIdx.x) % P::kLanes * 8,
    static_cast<int>(threadIdx.x) / P::kLanes}
      .run();
}

}  // namespace

#define SEER_POOL(name, Type, Pair, kDim)                                                                    \
  extern "C" __global__ void __launch_bounds__(kPoolThreads, 6) name(const __grid_constant__ PoolParams p) { \
    pool<Type, Pair, kDim>(p);                                                                               \
  }

SEER_POOL(pool_bf16_128, __nv_bfloat16, __nv_bfloat162, 128)
SEER_POOL(pool_f16_128, __half, __half2, 128)
SEER_POOL(pool_bf16_64, __nv_bfloat16, __nv_bfloat162, 64)
SEER_POOL(pool_f16_64, __half, __half2, 64)

}  // namespace seer::cuda
