// Block masks: a bit per (query block, key block), 32 to a word, bit c of word w being key block 32 w + c.
//
// Why bits: the union of rows that share K/V loads is an OR, counting is popcount, the size does not depend on density
// (256k tokens, 32 heads: 67 MB) and every row can be found without a prefix sum.
#pragma once
#include <bit>
#include <cstdint>
#include <span>
#include <vector>

namespace seer {

// Words of a row of n key blocks.
constexpr int64_t mask_words(int64_t n) { return (n + 31) / 32; }

// Rows of bits in somebody's memory, [batch][head][row][word]; row r of sequence s is at mask_row(s) + r.
struct BlockMaskView {
  uint32_t *words = nullptr;                                  // null: absent (attend: dense)
  uint64_t handle = 0, offset = 0;                            // vulkan
  int64_t stride_batch = 0, stride_head = 0, stride_row = 0;  // in words

  uint32_t *row(int64_t batch, int64_t head, int64_t r) const {
    return words + batch * stride_batch + head * stride_head + r * stride_row;
  }
};

inline bool mask_test(const uint32_t *row, int64_t j) { return (row[j >> 5] >> (j & 31)) & 1u; }
inline void mask_set(uint32_t *row, int64_t j) { row[j >> 5] |= 1u << (j & 31); }
// Sets bits [first, last).
void mask_set_range(uint32_t *row, int64_t first, int64_t last);
// Clears all bits >= n in a row of `words` words.
void mask_clear_from(uint32_t *row, int64_t n, int64_t words);
// Number of bits set below n.
int64_t mask_count(const uint32_t *row, int64_t n);

// The number of key blocks that row r of a causal mask may see: keys 0 .. offset + min(q_len, (r + 1) block) - 1.
// offset = k_len - q_len.
constexpr int64_t causal_blocks(int64_t r, int64_t q_len, int64_t offset, int64_t block) {
  const int64_t rows = (r + 1) * block < q_len ? (r + 1) * block : q_len;
  return (offset + rows + block - 1) / block;
}

// A mask that owns its words: [heads][rows][words], one sequence.
class BlockMask {
public:
  BlockMask() = default;
  BlockMask(int64_t heads, int64_t rows, int64_t cols);  // empty

  int64_t heads() const { return heads_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  BlockMaskView view();
  uint32_t *row(int64_t head, int64_t r) { return words_.data() + (head * rows_ + r) * mask_words(cols_); }
  const uint32_t *row(int64_t head, int64_t r) const { return words_.data() + (head * rows_ + r) * mask_words(cols_); }
  bool test(int64_t head, int64_t r, int64_t c) const { return mask_test(row(head, r), c); }
  void set(int64_t head, int64_t r, int64_t c) { mask_set(row(head, r), c); }
  int64_t count() const;  // all bits set

  // bytes: [heads][rows][cols], 0 = drop, anything else = keep.
  static BlockMask from_bytes(std::span<const uint8_t> bytes, int64_t heads, int64_t rows, int64_t cols);
  std::vector<uint8_t> to_bytes() const;  // 0 or 1
  // Lists: row (head, r) keeps indices[offsets[head * rows + r] .. offsets[head * rows + r + 1]).
  struct Lists {
    std::vector<int64_t> offsets;  // heads * rows + 1
    std::vector<int32_t> indices;  // rising within a row
  };
  static BlockMask from_lists(const Lists &lists, int64_t heads, int64_t rows, int64_t cols);
  Lists to_lists() const;

  // Throws unless every row is within the causal triangle and (if wanted) keeps at least one block.
  // offset in tokens: k_len - q_len.
  void validate(int64_t q_len, int64_t k_len, int64_t block, bool rows_not_empty) const;

private:
  int64_t heads_ = 0, rows_ = 0, cols_ = 0;
  std::vector<uint32_t> words_;
};

}  // namespace seer
