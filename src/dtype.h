// Element types and their conversions. Narrowing rounds to nearest, ties to even; NaN stays NaN, overflow becomes Inf.
#pragma once
#include <bit>
#include <cstdint>

namespace seer {

// Same values as seer_dtype.
enum class DType : int32_t { none = 0, f32 = 1, f16 = 2, bf16 = 3, i32 = 4, i64 = 5, u8 = 6, b32 = 7 };

constexpr int64_t element_size(DType t) {
  switch (t) {
    case DType::f32:
    case DType::i32:
    case DType::b32: return 4;
    case DType::f16:
    case DType::bf16: return 2;
    case DType::i64: return 8;
    case DType::u8: return 1;
    case DType::none: break;
  }
  return 0;
}
constexpr const char *dtype_name(DType t) {
  constexpr const char *names[] = {"none", "f32", "f16", "bf16", "i32", "i64", "u8", "b32"};
  const auto i = static_cast<uint32_t>(t);
  return i < 8 ? names[i] : "unknown";
}
constexpr bool is_float(DType t) { return t == DType::f32 || t == DType::f16 || t == DType::bf16; }

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

inline float to_f32(float x) { return x; }
inline float to_f32(bf16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }
inline float to_f32(f16 x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
  if (rest >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));  // Inf, NaN
  if (rest >= 0x0400u) return std::bit_cast<float>(sign | ((rest << 13) + 0x38000000u));
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(static_cast<float>(rest) * 0x1p-24f));  // subnormal, zero
}

template <class T>
T from_f32(float x);
template <>
inline float from_f32<float>(float x) {
  return x;
}
template <>
inline bf16 from_f32<bf16>(float x) {
  const auto u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40u)};  // NaN, made quiet
  return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}
template <>
inline f16 from_f32<f16>(float x) {
  const auto u = std::bit_cast<uint32_t>(x);
  const auto sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  const uint32_t rest = u & 0x7fffffffu;
  if (rest > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (rest >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // rounds to 65536 or more
  if (rest < 0x38800000u) {  // below 2^-14: add 0.5 so that the hardware rounds at 2^-24
    const float shifted = std::bit_cast<float>(rest) + 0.5f;
    return {static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u))};
  }
  const uint32_t rounded = rest + 0xfffu + ((rest >> 13) & 1u);
  return {static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
}

// Calls f with a value of the C++ type of t: dispatch_float(t, [&](auto tag) { using T = decltype(tag); ... });
template <class F>
decltype(auto) dispatch_float(DType t, F &&f) {
  if (t == DType::bf16) return f(bf16{});
  if (t == DType::f16) return f(f16{});
  return f(float{});
}

}  // namespace seer
