// Tensors for tests: strided, with gaps, in host memory that can be copied to a device and back.
//
// Every byte that belongs to no element is 0xff, which reads as NaN in f32, f16 and bf16: a kernel that reads a gap
// shows it in its result, and one that writes a gap is seen when the bytes come back.
#pragma once
#include <array>
#include <cstddef>
#include <cstring>
#include <random>
#include <vector>

#include "stages.h"

namespace seer::test {

enum class Layout {
  packed,  // as the shape says
  padded,  // gaps behind rows, before the first and after the last element
  swapped  // axes 1 and 2 change places in memory: [batch][head][token][channel] for tokens
};

class Image {
public:
  Image() = default;
  Image(DType dtype, std::array<int64_t, 4> shape, Layout layout = Layout::packed) : dtype_(dtype), shape_(shape) {
    std::array<int, 4> order = {0, 1, 2, 3};
    if (layout == Layout::swapped) order = {0, 2, 1, 3};
    const int64_t gap = layout == Layout::padded ? 3 : 0;
    int64_t step = 1;
    for (int i = 3; i >= 0; --i) {
      stride_[size_t(order[size_t(i)])] = step;
      step = step * shape[size_t(order[size_t(i)])] + gap;
    }
    first_ = guard;
    bytes_.assign(size_t((step + 2 * guard) * element_size(dtype)), std::byte{0xff});
  }

  DType dtype() const { return dtype_; }
  const std::array<int64_t, 4> &shape() const { return shape_; }
  std::vector<std::byte> &bytes() { return bytes_; }
  const std::vector<std::byte> &bytes() const { return bytes_; }

  template <class T>
  T &at(int64_t a, int64_t b, int64_t c, int64_t d) {
    return reinterpret_cast<T *>(bytes_.data())[index(a, b, c, d)];
  }
  float get(int64_t a, int64_t b, int64_t c, int64_t d) const {
    return dispatch_float(dtype_, [&](auto tag) {
      decltype(tag) value;
      std::memcpy(&value, bytes_.data() + index(a, b, c, d) * int64_t{sizeof value}, sizeof value);
      return to_f32(value);
    });
  }
  void set(int64_t a, int64_t b, int64_t c, int64_t d, float value) {
    dispatch_float(dtype_, [&](auto tag) {
      using T = decltype(tag);
      at<T>(a, b, c, d) = from_f32<T>(value);
    });
  }
  template <class F>
  void fill(F &&value) {
    for (int64_t a = 0; a < shape_[0]; ++a)
      for (int64_t b = 0; b < shape_[1]; ++b)
        for (int64_t c = 0; c < shape_[2]; ++c)
          for (int64_t d = 0; d < shape_[3]; ++d) set(a, b, c, d, value(a, b, c, d));
  }
  // Whether the bytes outside all elements still are what they were.
  bool gaps_intact() const {
    std::vector<bool> used(bytes_.size());
    const auto size = size_t(element_size(dtype_));
    for (int64_t a = 0; a < shape_[0]; ++a)
      for (int64_t b = 0; b < shape_[1]; ++b)
        for (int64_t c = 0; c < shape_[2]; ++c)
          for (int64_t d = 0; d < shape_[3]; ++d)
            for (size_t i = 0; i < size; ++i) used[size_t(index(a, b, c, d)) * size + i] = true;
    for (size_t i = 0; i < bytes_.size(); ++i)
      if (!used[i] && bytes_[i] != std::byte{0xff}) return false;
    return true;
  }

  // The views of an image whose bytes are at `base` (null: this one's own).
  TokenView tokens(void *base = nullptr, uint64_t handle = 0) {
    return {.data = first(base),
            .handle = handle,
            .offset = offset(),
            .dtype = dtype_,
            .heads = shape_[2],
            .dim = shape_[3],
            .stride_batch = stride_[0],
            .stride_token = stride_[1],
            .stride_head = stride_[2]};
  }
  FloatView floats(void *base = nullptr, uint64_t handle = 0) {
    return {.data = static_cast<float *>(first(base)),
            .handle = handle,
            .offset = offset(),
            .stride_batch = stride_[0],
            .stride_head = stride_[1],
            .stride_token = stride_[2]};
  }
  BlockMaskView mask(void *base = nullptr, uint64_t handle = 0) {
    return {.words = static_cast<uint32_t *>(first(base)),
            .handle = handle,
            .offset = offset(),
            .stride_batch = stride_[0],
            .stride_head = stride_[1],
            .stride_row = stride_[2]};
  }
  float *flat(void *base = nullptr) { return static_cast<float *>(first(base)); }

private:
  static constexpr int64_t guard = 64;  // elements before and after, so that the first one stays aligned
  int64_t index(int64_t a, int64_t b, int64_t c, int64_t d) const {
    return first_ + a * stride_[0] + b * stride_[1] + c * stride_[2] + d * stride_[3];
  }
  uint64_t offset() const { return uint64_t(first_ * element_size(dtype_)); }
  void *first(void *base) { return static_cast<std::byte *>(base ? base : bytes_.data()) + offset(); }

  DType dtype_ = DType::none;
  std::array<int64_t, 4> shape_ = {}, stride_ = {};
  int64_t first_ = 0;
  std::vector<std::byte> bytes_;
};

// The sequences of a call and the extents of its tensors.
struct Batch {
  std::vector<Sequence> sequences;
  int64_t block = 64;
  int64_t batch = 1;                                // outermost extent of all tensors
  int64_t q_tokens = 0, k_tokens = 0;               // token axes
  int64_t mask_rows = 0;                            // row axis of mask and scores
  int64_t q_rows = 0, k_rows = 0, k_pool_rows = 0;  // of pooled and gate vectors
  int64_t max_k_blocks = 0;
};

struct Lengths {
  int64_t q, k;
  int64_t total = 0;   // 0: k
  int64_t cached = 0;  // blocks
};

// packed: one after the other along the token axis; else one per batch index, all as long as the longest.
inline Batch make_batch(const std::vector<Lengths> &lengths, int64_t block, bool packed) {
  Batch b;
  b.block = block;
  b.batch = packed ? 1 : int64_t(lengths.size());
  for (const Lengths &l : lengths) {
    Sequence s;
    s.q_len = l.q;
    s.k_len = l.k;
    s.total_len = l.total ? l.total : l.k;
    s.cached_blocks = l.cached;
    s.q_row = b.q_rows;
    s.k_row = b.k_rows;
    s.k_pool_row = b.k_pool_rows;
    b.q_rows += s.q_blocks(block);
    b.k_rows += s.k_blocks(block);
    b.k_pool_rows += s.k_blocks(block) - l.cached;
    b.max_k_blocks = std::max(b.max_k_blocks, s.k_blocks(block));
    if (packed) {
      s.q_begin = b.q_tokens;
      s.k_begin = b.k_tokens;
      s.mask_row = b.mask_rows;
      b.q_tokens += l.q;
      b.k_tokens += l.k;
      b.mask_rows += s.q_blocks(block);
    } else {
      s.batch = int64_t(b.sequences.size());
      b.q_tokens = std::max(b.q_tokens, l.q);
      b.k_tokens = std::max(b.k_tokens, l.k);
      b.mask_rows = std::max(b.mask_rows, s.q_blocks(block));
    }
    b.sequences.push_back(s);
  }
  return b;
}

using Random = std::mt19937_64;

inline float normal(Random &random) { return std::normal_distribution<float>()(random); }
inline int64_t uniform(Random &random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

}  // namespace seer::test
