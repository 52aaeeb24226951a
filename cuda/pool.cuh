// What the kernels that pool share: elements of 16 bits in pairs, a thread's pools, and how those of a block of threads
// become a block's.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "gate_mma.cuh"
#include "launch.h"

namespace seer::cuda {

// Elements of 16 bits, two in a word. max and min keep a NaN.
#define SEER_PAIR(Name, Element, lowest, highest, kind)                        \
  struct Name {                                                                \
    using Type = Element;                                                      \
    static constexpr uint32_t kLowest = lowest, kHighest = highest;            \
    static __device__ __forceinline__ void raise(uint32_t &high, uint32_t x) { \
      asm("max.NaN." kind " %0, %0, %1;" : "+r"(high) : "r"(x));               \
    }                                                                          \
    static __device__ __forceinline__ void lower(uint32_t &low, uint32_t x) {  \
      asm("min.NaN." kind " %0, %0, %1;" : "+r"(low) : "r"(x));                \
    }                                                                          \
  };
SEER_PAIR(Bf16, __nv_bfloat16, 0xff80ff80u, 0x7f807f80u, "bf16x2")  // -inf, inf
SEER_PAIR(F16, __half, 0xfc00fc00u, 0x7c007c00u, "f16x2")
#undef SEER_PAIR

// Read once; what else is in L2 should stay there.
__device__ __forceinline__ uint4 load_once(const void *p) { return __ldcs(static_cast<const uint4 *>(p)); }

// Pools so far of kChannels channels, 8 at a time: pairs of elements, and sums.
template <class Pair, bool kRange, int kChannels>
struct Pools {
  uint32_t high[kRange ? kChannels / 2 : 1], low[kRange ? kChannels / 2 : 1];
  float sum[kChannels];

  __device__ __forceinline__ Pools() {
#pragma unroll
    for (int i = 0; i < (kRange ? kChannels / 2 : 0); ++i) high[i] = Pair::kLowest, low[i] = Pair::kHighest;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) sum[i] = 0.f;
  }
  // Channels 8 eight .. 8 eight + 7 of a token.
  __device__ __forceinline__ void add(int eight, const uint4 &raw) {
    const uint32_t word[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kRange) {
        Pair::raise(high[4 * eight + i], word[i]);
        Pair::lower(low[4 * eight + i], word[i]);
      }
      const float2 v = unpack(typename Pair::Type{}, word[i]);
      sum[8 * eight + 2 * i] += v.x, sum[8 * eight + 2 * i + 1] += v.y;
    }
  }
};

// What a block of threads works on.
struct PoolItem {
  const PoolSide &side;
  PoolSequence seq;
  int head, block, count;  // count: tokens of the block

  // second: of side 1.
  __device__ __forceinline__ PoolItem(const PoolParams &p, bool second) : side(p.side[second]) {
    const int at = blockIdx.x - (second ? p.first : 0), item = at / side.heads;
    seq = find_sequence(side.sequence, side.only, side.sequences, item);
    block = item - seq.first_item;
    count = min(p.block, seq.length - block * p.block);
    head = at % side.heads;
  }
};

// Pools of parts of a block of tokens, [part][channel]: kChannels of each thread.
template <int kChannels>
struct PoolParts {
  static constexpr int kValues = kPoolThreads * kChannels;
  float sum[kValues];
  uint32_t high[kValues / 2], low[kValues / 2];

  // Eight of the channels of a thread's pools, from value `at` on.
  template <class Pair, bool kRange, int kOwn>
  __device__ __forceinline__ void put(int at, const Pools<Pair, kRange, kOwn> &pools, int eight) {
    const float *s = pools.sum + 8 * eight;
    reinterpret_cast<float4 *>(sum + at)[0] = make_float4(s[0], s[1], s[2], s[3]);
    reinterpret_cast<float4 *>(sum + at)[1] = make_float4(s[4], s[5], s[6], s[7]);
    if constexpr (kRange) {
      const uint32_t *h = pools.high + 4 * eight, *l = pools.low + 4 * eight;
      *reinterpret_cast<uint4 *>(high + at / 2) = make_uint4(h[0], h[1], h[2], h[3]);
      *reinterpret_cast<uint4 *>(low + at / 2) = make_uint4(l[0], l[1], l[2], l[3]);
    }
  }
};

// A block's pools from those of kParts parts: a thread makes two neighbouring channels and the two that RoPE pairs them
// with, half a vector on.
template <class Pair, bool kRange, int kDim, int kParts, class Parts>
__device__ __forceinline__ void finish(const PoolItem &item, const Parts &from) {
  const PoolSide &s = item.side;
  constexpr int kHalf = kDim / 2;
  const int pair = threadIdx.x, head = item.head;
  if (pair >= kHalf / 2) return;
  float2 average[2] = {};
  uint32_t most[2] = {Pair::kLowest, Pair::kLowest}, least[2] = {Pair::kHighest, Pair::kHighest};
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    const int at = part * kHalf + pair;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 v = reinterpret_cast<const float2 *>(from.sum)[at + half * (kHalf / 2)];
      average[half].x += v.x, average[half].y += v.y;
      if constexpr (kRange) {
        Pair::raise(most[half], from.high[at + half * (kHalf / 2)]);
        Pair::lower(least[half], from.low[at + half * (kHalf / 2)]);
      }
    }
  }
  const float count = static_cast<float>(item.count);
#pragma unroll
  for (int half = 0; half < 2; ++half) average[half] = make_float2(average[half].x / count, average[half].y / count);

  const int row = item.seq.first_row + item.block - item.seq.first_block;
  if constexpr (kDim == 128) {
    if (s.tiles != 0) {
      const int terms = __popc(s.bits) + (s.bits & kPoolAvg ? 2 : 0);  // pool_terms
      char *to = static_cast<char *>(s.pooled) + (int64_t{head} * s.tiles + row / kTermRows) * (2 * terms * kTermTile) +
                 row % kTermRows * 128 + (pair / 4 ^ (row & 7)) * 16 + pair % 4 * 4;
      const auto put = [&](uint32_t word) {
        *reinterpret_cast<uint32_t *>(to) = word;
        to += kTermTile;
      };
      if (s.bits & kPoolMax) put(most[0]), put(most[1]);
      if (s.bits & kPoolMin) put(least[0]), put(least[1]);
      if (s.bits & kPoolAvg) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint32_t term[3];
          split(average[half].x, average[half].y, term);
          put(term[2]), put(term[1]), put(term[0]);
        }
      }
      return;
    }
  }
  float2 result[3][2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    result[0][half] = unpack(typename Pair::Type{}, most[half]);
    result[1][half] = unpack(typename Pair::Type{}, least[half]);
    result[2][half] = average[half];
  }
  float *to = static_cast<float *>(s.pooled) + (int64_t{row} * s.heads + head) * (__popc(s.bits) * kDim) + 2 * pair;
#pragma unroll
  for (int kind = 0; kind < 3; ++kind) {
    if ((s.bits >> kind & 1) == 0) continue;
    float2 low = result[kind][0], high = result[kind][1];
    if (s.gate_coarse != nullptr) {
      const int position = item.seq.gate_position + item.block;
      rotate(turn_of(s.gate_coarse, s.gate_fine, position, kHalf, 2 * pair), low.x, high.x);
      rotate(turn_of(s.gate_coarse, s.gate_fine, position, kHalf, 2 * pair + 1), low.y, high.y);
    }
    *reinterpret_cast<float2 *>(to) = low;
    *reinterpret_cast<float2 *>(to + kHalf) = high;
    to += kDim;
  }
}

// A side that is only pooled. A thread has 8 channels of every kParts-th token, kAhead of which it asks for at once.
template <class Pair, bool kRange, int kDim, class Parts>
__device__ __forceinline__ void pool_side(const PoolItem &item, int block, Parts &parts) {
  const PoolSide &s = item.side;
  constexpr int kLanes = kDim / 8, kParts = kPoolThreads / kLanes, kAhead = 8;
  const int lane = threadIdx.x % kLanes, part = threadIdx.x / kLanes;
  const char *x = static_cast<const char *>(s.x) +
                  2 * (item.seq.batch * s.x_batch + item.head * s.x_head +
                       (int64_t{item.seq.begin} + item.block * block + part) * s.x_token + lane * 8);
  const int64_t stride = 2 * kParts * s.x_token;
  Pools<Pair, kRange, 8> pools;
#pragma unroll 1
  for (int left = item.count - part; left > 0; left -= kAhead * kParts) {
    uint4 word[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i, x += stride)
      if (i * kParts < left) word[i] = load_once(x);
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (i * kParts < left) pools.add(0, word[i]);
  }
  parts.put(part * kDim + lane * 8, pools, 0);
  __syncthreads();
  finish<Pair, kRange, kDim, kParts>(item, parts);
}

}  // namespace seer::cuda
