// Gate scores of a few block rows at a time, so that neither score nor select ever needs an n x n matrix of its own.
#pragma once
#include <algorithm>
#include <vector>

#include "kernels.h"

namespace seer::cpu {

inline constexpr int64_t kScoreRows = 8;  // block rows that share loads of gate K

// Block rows first .. first + rows - 1 (at most kScoreRows) of a head.
struct ScoreRows {
  const GateVectors *gate = nullptr;
  const Sequence *sequence = nullptr;
  int64_t block = 0, head = 0;
  int64_t first = 0, rows = 0;

  int64_t causal(int64_t r) const { return causal_blocks(first + r, sequence->q_len, sequence->offset(), block); }
};

// logits[r][j] = scale <q, k_j> for the blocks j that the last of the rows sees.
void score_rows(const ScoreRows &, float *const *logits);
// p = softmax(x) by the rules of softmax_row in ref.h; p is not x. Probabilities far below `smallest` may become 0.
void softmax_blocks(const float *x, int64_t n, float smallest, float *p);

// Calls body(sequence, head, first row, rows, worker) for every group of rows of every head and sequence.
template <class Body>
void for_score_rows(Workers &workers, std::span<const Sequence> sequences, int64_t block, int64_t heads, Body body) {
  struct Item {
    const Sequence *sequence;
    int64_t head, first;
  };
  std::vector<Item> items;
  for (const Sequence &s : sequences)
    for (int64_t h = 0; h < heads; h++)
      for (int64_t r = s.q_blocks(block) - 1; r >= 0; r -= kScoreRows)
        items.push_back({&s, h, r / kScoreRows * kScoreRows});
  workers.pool.parallel_for(static_cast<int64_t>(items.size()), [&](int64_t i, int worker) {
    workers.exec.check_cancelled();
    const Item &item = items[static_cast<size_t>(i)];
    body(*item.sequence, item.head, item.first, std::min(kScoreRows, item.sequence->q_blocks(block) - item.first),
         worker);
  });
}

}  // namespace seer::cpu
