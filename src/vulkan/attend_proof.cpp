#include "attend_proof.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

namespace seer::vulkan {
namespace {

constexpr int64_t kKvHeads = 2;
constexpr float kScale = 0.25f;

uint64_t padded(uint64_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

AttendProof::AttendProof(const AttendShape &shape, int64_t heads, bool dense)
    : shape_(shape), group_(heads), q_heads_(heads * kKvHeads), dense_(dense), size_(element_size(shape.dtype)) {
  sequence_.q_len = 2 * shape.block + shape.block / 2 + 3;
  sequence_.k_len = sequence_.q_len + shape.block + 5;
  sequence_.total_len = sequence_.k_len;
  const int64_t rows = sequence_.q_blocks(shape.block), cols = sequence_.k_blocks(shape.block);
  mask_words_ = mask_words(cols);
  q_bytes_ = padded(uint64_t(sequence_.q_len * q_heads_ * shape.dim * size_));
  kv_bytes_ = padded(uint64_t(sequence_.k_len * kKvHeads * shape.dim * size_));
  mask_bytes_ = padded(uint64_t(q_heads_ * rows * mask_words_ * 4));
  out_bytes_ = q_bytes_;
  lse_bytes_ = padded(uint64_t(q_heads_ * sequence_.q_len * 4));
  input_.resize(q_bytes_ + 2 * kv_bytes_ + mask_bytes_);

  std::minstd_rand random(1);
  for (uint64_t at = 0; at < q_bytes_ + 2 * kv_bytes_; at += uint64_t(size_))
    put(&input_[at], float(random() % 4001) / 1000.0f - 2.0f);
  for (int64_t head = 0; head < q_heads_; head++)
    for (int64_t row = 0; row < rows; row++) {
      // Row 1 keeps nothing, in every second head; the others this or that, and the last heads everything.
      const bool none = row == 1 && head % 2 == 0;
      for (int64_t word = 0; word < mask_words_; word++) {
        uint32_t bits = none ? 0u : head == q_heads_ - 1 ? ~0u : uint32_t(random() >> 3);
        std::memcpy(&input_[q_bytes_ + 2 * kv_bytes_ + uint64_t(((head * rows + row) * mask_words_ + word) * 4)], &bits,
                    4);
      }
    }
}

float AttendProof::value(const std::byte *at) const {
  return dispatch_float(shape_.dtype, [&](auto tag) {
    decltype(tag) x;
    std::memcpy(&x, at, sizeof x);
    return to_f32(x);
  });
}

void AttendProof::put(std::byte *at, float value) const {
  dispatch_float(shape_.dtype, [&](auto tag) {
    const auto x = from_f32<decltype(tag)>(value);
    std::memcpy(at, &x, sizeof x);
  });
}

const std::byte *AttendProof::q(int64_t token, int64_t head) const {
  return &input_[uint64_t((token * q_heads_ + head) * shape_.dim * size_)];
}

const std::byte *AttendProof::kv(bool v, int64_t token, int64_t kv_head) const {
  return &input_[q_bytes_ + (v ? kv_bytes_ : 0) + uint64_t((token * kKvHeads + kv_head) * shape_.dim * size_)];
}

AttendArgs AttendProof::args(std::byte *base) const {
  const auto tokens = [&](uint64_t at, int64_t heads) {
    return TokenView{.data = base + at,
                     .dtype = shape_.dtype,
                     .heads = heads,
                     .dim = shape_.dim,
                     .stride_token = heads * shape_.dim,
                     .stride_head = shape_.dim};
  };
  AttendArgs args{.sequences = {&sequence_, 1}, .block = shape_.block};
  args.q = tokens(0, q_heads_);
  args.k = tokens(q_bytes_, kKvHeads);
  args.v = tokens(q_bytes_ + kv_bytes_, kKvHeads);
  args.out = tokens(input_.size(), q_heads_);
  args.lse.data = reinterpret_cast<float *>(base + input_.size() + out_bytes_);
  args.lse.stride_head = sequence_.q_len;
  if (!dense_) args.mask.words = reinterpret_cast<uint32_t *>(base + q_bytes_ + 2 * kv_bytes_);
  args.mask.stride_row = mask_words_;
  args.mask.stride_head = sequence_.q_blocks(shape_.block) * mask_words_;
  args.scale = kScale;
  return args;
}

std::string AttendProof::fault(const std::vector<std::byte> &output) const {
  const AttendArgs host = args(const_cast<std::byte *>(input_.data()));
  const double tolerance = shape_.dtype == DType::bf16 ? 3e-2 : 6e-3;
  std::vector<double> weights, expected(size_t(shape_.dim));
  std::vector<int64_t> keys;
  // Every eleventh row: each kind is among them.
  for (int64_t head = 0; head < q_heads_; head++)
    for (int64_t i = 0; i < sequence_.q_len; i += 11) {
      const int64_t position = sequence_.offset() + i;
      const uint32_t *row = dense_ ? nullptr : host.mask.row(0, head, i / shape_.block);
      keys.clear();
      weights.clear();
      double most = -std::numeric_limits<double>::infinity();
      for (int64_t t = 0; t <= position; t++) {
        if (row && !mask_test(row, t / shape_.block)) continue;
        double dot = 0;
        for (int64_t d = 0; d < shape_.dim; d++)
          dot += double(value(q(i, head) + d * size_)) * double(value(kv(false, t, head / group_) + d * size_));
        keys.push_back(t);
        weights.push_back(dot * double(kScale));
        most = std::max(most, weights.back());
      }
      double sum = 0;
      std::fill(expected.begin(), expected.end(), 0.0);
      for (size_t n = 0; n < keys.size(); n++) {
        const double weight = std::exp(weights[n] - most);
        sum += weight;
        for (int64_t d = 0; d < shape_.dim; d++)
          expected[size_t(d)] += weight * double(value(kv(true, keys[n], head / group_) + d * size_));
      }
      for (int64_t d = 0; d < shape_.dim; d++) {
        const double got = double(value(&output[uint64_t(((i * q_heads_ + head) * shape_.dim + d) * size_)]));
        const double want = sum == 0 ? 0 : expected[size_t(d)] / sum;
        if (!(std::abs(got - want) <= tolerance))
          return "out[" + std::to_string(i) + "][" + std::to_string(head) + "][" + std::to_string(d) + "] is " +
                 std::to_string(got) + ", expected " + std::to_string(want);
      }
      float got;
      std::memcpy(&got, &output[out_bytes_ + uint64_t((head * sequence_.q_len + i) * 4)], 4);
      const bool right = sum == 0 ? std::isinf(got) && got < 0 : std::abs(double(got) - (most + std::log(sum))) <= 1e-3;
      if (!right)
        return "lse of row " + std::to_string(i) + ", head " + std::to_string(head) + " is " + std::to_string(got);
    }
  return {};
}

}  // namespace seer::vulkan
