#include "select_rule.h"

#include <algorithm>
#include <cmath>

#include "checked.h"

namespace seer {

int64_t keep_count(const SelectRule &rule, int64_t total_len, int64_t block) {
  if (rule.method == SelectMethod::budget) return std::max<int64_t>(1, rule.token_budget / block);
  // A causal triangle of side n with its rows cut to k blocks has a share 1 - (1 - k/n)^2 left. In double and
  // truncated, as upstream's int() does.
  const double share = 1.0 - std::sqrt(1.0 - rule.ratio);
  return std::max<int64_t>(1, static_cast<int64_t>(share * static_cast<double>(ceil_div(total_len, block))));
}

bool is_dense_row(const SelectRule &rule, const Sequence &sequence, int64_t r, int64_t block) {
  if (sequence.total_len <= block) return true;
  const int64_t rows_to_end = ceil_div(sequence.total_len - sequence.offset(), block) - r;
  return rows_to_end <= rule.last_dense_rows;
}

bool finish_row(const SelectRule &rule, uint32_t *row, int64_t causal) {
  if (rule.keep_first) mask_set(row, 0);
  if (rule.keep_diagonal) mask_set(row, causal - 1);
  for (int64_t w = 0; w < mask_words(causal); ++w)
    if (row[w]) return false;
  mask_set(row, causal - 1);
  return true;
}

}  // namespace seer
