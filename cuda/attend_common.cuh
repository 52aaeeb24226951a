// What all attend kernels share: constants of their softmax, words of block masks, stores straight from registers.
#pragma once
#include <cstdint>

namespace seer::cuda {

constexpr float kLn2 = 0.6931471805599453f;
constexpr float kLowest = -1e30f;  // maximum of nothing; finite, so that differences of two are 0 and not NaN
constexpr float kSlack = 8.f;  // the running maximum may lag this far behind, in powers of two, before O is rescaled

// Bits 0..15 of x, each twice.
__device__ __forceinline__ uint32_t twice(uint32_t x) {
  x &= 0xffff;
  x = (x | x << 8) & 0x00ff00ff;
  x = (x | x << 4) & 0x0f0f0f0f;
  x = (x | x << 2) & 0x33333333;
  x = (x | x << 1) & 0x55555555;
  return x | x << 1;
}

// Lane i of a quad gives word i of each lane's four: a 4 x 4 transpose.
__device__ __forceinline__ void transpose_quad(uint32_t (&w)[4], int lane) {
  const bool odd = lane & 1, upper = lane & 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t got = __shfl_xor_sync(~0u, odd ? w[i] : w[i + 1], 1);
    (odd ? w[i] : w[i + 1]) = got;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t got = __shfl_xor_sync(~0u, upper ? w[i] : w[i + 2], 2);
    (upper ? w[i] : w[i + 2]) = got;
  }
}

}  // namespace seer::cuda
