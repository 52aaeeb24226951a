// pool, sm_80 and up: each block's maximum, minimum and average of q and of k, in one launch. pool_rotate.cu also
// rotates.
//
// A block of threads takes a block of tokens of a head, a thread 8 channels of some tokens, all of which it asks for
// before it looks at the first: bytes under way are what bounds, and short blocks of threads keep memory busy while
// others begin and end. A NaN among the tokens makes all three pools of its channel NaN, as in the reference
// (src/cpu/pool_ref.cpp).
#include "pool.cuh"

namespace seer::cuda {
namespace {

template <class Pair, int kDim>
__device__ __forceinline__ void pool(const PoolParams &p) {
  __shared__ PoolParts<8> parts;
  const bool second = static_cast<int>(blockIdx.x) >= p.first;
  wait_for_previous();
  let_next_start();
  const PoolItem item(p, second);
  if (item.side.bits & (kPoolMax | kPoolMin))
    pool_side<Pair, true, kDim>(item, p.block, parts);
  else
    pool_side<Pair, false, kDim>(item, p.block, parts);
}

}  // namespace

#define SEER_POOL(name, Pair, kDim)                                                                          \
  extern "C" __global__ void __launch_bounds__(kPoolThreads, 6) name(const __grid_constant__ PoolParams p) { \
    pool<Pair, kDim>(p);                                                                                     \
  }

SEER_POOL(pool_bf16_128, Bf16, 128)
SEER_POOL(pool_f16_128, F16, 128)
SEER_POOL(pool_bf16_64, Bf16, 64)
SEER_POOL(pool_f16_64, F16, 64)

}  // namespace seer::cuda
