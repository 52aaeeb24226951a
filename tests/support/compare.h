// How far numbers are from the truth.
#pragma once
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace seer::test {

struct Deviation {
  double max = 0, frobenius = 0;  // largest and root of summed squares, over elements where the truth is finite
  double scale = 0, norm = 0;     // the same of the truth itself
  int64_t values = 0;             // compared
  int64_t strangers = 0;          // elements that are NaN or Inf where the truth is not that very value
  int64_t worst = -1;             // index of the largest error, or of the first stranger
};

inline Deviation deviation(const std::vector<double> &truth, const std::vector<double> &got) {
  Deviation e;
  e.values = int64_t(truth.size());
  if (truth.size() != got.size()) {
    e.strangers = 1;
    return e;
  }
  for (size_t i = 0; i < truth.size(); ++i) {
    const double t = truth[i], g = got[i];
    if (!std::isfinite(t) || !std::isfinite(g)) {
      const bool same = (std::isnan(t) && std::isnan(g)) || t == g;
      if (!same && e.strangers++ == 0) e.worst = int64_t(i);
      continue;
    }
    const double error = std::abs(t - g);
    if (error > e.max) {
      e.max = error;
      if (e.strangers == 0) e.worst = int64_t(i);
    }
    e.frobenius += error * error;
    e.scale = std::max(e.scale, std::abs(t));
    e.norm += t * t;
  }
  e.frobenius = std::sqrt(e.frobenius);
  e.norm = std::sqrt(e.norm);
  return e;
}

// Whether `got` is as good as a naive implementation of the same precision: at most twice its error, and `slack`
// (relative to the truth's largest value and norm) and `floor` (absolute, per value) for what depends on the order of
// operations.
inline bool as_good_as(const Deviation &got, const Deviation &naive, double slack, double floor) {
  return got.strangers == 0 && got.max <= 2 * naive.max + slack * got.scale + floor &&
         got.frobenius <= 2 * naive.frobenius + slack * got.norm + floor * std::sqrt(double(got.values));
}

}  // namespace seer::test
