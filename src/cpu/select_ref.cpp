// select, reference. The rules are select_rule.h's.
#include "../select_rule.h"

#include <limits>
#include <numeric>

#include "kernels.h"
#include "ref.h"

namespace seer::cpu {
namespace {

// Sets the bits of the `keep` best scores.
void select_best(const float *scores, int64_t causal, int64_t keep, uint32_t *row) {
  std::vector<int64_t> order(static_cast<size_t>(causal));
  std::iota(order.begin(), order.end(), 0);
  // NaN, never above the lowest score, must not reach the comparison: it would not order.
  std::erase_if(order, [&](int64_t j) { return !(scores[j] > -std::numeric_limits<float>::infinity()); });
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
  const auto n = std::min(static_cast<int64_t>(order.size()), keep);
  for (int64_t i = 0; i < n; ++i) mask_set(row, order[static_cast<size_t>(i)]);
}

}  // namespace

void select_ref(Workers &workers, const SelectArgs &args) {
  const SelectRule &rule = args.rule;
  SelectStats stats;
  for (const Sequence &s : args.sequences) {
    std::vector<float> logits(static_cast<size_t>(s.k_blocks(args.block)));
    for (int64_t r = 0; r < s.q_blocks(args.block); ++r) {
      workers.exec.check_cancelled();
      const int64_t causal = causal_blocks(r, s.q_len, s.offset(), args.block);
      const bool keeps_all = rule.method == SelectMethod::all || is_dense_row(rule, s, r, args.block);

      for (int64_t h = 0; h < args.q_heads; ++h) {
        uint32_t *row = args.mask.row(s.batch, h, s.mask_row + r);
        std::fill_n(row, args.mask_row_words, 0u);
        if (keeps_all) {
          mask_set_range(row, 0, causal);
        } else {
          const float *scores = logits.data();
          if (args.scores.data)
            scores = args.scores.at(s.batch, h, s.mask_row + r);
          else {
            score_row(args.gate, s, h, r, causal, logits.data());
            if (rule.method == SelectMethod::threshold) softmax_row(logits.data(), causal);
          }
          if (rule.method == SelectMethod::threshold) {
            for (int64_t j = 0; j < causal; ++j)
              if (scores[j] > static_cast<float>(rule.threshold)) mask_set(row, j);
          } else {
            select_best(scores, causal, keep_count(rule, s.total_len, args.block), row);
          }
          stats.fallback_rows += finish_row(rule, row, causal);
        }
        stats.blocks_kept += static_cast<uint64_t>(mask_count(row, causal));
        stats.blocks_causal += static_cast<uint64_t>(causal);
        workers.exec.step(1);
      }
    }
  }
  if (args.stats) {
    args.stats->blocks_kept += stats.blocks_kept;
    args.stats->blocks_causal += stats.blocks_causal;
    args.stats->fallback_rows += stats.fallback_rows;
  }
}

}  // namespace seer::cpu
