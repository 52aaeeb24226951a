// The reference kernels against the formulas in double, on random shapes.
#include <cmath>

#include "cpu/kernels.h"
#include "files.h"
#include "rope.h"
#include "support/compare.h"
#include "support/image.h"
#include "support/naive.h"

using namespace seer;
using namespace seer::test;

namespace {

constexpr float inf = HUGE_VALF;

// A Workers that counts steps.
struct Ref {
  ThreadPool pool{1};
  Exec exec;
  uint64_t steps = 0;
  cpu::Workers workers{pool, exec};
  Ref() {
    exec.step = [this](uint64_t n) { steps += n; };
  }
};

struct Rope {
  RopeFreqs freqs;
  RopeTableCache cache;
  std::shared_ptr<const RopeTables> tables;
  RopeView view;
  Rope(int64_t dim, int64_t positions, int64_t step) {
    RopeConfig config;
    config.theta = 500.0;
    freqs = rope_freqs(config, dim, positions * step);
    freqs.attention_scaling = 1.1;
    tables = cache.get(freqs, positions, step);
    view = {freqs.inv_freq.data(), freqs.attention_scaling, dim / 2, tables->cos.data(), tables->sin.data()};
  }
};

constexpr DType dtypes[] = {DType::f32, DType::f16, DType::bf16};
constexpr Layout layouts[] = {Layout::packed, Layout::padded, Layout::swapped};

// Lengths of a random batch: tails, empty sequences, chunks on and off block borders.
std::vector<Lengths> random_lengths(Random &random, int64_t block, bool aligned) {
  std::vector<Lengths> lengths;
  for (int64_t n = uniform(random, 1, 3); n > 0; --n) {
    Lengths l{uniform(random, 0, 3 * block), 0};
    int64_t before = uniform(random, 0, 2 * block);
    if (aligned) before = before / block * block;
    l.k = l.q + before;
    l.total = l.k + uniform(random, 0, 2 * block);
    lengths.push_back(l);
  }
  return lengths;
}

std::vector<double> values(Image &image, const Batch &batch, Side side) {
  std::vector<double> out;
  for (const Sequence &s : batch.sequences)
    for (int64_t t = 0; t < (side == Side::q ? s.q_len : s.k_len); ++t)
      for (int64_t h = 0; h < image.shape()[2]; ++h)
        for (int64_t d = 0; d < image.shape()[3]; ++d)
          out.push_back(image.get(s.batch, (side == Side::q ? s.q_begin : s.k_begin) + t, h, d));
  return out;
}
std::vector<double> doubles(const std::vector<float> &x) { return {x.begin(), x.end()}; }

void check_close(const std::vector<double> &truth, const std::vector<double> &got, double tolerance) {
  const Deviation d = deviation(truth, got);
  CHECK(d.strangers == 0);
  CHECK(d.frobenius <= tolerance * d.norm);
  CHECK(d.max <= 30 * tolerance * d.scale);
}

}  // namespace

TEST_CASE("pool_ref") {
  Random random(1);
  for (int round = 0; round < 60; ++round) {
    CAPTURE(round);
    const int64_t block = std::array<int64_t, 3>{32, 64, 128}[size_t(round % 3)];
    const Side side = round % 2 ? Side::q : Side::k;
    auto lengths = random_lengths(random, block, true);
    for (Lengths &l : lengths) l.cached = uniform(random, 0, l.k / block);
    const Batch batch = make_batch(lengths, block, round % 5 != 0);
    const int64_t heads = uniform(random, 1, 4), dim = 2 * uniform(random, 1, 20);
    const DType dtype = dtypes[round % 3];
    const int64_t tokens = side == Side::q ? batch.q_tokens : batch.k_tokens;
    Image x(dtype, {batch.batch, tokens, heads, dim}, layouts[round % 3]), rotated = x;
    x.fill([&](auto...) { return normal(random); });
    const Rope rope(dim, batch.k_tokens + 1, 1);
    PoolArgs args{.sequences = batch.sequences, .side = side, .block = block, .x = x.tokens()};
    args.pool_bits = uint32_t(uniform(random, 1, 7));
    args.rotated = rotated.tokens();
    args.rope = rope.view;
    const int64_t rows = side == Side::q ? batch.q_rows : batch.k_pool_rows;
    std::vector<float> pooled(size_t(rows * heads * pool_count(args.pool_bits) * dim), std::nanf(""));
    args.pooled = pooled.data();
    Ref ref;
    cpu::pool_ref(ref.workers, args);
    check_close(naive::pool<double>(args), doubles(pooled), 1e-6);
    check_close(naive::rotated<double>(args), values(rotated, batch, side), dtype == DType::f32 ? 1e-6 : 1e-4);
    CHECK(rotated.gaps_intact());
    CHECK(x.gaps_intact());
  }
}

TEST_CASE("pool_ref hands a NaN to its own block and channel only") {
  const Batch batch = make_batch({{128, 128}}, 64, false);
  Image x(DType::f32, {1, 128, 1, 4});
  x.fill([](int64_t, int64_t t, int64_t, int64_t) { return float(t); });
  x.set(0, 3, 0, 1, std::nanf(""));
  x.set(0, 70, 0, 2, inf);
  x.set(0, 71, 0, 2, -inf);
  std::vector<float> pooled(2 * 3 * 4);
  Ref ref;
  cpu::pool_ref(ref.workers, {.sequences = batch.sequences, .x = x.tokens(), .pool_bits = 7, .pooled = pooled.data()});
  const auto at = [&](int64_t block, int64_t pooling, int64_t d) {
    return pooled[size_t((block * 3 + pooling) * 4 + d)];
  };
  for (int64_t p = 0; p < 3; ++p) {
    CHECK(std::isnan(at(0, p, 1)));
    CHECK(std::isfinite(at(0, p, 0)));
    CHECK(std::isfinite(at(1, p, 1)));
  }
  CHECK(at(1, 0, 2) == inf);
  CHECK(at(1, 1, 2) == -inf);
  CHECK(std::isnan(at(1, 2, 2)));
  CHECK(at(0, 0, 0) == 63);
  CHECK(at(1, 1, 3) == 64);
  CHECK(at(0, 2, 0) == 31.5f);
}

TEST_CASE("project_ref") {
  Random random(2);
  for (int round = 0; round < 60; ++round) {
    CAPTURE(round);
    const int64_t block = 32;
    auto lengths = random_lengths(random, block, true);
    for (Lengths &l : lengths) l.cached = uniform(random, 0, l.k / block);
    const Batch batch = make_batch(lengths, block, true);
    ProjectArgs args{.sequences = batch.sequences, .side = round % 2 ? Side::q : Side::k, .block = block};
    args.pooled_heads = uniform(random, 1, 3);
    args.gate_heads = args.pooled_heads * uniform(random, 1, 3);
    args.in = 2 * uniform(random, 1, 40);
    args.out = round % 4 ? 2 * uniform(random, 1, 20) : args.in;
    const DType dtype = dtypes[round % 3];
    Image weight(dtype, {1, args.gate_heads, args.in, args.out});
    weight.fill([&](auto...) { return normal(random); });
    if (round % 4 || round % 8 == 0) args.weight = {dtype, args.gate_heads, args.in, args.out, weight.flat()};
    const bool q = args.side == Side::q;
    std::vector<float> pooled(size_t((q ? batch.q_rows : batch.k_pool_rows) * args.pooled_heads * args.in));
    for (float &x : pooled) x = normal(random);
    std::vector<float> gate(size_t((q ? batch.q_rows : batch.k_rows) * args.gate_heads * args.out), -1.0f);
    args.pooled = pooled.data();
    args.gate = gate.data();
    const Rope rope(args.out, batch.max_k_blocks + 1, block);
    if (round % 5) args.rope = rope.view;
    Ref ref;
    cpu::project_ref(ref.workers, args);
    std::vector<double> got;
    for (const Sequence &s : batch.sequences)
      for (int64_t b = q ? 0 : s.cached_blocks; b < (q ? s.q_blocks(block) : s.k_blocks(block)); ++b)
        for (int64_t i = 0; i < args.gate_heads * args.out; ++i)
          got.push_back(gate[size_t(((q ? s.q_row : s.k_row) + b) * args.gate_heads * args.out + i)]);
    check_close(naive::project<double>(args), got, 2e-6);
    if (!q)  // what is cached stays
      for (const Sequence &s : batch.sequences)
        for (int64_t i = 0; i < s.cached_blocks * args.gate_heads * args.out; ++i)
          REQUIRE(gate[size_t(s.k_row * args.gate_heads * args.out + i)] == -1.0f);
  }
}

TEST_CASE("score_ref, and select_ref from vectors as from scores") {
  Random random(3);
  for (int round = 0; round < 60; ++round) {
    CAPTURE(round);
    const int64_t block = 32;
    const Batch batch = make_batch(random_lengths(random, block, true), block, true);
    const int64_t k_heads = uniform(random, 1, 3), q_heads = k_heads * uniform(random, 1, 4),
                  dim = uniform(random, 1, 64);
    std::vector<float> q(size_t(batch.q_rows * q_heads * dim)), k(size_t(batch.k_rows * k_heads * dim));
    for (float &x : q) x = normal(random);
    for (float &x : k) x = normal(random);
    const GateVectors gate{q.data(), k.data(), q_heads, k_heads, dim, 1 / std::sqrt(double(dim))};
    const int64_t cols = batch.max_k_blocks + 2;
    Image scores(DType::f32, {1, q_heads, batch.mask_rows, cols}, layouts[round % 3]);
    ScoreArgs args{.sequences = batch.sequences, .block = block, .gate = gate, .softmax = round % 2 == 0};
    args.scores = scores.floats();
    args.cols = cols;
    Ref ref;
    cpu::score_ref(ref.workers, args);
    std::vector<double> got;
    for (const Sequence &s : batch.sequences)
      for (int64_t h = 0; h < q_heads; ++h)
        for (int64_t r = 0; r < s.q_blocks(block); ++r)
          for (int64_t j = 0; j < cols; ++j) got.push_back(scores.get(0, h, s.mask_row + r, j));
    check_close(naive::score<double>(args), got, 2e-6);
    CHECK(scores.gaps_intact());

    Image from_scores(DType::b32, {1, q_heads, batch.mask_rows, mask_words(cols)}), from_vectors = from_scores;
    SelectStats stats[2];
    SelectArgs select{.sequences = batch.sequences, .block = block, .q_heads = q_heads, .gate = gate};
    select.rule.method = round % 2 == 0 ? SelectMethod::threshold : SelectMethod::budget;
    select.rule.threshold = 0.2;
    select.rule.token_budget = 2 * block;
    select.mask_row_words = mask_words(cols);
    select.mask = from_vectors.mask();
    select.stats = &stats[0];
    cpu::select_ref(ref.workers, select);
    select.mask = from_scores.mask();
    select.scores = scores.floats();
    select.stats = &stats[1];
    cpu::select_ref(ref.workers, select);
    CHECK(from_scores.bytes() == from_vectors.bytes());
    CHECK(stats[0].blocks_kept == stats[1].blocks_kept);
    CHECK(stats[0].fallback_rows == stats[1].fallback_rows);
  }
}

TEST_CASE("probabilities of rows that are not finite") {
  // One head of dim 1: the logits of row 3 are those of its keys.
  const auto probabilities = [](std::vector<float> k) {
    const Batch batch = make_batch({{64, int64_t(k.size()) * 64}}, 64, false);
    const float q = 1;
    std::vector<float> row(k.size());
    Ref ref;
    cpu::score_ref(ref.workers, {.sequences = batch.sequences,
                                 .gate = {&q, k.data(), 1, 1, 1, 1.0},
                                 .scores = {.data = row.data()},
                                 .cols = int64_t(k.size())});
    return row;
  };
  const float nan = std::nanf("");
  CHECK(probabilities({0, 0, -inf, nan}) == std::vector<float>{0.5f, 0.5f, 0, 0});
  CHECK(probabilities({nan, -inf, nan, nan}) == std::vector<float>{0, 0, 0, 0});
  CHECK(probabilities({inf, 3, inf, nan}) == std::vector<float>{0.5f, 0, 0.5f, 0});
  CHECK(probabilities({-200, 100, 3e38f, -3e38f}) == std::vector<float>{0, 0, 1, 0});
}

namespace {

struct AttendCase {
  Batch batch;
  Image q, k, v, out, lse, mask;
  int64_t q_heads, kv_heads;
  AttendArgs args;
  AttendCase(Random &random, const std::vector<Lengths> &lengths, int64_t block, bool packed, int64_t kv_heads_,
             int64_t group, int64_t dim, DType dtype, Layout layout, double density)
      : batch(make_batch(lengths, block, packed)),
        q(dtype, {batch.batch, batch.q_tokens, kv_heads_ * group, dim}, layout),
        k(dtype, {batch.batch, batch.k_tokens, kv_heads_, dim}, layout),
        v(k),
        out(q),
        lse(DType::f32, {batch.batch, kv_heads_ * group, batch.q_tokens, 1}, layout),
        mask(DType::b32, {batch.batch, kv_heads_ * group, batch.mask_rows, mask_words(batch.max_k_blocks)}, layout),
        q_heads(kv_heads_ * group),
        kv_heads(kv_heads_) {
    for (Image *x : {&q, &k, &v}) x->fill([&](auto...) { return normal(random); });
    std::bernoulli_distribution keep(density);
    for (int64_t b = 0; b < batch.batch; ++b)
      for (int64_t h = 0; h < q_heads; ++h)
        for (int64_t r = 0; r < batch.mask_rows; ++r)
          for (int64_t w = 0; w < mask.shape()[3]; ++w) {
            uint32_t word = 0;  // also above the triangle, where it has no meaning
            for (int bit = 0; bit < 32; ++bit) word |= uint32_t(keep(random)) << bit;
            mask.at<uint32_t>(b, h, r, w) = word;
          }
    args.sequences = batch.sequences;
    args.block = block;
    args.q = q.tokens();
    args.k = k.tokens();
    args.v = v.tokens();
    args.out = out.tokens();
    args.lse = lse.floats();
    args.mask = mask.mask();
    args.scale = 1 / std::sqrt(double(dim));
  }
  std::vector<double> lse_values() {
    std::vector<double> values;
    for (const Sequence &s : batch.sequences)
      for (int64_t i = 0; i < s.q_len; ++i)
        for (int64_t h = 0; h < q_heads; ++h) values.push_back(lse.get(s.batch, h, s.q_begin + i, 0));
    return values;
  }
};

}  // namespace

TEST_CASE("attend_ref") {
  Random random(4);
  for (int round = 0; round < 48; ++round) {
    CAPTURE(round);
    const int64_t block = round % 4 == 3 ? 64 : 32;
    const int64_t dim = 2 * uniform(random, 1, 20);
    AttendCase c(random, random_lengths(random, block, false), block, round % 3 != 0, uniform(random, 1, 2),
                 uniform(random, 1, 3), dim, dtypes[round % 3], layouts[round / 3 % 3], 0.5);
    if (round % 6 == 5) c.args.mask = {};
    const Rope rope(dim, c.batch.k_tokens + 1, 1);
    if (round % 2) c.args.q_rope = rope.view;
    if (round % 4 < 2) c.args.k_rope = rope.view;
    Ref ref;
    cpu::attend_ref(ref.workers, c.args);
    const naive::Attended truth = naive::attend<double>(c.args, DType::none);
    check_close(truth.out, values(c.out, c.batch, Side::q),
                c.out.dtype() == DType::f32   ? 3e-6
                : c.out.dtype() == DType::f16 ? 5e-4
                                              : 4e-3);
    check_close(truth.lse, c.lse_values(), 3e-6);
    CHECK(c.out.gaps_intact());
    CHECK(c.lse.gaps_intact());
    uint64_t rows = 0;
    for (const Sequence &s : c.batch.sequences) rows += uint64_t(s.q_blocks(block) * c.q_heads);
    CHECK(ref.steps == rows);
  }
}

TEST_CASE("attend_ref: rows without keys give 0 and -inf") {
  Random random(5);
  AttendCase c(random, {{70, 70}}, 64, false, 1, 2, 8, DType::f32, Layout::packed, 0.0);
  c.mask.at<uint32_t>(0, 1, 1, 0) = 4;  // only a block above the triangle
  Ref ref;
  cpu::attend_ref(ref.workers, c.args);
  for (double x : values(c.out, c.batch, Side::q)) REQUIRE(x == 0.0);
  for (double x : c.lse_values()) REQUIRE(x == -inf);
}

TEST_CASE("attend_ref: what is not finite stays with the rows that attend to it") {
  for (float poison : {inf, -inf, std::nanf("")})
    for (bool in_v : {false, true}) {
      CAPTURE(poison);
      CAPTURE(in_v);
      Random random(6);
      // Head 0 never attends to block 1, head 1 does; two packed sequences.
      AttendCase clean(random, {{192, 192}, {64, 64}}, 64, true, 1, 2, 8, DType::f32, Layout::packed, 0.0);
      for (int64_t h = 0; h < 2; ++h)
        for (int64_t r = 0; r < 4; ++r) clean.mask.at<uint32_t>(0, h, r, 0) = h == 0 ? 5 : 7;
      Ref ref;
      cpu::attend_ref(ref.workers, clean.args);
      AttendCase bad = clean;
      bad.args.k = bad.k.tokens();
      bad.args.v = bad.v.tokens();
      bad.args.out = bad.out.tokens();
      bad.args.lse = bad.lse.floats();
      (in_v ? bad.v : bad.k).set(0, 100, 0, 3, poison);
      cpu::attend_ref(ref.workers, bad.args);
      int64_t changed = 0;
      for (int64_t t = 0; t < 256; ++t)
        for (int64_t h = 0; h < 2; ++h)
          for (int64_t d = 0; d < 8; ++d) {
            const float was = clean.out.get(0, t, h, d), is = bad.out.get(0, t, h, d);
            REQUIRE(std::isfinite(was));
            const bool attends = h == 1 && t >= 100 && t < 192;
            if (!attends || (in_v && d != 3)) REQUIRE(is == was);
            changed += is != was;
          }
      CHECK(changed > 0);
      const naive::Attended truth = naive::attend<double>(bad.args, DType::none);
      check_close(truth.out, values(bad.out, bad.batch, Side::q), 3e-6);
      check_close(truth.lse, bad.lse_values(), 3e-6);
    }
}

TEST_CASE("attend_ref: a row that gives every key weight 0 gives 0") {
  const Batch batch = make_batch({{1, 2}}, 64, false);
  Image q(DType::f32, {1, 1, 1, 2}), k(DType::f32, {1, 2, 1, 2}), v = k, out = q, lse(DType::f32, {1, 1, 1, 1});
  q.fill([](auto...) { return 1.0f; });
  v.fill([](auto...) { return 1.0f; });
  k.fill([](auto...) { return -inf; });
  Ref ref;
  cpu::attend_ref(ref.workers, {.sequences = batch.sequences,
                                .q = q.tokens(),
                                .k = k.tokens(),
                                .v = v.tokens(),
                                .out = out.tokens(),
                                .lse = lse.floats(),
                                .scale = 1.0});
  CHECK(out.get(0, 0, 0, 0) == 0.0f);
  CHECK(lse.get(0, 0, 0, 0) == -inf);
}

TEST_CASE("references stop when cancelled") {
  Random random(7);
  AttendCase c(random, {{256, 256}}, 64, false, 1, 1, 8, DType::f32, Layout::packed, 1.0);
  Ref ref;
  ref.exec.cancelled = [&] { return ref.steps >= 2; };
  CHECK_FAILS(Status::cancelled, "cancelled", cpu::attend_ref(ref.workers, c.args));
  CHECK(ref.steps == 2);
  std::vector<float> pooled(4 * 8);
  ref.steps = 0;
  CHECK_FAILS(Status::cancelled, "cancelled",
              cpu::pool_ref(
                  ref.workers,
                  {.sequences = c.batch.sequences, .x = c.q.tokens(), .pool_bits = pool_avg, .pooled = pooled.data()}));
  CHECK(ref.steps == 2);
}
