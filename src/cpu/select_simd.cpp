// select over gate vectors or scores, a few rows at a time. The vector work is score_rows and softmax_blocks.
#include <algorithm>
#include <limits>

#include "../select_rule.h"
#include "score_rows.h"
#include "simd_target.h"

namespace seer::cpu {
namespace {

// Sets the bits of the `keep` best scores; of equal ones the lower index wins. NaN and -inf are never kept.
void select_best(const float *scores, int64_t causal, int64_t keep, std::vector<float> &valid, uint32_t *row) {
  valid.clear();
  for (int64_t j = 0; j < causal; j++)
    if (scores[j] > -std::numeric_limits<float>::infinity()) valid.push_back(scores[j]);
  const auto count = std::min(static_cast<int64_t>(valid.size()), keep);
  if (count == 0) return;
  std::nth_element(valid.begin(), valid.begin() + (count - 1), valid.end(), std::greater<>());
  const float cut = valid[static_cast<size_t>(count - 1)];
  // nth_element leaves the better ones in front; of those equal to the cut as many as are missing are kept.
  int64_t equal = count - std::count_if(valid.begin(), valid.begin() + count, [cut](float x) { return x > cut; });
  for (int64_t j = 0; j < causal; j++)
    if (scores[j] > cut || (scores[j] == cut && equal-- > 0)) mask_set(row, j);
}

void select_above(const float *scores, int64_t causal, float threshold, uint32_t *row) {
  for (int64_t j = 0; j < causal; j += 32) {
    uint32_t bits = 0;
    const int64_t n = std::min<int64_t>(32, causal - j);
    for (int64_t i = 0; i < n; i++) bits |= static_cast<uint32_t>(scores[j + i] > threshold) << i;
    row[j / 32] = bits;
  }
}

struct Space {
  std::vector<float> logits, probabilities, valid;
  SelectStats stats;
};

}  // namespace

void select_simd(Workers &workers, const SelectArgs &args) {
  simd_prepare();
  const SelectRule &rule = args.rule;
  const auto threshold = static_cast<float>(rule.threshold);
  int64_t longest = 0;
  for (const Sequence &s : args.sequences) longest = std::max(longest, s.k_blocks(args.block));
  std::vector<Space> spaces(static_cast<size_t>(workers.pool.size()));

  for_score_rows(workers, args.sequences, args.block, args.q_heads,
                 [&](const Sequence &s, int64_t head, int64_t first, int64_t count, int worker) {
                   Space &space = spaces[static_cast<size_t>(worker)];
                   const ScoreRows rows{&args.gate, &s, args.block, head, first, count};
                   bool keeps_all[kScoreRows], any_scored = false;
                   for (int64_t r = 0; r < count; r++) {
                     keeps_all[r] = rule.method == SelectMethod::all || is_dense_row(rule, s, first + r, args.block);
                     any_scored |= !keeps_all[r];
                   }
                   const bool from_gate = any_scored && !args.scores.data;
                   float *logits[kScoreRows] = {};
                   if (from_gate) {
                     space.logits.resize(static_cast<size_t>(kScoreRows * longest));
                     space.probabilities.resize(static_cast<size_t>(longest));
                     for (int64_t r = 0; r < count; r++) logits[r] = space.logits.data() + r * longest;
                     score_rows(rows, logits);
                   }
                   for (int64_t r = 0; r < count; r++) {
                     const int64_t causal = rows.causal(r);
                     uint32_t *row = args.mask.row(s.batch, head, s.mask_row + first + r);
                     std::fill_n(row, args.mask_row_words, 0u);
                     if (keeps_all[r]) {
                       mask_set_range(row, 0, causal);
                     } else {
                       const float *scores =
                           from_gate ? logits[r] : args.scores.at(s.batch, head, s.mask_row + first + r);
                       if (rule.method == SelectMethod::threshold) {
                         if (from_gate) {
                           softmax_blocks(scores, causal, threshold, space.probabilities.data());
                           scores = space.probabilities.data();
                         }
                         select_above(scores, causal, threshold, row);
                       } else {
                         select_best(scores, causal, keep_count(rule, s.total_len, args.block), space.valid, row);
                       }
                       space.stats.fallback_rows += finish_row(rule, row, causal);
                     }
                     space.stats.blocks_kept += static_cast<uint64_t>(mask_count(row, causal));
                     space.stats.blocks_causal += static_cast<uint64_t>(causal);
                   }
                   workers.exec.step(static_cast<uint64_t>(count));
                 });
  if (!args.stats) return;
  for (const Space &space : spaces) {
    args.stats->blocks_kept += space.stats.blocks_kept;
    args.stats->blocks_causal += space.stats.blocks_causal;
    args.stats->fallback_rows += space.stats.fallback_rows;
  }
}

}  // namespace seer::cpu
