#include "attend_parts.h"

#include <algorithm>

#include "../status.h"
#include "attend_tile.h"

namespace seer::vulkan {

int64_t attend_extent(const TokenView &x, int64_t tokens, int64_t heads) {
  return ((tokens - 1) * x.stride_token + (heads - 1) * x.stride_head + x.dim) * element_size(x.dtype);
}

int64_t attend_extent(const FloatView &x, int64_t tokens, int64_t heads) {
  return ((tokens - 1) * x.stride_token + (heads - 1) * x.stride_head + 1) * 4;
}

int64_t attend_extent(const BlockMaskView &x, int64_t rows, int64_t heads, int64_t cols) {
  return ((rows - 1) * x.stride_row + (heads - 1) * x.stride_head + mask_words(cols)) * 4;
}

namespace {

class Cutter {
public:
  Cutter(const Caps &caps, const AttendArgs &args, const std::function<void(const AttendPart &)> &use)
      : caps_(caps), args_(args), use_(use), group_(args.q.heads / args.k.heads) {}

  // Splits a part until its bindings fit, or all but the keys, which can come in windows.
  void cut(AttendPart p) const {
    p.kv_head = p.head / group_;
    p.kv_heads = (p.head + p.heads - 1) / group_ - p.kv_head + 1;
    if (!rows_fit(p)) return split(p, p.heads * args_.q.stride_head > p.queries * args_.q.stride_token);
    p.window = key_window(p);
    if (p.whole()) return use_(p);
    // Where heads lie apart, one alone may fit.
    if (p.window == 0 || (p.kv_heads > 1 && args_.k.stride_head > args_.k.stride_token)) return split(p, true);
    const int64_t rows = blocks(p.queries) * args_.block * p.heads;
    if (rows > kAttendStateRows || !fits(rows * int64_t(attend_state_bytes(args_.q.dim)))) return split(p, false);
    use_(p);
  }

private:
  int64_t blocks(int64_t tokens) const { return (tokens + args_.block - 1) / args_.block; }
  bool fits(int64_t bytes) const { return uint64_t(bytes) + caps_.offset_alignment <= caps_.max_range; }

  bool rows_fit(const AttendPart &p) const {
    return fits(attend_extent(args_.q, p.queries, p.heads)) && fits(attend_extent(args_.out, p.queries, p.heads)) &&
           (!args_.lse.data || fits(attend_extent(args_.lse, p.queries, p.heads))) &&
           (!args_.mask.words || fits(attend_extent(args_.mask, blocks(p.queries), p.heads, blocks(p.keys()))));
  }

  // The most keys that K and V can each show in one binding.
  int64_t key_window(const AttendPart &p) const {
    const auto both = [&](int64_t keys) {
      return fits(attend_extent(args_.k, keys, p.kv_heads)) && fits(attend_extent(args_.v, keys, p.kv_heads));
    };
    if (both(p.keys())) return p.keys();
    int64_t low = 0, high = blocks(p.keys());  // blocks: low fits, high does not
    while (low + 1 < high) {
      const int64_t middle = low + (high - low) / 2;
      (both(middle * args_.block) ? low : high) = middle;
    }
    return low * args_.block;
  }

  // Halves a part, by heads or by queries as asked if it can be.
  void split(const AttendPart &p, bool by_heads) const {
    const bool heads = p.heads > 1 && (by_heads || p.queries <= args_.block);
    SEER_REQUIRE(heads || p.queries > args_.block, Status::unsupported,
                 "attend: a block of one head spans more than the %llu bytes that a binding of this device sees",
                 (unsigned long long)caps_.max_range);
    AttendPart a = p, b = p;
    if (heads) {
      a.heads = p.heads / 2;
      // At the border of a KV head where there is one.
      if (const int64_t border = (p.head + a.heads) / group_ * group_ - p.head; border > 0) a.heads = border;
      b.head += a.heads;
      b.heads -= a.heads;
    } else {
      a.queries = (blocks(p.queries) + 1) / 2 * args_.block;
      b.query += a.queries;
      b.queries -= a.queries;
    }
    cut(b);  // long rows first
    cut(a);
  }

  const Caps &caps_;
  const AttendArgs &args_;
  const std::function<void(const AttendPart &)> &use_;
  const int64_t group_;
};

}  // namespace

void attend_parts(const Caps &caps, const AttendArgs &args, const std::function<void(const AttendPart &)> &use) {
  const Cutter cutter(caps, args, use);
  for (const Sequence &s : args.sequences)
    if (s.q_len > 0) cutter.cut({.sequence = &s, .queries = s.q_len, .heads = args.q.heads});
}

bool attend_windows(const Caps &caps, const AttendArgs &args) {
  int64_t keys = 0;
  for (const Sequence &s : args.sequences) keys = std::max(keys, s.k_len);
  const int64_t token = std::max({args.k.heads * args.k.dim, args.k.stride_token, args.v.stride_token});
  return uint64_t(keys * token * element_size(args.k.dtype)) + caps.offset_alignment > caps.max_range;
}

}  // namespace seer::vulkan
