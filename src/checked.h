// Arithmetic on extents and byte counts: 64-bit, overflow is an error and never a wrapped number.
#pragma once
#include <cstdint>

#include "status.h"

namespace seer {

inline int64_t checked_mul(int64_t a, int64_t b) {
  int64_t r;
  if (__builtin_mul_overflow(a, b, &r))
    fail(Status::out_of_bounds, "%lld * %lld overflows 64 bits", (long long)a, (long long)b);
  return r;
}

inline int64_t checked_add(int64_t a, int64_t b) {
  int64_t r;
  if (__builtin_add_overflow(a, b, &r))
    fail(Status::out_of_bounds, "%lld + %lld overflows 64 bits", (long long)a, (long long)b);
  return r;
}

template <class... Rest>
int64_t checked_mul(int64_t a, int64_t b, int64_t c, Rest... rest) {
  return checked_mul(checked_mul(a, b), c, rest...);
}

// ceil(a / b) for a >= 0, b > 0; cannot overflow.
constexpr int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }
// The smallest multiple of b that is >= a.
inline int64_t round_up(int64_t a, int64_t b) { return checked_mul(ceil_div(a, b), b); }

}  // namespace seer
