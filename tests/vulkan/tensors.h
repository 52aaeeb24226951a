// Batches of the API's tests in the program's own buffers.
#pragma once
#include "../api/api.h"
#include "foreign.h"

namespace foreign {

// Tensors of a batch in one foreign buffer, one behind the other, with room between them that nobody may write.
class InBuffer {
public:
  InBuffer(Gpu &gpu, uint64_t bytes) : buffer_(gpu, bytes) { std::memset(buffer_.mapped, 0x5a, bytes); }

  seer_tensor put(const seer_tensor &host) {
    seer_tensor t = host;
    const uint64_t bytes = host.size;
    used_ = (used_ + 15) / 16 * 16 + 32;
    REQUIRE(used_ + bytes + 64 <= buffer_.size);
    std::memcpy(buffer_.at<char>(used_), host.data, bytes);
    t.mem = SEER_MEM_VULKAN;
    t.data = nullptr;
    t.vk_buffer = buffer_.handle();
    t.offset = used_;
    t.size = buffer_.size;
    parts_.push_back({used_, bytes});
    used_ += bytes;
    return t;
  }
  template <class T>
  std::vector<T> get(const seer_tensor &t, size_t count) const {
    const T *at = buffer_.at<T>(t.offset);
    return std::vector<T>(at, at + count);
  }
  // Whether everything between the tensors is as it was.
  bool margins_intact() const {
    uint64_t at = 0;
    for (const auto &[offset, bytes] : parts_) {
      for (; at < offset; at++)
        if (*buffer_.at<uint8_t>(at) != 0x5a) return false;
      at = (offset + bytes + 3) / 4 * 4;
    }
    for (; at < buffer_.size; at++)
      if (*buffer_.at<uint8_t>(at) != 0x5a) return false;
    return true;
  }
  Buffer &buffer() { return buffer_; }

private:
  Buffer buffer_;
  uint64_t used_ = 0;
  std::vector<std::pair<uint64_t, uint64_t>> parts_;
};

inline seer_prefill_desc full_prefill(api::Batch &x) {
  seer_prefill_desc desc = x.prefill();
  desc.lse = x.lse_();
  desc.scores = x.scores_();
  desc.mask = x.bits_();
  return desc;
}

}  // namespace foreign
