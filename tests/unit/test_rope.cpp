#include "rope.h"

#include <bit>
#include <cmath>
#include <thread>

#include "files.h"

using namespace seer;

namespace {

struct Recorded {
  const char *name;
  void (*set)(RopeConfig &);
  int64_t seq_len;
  double attention_scaling;
  std::vector<uint32_t> inv_freq;  // bits of f32
};
const Recorded recorded[] = {
#include "rope_values.inc"
};
constexpr int64_t recorded_dim = 64;

int64_t ulps(float a, float b) { return std::abs(int64_t{std::bit_cast<int32_t>(a)} - std::bit_cast<int32_t>(b)); }

RopeConfig config_of(RopeKind kind) {
  RopeConfig c;
  c.kind = kind;
  c.max_position_embeddings = 8192;
  c.original_max_position_embeddings = 4096;
  c.factor = 2.0;
  c.short_factor.assign(16, 1.0);
  c.long_factor.assign(16, 2.0);
  return c;
}

}  // namespace

TEST_CASE("inverse frequencies are those of transformers") {
  int64_t equal = 0, all = 0;
  for (const Recorded &r : recorded) {
    CAPTURE(r.name);
    RopeConfig config;
    r.set(config);
    const RopeFreqs freqs = rope_freqs(config, recorded_dim, r.seq_len);
    CHECK(freqs.attention_scaling == doctest::Approx(r.attention_scaling).epsilon(1e-15));
    REQUIRE(freqs.inv_freq.size() == r.inv_freq.size());
    for (size_t d = 0; d < r.inv_freq.size(); ++d) {
      CAPTURE(d);
      // pow is not correctly rounded in every libm and vector library.
      CHECK(ulps(freqs.inv_freq[d], std::bit_cast<float>(r.inv_freq[d])) <= 2);
      equal += std::bit_cast<uint32_t>(freqs.inv_freq[d]) == r.inv_freq[d];
      ++all;
    }
  }
  MESSAGE(equal << " of " << all << " frequencies have the same bits");
  CHECK(equal * 10 >= all * 9);
}

TEST_CASE("the length decides what dynamic and longrope use") {
  for (RopeKind kind : {RopeKind::standard, RopeKind::linear, RopeKind::llama3, RopeKind::yarn}) {
    const RopeConfig c = config_of(kind);
    CHECK_FALSE(rope_depends_on_length(c));
    CHECK(rope_freqs(c, 32, 1) == rope_freqs(c, 32, 100000));
  }
  const RopeConfig dynamic = config_of(RopeKind::dynamic), longrope = config_of(RopeKind::longrope);
  CHECK(rope_depends_on_length(dynamic));
  CHECK(rope_depends_on_length(longrope));
  CHECK(rope_freqs(dynamic, 32, 1) == rope_freqs(dynamic, 32, 8192));
  CHECK(rope_freqs(dynamic, 32, 8193).inv_freq[1] < rope_freqs(dynamic, 32, 8192).inv_freq[1]);
  CHECK(rope_freqs(longrope, 32, 4096).inv_freq[0] == 1.0f);
  CHECK(rope_freqs(longrope, 32, 4097).inv_freq[0] == 0.5f);
}

TEST_CASE("absent keys take their place from others") {
  RopeConfig yarn = config_of(RopeKind::yarn), full = yarn;
  yarn.factor = RopeConfig::NAN_;
  CHECK(rope_freqs(yarn, 32, 1) == rope_freqs(full, 32, 1));  // 8192 / 4096
  yarn.beta_fast = yarn.beta_slow = 0;                        // falsy in Python: the defaults
  CHECK(rope_freqs(yarn, 32, 1) == rope_freqs(full, 32, 1));
  RopeConfig llama3 = config_of(RopeKind::llama3), by_max = llama3;
  llama3.original_max_position_embeddings = 8192;
  by_max.original_max_position_embeddings = 0;
  CHECK(rope_freqs(llama3, 32, 1) == rope_freqs(by_max, 32, 1));
}

TEST_CASE("frequencies given and none") {
  RopeConfig c;
  c.kind = RopeKind::inv_freq;
  c.inv_freq = {1.0f, 0.25f};
  c.attention_scaling = 1.5;
  CHECK(rope_freqs(c, 4, 1) == RopeFreqs{{1.0f, 0.25f}, 1.5});
  CHECK_FAILS(Status::model_mismatch, "2 inverse frequencies, expected 3", rope_freqs(c, 6, 1));
  c.kind = RopeKind::none;
  CHECK(rope_freqs(c, 4, 1) == RopeFreqs{});
}

TEST_CASE("impossible rope parameters are named") {
  const auto bad = [](RopeKind kind, const char *text, auto change, Status status = Status::model_mismatch) {
    RopeConfig c = config_of(kind);
    change(c);
    CHECK_FAILS(status, text, rope_freqs(c, 32, 100));
  };
  const double inf = HUGE_VAL, nan = RopeConfig::NAN_;
  for (double x : {0.0, -1.0, inf, nan}) {
    bad(RopeKind::standard, "rope_theta", [&](RopeConfig &c) { c.theta = x; });
    bad(RopeKind::linear, "factor", [&](RopeConfig &c) { c.factor = x; });
    bad(RopeKind::llama3, "low_freq_factor", [&](RopeConfig &c) { c.low_freq_factor = x; });
  }
  bad(RopeKind::llama3, "high_freq_factor", [](RopeConfig &c) { c.high_freq_factor = 1.0; });
  bad(RopeKind::dynamic, "max_position_embeddings", [](RopeConfig &c) { c.max_position_embeddings = 0; });
  bad(RopeKind::yarn, "original_max_position_embeddings",
      [](RopeConfig &c) { c.original_max_position_embeddings = c.max_position_embeddings = 0; });
  bad(RopeKind::yarn, "rope_theta is 1", [](RopeConfig &c) { c.theta = 1.0; });
  bad(RopeKind::yarn, "beta_fast", [](RopeConfig &c) { c.beta_fast = -1.0; });
  bad(RopeKind::longrope, "short_factor has 3 values, expected 16", [](RopeConfig &c) { c.short_factor.resize(3); });
  bad(RopeKind::longrope, "short_factor", [](RopeConfig &c) { c.short_factor[7] = 0; });
  bad(
      RopeKind::standard, "partial_rotary_factor", [](RopeConfig &c) { c.partial_rotary_factor = 0.5; },
      Status::unsupported);
  CHECK_FAILS(Status::model_mismatch, "33 channels", rope_freqs(config_of(RopeKind::standard), 33, 1));
}

TEST_CASE("tables hold the cosines and sines of every position") {
  RopeTableCache cache;
  const RopeFreqs freqs{{1.0f, 0.3f, 1e-4f}, 1.25};
  for (int64_t step : {1, 64}) {
    const auto tables = cache.get(freqs, 1000, step);
    REQUIRE(tables->positions >= 1000);
    CHECK(tables->half == 3);
    CHECK(tables->step == step);
    for (int64_t i = 0; i < 1000; ++i)
      for (int64_t d = 0; d < 3; ++d) {
        const double angle = double(i * step) * double{freqs.inv_freq[size_t(d)]};
        REQUIRE(std::abs(double{tables->cos[size_t(i * 3 + d)]} - 1.25 * std::cos(angle)) < 1e-7);
        REQUIRE(std::abs(double{tables->sin[size_t(i * 3 + d)]} - 1.25 * std::sin(angle)) < 1e-7);
      }
  }
}

TEST_CASE("tables are shared, grow and do not change what they held") {
  RopeTableCache cache;
  const RopeFreqs freqs{{1.0f, 0.01f}, 1.0};
  const auto small = cache.get(freqs, 300, 1);
  CHECK(cache.get(freqs, 100, 1) == small);
  const auto large = cache.get(freqs, 301, 1);
  CHECK(large != small);
  CHECK(large->positions >= 301);
  CHECK(std::equal(small->cos.begin(), small->cos.end(), large->cos.begin()));
  CHECK(std::equal(small->sin.begin(), small->sin.end(), large->sin.begin()));
  CHECK(cache.get(freqs, 10, 64) != large);
  CHECK(cache.get(freqs, 10, 1) == large);
  // A handful is kept: older ones are made anew.
  for (int i = 0; i < 20; ++i) cache.get({{1.0f / float(i + 2)}, 1.0}, 4, 1);
  CHECK(cache.get(freqs, 10, 1) != large);
  CHECK(cache.get(freqs, 0, 1)->positions >= 0);
}

TEST_CASE("tables may be asked for by several threads") {
  RopeTableCache cache;
  std::vector<std::thread> threads;
  std::vector<int64_t> short_tables(4);
  for (size_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int64_t n = 1; n < 200; ++n) {
        const auto tables = cache.get({{float(t % 2) + 1.0f}, 1.0}, n, 1);
        short_tables[t] += tables->positions < n || int64_t(tables->cos.size()) < n;
      }
    });
  for (std::thread &thread : threads) thread.join();
  for (int64_t n : short_tables) CHECK(n == 0);
}
