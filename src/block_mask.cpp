#include "block_mask.h"

#include "checked.h"

namespace seer {

void mask_set_range(uint32_t *row, int64_t first, int64_t last) {
  if (first >= last) return;
  const int64_t first_word = first >> 5, last_word = (last - 1) >> 5;
  const uint32_t from_first = ~0u << (first & 31), to_last = ~0u >> (31 - ((last - 1) & 31));
  if (first_word == last_word) {
    row[first_word] |= from_first & to_last;
    return;
  }
  row[first_word] |= from_first;
  for (int64_t w = first_word + 1; w < last_word; ++w) row[w] = ~0u;
  row[last_word] |= to_last;
}

void mask_clear_from(uint32_t *row, int64_t n, int64_t words) {
  int64_t w = n >> 5;
  if (w < words && (n & 31)) row[w++] &= ~(~0u << (n & 31));
  for (; w < words; ++w) row[w] = 0;
}

int64_t mask_count(const uint32_t *row, int64_t n) {
  int64_t count = 0;
  for (int64_t w = 0; w < n >> 5; ++w) count += std::popcount(row[w]);
  if (n & 31) count += std::popcount(row[n >> 5] & ~(~0u << (n & 31)));
  return count;
}

BlockMask::BlockMask(int64_t heads, int64_t rows, int64_t cols) : heads_(heads), rows_(rows), cols_(cols) {
  SEER_REQUIRE(heads >= 0 && rows >= 0 && cols >= 0, Status::shape,
               "mask of %lld heads, %lld rows, %lld columns: none may be negative", (long long)heads, (long long)rows,
               (long long)cols);
  words_.resize(static_cast<size_t>(checked_mul(heads, rows, mask_words(cols))));
}

BlockMaskView BlockMask::view() {
  const int64_t row_words = mask_words(cols_);
  return {.words = words_.data(), .stride_batch = 0, .stride_head = rows_ * row_words, .stride_row = row_words};
}

int64_t BlockMask::count() const {
  int64_t n = 0;
  for (int64_t h = 0; h < heads_; ++h)
    for (int64_t r = 0; r < rows_; ++r) n += mask_count(row(h, r), cols_);
  return n;
}

BlockMask BlockMask::from_bytes(std::span<const uint8_t> bytes, int64_t heads, int64_t rows, int64_t cols) {
  BlockMask mask(heads, rows, cols);
  const int64_t expected = checked_mul(heads, rows, cols);
  SEER_REQUIRE(static_cast<int64_t>(bytes.size()) == expected, Status::shape,
               "byte mask of %zu bytes, expected %lld for %lld heads, %lld rows, %lld columns", bytes.size(),
               (long long)expected, (long long)heads, (long long)rows, (long long)cols);
  const uint8_t *next = bytes.data();
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c)
        if (*next++) mask.set(h, r, c);
  return mask;
}

std::vector<uint8_t> BlockMask::to_bytes() const {
  std::vector<uint8_t> bytes;
  bytes.reserve(static_cast<size_t>(heads_ * rows_ * cols_));
  for (int64_t h = 0; h < heads_; ++h)
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t c = 0; c < cols_; ++c) bytes.push_back(test(h, r, c));
  return bytes;
}

BlockMask BlockMask::from_lists(const Lists &lists, int64_t heads, int64_t rows, int64_t cols) {
  BlockMask mask(heads, rows, cols);
  const auto all_rows = static_cast<size_t>(checked_mul(heads, rows));
  SEER_REQUIRE(lists.offsets.size() == all_rows + 1, Status::shape,
               "block lists have %zu offsets, expected %zu (heads x rows + 1)", lists.offsets.size(), all_rows + 1);
  SEER_REQUIRE(lists.offsets.front() == 0 && lists.offsets.back() == static_cast<int64_t>(lists.indices.size()),
               Status::out_of_bounds, "offsets of block lists run from %lld to %lld, expected 0 to %zu",
               (long long)lists.offsets.front(), (long long)lists.offsets.back(), lists.indices.size());
  for (size_t i = 0; i < all_rows; ++i)
    SEER_REQUIRE(lists.offsets[i] <= lists.offsets[i + 1], Status::out_of_bounds,
                 "offset %zu of block lists is %lld, after %lld", i + 1, (long long)lists.offsets[i + 1],
                 (long long)lists.offsets[i]);
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t r = 0; r < rows; ++r) {
      const auto i = static_cast<size_t>(h * rows + r);
      for (auto at = static_cast<size_t>(lists.offsets[i]); at < static_cast<size_t>(lists.offsets[i + 1]); ++at) {
        const int32_t c = lists.indices[at];
        SEER_REQUIRE(c >= 0 && c < cols, Status::out_of_bounds,
                     "head %lld, row %lld keeps key block %d, expected 0 to %lld", (long long)h, (long long)r, c,
                     (long long)cols - 1);
        mask.set(h, r, c);
      }
    }
  return mask;
}

BlockMask::Lists BlockMask::to_lists() const {
  Lists lists;
  lists.offsets.reserve(static_cast<size_t>(heads_ * rows_ + 1));
  lists.indices.reserve(static_cast<size_t>(count()));
  lists.offsets.push_back(0);
  for (int64_t h = 0; h < heads_; ++h)
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t w = 0; w < mask_words(cols_); ++w)
        for (uint32_t bits = row(h, r)[w]; bits; bits &= bits - 1)
          lists.indices.push_back(static_cast<int32_t>(w * 32 + std::countr_zero(bits)));
      lists.offsets.push_back(static_cast<int64_t>(lists.indices.size()));
    }
  return lists;
}

void BlockMask::validate(int64_t q_len, int64_t k_len, int64_t block, bool rows_not_empty) const {
  SEER_REQUIRE(block > 0 && q_len >= 0 && k_len >= q_len, Status::shape,
               "%lld queries, %lld keys, blocks of %lld: expected keys >= queries >= 0", (long long)q_len,
               (long long)k_len, (long long)block);
  SEER_REQUIRE(rows_ == ceil_div(q_len, block) && cols_ == ceil_div(k_len, block), Status::shape,
               "mask has %lld rows and %lld columns, expected %lld and %lld", (long long)rows_, (long long)cols_,
               (long long)ceil_div(q_len, block), (long long)ceil_div(k_len, block));
  for (int64_t h = 0; h < heads_; ++h)
    for (int64_t r = 0; r < rows_; ++r) {
      const int64_t causal = causal_blocks(r, q_len, k_len - q_len, block);
      const int64_t inside = mask_count(row(h, r), causal), all = mask_count(row(h, r), mask_words(cols_) * 32);
      SEER_REQUIRE(inside == all, Status::invalid_argument,
                   "head %lld, row %lld keeps %lld blocks after its last causal block %lld", (long long)h, (long long)r,
                   (long long)(all - inside), (long long)causal - 1);
      SEER_REQUIRE(!rows_not_empty || inside > 0, Status::invalid_argument, "head %lld, row %lld keeps no block",
                   (long long)h, (long long)r);
    }
}

}  // namespace seer
