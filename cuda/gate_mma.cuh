// What the kernels of the gate (pool, project, score and select) share: constants, values as sums of bf16, positions in
// blocks. All of it exists from sm_80 on.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "launch_gate.h"
#include "rope.cuh"
#include "sequences.cuh"
#include "sm80.cuh"

namespace seer::cuda {

using namespace seer::sm80;

constexpr uint32_t kPoolMax = 1, kPoolMin = 2, kPoolAvg = 4;  // PoolBits of src/gate.h

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLowest = -3e38f;  // stands for the maximum of nothing
constexpr float kHighest = 3e38f;  // stands for infinity: exp2 of a difference stays defined

// A pair of values as kCount pairs of bf16. What is not finite has no second term.
template <int kCount>
__device__ __forceinline__ void split(float a, float b, uint32_t (&term)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const __nv_bfloat162 t = __floats2bfloat162_rn(a, b);
    term[i] = reinterpret_cast<const uint32_t &>(t);
    const float2 back = __bfloat1622float2(t);
    a = fabsf(back.x) <= 3.3e38f ? a - back.x : 0.f;
    b = fabsf(back.y) <= 3.3e38f ? b - back.y : 0.f;
  }
}

// (cos, sin) of a pair of channels of a gate vector, of `half` pairs, at a position in blocks.
__device__ __forceinline__ float2 turn_of(const float *coarse, const float *fine, int position, int half, int pair) {
  const float2 u = __ldg(reinterpret_cast<const float2 *>(coarse) + int64_t{position / 64} * half + pair);
  const float2 v = __ldg(reinterpret_cast<const float2 *>(fine) + position % 64 * half + pair);
  return add_angles(u, v);
}

// Key blocks that block row r sees; see causal_blocks in src/block_mask.h.
__device__ __forceinline__ int causal_blocks(const GateSequence &s, int r, int block) {
  return (s.offset + min((r + 1) * block, s.q_len) + block - 1) / block;
}

}  // namespace seer::cuda
