// pool with a rotated copy, sm_80 and up: one pass over q or k writes each block's maximum, minimum and average and
// what attend reads. pool.cu pools only.
//
// A block of threads takes a block of tokens of kPoolHeads heads, one after the other, so that they share the angles. A
// thread keeps 16 channels, 8 and the 8 that RoPE pairs them with, of every kStride-th token; all of its loads are
// issued before the first is used. A NaN among the tokens makes all three pools of its channel NaN, as in the reference
// (src/cpu/pool_ref.cpp). Loads by cp.async, as in pool.cu, were slower here: the stores want the registers' room.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdint>

#include "gate_mma.cuh"
#include "launch.h"

namespace seer::cuda {
namespace {

constexpr int kUnroll = 4;  // tokens of a thread in flight

__device__ __forceinline__ float2 widen(__nv_bfloat162 x) { return __bfloat1622float2(x); }
__device__ __forceinline__ float2 widen(__half2 x) { return __half22float2(x); }
__device__ __forceinline__ void narrow(float2 x, __nv_bfloat162 &y) { y = __float22bfloat162_rn(x); }
__device__ __forceinline__ void narrow(float2 x, __half2 &y) { y = __float22half2_rn(x); }

// Eight elements in 16 bytes.
template <class Pair>
union Word {
  uint4 raw;
  Pair pair[4];
};

__device__ __forceinline__ float max_nan(float a, float b) {
  float c;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
  return c;
}
__device__ __forceinline__ float min_nan(float a, float b) {
  float c;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
  return c;
}

// Pairs of channels (a, b), kLanes * 8 of them, turned by the angles of a token; see fill_turns.
template <int kLanes>
__device__ __forceinline__ void rotate(float (&a)[8], float (&b)[8], const float4 *turns) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float4 turn = turns[i * kLanes];  // (cos, sin) of two pairs
    const float2 x = make_float2(a[2 * i], a[2 * i + 1]), y = make_float2(b[2 * i], b[2 * i + 1]);
    a[2 * i] = x.x * turn.x - y.x * turn.y;
    b[2 * i] = y.x * turn.x + x.x * turn.y;
    a[2 * i + 1] = x.y * turn.z - y.y * turn.w;
    b[2 * i + 1] = y.y * turn.z + x.y * turn.w;
  }
}

// cos and sin of `count` tokens from `position` on. A thread of lane l reads the pairs 8 l .. 8 l + 7 of a token two at
// a time; they lie so that the lanes of a token read neighbouring words.
template <int kHalf>
__device__ __forceinline__ void fill_turns(float2 *turns, const PoolParams &p, int position, int count) {
  for (int i = threadIdx.x; i < count * kHalf; i += kPoolThreads) {
    const int token = i / kHalf, pair = i % kHalf, at = position + token;
    const float2 u = __ldg(reinterpret_cast<const float2 *>(p.coarse) + (at >> 6) * int64_t{kHalf} + pair);
    const float2 v = __ldg(reinterpret_cast<const float2 *>(p.fine) + (at & 63) * kHalf + pair);
    const int place = (pair % 8 / 2 * (kHalf / 8) + pair / 8) * 2 + pair % 2;
    turns[token * kHalf + place] = make_float2(u.x * v.x - u.y * v.y, u.y * v.x + u.x * v.y);
  }
}

// The pools of one block of one head, and its rotated copy. `shared`: [3][warps][kDim].
template <class Type, class Pair, int kDim>
__device__ __forceinline__ void pool_head(const PoolParams &p, const PoolSequence &seq, int block, int head,
                                          float (*shared)[kPoolThreads / 32][kDim], const float4 *turns) {
  constexpr int kHalf = kDim / 2, kLanes = kHalf / 8;  // threads that share a token
  constexpr int kStride = kPoolThreads / kLanes;
  const int first = block * p.block, count = min(p.block, seq.length - first);
  const int column = threadIdx.x % kLanes * 8;
  const Type *x = static_cast<const Type *>(p.x) + seq.batch * p.x_batch + head * p.x_head +
                  (int64_t{seq.begin} + first) * p.x_token + column;
  Type *rotated = static_cast<Type *>(p.rotated) + seq.batch * p.rotated_batch + head * p.rotated_head +
                  (int64_t{seq.begin} + first) * p.rotated_token + column;
  float high[16], low[16], sum[16];
#pragma unroll
  for (int i = 0; i < 16; ++i) high[i] = -INFINITY, low[i] = INFINITY, sum[i] = 0.f;
  for (int from = threadIdx.x / kLanes; from < count; from += kStride * kUnroll) {
    Word<Pair> word[kUnroll][2];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int t = from + u * kStride;
      if (t >= count) break;
#pragma unroll
      for (int side = 0; side < 2; ++side)
        word[u][side].raw = __ldcs(reinterpret_cast<const uint4 *>(x + t * p.x_token + side * kHalf));
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int t = from + u * kStride;
      if (t >= count) break;
      float value[2][8];
#pragma unroll
      for (int side = 0; side < 2; ++side) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 v = widen(word[u][side].pair[i]);
          value[side][2 * i] = v.x, value[side][2 * i + 1] = v.y;
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          high[8 * side + i] = max_nan(high[8 * side + i], value[side][i]);
          low[8 * side + i] = min_nan(low[8 * side + i], value[side][i]);
          sum[8 * side + i] += value[side][i];
        }
      }
      rotate<kLanes>(value[0], value[1], turns + t * (kHalf / 2) + threadIdx.x % kLanes);
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        Word<Pair> out;
#pragma unroll
        for (int i = 0; i < 4; ++i) narrow(make_float2(value[side][2 * i], value[side][2 * i + 1]), out.pair[i]);
        *reinterpret_cast<uint4 *>(rotated + t * p.rotated_token + side * kHalf) = out.raw;
      }
    }
  }
  if (p.pooled == nullptr || block < seq.first_block) return;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
#pragma unroll
    for (int lane = kLanes; lane < 32; lane *= 2) {
      high[i] = max_nan(high[i], __shfl_xor_sync(~0u, high[i], lane));
      low[i] = min_nan(low[i], __shfl_xor_sync(~0u, low[i], lane));
      sum[i] += __shfl_xor_sync(~0u, sum[i], lane);
    }
    if (threadIdx.x % 32 < kLanes) {
      const int channel = i / 8 * kHalf + column + i % 8, warp = threadIdx.x / 32;
      shared[0][warp][channel] = high[i];
      shared[1][warp][channel] = low[i];
      shared[2][warp][channel] = sum[i];
    }
  }
  __syncthreads();
  const int channel = threadIdx.x;
  if (channel >= kDim) return;
  const float *h = &shared[0][0][channel], *l = &shared[1][0][channel], *s = &shared[2][0][channel];
  const float result[3] = {max_nan(max_nan(h[0], h[kDim]), max_nan(h[2 * kDim], h[3 * kDim])),
                           min_nan(min_nan(l[0], l[kDim]), min_nan(l[2 * kDim], l[3 * kDim])),
                           ((s[0] + s[kDim]) + (s[2 * kDim] + s[3 * kDim])) / static_cast<float>(count)};
  float *out = p.pooled +
               ((int64_t{seq.first_row} + block - seq.first_block) * p.heads + head) * __popc(p.bits) * kDim + channel;
#pragma unroll
  for (int kind = 0; kind < 3; ++kind) {
    if ((p.bits >> kind & 1) == 0) continue;
    *out = result[kind];
    out += kDim;
  }
}

template <class Type, class Pair, int kDim>
__device__ __forceinline__ void pool(const PoolParams &p) {
  extern __shared__ float4 turns[];  // [block][kDim / 4]
  __shared__ float shared[3][kPoolThreads / 32][kDim];
  const int slices = (p.heads + kPoolHeads - 1) / kPoolHeads;
  const int slice = blockIdx.x % slices, item = blockIdx.x / slices;
  wait_for_previous();
  let_next_start();
  const PoolSequence seq = find_sequence(p.sequence, p.only, p.sequences, item);
  const int block = item - seq.first_item;
  fill_turns<kDim / 2>(reinterpret_cast<float2 *>(turns), p, seq.position + block * p.block,
                       min(p.block, seq.length - block * p.block));
  __syncthreads();
  for (int head = slice * kPoolHeads; head < min(p.heads, (slice + 1) * kPoolHeads); ++head) {
    pool_head<Type, Pair, kDim>(p, seq, block, head, shared, turns);
    __syncthreads();  // `shared` is free again
  }
}

}  // namespace

#define SEER_POOL(name, Type, Pair, kDim)                                                                 \
  extern "C" __global__ void __launch_bounds__(kPoolThreads) name(const __grid_constant__ PoolParams p) { \
    pool<Type, Pair, kDim>(p);                                                                            \
  }

SEER_POOL(pool_rotate_bf16_128, __nv_bfloat16, __nv_bfloat162, 128)
SEER_POOL(pool_rotate_f16_128, __half, __half2, 128)
SEER_POOL(pool_rotate_bf16_64, __nv_bfloat16, __nv_bfloat162, 64)
SEER_POOL(pool_rotate_f16_64, __half, __half2, 64)

}  // namespace seer::cuda
