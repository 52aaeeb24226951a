// Cuts a call of attend into parts whose tensors the bindings of a device can show.
#pragma once
#include <cstdint>
#include <functional>

#include "../stages.h"
#include "caps.h"

namespace seer::vulkan {

// Queries [query, query + queries) of heads [head, head + heads) of one sequence, against its keys in windows of
// `window` keys. query and, unless all keys fit at once, window are multiples of the block. A part of more than one KV
// head holds all query heads of each.
struct AttendPart {
  const Sequence *sequence = nullptr;
  int64_t query = 0, queries = 0;
  int64_t head = 0, heads = 0;
  int64_t kv_head = 0, kv_heads = 0;
  int64_t window = 0;

  int64_t keys() const { return sequence->offset() + query + queries; }  // that its last query sees
  bool whole() const { return window >= keys(); }                        // one window is enough
};

// Rows, of all heads, whose state is kept at a time where the keys need several windows; each has so many bytes
// (attend_tile.h).
constexpr int64_t kAttendStateRows = 32768;

// Calls `use` for every part, long rows first. Throws unsupported where not even a block of one head can be shown.
// args.scratch is needed only if attend_windows(...).
void attend_parts(const Caps &caps, const AttendArgs &args, const std::function<void(const AttendPart &)> &use);

// Whether the keys of a call of these sizes may need several windows, in the caller's layout or in the packed one of
// rotated copies.
bool attend_windows(const Caps &caps, const AttendArgs &args);

// Bytes from the first element of a tensor's part to the end of the last.
int64_t attend_extent(const TokenView &x, int64_t tokens, int64_t heads);
int64_t attend_extent(const FloatView &x, int64_t tokens, int64_t heads);
int64_t attend_extent(const BlockMaskView &x, int64_t rows, int64_t heads, int64_t cols);

}  // namespace seer::vulkan
