// What a consumer warpgroup of the Hopper attend kernel does with a tile in registers: products, mask, online softmax.
#pragma once
#include "attend_sm90_shared.cuh"

namespace seer::cuda {

using namespace seer::sm90;

// Descriptors advance by addition to their lower halves: an address computed anew for each product stands between one
// and the next.
template <class C>
__device__ __forceinline__ void issue_qk(float (&s)[32], uint32_t q, uint32_t k) {
  const uint64_t a = descriptor(q, 16, 1024), b = descriptor(k, 16, 1024);
#pragma unroll
  for (int i = 0; i < C::kDim / 16; ++i) {
    const int at = (i & 3) * 32 + (i >> 2) * 8192;
    wgmma_abt(typename C::Type{}, s, advance(a, at), advance(b, at), i != 0);
  }
}

template <class C>
__device__ __forceinline__ void issue_pv(float (&o)[C::kDim / 2], const uint32_t (&probs)[16], uint32_t v) {
  const uint64_t b = descriptor(v, 8192, 1024);
#pragma unroll
  for (int i = 0; i < 4; ++i) wgmma_pv(typename C::Type{}, o, probs + 4 * i, advance(b, i * 2048));
}

// Two rows of a group to a thread: `row` and `row` + 8 of the 64, elements 4 c + {0, 1} and 4 c + {2, 3} of s being
// their columns 8 c + 2 (lane % 4) + {0, 1}.
struct Softmax {
  float base[2], sum[2];  // scaled maximum; sum of this thread's columns alone

  // Turns S into P relative to the running maximum. True if the maximum moved and O must be multiplied by `factor`.
  // Most tiles do not move it: the maximum may lag by kSlack, so one vote replaces the reduction over columns.
  __device__ __forceinline__ bool step(float (&s)[32], float scale, float (&factor)[2]) {
    float high[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float m[8];
#pragma unroll
      for (int c = 0; c < 8; ++c) m[c] = fmaxf(s[4 * c + 2 * r], s[4 * c + 2 * r + 1]);
      high[r] = fmaxf(fmaxf(fmaxf(m[0], m[1]), fmaxf(m[2], m[3])), fmaxf(fmaxf(m[4], m[5]), fmaxf(m[6], m[7])));
    }
    const bool moved =
        __any_sync(~0u, fmaf(high[0], scale, -base[0]) > kSlack || fmaf(high[1], scale, -base[1]) > kSlack);
    if (moved) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        high[r] = fmaxf(high[r], __shfl_xor_sync(~0u, high[r], 1));
        high[r] = fmaxf(high[r], __shfl_xor_sync(~0u, high[r], 2));
        high[r] = fmaxf(high[r] * scale, base[r]);
        factor[r] = exp2_approx(base[r] - high[r]);
        base[r] = high[r];
        sum[r] *= factor[r];
      }
    }
#pragma unroll
    for (int c = 0; c < 8; ++c) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        s[4 * c + e] = exp2_approx(fmaf(s[4 * c + e], scale, -base[e >> 1]));
        sum[e >> 1] += s[4 * c + e];
      }
    }
    return moved;
  }

  // The same with the maximum as it stands, which most tiles leave where it is: no column need be looked at before the
  // exponentials. False, and nothing done but to `probs`, if they then come out too large.
  template <class C>
  __device__ __forceinline__ bool step_as_is(const float (&s)[32], float scale, uint32_t (&probs)[16]) {
    float more[2] = {0.f, 0.f};
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      float e[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        e[i] = exp2_approx(fmaf(s[4 * c + i], scale, -base[i >> 1]));
        more[i >> 1] += e[i];
      }
      probs[2 * c] = pack(typename C::Type{}, e[0], e[1]);
      probs[2 * c + 1] = pack(typename C::Type{}, e[2], e[3]);
    }
    if (__any_sync(~0u, more[0] > kLargest || more[1] > kLargest)) return false;
    sum[0] += more[0];
    sum[1] += more[1];
    return true;
  }
};

// Causal mask of a tile: column c of row r stays if ahead + c <= r; ahead = first key - position of the first row.
__device__ __forceinline__ void mask_causal(float (&s)[32], int ahead, int row, int lane) {
  const int last = row - ahead - 2 * (lane & 3);  // of the columns 8 c + {0, 1}
#pragma unroll
  for (int i = 0; i < 32; ++i)
    if (8 * (i >> 2) + (i & 1) - 8 * (i >> 1 & 1) > last) s[i] = -INFINITY;
}

template <class C>
__device__ __forceinline__ void scale_rows(float (&o)[C::kDim / 2], const float (&factor)[2]) {
#pragma unroll
  for (int i = 0; i < C::kDim / 2; ++i) o[i] *= factor[i >> 1 & 1];
}

template <class C>
__device__ __forceinline__ void round_probs(const float (&s)[32], uint32_t (&probs)[16]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) probs[i] = pack(typename C::Type{}, s[2 * i], s[2 * i + 1]);
}

}  // namespace seer::cuda
