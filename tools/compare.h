// How far apart two results are.
#pragma once
#include <cstdint>
#include <vector>

namespace seer::tool {

// ||got - wanted|| / ||wanted||, Frobenius, summed in f64. Where `wanted` is all zero: ||got||. Not finite if any is.
class Frobenius {
public:
  void add(double got, double wanted) {
    difference_ += (got - wanted) * (got - wanted);
    norm_ += wanted * wanted;
    ++count_;
  }
  double error() const;
  int64_t count() const { return count_; }

private:
  double difference_ = 0, norm_ = 0;
  int64_t count_ = 0;
};

double relative_error(const std::vector<float> &got, const std::vector<float> &wanted);

// Share of dense attention's mass that the kept blocks carry, per head of [batch][heads][tokens] log-sum-exps: the mean
// over rows of exp(sparse - dense). Rows that see no key are left out.
struct Mass {
  double mean = 0;               // over all rows
  std::vector<double> per_head;  // [batch * heads]
};
Mass kept_mass(const std::vector<float> &sparse_lse, const std::vector<float> &dense_lse, int64_t heads,
               int64_t tokens);

}  // namespace seer::tool
