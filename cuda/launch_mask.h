// Block masks: bytes to bits and back (cuda/mask.cu). See launch.h.
#pragma once
#include <cstdint>

namespace seer::cuda {

// mask_pack, mask_unpack: a grid of (rows, heads, 1) blocks of kMaskThreads threads, once a sequence.
constexpr int kMaskThreads = 128;

struct MaskParams {
  uint32_t *bits;  // of the sequence's first row and head; strides in words
  int64_t bits_head, bits_row;
  uint8_t *bytes;  // likewise, in bytes
  int64_t bytes_head, bytes_row;
  int32_t words;  // of a row
  int32_t cols;   // pack: columns that count, the bits of the others become 0. Unpack: bytes of a row
};

}  // namespace seer::cuda
