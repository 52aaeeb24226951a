// Vector helpers of the *_simd kernels, compiled once per target: element types, rotation, exponentials.
#if defined(SEER_CPU_SIMD_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef SEER_CPU_SIMD_INL_H
#undef SEER_CPU_SIMD_INL_H
#else
#define SEER_CPU_SIMD_INL_H
#endif

#include <algorithm>
#include <cstdint>

#include "../dtype.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace seer::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;
// A compile-time constant: targets with scalable vectors are disabled (simd_target.h).
inline constexpr int64_t kLanes = HWY_LANES(float);
// Rows of a register tile of a GEMM: with two vectors of columns, as many as the registers hold.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4
inline constexpr int kRows = 6;
#else
inline constexpr int kRows = 8;
#endif

HWY_INLINE VF load_f32(DF d, const float *x) { return hn::LoadU(d, x); }
HWY_INLINE VF load_f32(DF d, const bf16 *x) {
  const hn::Rebind<uint16_t, DF> d16;
  const hn::RebindToUnsigned<DF> du;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, &x->bits))));
}
HWY_INLINE void store_as(DF d, VF v, float *x) { hn::StoreU(v, d, x); }
// Highway's own demotion truncates; ours rounds to nearest even as from_f32 does.
HWY_INLINE void store_as(DF, VF v, bf16 *x) {
  const hn::Rebind<uint16_t, DF> d16;
  const hn::RebindToSigned<DF> di;
  const hn::RebindToUnsigned<DF> du;
  const auto u = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(u), hn::Set(du, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(u, hn::Add(odd, hn::Set(du, 0x7fff))));
  const auto quiet = hn::Or(hn::ShiftRight<16>(u), hn::Set(du, 0x40));
  const auto bits = hn::IfThenElse(hn::RebindMask(du, hn::Ne(v, v)), quiet, rounded);
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, bits)), d16, &x->bits);
}
#if HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR
// Without instructions for f16, Highway emulates them without Inf and NaN, and truncates.
HWY_INLINE VF load_f32(DF d, const f16 *x) {
  HWY_ALIGN float lanes[HWY_LANES(float)];
  for (int64_t i = 0; i < kLanes; i++) lanes[i] = to_f32(x[i]);
  return hn::Load(d, lanes);
}
HWY_INLINE void store_as(DF d, VF v, f16 *x) {
  HWY_ALIGN float lanes[HWY_LANES(float)];
  hn::Store(v, d, lanes);
  for (int64_t i = 0; i < kLanes; i++) x[i] = from_f32<f16>(lanes[i]);
}
#else
HWY_INLINE VF load_f32(DF d, const f16 *x) {
  const hn::Rebind<hwy::float16_t, DF> d16;
  return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t *>(x)));
}
HWY_INLINE void store_as(DF, VF v, f16 *x) {
  const hn::Rebind<hwy::float16_t, DF> d16;
  hn::StoreU(hn::DemoteTo(d16, v), d16, reinterpret_cast<hwy::float16_t *>(x));
}
#endif

template <class T>
HWY_INLINE void widen_row(const T *x, int64_t n, float *out) {
  const DF d;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) hn::StoreU(load_f32(d, x + i), d, out + i);
  for (; i < n; i++) out[i] = to_f32(x[i]);
}

// out = x * factor in T.
template <class T>
HWY_INLINE void narrow_row(const float *x, float factor, int64_t n, T *out) {
  const DF d;
  const VF f = hn::Set(d, factor);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_as(d, hn::Mul(hn::LoadU(d, x + i), f), out + i);
  for (; i < n; i++) out[i] = from_f32<T>(x[i] * factor);
}

// Rotates the first 2 * half channels of x, pairs being half apart.
HWY_INLINE void rotate_row(const float *cos, const float *sin, int64_t half, float *x) {
  const DF d;
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const VF a = hn::LoadU(d, x + i), b = hn::LoadU(d, x + half + i);
    const VF c = hn::LoadU(d, cos + i), s = hn::LoadU(d, sin + i);
    hn::StoreU(hn::NegMulAdd(b, s, hn::Mul(a, c)), d, x + i);
    hn::StoreU(hn::MulAdd(a, s, hn::Mul(b, c)), d, x + half + i);
  }
  for (; i < half; i++) {
    const float a = x[i], b = x[half + i];
    x[i] = a * cos[i] - b * sin[i];
    x[half + i] = b * cos[i] + a * sin[i];
  }
}

// 2^x for x <= 0, relative error 1.5e-8 before rounding; 0 below 2^-126, so 0 for -Inf; NaN for NaN.
HWY_INLINE VF exp2_nonpositive(DF d, VF x) {
  const hn::RebindToSigned<DF> di;
  const VF lowest = hn::Set(d, -126.0f);
  const auto underflow = hn::Lt(x, lowest);
  const VF y = hn::IfThenElse(underflow, lowest, x);
  const auto n = hn::NearestInt(y);
  const VF f = hn::Sub(y, hn::ConvertTo(d, n));  // in [-0.5, 0.5]
  VF p = hn::Set(d, 1.53458095e-04f);
  p = hn::MulAdd(p, f, hn::Set(d, 1.33999309e-03f));
  p = hn::MulAdd(p, f, hn::Set(d, 9.61848907e-03f));
  p = hn::MulAdd(p, f, hn::Set(d, 5.55032864e-02f));
  p = hn::MulAdd(p, f, hn::Set(d, 2.40226462e-01f));
  p = hn::MulAdd(p, f, hn::Set(d, 6.93147182e-01f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  const VF power = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(n, hn::Set(di, 127))));
  return hn::IfThenZeroElse(underflow, hn::Mul(p, power));
}

}  // namespace seer::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
