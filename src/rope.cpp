// The frequencies follow transformers operation by operation, in f32 where it works on f32 tensors and in double where
// it works on Python numbers, so that the results are the same to the last bits.
#include "rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "checked.h"

namespace seer {
namespace {

void require_positive(const char *key, double value) {
  SEER_REQUIRE(std::isfinite(value) && value > 0, Status::model_mismatch, "rope: %s is %g, expected a positive number",
               key, value);
}

// theta^(2 d / dim). torch.pow is good to 1 ulp; so is this, being rounded once.
std::vector<float> powers(double theta, int64_t dim) {
  std::vector<float> p(static_cast<size_t>(dim / 2));
  const auto base = static_cast<float>(theta);
  for (size_t d = 0; d < p.size(); ++d) {
    const float exponent = static_cast<float>(2 * d) / static_cast<float>(dim);
    p[d] = static_cast<float>(std::pow(double{base}, double{exponent}));
  }
  return p;
}

std::vector<float> plain(double theta, int64_t dim) {
  std::vector<float> f = powers(theta, dim);
  for (float &x : f) x = 1.0f / x;
  return f;
}

// The base that dynamic NTK scaling takes beyond max_position_embeddings; transformers has seq_len as a tensor there.
double dynamic_theta(const RopeConfig &c, int64_t dim, int64_t seq_len) {
  if (seq_len <= c.max_position_embeddings) return c.theta;
  const float stretch =
      static_cast<float>(c.factor) * static_cast<float>(seq_len) / static_cast<float>(c.max_position_embeddings) -
      static_cast<float>(c.factor - 1.0);
  const auto exponent = static_cast<float>(static_cast<double>(dim) / static_cast<double>(dim - 2));
  return static_cast<float>(c.theta) * static_cast<float>(std::pow(double{stretch}, double{exponent}));
}

std::vector<float> llama3(const RopeConfig &c, int64_t dim, int64_t original) {
  std::vector<float> f = plain(c.theta, dim);
  const double low = c.low_freq_factor, high = c.high_freq_factor;
  const auto length = static_cast<float>(original), factor = static_cast<float>(c.factor);
  const auto longest = static_cast<float>(static_cast<double>(original) / low),
             shortest = static_cast<float>(static_cast<double>(original) / high);
  for (float &x : f) {
    // torch divides a number by a tensor as reciprocal times number.
    const float wavelength = (1.0f / x) * static_cast<float>(2.0 * std::numbers::pi);
    if (wavelength > longest) {
      x = x / factor;
    } else if (!(wavelength < shortest)) {
      const float smooth = ((1.0f / wavelength) * length - static_cast<float>(low)) / static_cast<float>(high - low);
      const float scaled = (1.0f - smooth) * x / factor, kept = smooth * x;
      x = scaled + kept;
    }
  }
  return f;
}

std::vector<float> yarn(const RopeConfig &c, int64_t dim, int64_t original, double factor) {
  // The channel whose wave turns `rotations` times within the original length.
  const auto channel = [&](double rotations) {
    return (static_cast<double>(dim) * std::log(static_cast<double>(original) / (rotations * 2.0 * std::numbers::pi))) /
           (2.0 * std::log(c.theta));
  };
  double low = channel(c.beta_fast != 0 ? c.beta_fast : 32.0), high = channel(c.beta_slow != 0 ? c.beta_slow : 1.0);
  if (c.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;

  std::vector<float> f = powers(c.theta, dim);
  for (size_t d = 0; d < f.size(); ++d) {
    const float extrapolated = 1.0f / f[d], interpolated = 1.0f / (static_cast<float>(factor) * f[d]);
    const float ramp = (static_cast<float>(d) - static_cast<float>(low)) / static_cast<float>(high - low);
    const float keep = 1.0f - std::clamp(ramp, 0.0f, 1.0f);
    const float scaled = interpolated * (1.0f - keep), kept = extrapolated * keep;
    f[d] = scaled + kept;
  }
  return f;
}

double yarn_attention_factor(const RopeConfig &c, double factor) {
  const auto given = [](double x) { return !std::isnan(x); };
  const auto scale = [&](double mscale) { return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0; };
  if (given(c.attention_factor)) return c.attention_factor;
  if (given(c.mscale) && c.mscale != 0 && given(c.mscale_all_dim) && c.mscale_all_dim != 0)
    return scale(c.mscale) / scale(c.mscale_all_dim);
  return scale(1.0);
}

double longrope_attention_factor(const RopeConfig &c, int64_t original, double factor) {
  if (!std::isnan(c.attention_factor)) return c.attention_factor;
  if (factor <= 1.0) return 1.0;
  return std::sqrt(1.0 + std::log(factor) / std::log(static_cast<double>(original)));
}

std::vector<float> longrope(const RopeConfig &c, int64_t dim, int64_t original, int64_t seq_len) {
  const bool beyond = seq_len > original;
  const std::vector<double> &factors = beyond ? c.long_factor : c.short_factor;
  SEER_REQUIRE(static_cast<int64_t>(factors.size()) == dim / 2, Status::model_mismatch,
               "rope: %s has %zu values, expected %lld for vectors of %lld channels",
               beyond ? "long_factor" : "short_factor", factors.size(), (long long)dim / 2, (long long)dim);
  std::vector<float> f = powers(c.theta, dim);
  for (size_t d = 0; d < f.size(); ++d) {
    require_positive(beyond ? "long_factor" : "short_factor", factors[d]);
    f[d] = 1.0f / (static_cast<float>(factors[d]) * f[d]);
  }
  return f;
}

}  // namespace

RopeFreqs rope_freqs(const RopeConfig &c, int64_t dim, int64_t seq_len) {
  if (c.kind == RopeKind::none) return {};
  SEER_REQUIRE(dim >= 2 && dim % 2 == 0, Status::model_mismatch,
               "rope: vectors of %lld channels, expected an even number", (long long)dim);
  SEER_REQUIRE(c.partial_rotary_factor == 1.0, Status::unsupported,
               "rope: partial_rotary_factor is %g, only 1 is supported", c.partial_rotary_factor);
  if (c.kind == RopeKind::inv_freq) {
    SEER_REQUIRE(static_cast<int64_t>(c.inv_freq.size()) == dim / 2, Status::model_mismatch,
                 "rope: %zu inverse frequencies, expected %lld for vectors of %lld channels", c.inv_freq.size(),
                 (long long)dim / 2, (long long)dim);
    return {c.inv_freq, c.attention_scaling};
  }

  require_positive("rope_theta", c.theta);
  const int64_t original =
      c.original_max_position_embeddings ? c.original_max_position_embeddings : c.max_position_embeddings;
  double factor = c.factor;
  if (c.kind == RopeKind::llama3 || c.kind == RopeKind::yarn || c.kind == RopeKind::longrope) {
    require_positive("original_max_position_embeddings", static_cast<double>(original));
    if (std::isnan(factor) && c.kind != RopeKind::llama3)
      factor = static_cast<double>(c.max_position_embeddings) / static_cast<double>(original);
  }
  if (c.kind != RopeKind::standard) require_positive("factor", factor);

  switch (c.kind) {
    case RopeKind::standard: return {plain(c.theta, dim), 1.0};
    case RopeKind::linear: {
      RopeFreqs freqs{plain(c.theta, dim), 1.0};
      for (float &x : freqs.inv_freq) x /= static_cast<float>(factor);
      return freqs;
    }
    case RopeKind::dynamic:
      require_positive("max_position_embeddings", static_cast<double>(c.max_position_embeddings));
      SEER_REQUIRE(dim > 2, Status::model_mismatch, "rope: dynamic scaling of vectors of 2 channels");
      return {plain(dynamic_theta(c, dim, seq_len), dim), 1.0};
    case RopeKind::llama3:
      require_positive("low_freq_factor", c.low_freq_factor);
      require_positive("high_freq_factor", c.high_freq_factor);
      SEER_REQUIRE(c.high_freq_factor > c.low_freq_factor, Status::model_mismatch,
                   "rope: high_freq_factor %g must be above low_freq_factor %g", c.high_freq_factor, c.low_freq_factor);
      return {llama3(c, dim, original), 1.0};
    case RopeKind::yarn:
      SEER_REQUIRE(c.theta > 1.0, Status::model_mismatch, "rope: rope_theta is %g, yarn needs more than 1", c.theta);
      SEER_REQUIRE(c.beta_fast >= 0 && c.beta_slow >= 0, Status::model_mismatch,
                   "rope: beta_fast %g and beta_slow %g must not be negative", c.beta_fast, c.beta_slow);
      return {yarn(c, dim, original, factor), yarn_attention_factor(c, factor)};
    case RopeKind::longrope:
      return {longrope(c, dim, original, seq_len), longrope_attention_factor(c, original, factor)};
    case RopeKind::none:
    case RopeKind::inv_freq: break;
  }
  fail(Status::unsupported, "rope: unknown kind %d", static_cast<int>(c.kind));
}

bool rope_depends_on_length(const RopeConfig &config) {
  return config.kind == RopeKind::dynamic || config.kind == RopeKind::longrope;
}

namespace {

// cos(a + b) and sin(a + b) from tables of coarse a and fine b, in double: 256 times fewer calls of cos and sin, and an
// error that is far below f32's. Each value depends on its position only, not on how far the tables reach.
constexpr int64_t fine_positions = 256;

std::shared_ptr<const RopeTables> make_tables(const RopeFreqs &freqs, int64_t positions, int64_t step) {
  auto tables = std::make_shared<RopeTables>();
  const auto half = static_cast<int64_t>(freqs.inv_freq.size());
  tables->positions = positions;
  tables->half = half;
  tables->step = step;
  tables->cos.resize(static_cast<size_t>(checked_mul(positions, half)));
  tables->sin.resize(tables->cos.size());

  struct Wave {
    double cos, sin;
  };
  const auto wave = [&](int64_t row, int64_t d) {
    const double angle = static_cast<double>(row) * (static_cast<double>(step) * double{freqs.inv_freq[size_t(d)]});
    return Wave{std::cos(angle), std::sin(angle)};
  };
  const int64_t fine_rows = std::min(positions, fine_positions);
  std::vector<Wave> fine(static_cast<size_t>(fine_rows * half)), coarse(static_cast<size_t>(half));
  for (int64_t i = 0; i < fine_rows; ++i)
    for (int64_t d = 0; d < half; ++d) fine[size_t(i * half + d)] = wave(i, d);
  for (int64_t i = 0; i < positions; ++i) {
    if (i % fine_positions == 0)
      for (int64_t d = 0; d < half; ++d) coarse[size_t(d)] = wave(i, d);
    for (int64_t d = 0; d < half; ++d) {
      const Wave a = coarse[size_t(d)], b = fine[size_t(i % fine_positions * half + d)];
      tables->cos[size_t(i * half + d)] = static_cast<float>((a.cos * b.cos - a.sin * b.sin) * freqs.attention_scaling);
      tables->sin[size_t(i * half + d)] = static_cast<float>((a.sin * b.cos + a.cos * b.sin) * freqs.attention_scaling);
    }
  }
  return tables;
}

}  // namespace

std::shared_ptr<const RopeTables> RopeTableCache::get(const RopeFreqs &freqs, int64_t positions, int64_t step) {
  constexpr size_t max_entries = 8;
  std::lock_guard lock(mutex_);
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry &e) { return e.tables->step == step && e.freqs == freqs; });
  if (found != entries_.end()) {
    std::rotate(entries_.begin(), found, found + 1);
    Entry &entry = entries_.front();
    // Half as much again, so that a prompt that comes in chunks does not build its tables anew for each.
    if (entry.tables->positions < positions)
      entry.tables =
          make_tables(freqs, std::max(positions, entry.tables->positions + entry.tables->positions / 2), step);
    return entry.tables;
  }
  entries_.insert(entries_.begin(), {freqs, make_tables(freqs, positions, step)});
  if (entries_.size() > max_entries) entries_.pop_back();
  return entries_.front().tables;
}

}  // namespace seer
