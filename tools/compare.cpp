#include "compare.h"

#include <cmath>

namespace seer::tool {

double Frobenius::error() const { return std::sqrt(norm_ > 0 ? difference_ / norm_ : difference_); }

double relative_error(const std::vector<float> &got, const std::vector<float> &wanted) {
  Frobenius norm;
  for (size_t i = 0; i < wanted.size(); ++i) norm.add(double{got[i]}, double{wanted[i]});
  return norm.error();
}

Mass kept_mass(const std::vector<float> &sparse_lse, const std::vector<float> &dense_lse, int64_t heads,
               int64_t tokens) {
  Mass mass;
  double total = 0;
  int64_t rows = 0;
  for (int64_t h = 0; h < heads; ++h) {
    double sum = 0;
    int64_t seen = 0;
    for (int64_t i = 0; i < tokens; ++i) {
      const auto at = static_cast<size_t>(h * tokens + i);
      if (std::isinf(dense_lse[at])) continue;
      sum += std::exp(double{sparse_lse[at]} - double{dense_lse[at]});
      ++seen;
    }
    mass.per_head.push_back(seen ? sum / static_cast<double>(seen) : 0.0);
    total += sum;
    rows += seen;
  }
  mass.mean = rows ? total / static_cast<double>(rows) : 0.0;
  return mass;
}

}  // namespace seer::tool
