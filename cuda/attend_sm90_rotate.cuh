// RoPE on the Q tile of a row group of the Hopper attend kernel, in shared memory.
#pragma once
#include "attend_sm90_shared.cuh"
#include "rope.cuh"

namespace seer::cuda {

using namespace seer::sm90;

// Four channels of every kStep-th row, and the four that RoPE pairs them with, to a thread. Its rows' angles differ by
// one and the same, so that it reads three rows of the tables only: they stay in the first-level cache, which all of
// the fine table does not, beside the shared memory of this kernel.
template <class C>
class RotateQ {
  static constexpr int kHalf = C::kDim / 2, kLanes = kHalf / 4, kStep = kThreads / kLanes, kOwnRows = kRows / kStep;
  static_assert(kStep % 8 == 0, "the swizzle is the same for all rows of a thread");
  using Turns = float2[4];

public:
  // Asks for the angles of a tile, well before they are used; `position`: of its first row, `last`: the last that the
  // tables hold.
  __device__ __forceinline__ void load(const AttendParams &p, int position, int last, int thread) {
    const int lane = thread % kLanes, at = max(min(position + thread / kLanes, last), 0);
    load(coarse_, p.coarse, at >> 6, lane);
    load(fine_, p.fine, at & 63, lane);
    load(step_, p.fine, kStep, lane);
  }

  // Turns the tile, which TMA has written. What this thread has written is then visible to wgmma, once the others of
  // the warpgroup have got here.
  __device__ __forceinline__ void apply(uint8_t *tile, int thread) const {
    using Type = typename C::Type;
    const int lane = thread % kLanes, row = thread / kLanes;
    uint8_t *at = tile + row * 128 + ((lane >> 1) ^ (row & 7)) * 16 + (lane & 1) * 8;
    const int other = C::kDim == 128 ? kRows * 128 : (lane >> 1 ^ row) & 4 ? -64 : 64;
    Turns turn, next;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      turn[c] = add_angles(coarse_[c], fine_[c]);
      next[c] = add_angles(turn[c], step_[c]);
    }
#pragma unroll
    for (int i = 0; i < kOwnRows; ++i) {
      uint2 *low = reinterpret_cast<uint2 *>(at + i * kStep * 128);
      uint2 *high = reinterpret_cast<uint2 *>(at + i * kStep * 128 + other);
      uint2 a = *low, b = *high;
      rotate(Type{}, a.x, b.x, turn[0], turn[1]);
      rotate(Type{}, a.y, b.y, turn[2], turn[3]);
      *low = a;
      *high = b;
#pragma unroll
      for (int c = 0; c < 4; ++c) {  // cos((n + 1) x) = 2 cos(x) cos(n x) - cos((n - 1) x), and so for sin
        const float twice = 2.f * step_[c].x;
        const float2 after = make_float2(twice * next[c].x - turn[c].x, twice * next[c].y - turn[c].y);
        turn[c] = next[c];
        next[c] = after;
      }
    }
    fence_async_proxy();
  }

private:
  __device__ __forceinline__ static void load(Turns &t, const float *table, int row, int lane) {
    const float4 *from = reinterpret_cast<const float4 *>(table) + (int64_t{row} * kHalf + 4 * lane) / 2;
    const float4 a = __ldg(from), b = __ldg(from + 1);
    t[0] = make_float2(a.x, a.y), t[1] = make_float2(a.z, a.w);
    t[2] = make_float2(b.x, b.y), t[3] = make_float2(b.z, b.w);
  }
  // Two pairs of channels.
  template <class Type>
  __device__ __forceinline__ static void rotate(Type type, uint32_t &a, uint32_t &b, float2 t, float2 u) {
    const float2 x = unpack(type, a), y = unpack(type, b);
    a = pack(type, x.x * t.x - y.x * t.y, x.y * u.x - y.y * u.y);
    b = pack(type, y.x * t.x + x.x * t.y, y.y * u.x + x.y * u.y);
  }

  Turns coarse_, fine_, step_;
};

}  // namespace seer::cuda
