// Cutting a stage's work into pieces whose tensors a binding can see.
#pragma once
#include <algorithm>

#include "../checked.h"
#include "caps.h"

namespace seer::vulkan {

// Some rows (tokens, blocks, block rows) of some heads.
struct Piece {
  int64_t row = 0, rows = 0, head = 0, heads = 0;
};

// Elements from the first to the last of a piece of a strided tensor, `inner` a row and head.
inline int64_t span_elements(const Piece &piece, int64_t row_stride, int64_t head_stride, int64_t inner) {
  return checked_add(checked_add(checked_mul(piece.rows - 1, row_stride), checked_mul(piece.heads - 1, head_stride)),
                     inner);
}

// A stride as kernels take it. One that nothing steps over may not fit, and does not matter.
inline uint32_t kernel_stride(int64_t stride, int64_t extent) { return extent > 1 ? uint32_t(stride) : 0; }

// Calls body(piece) for pieces that cover `all`, such that bytes(piece), what its largest binding must see, stays
// within max_range. Throws unsupported if a single row of a head goes beyond it.
template <class Bytes, class Body>
void each_piece(const Caps &caps, const Piece &all, Bytes bytes, Body body) {
  if (all.rows == 0 || all.heads == 0) return;
  if (uint64_t(bytes(all)) + caps.offset_alignment <= caps.max_range) return body(all);
  SEER_REQUIRE(all.rows > 1 || all.heads > 1, Status::unsupported,
               "a row of a tensor takes %llu bytes; a binding of this device sees %llu", (unsigned long long)bytes(all),
               (unsigned long long)caps.max_range);
  Piece by_rows = all, by_heads = all;
  by_rows.rows = (all.rows + 1) / 2;
  by_heads.heads = (all.heads + 1) / 2;
  const bool rows = all.heads == 1 || (all.rows > 1 && bytes(by_rows) <= bytes(by_heads));
  const Piece &first = rows ? by_rows : by_heads;
  Piece second = all;
  if (rows) {
    second.row += first.rows;
    second.rows -= first.rows;
  } else {
    second.head += first.heads;
    second.heads -= first.heads;
  }
  each_piece(caps, first, bytes, body);
  each_piece(caps, second, bytes, body);
}

}  // namespace seer::vulkan
