// V that is not finite, where the causal mask cuts a tile. The tensor cores multiply all keys of a tile, and 0 times
// what is not finite is not 0: the tile's product is then made anew, key by key, of what each row sees.
#pragma once
#include "attend_sm90_shared.cuh"

namespace seer::cuda {

using namespace seer::sm90;

// Whether this warp's rows of O, the product of one tile, may have met something that is not finite. What of V is not
// finite has met all rows, so that one of a thread's two will do.
template <class C>
__device__ __forceinline__ bool tainted(const float (&o)[C::kDim / 2]) {
  float all[4] = {0.f, 0.f, 0.f, 0.f};  // of products: what is not finite stays so
#pragma unroll
  for (int i = 0; i < C::kDim / 8; ++i) all[i & 3] = fmaf(o[4 * i], o[4 * i + 1], all[i & 3]);
  return __any_sync(~0u, !(fabsf((all[0] + all[1]) + (all[2] + all[3])) < INFINITY));
}

// Whether a tile of V holds anything that is not finite: each warp looks at all of it, so that they agree.
template <class C>
__device__ __forceinline__ bool poisoned(const uint8_t *v, int lane) {
  uint32_t bad = 0;
#pragma unroll 4
  for (int i = lane * 16; i < C::kTileBytes; i += 512) {
    const uint4 x = *reinterpret_cast<const uint4 *>(v + i);
    bad |= not_finite(typename C::Type{}, x.x) | not_finite(typename C::Type{}, x.y) |
           not_finite(typename C::Type{}, x.z) | not_finite(typename C::Type{}, x.w);
  }
  return __any_sync(~0u, bad != 0);
}

// O += P V of what each row sees: key c if ahead + c <= r; see mask_causal.
template <class C>
__device__ __forceinline__ void add_seen(float (&o)[C::kDim / 2], const uint32_t (&probs)[16], const uint8_t *v,
                                         int ahead, int row, int lane) {
  using Type = typename C::Type;
#pragma unroll 1
  for (int key = 0; key < kRows; ++key) {
    float weight[2];
    bool seen[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      uint32_t pair = 0;
#pragma unroll
      for (int c = 0; c < 8; ++c) choose(pair, c == key >> 3, probs[2 * c + r]);
      const float2 both = unpack(Type{}, __shfl_sync(~0u, pair, (lane & ~3) + (key >> 1 & 3)));
      weight[r] = key & 1 ? both.y : both.x;
      seen[r] = ahead + key <= row + 8 * r;
    }
    const uint8_t *from = v + key * 128 + (lane & 3) * 4;
#pragma unroll
    for (int c = 0; c < C::kDim / 8; ++c) {
      const float2 x =
          unpack(Type{}, *reinterpret_cast<const uint32_t *>(from + (c >> 3) * 8192 + ((c ^ key) & 7) * 16));
#pragma unroll
      for (int r = 0; r < 2; ++r)
        if (seen[r]) {
          o[4 * c + 2 * r] = fmaf(weight[r], x.x, o[4 * c + 2 * r]);
          o[4 * c + 2 * r + 1] = fmaf(weight[r], x.y, o[4 * c + 2 * r + 1]);
        }
    }
  }
}

}  // namespace seer::cuda
