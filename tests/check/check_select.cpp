#include <optional>

#include "check.h"
#include "select_rule.h"

namespace seer::test {
namespace {

struct Case {
  SelectRule rule;
  bool from_scores;
  int64_t block, k_heads, group, dim;
  Fill kind;
  bool poison;
};

// What a row may keep: every block of `must`, others only of `may`.
struct Allowed {
  std::vector<bool> must, may;
  bool may_fall_back = false, must_fall_back = false;
};

// eps: how far from the cut a score may be misjudged. 0 for scores that were given.
Allowed allowed(const SelectRule &rule, const Sequence &s, int64_t r, int64_t block, std::vector<double> scores,
                double eps) {
  const auto n = scores.size();
  Allowed a{std::vector<bool>(n), std::vector<bool>(n)};
  if (rule.method == SelectMethod::all || is_dense_row(rule, s, r, block)) {
    a.must.assign(n, true);
  } else if (rule.method == SelectMethod::threshold) {
    for (size_t j = 0; j < n; ++j) {
      a.must[j] = scores[j] > double{float(rule.threshold)} + eps;
      a.may[j] = scores[j] > double{float(rule.threshold)} - eps && scores[j] > 0;
    }
  } else {
    std::vector<size_t> order;
    for (size_t j = 0; j < n; ++j)
      if (scores[j] > -HUGE_VAL) order.push_back(j);
    std::stable_sort(order.begin(), order.end(), [&](size_t x, size_t y) { return scores[x] > scores[y]; });
    const auto keep = static_cast<size_t>(keep_count(rule, s.total_len, block));
    for (size_t i = 0; i < order.size(); ++i) {
      const double cut = keep < order.size() ? scores[order[keep - 1]] : -HUGE_VAL;
      a.may[order[i]] = i < keep || scores[order[i]] >= cut - eps;
      const double next = keep < order.size() ? scores[order[keep]] : -HUGE_VAL;
      a.must[order[i]] = i < keep && (eps == 0 || scores[order[i]] > next + eps);
      if (eps == 0) a.may[order[i]] = i < keep;
    }
  }
  if (rule.keep_first) a.must[0] = true;
  if (rule.keep_diagonal) a.must[n - 1] = true;
  const bool none_must = std::find(a.must.begin(), a.must.end(), true) == a.must.end();
  bool none_may = none_must;
  for (size_t j = 0; j < n; ++j) {
    a.may[j] = a.may[j] || a.must[j];
    none_may &= !a.may[j];
  }
  a.must_fall_back = none_may;
  // The best of equal scores are swapped, not dropped: only a threshold can leave a row empty by rounding.
  a.may_fall_back = none_may || (none_must && rule.method == SelectMethod::threshold);
  return a;
}

void check(Checker &c, const Case &p, const Shape &shape) {
  Random random = c.random();
  const Batch batch = make_batch(shape.lengths, p.block, shape.packed);
  const int64_t q_heads = p.k_heads * p.group;
  Image q(DType::f32, {1, batch.q_rows, q_heads, p.dim}), k(DType::f32, {1, batch.k_rows, p.k_heads, p.dim});
  fill(q, p.kind, random);
  fill(k, p.kind, random);
  Image scores(DType::f32, {batch.batch, q_heads, batch.mask_rows, batch.max_k_blocks}, Layout::padded);
  scores.fill([&](auto...) { return p.kind == Fill::equal ? 0.2f : std::abs(normal(random)); });
  if (p.poison && batch.q_rows > 0) {
    for (int i = 0; i < 3; ++i)
      k.set(0, uniform(random, 0, batch.k_rows - 1), uniform(random, 0, p.k_heads - 1), uniform(random, 0, p.dim - 1),
            std::nanf(""));
    for (int64_t d = 0; d < p.dim; ++d) q.set(0, batch.q_rows / 2, 0, d, std::nanf(""));  // a whole row of NaN
    for (int64_t j = 0; j < batch.max_k_blocks; j += 2)
      scores.set(0, 0, batch.mask_rows / 2, j, j % 4 ? -HUGE_VALF : std::nanf(""));
  }
  const int64_t words = mask_words(batch.max_k_blocks) + 1;
  Image mask(DType::b32, {batch.batch, q_heads, batch.mask_rows, words}, Layout::padded);

  SelectArgs args{.sequences = batch.sequences, .block = p.block, .q_heads = q_heads};
  args.rule = p.rule;
  args.gate = {q.flat(), k.flat(), q_heads, p.k_heads, p.dim, 1 / std::sqrt(double(p.dim))};
  args.mask_row_words = words;

  c.each_target([&](Target &target) {
    Image got = mask;
    DeviceCopy on_q(target, q), on_k(target, k), on_scores(target, scores), on_mask(target, got);
    std::vector<std::byte> stats_bytes(sizeof(SelectStats));
    const SelectStats before{0xfffffffe, 0x1ffffffff, 3000};  // the sums carry beyond 32 bits
    std::memcpy(stats_bytes.data(), &before, sizeof before);
    SelectArgs call = args;
    call.gate.q = q.flat(on_q.address());
    call.gate.k = k.flat(on_k.address());
    if (p.from_scores) call.scores = scores.floats(on_scores.address(), on_scores.handle());
    call.mask = got.mask(on_mask.address(), on_mask.handle());
    const auto wanted = target.fns().select_scratch;
    constexpr size_t guard = 64;
    std::vector<std::byte> scratch((wanted ? wanted(*target.device, call) : 0) + guard, std::byte{0xa5});
    DeviceCopy on_scratch(target, scratch);
    call.scratch = on_scratch.address();
    c.run([&](Exec &exec) { target.fns().select(*target.device, exec, call); });
    DeviceCopy on_stats(target, stats_bytes);
    call.stats = on_stats.as<SelectStats>();
    Exec exec;
    target.fns().select(*target.device, exec, call);
    on_mask.read(got);
    on_stats.read(stats_bytes);
    on_scratch.read(scratch);
    c.expect(std::all_of(scratch.end() - guard, scratch.end(), [](std::byte b) { return b == std::byte{0xa5}; }),
             "wrote beyond its scratch");
    SelectStats stats;
    std::memcpy(&stats, stats_bytes.data(), sizeof stats);

    uint64_t kept = 0, causal_all = 0, must_fall_back = 0, may_fall_back = 0;
    int64_t missing = 0, wrong = 0, outside = 0, miscounted = 0;
    for (const Sequence &s : batch.sequences)
      for (int64_t h = 0; h < q_heads; ++h)
        for (int64_t r = 0; r < s.q_blocks(p.block); ++r) {
          const int64_t causal = causal_blocks(r, s.q_len, s.offset(), p.block);
          std::vector<double> row;
          double eps = 0;
          if (p.from_scores) {
            for (int64_t j = 0; j < causal; ++j) row.push_back(scores.get(s.batch, h, s.mask_row + r, j));
          } else {
            row = naive::logits_of_row<double>(args.gate, s, h, r, causal);
            double largest = 0;
            for (double x : row)
              if (std::isfinite(x)) largest = std::max(largest, std::abs(x));
            if (p.rule.method == SelectMethod::threshold) naive::softmax(row);
            // f32 logits, which underflow where these do not, and what their error does to a probability.
            eps = 1e-5 * (p.rule.method == SelectMethod::threshold ? 1 + largest : largest) + 1e-36;
          }
          const Allowed a = allowed(p.rule, s, r, p.block, row, eps);
          const uint32_t *bits = got.mask().row(s.batch, h, s.mask_row + r);
          const int64_t count = mask_count(bits, causal);
          outside += mask_count(bits, words * 32) - count;
          kept += uint64_t(count);
          causal_all += uint64_t(causal);
          must_fall_back += a.must_fall_back;
          may_fall_back += a.may_fall_back;
          const bool fell_back = a.may_fall_back && count == 1 && mask_test(bits, causal - 1);
          int64_t must = 0, may = 0;
          for (int64_t j = 0; j < causal; ++j) {
            missing += a.must[size_t(j)] && !mask_test(bits, j);
            wrong += mask_test(bits, j) && !a.may[size_t(j)] && !fell_back;
            must += a.must[size_t(j)];
            may += a.may[size_t(j)];
          }
          // However swapped, the number of the best is fixed.
          if (p.rule.method == SelectMethod::budget || p.rule.method == SelectMethod::ratio)
            if (!p.rule.keep_first && !p.rule.keep_diagonal && must < may)
              miscounted += count != std::min(may, keep_count(p.rule, s.total_len, p.block));
          miscounted += count == 0;
        }
    c.expect(missing == 0, "blocks clearly above the cut are missing");
    c.expect(wrong == 0, "blocks clearly below the cut are kept");
    c.expect(outside == 0, "bits outside the triangle are set");
    c.expect(miscounted == 0, "rows keep another number of blocks than they should");
    c.expect(stats.blocks_kept == before.blocks_kept + kept, "stats: blocks_kept");
    c.expect(stats.blocks_causal == before.blocks_causal + causal_all, "stats: blocks_causal");
    c.expect(stats.fallback_rows >= before.fallback_rows + must_fall_back &&
                 stats.fallback_rows <= before.fallback_rows + may_fall_back,
             "stats: fallback_rows");
    c.expect(got.gaps_intact(), "wrote outside its output");
  });
}

}  // namespace

void check_select(Checker &c) {
  struct Named {
    const char *name;
    SelectRule rule;
  };
  const auto rule = [](SelectMethod method, double threshold, double ratio, int64_t budget, int64_t dense,
                       bool diagonal = false, bool first = false) {
    SelectRule r;
    r.method = method;
    r.threshold = threshold;
    r.ratio = ratio;
    r.token_budget = budget;
    r.last_dense_rows = dense;
    r.keep_diagonal = diagonal;
    r.keep_first = first;
    return r;
  };
  const Named rules[] = {
      {"threshold", rule(SelectMethod::threshold, 0.15, 1, 0, 2)},
      {"threshold_none", rule(SelectMethod::threshold, 1.0, 1, 0, 0)},
      {"threshold_zero", rule(SelectMethod::threshold, 0.0, 1, 0, 0)},
      {"threshold_kept", rule(SelectMethod::threshold, 0.4, 1, 0, 0, true, true)},
      {"ratio", rule(SelectMethod::ratio, 0, 0.6, 0, 1)},
      {"ratio_least", rule(SelectMethod::ratio, 0, 0.01, 0, 0)},
      {"ratio_all", rule(SelectMethod::ratio, 0, 1.0, 0, 0)},
      {"budget", rule(SelectMethod::budget, 0, 1, 200, 0)},
      {"budget_kept", rule(SelectMethod::budget, 0, 1, 64, 2, true, true)},
      {"all", rule(SelectMethod::all, 0, 1, 0, 0)},
  };
  size_t n = 0;
  for (const Named &named : rules)
    for (bool from_scores : {false, true})
      for (int64_t block : {32, 64, 128}) {
        std::vector<Shape> all = shapes(block, true);
        all.push_back({"wide", true, {{3 * block, 70 * block + 9 - 9 % block}, {40 * block - 1, 40 * block - 1}}});
        // Rows that no longer fit a small shared memory, with several words of the mask for each thread.
        if (block == 32) all.push_back({"deep", true, {{33, 5000 * 32 + 33}}});
        for (const Shape &shape : all) {
          const Case p{named.rule,
                       from_scores,
                       block,
                       1 + int64_t(n % 2),
                       1 + int64_t(n % 8),
                       std::array{64, 30, 128}[n % 3],
                       static_cast<Fill>(n % 4),
                       n % 5 == 2};
          ++n;
          char name[128];
          std::snprintf(name, sizeof name, "select_%s_%s_p%d_g%d_%s_%s%s", named.name,
                        from_scores ? "scores" : "vectors", int(block), int(p.group), shape.name,
                        fill_names[int(p.kind)], p.poison ? "_poison" : "");
          if (c.begin("select", name)) check(c, p, shape);
        }
      }
  // Of sizes that tiles of matrices fit, with rows of several tiles, tails, and key blocks ahead of the first row.
  for (size_t i : {0, 2, 3}) {
    const std::string name = std::string("select_") + rules[i].name + "_vectors_p64_g2_tiles";
    if (c.begin("select", name))
      check(c, {rules[i].rule, false, 64, 2, 2, 64, Fill::normal, false},
            {"tiles", true, {{3 * 64, 70 * 64}, {40 * 64 - 1, 40 * 64 - 1}, {90 * 64, 90 * 64}}});
  }
  // Rows of many lengths in one call: kernels share a row in different ways by its length.
  const Shape lengths{"lengths",
                      true,
                      {{66 * 32, 66 * 32},
                       {200 * 32 - 7, 200 * 32 - 7},
                       {70 * 32 + 1, 480 * 32 + 1},
                       {131 * 32, 999 * 32},
                       {65 * 32 - 3, 2048 * 32 - 3},
                       {3 * 32, 3900 * 32},
                       {32, 4100 * 32}}};
  for (int64_t dim : {64, 128})
    for (bool kept : {false, true}) {
      const std::string name =
          "select_threshold_vectors_d" + std::to_string(dim) + "_lengths" + (kept ? "_kept" : "_poison");
      const SelectRule some = rule(SelectMethod::threshold, 0.004, 1, 0, kept ? 0 : 2, kept, kept);
      if (c.begin("select", name)) check(c, {some, false, 32, 1, 2, dim, Fill::normal, !kept}, lengths);
    }
  for (size_t i : {0, 4}) {
    const std::string name = std::string("select_") + rules[i].name + "_vectors_p64_g4_long";
    if (c.begin("select", name))
      check(c, {rules[i].rule, false, 64, 2, 4, 128, Fill::normal, false}, {"long", false, {{8192, 8192}}});
  }
}

}  // namespace seer::test
