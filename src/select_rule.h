// The arithmetic of block selection that every kernel shares. Pure.
//
// What a row keeps, in this order:
//   dense rows (`is_dense_row`) and method `all`: every causal block;
//   threshold: blocks with probability > float(threshold), probabilities being a softmax over the row's causal blocks;
//   ratio and budget: the `keep_count` best causal blocks, higher score first and of equal scores the lower index
//   first; keep_first and keep_diagonal add key block 0 and the row's last causal block; a row that is still empty
//   keeps its last causal block and counts as a fallback row.
// A block whose score is NaN or -inf has probability 0 and is never kept by its score, however many a row may keep.
#pragma once
#include <cstdint>

#include "gate.h"
#include "stages.h"

namespace seer {

// How many blocks `ratio` and `budget` keep in every row of a prompt of total_len tokens, at least 1. A row with fewer
// causal blocks keeps all of them.
int64_t keep_count(const SelectRule &rule, int64_t total_len, int64_t block);

// Whether block row r keeps every causal block: it is one of the last `last_dense_rows` rows of the whole prompt (which
// may end in a later chunk), or the prompt is a single block.
bool is_dense_row(const SelectRule &rule, const Sequence &sequence, int64_t r, int64_t block);

// What is added to a row of `causal` >= 1 blocks after its blocks were chosen by score. True: it was empty and fell
// back.
bool finish_row(const SelectRule &rule, uint32_t *row, int64_t causal);

}  // namespace seer
