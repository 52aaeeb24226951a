// pool with rotated copies, sm_80 and up: where attend wants q or k with RoPE, one pass over them pools and rotates. A
// side that is not to be rotated is pooled as in pool.cu, so that both share a launch.
//
// A thread has 8 channels and the 8 that RoPE pairs them with of some tokens. Angles come from two small tables that
// stay in L1. A NaN among the tokens makes all three pools of its channel NaN, as in the reference
// (src/cpu/pool_ref.cpp).
#include "pool.cuh"

namespace seer::cuda {
namespace {

// Eight pairs of channels of a token, turned. u: of a row of the coarse table.
template <class Pair>
__device__ __forceinline__ void turn(uint4 &low, uint4 &high, const float4 (&u)[4], const float4 *fine) {
  uint32_t a[4] = {low.x, low.y, low.z, low.w}, b[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float4 v = __ldg(fine + i);
    float2 x = unpack(typename Pair::Type{}, a[i]), y = unpack(typename Pair::Type{}, b[i]);
    rotate(make_float2(u[i].x * v.x - u[i].y * v.y, u[i].y * v.x + u[i].x * v.y), x.x, y.x);
    rotate(make_float2(u[i].z * v.z - u[i].w * v.w, u[i].w * v.z + u[i].z * v.w), x.y, y.y);
    a[i] = pack(typename Pair::Type{}, x.x, x.y), b[i] = pack(typename Pair::Type{}, y.x, y.y);
  }
  low = make_uint4(a[0], a[1], a[2], a[3]), high = make_uint4(b[0], b[1], b[2], b[3]);
}

template <class Pair, bool kRange, int kDim, class Parts>
__device__ __forceinline__ void pool_rotated_side(const PoolItem &item, int block, Parts &parts) {
  const PoolSide &s = item.side;
  constexpr int kHalf = kDim / 2, kLanes = kHalf / 8, kParts = kPoolThreads / kLanes, kAhead = 4;
  const int lane = threadIdx.x % kLanes, part = threadIdx.x / kLanes;
  const int64_t token = int64_t{item.seq.begin} + item.block * block + part;
  const char *x = static_cast<const char *>(s.x) +
                  2 * (item.seq.batch * s.x_batch + item.head * s.x_head + token * s.x_token + lane * 8);
  char *to = static_cast<char *>(s.rotated) +
             2 * (item.seq.batch * s.rotated_batch + item.head * s.rotated_head + token * s.rotated_token + lane * 8);
  const int64_t stride = 2 * kParts * s.x_token, to_stride = 2 * kParts * s.rotated_token;
  int position = item.seq.position + item.block * block + part, row = -1;
  float4 u[4];
  Pools<Pair, kRange, 16> pools;
#pragma unroll 1
  for (int left = item.count - part; left > 0; left -= kAhead * kParts) {
    uint4 word[kAhead][2];
#pragma unroll
    for (int i = 0; i < kAhead; ++i, x += stride)
      if (i * kParts < left) word[i][0] = load_once(x), word[i][1] = load_once(x + kDim);
#pragma unroll
    for (int i = 0; i < kAhead; ++i, to += to_stride, position += kParts) {
      if (i * kParts >= left) continue;
      if (position / 64 != row) {
        row = position / 64;
#pragma unroll
        for (int j = 0; j < 4; ++j)
          u[j] = __ldg(reinterpret_cast<const float4 *>(s.coarse) + row * int64_t{kHalf / 2} + lane * 4 + j);
      }
      uint4 &low = word[i][0], &high = word[i][1];
      pools.add(0, low);
      pools.add(1, high);
      turn<Pair>(low, high, u, reinterpret_cast<const float4 *>(s.fine) + position % 64 * (kHalf / 2) + lane * 4);
      *reinterpret_cast<uint4 *>(to) = low;
      *reinterpret_cast<uint4 *>(to + kDim) = high;
    }
  }
  if (s.pooled == nullptr || item.block < item.seq.first_block) return;
  parts.put(part * kDim + lane * 8, pools, 0);
  parts.put(part * kDim + kHalf + lane * 8, pools, 1);
  __syncthreads();
  finish<Pair, kRange, kDim, kParts>(item, parts);
}

template <class Pair, int kDim>
__device__ __forceinline__ void pool(const PoolParams &p) {
  __shared__ PoolParts<16> parts;
  const bool second = static_cast<int>(blockIdx.x) >= p.first;
  wait_for_previous();
  let_next_start();
  const PoolItem item(p, second);
  const bool range = item.side.bits & (kPoolMax | kPoolMin);
  if (item.side.rotated == nullptr) {
    if (range)
      pool_side<Pair, true, kDim>(item, p.block, parts);
    else
      pool_side<Pair, false, kDim>(item, p.block, parts);
  } else if (range) {
    pool_rotated_side<Pair, true, kDim>(item, p.block, parts);
  } else {
    pool_rotated_side<Pair, false, kDim>(item, p.block, parts);
  }
}

}  // namespace

#define SEER_POOL(name, Pair, kDim)                                                                          \
  extern "C" __global__ void __launch_bounds__(kPoolThreads, 4) name(const __grid_constant__ PoolParams p) { \
    pool<Pair, kDim>(p);                                                                                     \
  }

SEER_POOL(pool_rotate_bf16_128, Bf16, 128)
SEER_POOL(pool_rotate_f16_128, F16, 128)
SEER_POOL(pool_rotate_bf16_64, Bf16, 64)
SEER_POOL(pool_rotate_f16_64, F16, 64)

}  // namespace seer::cuda
