#include "dtype.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>

using namespace seer;

namespace {

// The value that 16 bits mean, from the definition of the format.
double meaning(uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1), mantissa = bits & ((1 << mantissa_bits) - 1);
  const double sign = bits >> 15 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) return mantissa ? std::nan("") : sign * HUGE_VAL;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}

// All 65536 values widen to what they mean, narrow to themselves, and every f32 between two neighbours goes to the
// nearer one, a tie to the one with the even mantissa.
template <class T>
void check_all(int exponent_bits, int mantissa_bits) {
  const uint16_t infinity = uint16_t(((1 << exponent_bits) - 1) << mantissa_bits);
  int64_t wrong = 0, ties = 0;
  const auto narrows_to = [&](float x, uint16_t bits) {
    wrong += from_f32<T>(x).bits != bits || from_f32<T>(-x).bits != (bits | 0x8000u);
  };
  for (uint32_t i = 0; i < 65536; ++i) {
    const auto bits = uint16_t(i);
    const double value = meaning(bits, exponent_bits, mantissa_bits);
    const float wide = to_f32(T{bits});
    if (std::isnan(value)) {
      const T back = from_f32<T>(wide);
      wrong += !std::isnan(wide) || !std::isnan(to_f32(back)) || (back.bits ^ bits) >> 15;
      continue;
    }
    wrong += double{wide} != value || std::signbit(wide) != (bits >> 15 == 1) || from_f32<T>(wide).bits != bits;
    if (bits >= infinity) continue;  // the negative half is checked beside the positive one
    // The next value up; above the largest stands the one that the format would have if its exponents went on.
    const double next = bits + 1 == infinity ? std::ldexp(1.0, 1 << (exponent_bits - 1))
                                             : meaning(uint16_t(bits + 1), exponent_bits, mantissa_bits);
    const auto halfway = static_cast<float>((value + next) / 2);
    if (double{halfway} != (value + next) / 2) continue;  // below f32's own resolution
    ++ties;
    narrows_to(halfway, bits & 1 ? uint16_t(bits + 1) : bits);
    narrows_to(std::nextafter(halfway, 0.0f), bits);
    narrows_to(std::nextafter(halfway, HUGE_VALF), uint16_t(bits + 1));
  }
  CHECK(wrong == 0);
  CHECK(ties > 30000);
  narrows_to(std::numeric_limits<float>::max(), infinity);
  narrows_to(HUGE_VALF, infinity);
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("f16 converts exactly") {
  check_all<f16>(5, 10);
  CHECK(from_f32<f16>(std::numeric_limits<float>::denorm_min()).bits == 0);
  CHECK(from_f32<f16>(0x1p-25f).bits == 0);  // a tie with 0
  CHECK(from_f32<f16>(65504.0f).bits == 0x7bff);
  CHECK(from_f32<f16>(65519.996f).bits == 0x7bff);
  CHECK(from_f32<f16>(65520.0f).bits == 0x7c00);
}

TEST_CASE("bf16 converts exactly") { check_all<bf16>(8, 7); }

TEST_CASE("a NaN with any payload stays a NaN of its sign") {
  for (uint32_t payload : {1u, 0xffffu, 0x10000u, 0x400000u, 0x7fffffu})
    for (uint32_t sign : {0u, 0x80000000u}) {
      const float nan = std::bit_cast<float>(sign | 0x7f800000u | payload);
      CHECK(std::isnan(to_f32(from_f32<f16>(nan))));
      CHECK(std::isnan(to_f32(from_f32<bf16>(nan))));
      CHECK((from_f32<f16>(nan).bits >> 15 == 1) == (sign != 0));
      CHECK((from_f32<bf16>(nan).bits >> 15 == 1) == (sign != 0));
    }
}

TEST_CASE("sizes, names and dispatch of dtypes") {
  CHECK(element_size(DType::none) == 0);
  CHECK(element_size(DType::u8) == 1);
  CHECK(element_size(DType::f16) == 2);
  CHECK(element_size(DType::bf16) == 2);
  CHECK(element_size(DType::f32) == 4);
  CHECK(element_size(DType::i32) == 4);
  CHECK(element_size(DType::b32) == 4);
  CHECK(element_size(DType::i64) == 8);
  CHECK(std::strcmp(dtype_name(DType::bf16), "bf16") == 0);
  CHECK(std::strcmp(dtype_name(DType::b32), "b32") == 0);
  CHECK(std::strcmp(dtype_name(static_cast<DType>(-1)), "unknown") == 0);
  for (DType t : {DType::f32, DType::f16, DType::bf16}) {
    CHECK(is_float(t));
    CHECK(dispatch_float(t, [](auto tag) { return int64_t{sizeof tag}; }) == element_size(t));
  }
  CHECK_FALSE(is_float(DType::i32));
}
