#include "select_rule.h"

#include <cmath>

#include "cpu/kernels.h"
#include "files.h"
#include "support/image.h"

using namespace seer;
using namespace seer::test;

namespace {

constexpr float inf = HUGE_VALF;
const float nan_f = std::nanf("");

SelectRule rule_of(SelectMethod method) {
  SelectRule rule;
  rule.method = method;
  rule.last_dense_rows = 0;
  return rule;
}
SelectRule threshold(double t) {
  SelectRule rule = rule_of(SelectMethod::threshold);
  rule.threshold = t;
  return rule;
}
SelectRule ratio(double r) {
  SelectRule rule = rule_of(SelectMethod::ratio);
  rule.ratio = r;
  return rule;
}
SelectRule budget(int64_t tokens) {
  SelectRule rule = rule_of(SelectMethod::budget);
  rule.token_budget = tokens;
  return rule;
}

struct Selected {
  std::vector<std::string> rows;  // "1011": one character per column
  SelectStats stats;
};

// Selects from scores of one head, a row of them per block row.
Selected select(const SelectRule &rule, const std::vector<std::vector<float>> &scores, Lengths lengths = {0, 0}) {
  const auto n = int64_t(scores.size());
  if (lengths.k == 0) lengths = {n * 64, n * 64};
  const Batch batch = make_batch({lengths}, 64, false);
  const int64_t cols = batch.max_k_blocks;
  Image image(DType::f32, {1, 1, n, cols}), mask(DType::b32, {1, 1, n, mask_words(cols) + 1});
  image.fill([&](int64_t, int64_t, int64_t r, int64_t j) { return scores[size_t(r)][size_t(j)]; });
  Selected result;
  ThreadPool pool(1);
  Exec exec;
  cpu::Workers workers{pool, exec};
  cpu::select_ref(workers, {.sequences = batch.sequences,
                            .block = 64,
                            .q_heads = 1,
                            .scores = image.floats(),
                            .rule = rule,
                            .mask = mask.mask(),
                            .mask_row_words = mask_words(cols) + 1,
                            .stats = &result.stats});
  for (int64_t r = 0; r < n; ++r) {
    result.rows.emplace_back();
    const uint32_t *row = mask.mask().row(0, 0, r);
    for (int64_t j = 0; j < cols; ++j) result.rows.back() += mask_test(row, j) ? '1' : '0';
    CHECK(mask_count(row, (mask_words(cols) + 1) * 32) == mask_count(row, cols));
  }
  CHECK(mask.gaps_intact());
  return result;
}

using Rows = std::vector<std::string>;

}  // namespace

TEST_CASE("ratio's count is upstream's") {
  CHECK(keep_count(ratio(1.0), 1024, 64) == 16);
  CHECK(keep_count(ratio(0.3), 960, 64) == 2);   // floor(0.16334 * 15) = floor(2.45)
  CHECK(keep_count(ratio(0.5), 1024, 64) == 4);  // floor(0.29289 * 16) = floor(4.69)
  CHECK(keep_count(ratio(0.75), 1024, 64) == 8);
  CHECK(keep_count(ratio(0.01), 1024, 64) == 1);  // floor(0.08), but at least one
  CHECK(keep_count(ratio(1e-300), 1 << 20, 64) == 1);
  CHECK(keep_count(ratio(0.75), 1025, 64) == 8);  // 17 blocks: a started block counts
  CHECK(keep_count(ratio(0.75), 1025 + 63, 64) == 8);
  CHECK(keep_count(ratio(0.75), 1025 + 64, 64) == 9);
  CHECK(keep_count(ratio(0.75), 1024, 32) == 16);
}

TEST_CASE("budget's count is whole blocks") {
  CHECK(keep_count(budget(2048), 1 << 20, 64) == 32);
  CHECK(keep_count(budget(2047), 1 << 20, 64) == 31);
  CHECK(keep_count(budget(63), 1 << 20, 64) == 1);
  CHECK(keep_count(budget(0), 1 << 20, 64) == 1);
}

TEST_CASE("the last dense rows are counted from the end of the whole prompt") {
  SelectRule rule = threshold(0.5);
  const auto dense = [&](Lengths lengths, int64_t last) {
    rule.last_dense_rows = last;
    const Batch b = make_batch({lengths}, 64, false);
    std::string rows;
    for (int64_t r = 0; r < b.sequences[0].q_blocks(64); ++r)
      rows += is_dense_row(rule, b.sequences[0], r, 64) ? '1' : '0';
    return rows;
  };
  CHECK(dense({320, 320}, 2) == "00011");
  CHECK(dense({320, 320}, 0) == "00000");
  CHECK(dense({320, 320}, -1) == "00000");
  CHECK(dense({320, 320}, 9) == "11111");
  CHECK(dense({257, 257}, 2) == "00011");     // a tail row is a row
  CHECK(dense({128, 256}, 2) == "11");        // the last chunk
  CHECK(dense({128, 128, 256}, 2) == "00");   // an earlier one
  CHECK(dense({192, 192, 256}, 2) == "001");  // the prompt's last row but one
  CHECK(dense({192, 192, 250}, 2) == "001");  // with a tail
  CHECK(dense({100, 200, 300}, 2) == "00");   // off the border: rows from 100, 164, 228, 292
  CHECK(dense({100, 200, 292}, 2) == "01");
  CHECK(dense({40, 40}, 0) == "1");  // one block
  CHECK(dense({64, 64}, 0) == "1");
  CHECK(dense({64, 64, 65}, 0) == "0");
}

TEST_CASE("threshold keeps what is above it") {
  const float t = 0.25f;
  const auto s =
      select(threshold(0.25),
             {{1, 0, 0, 0}, {t, std::nextafter(t, 1.0f), 0, 0}, {0.5f, 0.1f, 0.4f, 0}, {0.2f, 0.2f, 0.2f, 0.2f}});
  CHECK(s.rows == Rows{"1000", "0100", "1010", "0001"});
  CHECK(s.stats.fallback_rows == 1);
  CHECK(s.stats.blocks_kept == 5);
  CHECK(s.stats.blocks_causal == 10);
  // The threshold is compared as f32, as torch does: 0.1f > 0.1 in double.
  CHECK(select(threshold(0.1), {{1, 0}, {0.1f, 0.9f}}).rows == Rows{"10", "01"});
}

TEST_CASE("scores outside the triangle are not seen") {
  const float x = nan_f;
  for (const SelectRule &rule : {threshold(0.25), ratio(0.5), budget(64)})
    CHECK(select(rule, {{1, 9, x}, {0.9f, 0, 9}, {0, 0.9f, 0}}).rows == Rows{"100", "100", "010"});
}

TEST_CASE("ratio and budget keep the best, equal ones from the left") {
  CHECK(select(budget(128), {{1, 0, 0, 0}, {1, 2, 0, 0}, {3, 1, 2, 0}, {5, 7, 7, 7}}).rows ==
        Rows{"1000", "1100", "1010", "0110"});
  CHECK(select(budget(64), {{1, 0, 0}, {2, 2, 0}, {0.0f, -0.0f, 0.0f}}).rows == Rows{"100", "100", "100"});
  CHECK(select(budget(1 << 30), {{1, 0, 0}, {2, 2, 0}, {1, 2, 3}}).rows == Rows{"100", "110", "111"});
  CHECK(select(ratio(0.75), {{1, 0, 0, 0}, {1, 2, 0, 0}, {3, 1, 2, 0}, {-5, -7, -1, -2}}).rows ==
        Rows{"1000", "1100", "1010", "0011"});
  std::vector<float> many(100, 1.0f);
  many[70] = 2.0f;
  CHECK(select(budget(4 * 64), {many}, {64, 6400}).rows[0] ==
        "111" + std::string(67, '0') + "1" + std::string(29, '0'));
  // The count is of the whole prompt's blocks, 8: two, where the chunk alone has 4.
  CHECK(select(ratio(0.5), {{1, 2, 3, 4}}, {64, 256, 512}).rows == Rows{"0011"});
  CHECK(select(ratio(0.5), {{1, 2, 3, 4}}, {64, 256, 257}).rows == Rows{"0001"});
}

TEST_CASE("NaN and -inf are never kept by their score") {
  const float x = nan_f;
  for (const SelectRule &rule : {budget(1 << 20), ratio(1.0), threshold(0.0)}) {
    const auto s = select(rule, {{x, 0, 0, 0}, {x, 1, 0, 0}, {1, x, -inf, 0}, {x, x, x, x}});
    CHECK(s.rows == Rows{"1000", "0100", "1000", "0001"});
    CHECK(s.stats.fallback_rows == 2);
  }
  CHECK(select(budget(128), {{1, 0, 0}, {x, -inf, 0}, {x, inf, 1}}).rows == Rows{"100", "010", "011"});
}

TEST_CASE("first and diagonal blocks may be kept always") {
  SelectRule rule = threshold(0.5);
  rule.keep_first = true;
  const std::vector<std::vector<float>> scores = {{0, 0, 0}, {0, 0, 0}, {0, 0.9f, 0}};
  auto s = select(rule, scores);
  CHECK(s.rows == Rows{"100", "100", "110"});
  CHECK(s.stats.fallback_rows == 0);
  rule.keep_diagonal = true;
  CHECK(select(rule, scores).rows == Rows{"100", "110", "111"});
  rule.keep_first = false;
  s = select(rule, scores);
  CHECK(s.rows == Rows{"100", "010", "011"});
  CHECK(s.stats.fallback_rows == 0);
}

TEST_CASE("all and dense rows keep the triangle") {
  const std::vector<std::vector<float>> nothing(3, std::vector<float>(3, nan_f));
  auto s = select(rule_of(SelectMethod::all), nothing);
  CHECK(s.rows == Rows{"100", "110", "111"});
  CHECK(s.stats.blocks_kept == 6);
  CHECK(s.stats.fallback_rows == 0);
  SelectRule rule = threshold(0.5);
  rule.last_dense_rows = 2;
  s = select(rule, nothing);
  CHECK(s.rows == Rows{"100", "110", "111"});
  CHECK(s.stats.fallback_rows == 1);
  CHECK(select(threshold(1.0), {{0}}, {40, 40}).rows == Rows{"1"});  // one block: dense, whatever it scores
  CHECK(select(threshold(1.0), {{0}}, {40, 40}).stats.fallback_rows == 0);
}

TEST_CASE("chunks see the keys before them") {
  // Rows at keys 0 .. 191 and 0 .. 255, and off the border at 0 .. 163 and 0 .. 199.
  CHECK(select(rule_of(SelectMethod::all), {{0, 0, 0, 0}, {0, 0, 0, 0}}, {128, 256}).rows == Rows{"1110", "1111"});
  CHECK(select(rule_of(SelectMethod::all), {{0, 0, 0, 0}, {0, 0, 0, 0}}, {100, 200}).rows == Rows{"1110", "1111"});
  CHECK(select(threshold(0.5), {{0, 0, 0, 0}, {0, 0, 0, 0}}, {100, 200, 500}).rows == Rows{"0010", "0001"});
}
