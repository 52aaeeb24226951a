// A small attention problem and its answer, computed here: what a kernel must get right on a device before it is used.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "../stages.h"
#include "attend_tile.h"

namespace seer::vulkan {

class AttendProof {
public:
  // heads: query heads of a KV head.
  AttendProof(const AttendShape &shape, int64_t heads, bool dense);
  AttendProof(const AttendProof &) = delete;
  AttendProof &operator=(const AttendProof &) = delete;

  uint64_t bytes() const { return input_.size() + output_bytes(); }
  // The first bytes of memory: q, k, v, mask. Behind them come out and lse.
  const std::vector<std::byte> &input() const { return input_; }
  uint64_t output_bytes() const { return out_bytes_ + lse_bytes_; }
  // The call, for memory at `base`. Valid as long as this is.
  AttendArgs args(std::byte *base) const;
  // What is wrong with these bytes of out and lse; "" = nothing.
  std::string fault(const std::vector<std::byte> &output) const;

private:
  float value(const std::byte *at) const;
  void put(std::byte *at, float value) const;
  const std::byte *q(int64_t token, int64_t head) const;
  const std::byte *kv(bool v, int64_t token, int64_t kv_head) const;

  const AttendShape shape_;
  const int64_t group_, q_heads_;
  const bool dense_;
  int64_t size_ = 0;  // bytes of an element
  Sequence sequence_;
  uint64_t q_bytes_ = 0, kv_bytes_ = 0, mask_bytes_ = 0, out_bytes_ = 0, lse_bytes_ = 0;
  int64_t mask_words_ = 0;
  std::vector<std::byte> input_;
};

}  // namespace seer::vulkan
