// RoPE by two small tables instead of a large one (PoolParams in launch.h): the angle of a position is that of its row
// of the coarse table, position / 64, and that of its place in it, position % 64.
#pragma once
#include <cstdint>

namespace seer::cuda {

// (cos, sin) of the sum of two angles.
__device__ __forceinline__ float2 add_angles(float2 u, float2 v) {
  return make_float2(u.x * v.x - u.y * v.y, u.y * v.x + u.x * v.y);
}
// (cos, sin) of a pair of channels, of `half` pairs.
__device__ __forceinline__ float2 turn_at(const float *coarse, const float *fine, int row, int place, int half,
                                          int pair) {
  const float2 u = __ldg(reinterpret_cast<const float2 *>(coarse) + int64_t{row} * half + pair);
  const float2 v = __ldg(reinterpret_cast<const float2 *>(fine) + place * half + pair);
  return add_angles(u, v);
}
__device__ __forceinline__ void rotate(float2 turn, float &low, float &high) {
  const float a = low;
  low = a * turn.x - high * turn.y;
  high = high * turn.x + a * turn.y;
}
// Two neighbouring pairs, by what both tables have for them.
__device__ __forceinline__ void rotate_two(const float4 &u, const float4 &v, float2 &low, float2 &high) {
  rotate(add_angles(make_float2(u.x, u.y), make_float2(v.x, v.y)), low.x, high.x);
  rotate(add_angles(make_float2(u.z, u.w), make_float2(v.z, v.w)), low.y, high.y);
}

}  // namespace seer::cuda
