// pool for whatever pool.cu does not take: f32, any number of channels, any strides. A block of threads takes a block
// of tokens of one head; a thread keeps a pair of channels that RoPE turns together. Reads are coalesced, and that is
// all that was done for speed.
#include <cmath>
#include <cstdint>

#include "launch.h"
#include "rope.cuh"
#include "sequences.cuh"
#include "sm80.cuh"

namespace seer::cuda {
namespace {

using namespace seer::sm80;

// A channel's pools so far. A NaN stays.
struct Pools {
  float high = -INFINITY, low = INFINITY, sum = 0.f;
  __device__ __forceinline__ void add(float x) {
    asm("max.NaN.f32 %0, %0, %1;" : "+f"(high) : "f"(x));
    asm("min.NaN.f32 %0, %0, %1;" : "+f"(low) : "f"(x));
    sum += x;
  }
  __device__ __forceinline__ void store(float *out, uint32_t bits, int dim, int count) const {
    const float result[3] = {high, low, sum / static_cast<float>(count)};
#pragma unroll
    for (int kind = 0; kind < 3; ++kind) {
      if ((bits >> kind & 1) == 0) continue;
      *out = result[kind];
      out += dim;
    }
  }
};

template <class Type>
__device__ __forceinline__ void pool_plain(const PoolParams &params, int dim) {
  const PoolSide &p = params.side[0];
  const int item = blockIdx.x, head = blockIdx.y;
  PoolSequence seq = p.only;
  if (p.sequence != nullptr) seq = p.sequence[find_index(p.sequence, p.sequences, item)];
  const int block = item - seq.first_item, first = block * params.block, count = min(params.block, seq.length - first);
  const int pairs = (dim + 1) / 2, half = dim / 2;
  const int64_t token = int64_t{seq.begin} + first;
  const Type *x = static_cast<const Type *>(p.x) + seq.batch * p.x_batch + head * p.x_head + token * p.x_token;
  Type *rotated =
      static_cast<Type *>(p.rotated) + seq.batch * p.rotated_batch + head * p.rotated_head + token * p.rotated_token;
  for (int pair = threadIdx.x; pair < pairs; pair += kPoolThreads) {
    // Of an odd number of channels, which cannot be turned, the last has no partner.
    const int a = pair, b = pair + pairs;
    const bool both = b < dim;
    Pools pools[2];
    for (int t = 0; t < count; ++t) {
      const float u = widen(x[t * p.x_token + a]), v = both ? widen(x[t * p.x_token + b]) : 0.f;
      pools[0].add(u);
      pools[1].add(v);
      if (p.rotated == nullptr) continue;
      float c = 1.f, s = 0.f;
      if (p.coarse != nullptr) {
        const int at = seq.position + first + t;
        const float2 turn = turn_at(p.coarse, p.fine, at >> 6, at & 63, half, pair);
        c = turn.x;
        s = turn.y;
      }
      narrow(u * c - v * s, rotated[t * p.rotated_token + a]);
      if (both) narrow(v * c + u * s, rotated[t * p.rotated_token + b]);
    }
    if (p.pooled == nullptr || block < seq.first_block) continue;
    float *out =
        static_cast<float *>(p.pooled) +
        ((int64_t{seq.first_row} + block - seq.first_block) * p.heads + head) * (__popc(p.bits) * int64_t{dim});
    pools[0].store(out + a, p.bits, dim, count);
    if (both) pools[1].store(out + b, p.bits, dim, count);
  }
}

}  // namespace

#define SEER_POOL_PLAIN(name, Type)                                                                                    \
  extern "C" __global__ void __launch_bounds__(kPoolThreads) name(const __grid_constant__ PoolParams p, int32_t dim) { \
    pool_plain<Type>(p, dim);                                                                                          \
  }

SEER_POOL_PLAIN(pool_plain_f32, float)
SEER_POOL_PLAIN(pool_plain_f16, __half)
SEER_POOL_PLAIN(pool_plain_bf16, __nv_bfloat16)

}  // namespace seer::cuda
