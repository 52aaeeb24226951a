// RoPE of pooled vectors: by the sum of two tables' angles (PoolParams in launch.h), positions being blocks.
#pragma once
#include <cstdint>

namespace seer::cuda {

// (cos, sin) of a pair of channels, of `half` pairs, at a position.
__device__ __forceinline__ float2 turn_of(const float *coarse, const float *fine, int position, int half, int pair) {
  const float2 u = __ldg(reinterpret_cast<const float2 *>(coarse) + int64_t{position / 64} * half + pair);
  const float2 v = __ldg(reinterpret_cast<const float2 *>(fine) + position % 64 * half + pair);
  return make_float2(u.x * v.x - u.y * v.y, u.y * v.x + u.x * v.y);
}
__device__ __forceinline__ void rotate(float2 turn, float &low, float &high) {
  const float a = low;
  low = a * turn.x - high * turn.y;
  high = high * turn.x + a * turn.y;
}

}  // namespace seer::cuda
