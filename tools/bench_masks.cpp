#include "bench_masks.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "status.h"

namespace seer::tool {
namespace {

constexpr double noise = 0.25, group_weight = 0.6;

class Uniform {
public:
  explicit Uniform(uint64_t seed) : engine_(seed) {}
  // 24 bits, [0, 1): the standard library's distributions differ between platforms.
  float operator()() { return static_cast<float>(engine_() >> 40) * 0x1p-24f; }

private:
  std::mt19937_64 engine_;
};

// Share of the values that are smaller, in 0 .. 1.
std::vector<float> ranks(const std::vector<float> &values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<float> rank(values.size());
  for (size_t i = 0; i < order.size(); ++i) rank[order[i]] = static_cast<float>(i) / static_cast<float>(order.size());
  return rank;
}

void fill_random(BlockMask &mask, double density, uint64_t seed) {
  Uniform draw(seed);
  for (int64_t h = 0; h < mask.heads(); ++h)
    for (int64_t i = 0; i < mask.rows(); ++i)
      for (int64_t j = 0; j <= i; ++j)
        if (draw() < static_cast<float>(density) || j == i) mask.set(h, i, j);
}

void fill_structured(BlockMask &mask, int64_t group, double density, uint64_t seed) {
  const int64_t n = mask.rows();
  Uniform draw(seed);
  std::vector<float> shared(static_cast<size_t>(n)), hot(static_cast<size_t>(n));
  std::vector<float> preference, sorted;
  for (int64_t h = 0; h < mask.heads(); ++h) {
    if (h % group == 0) std::generate(shared.begin(), shared.end(), std::ref(draw));
    for (size_t j = 0; j < hot.size(); ++j)
      hot[j] = static_cast<float>(group_weight * shared[j] + (1 - group_weight) * draw());
    const std::vector<float> rank = ranks(hot);  // uniform, so that `noise` is the share of kept blocks it names
    for (int64_t i = 0; i < n; ++i) {
      // Order of preference: the forced blocks, then the head's columns, a share of them replaced by noise.
      preference.resize(static_cast<size_t>(i + 1));
      for (int64_t j = 0; j <= i; ++j) {
        const float drawn = draw();
        const bool swap = draw() < static_cast<float>(noise);
        const bool forced = i - j <= 2 || j == 0;
        preference[static_cast<size_t>(j)] = forced ? -1.0f : swap ? drawn : rank[static_cast<size_t>(j)];
      }
      const int64_t budget = std::clamp<int64_t>(std::llrint(density * static_cast<double>(i + 1)), 1, i + 1);
      sorted = preference;
      const auto kth = sorted.begin() + (budget - 1);
      std::nth_element(sorted.begin(), kth, sorted.end());
      for (int64_t j = 0; j <= i; ++j)
        if (preference[static_cast<size_t>(j)] <= *kth || j == i) mask.set(h, i, j);
    }
  }
}

}  // namespace

MaskFamily parse_family(const std::string &name) {
  for (MaskFamily f : {MaskFamily::random, MaskFamily::structured})
    if (name == family_name(f)) return f;
  fail(Status::invalid_argument, "--family %s: expected random or structured", name.c_str());
}

const char *family_name(MaskFamily family) { return family == MaskFamily::random ? "random" : "structured"; }

BlockMask bench_mask(MaskFamily family, int64_t n, int64_t heads, int64_t group, double density, uint64_t seed) {
  BlockMask mask(heads, n, n);
  if (family == MaskFamily::random)
    fill_random(mask, density, seed);
  else
    fill_structured(mask, group, density, seed);
  return mask;
}

double mask_density(const BlockMask &mask) {
  const double causal = 0.5 * static_cast<double>(mask.rows()) * static_cast<double>(mask.rows() + 1);
  return static_cast<double>(mask.count()) / (static_cast<double>(mask.heads()) * causal);
}

double mask_sharing(const BlockMask &mask, int64_t rows) {
  const int64_t words = mask_words(mask.cols());
  int64_t kept = 0, loaded = 0;
  std::vector<uint32_t> all(static_cast<size_t>(words));
  for (int64_t h = 0; h < mask.heads(); ++h)
    for (int64_t first = 0; first + rows <= mask.rows(); first += rows) {
      std::fill(all.begin(), all.end(), 0u);
      for (int64_t r = first; r < first + rows; ++r) {
        const uint32_t *row = mask.row(h, r);
        for (int64_t w = 0; w < words; ++w) all[static_cast<size_t>(w)] |= row[w];
        kept += mask_count(row, mask.cols());
      }
      loaded += mask_count(all.data(), mask.cols());
    }
  return loaded ? static_cast<double>(kept) / static_cast<double>(loaded) : 0.0;
}

}  // namespace seer::tool
