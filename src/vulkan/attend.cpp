// attend: chooses a kernel, cuts a call into windows that bindings can see, and records them.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "../../shaders/attend_args.h"
#include "attend_tile.h"
#include "kernels.h"

namespace seer::vulkan {
namespace {

// Queries [query, query + queries) of heads [head, head + heads) of one sequence. query is a multiple of the block.
struct Part {
  const Sequence *sequence = nullptr;
  int64_t query = 0, queries = 0;
  int64_t head = 0, heads = 0;

  int64_t keys() const { return sequence->offset() + query + queries; }  // that its last query sees
};

// Bytes from the first element to the end of the last.
int64_t extent(const TokenView &x, int64_t tokens, int64_t heads) {
  return ((tokens - 1) * x.stride_token + (heads - 1) * x.stride_head + x.dim) * element_size(x.dtype);
}

const std::byte *address(const TokenView &x, int64_t batch, int64_t token, int64_t head) {
  return static_cast<const std::byte *>(x.data) +
         element_size(x.dtype) * (batch * x.stride_batch + token * x.stride_token + head * x.stride_head);
}

// Rows, of all heads, whose state is kept at a time where the keys need several windows.
constexpr int64_t kStateRows = 32768;

class Attend {
public:
  Attend(VulkanDevice &device, Exec &exec, const AttendArgs &args)
      : device_(device), exec_(exec), args_(args), group_(args.q.heads / args.k.heads) {
    int64_t rows = 0;
    for (const Sequence &s : args.sequences) rows += s.q_len * args.q.heads;
    kernel_ = attend_scalar(device.caps, shape(), rows);
    pipeline_ = &device.kernel(kernel_.key);
  }

  void run() {
    for (const Sequence &s : args_.sequences)
      if (s.q_len > 0) cut({.sequence = &s, .queries = s.q_len, .heads = args_.q.heads});
  }

private:
  AttendShape shape() const {
    const auto even = [](const TokenView &x) {
      const auto address = reinterpret_cast<uintptr_t>(x.data);
      return address % 4 == 0 && x.dim % 2 == 0 && x.stride_batch % 2 == 0 && x.stride_token % 2 == 0 &&
             x.stride_head % 2 == 0;
    };
    return {
        .dtype = args_.q.dtype,
        .dim = args_.q.dim,
        .block = args_.block,
        .paired = args_.q.dtype == DType::f32 || (even(args_.q) && even(args_.k) && even(args_.v) && even(args_.out))};
  }

  int64_t blocks(int64_t tokens) const { return (tokens + args_.block - 1) / args_.block; }

  bool fits(int64_t bytes) const { return uint64_t(bytes) + device_.caps.offset_alignment <= device_.caps.max_range; }

  // Of a part's bindings, the rows of queries.
  bool rows_fit(const Part &p) const {
    const FloatView &lse = args_.lse;
    const BlockMaskView &mask = args_.mask;
    return fits(extent(args_.q, p.queries, p.heads)) && fits(extent(args_.out, p.queries, p.heads)) &&
           (!lse.data || fits(((p.queries - 1) * lse.stride_token + (p.heads - 1) * lse.stride_head + 1) * 4)) &&
           (!mask.words || fits(((blocks(p.queries) - 1) * mask.stride_row + (p.heads - 1) * mask.stride_head +
                                 mask_words(p.sequence->k_blocks(args_.block))) *
                                4));
  }

  // KV heads [first, first + count).
  struct KvHeads {
    int64_t first, count;
  };
  KvHeads kv_heads(const Part &p) const {
    const int64_t first = p.head / group_;
    return {first, (p.head + p.heads - 1) / group_ - first + 1};
  }

  // The keys that K and V can show in one binding; a multiple of the block unless it is all of them.
  int64_t key_window(const Part &p) const {
    const int64_t heads = kv_heads(p).count, keys = p.keys();
    const auto both = [&](int64_t n) { return fits(extent(args_.k, n, heads)) && fits(extent(args_.v, n, heads)); };
    if (both(keys)) return keys;
    int64_t low = 0, high = blocks(keys);  // blocks: low fits, high does not
    while (low + 1 < high) {
      const int64_t middle = low + (high - low) / 2;
      (both(middle * args_.block) ? low : high) = middle;
    }
    return low * args_.block;
  }

  // Splits a part until its bindings fit, or all but the keys, which can come in windows.
  void cut(const Part &p) {
    const TokenView &q = args_.q, &k = args_.k;
    if (!rows_fit(p)) return split(p, p.heads * q.stride_head > p.queries * q.stride_token);
    const int64_t window = key_window(p);
    if (window == p.keys()) return record(p, window);
    if (kv_heads(p).count > 1 && k.stride_head > k.stride_token) return split(p, true);
    if (window == 0) return split(p, true);
    SEER_REQUIRE(kernel_.state && args_.scratch, Status::internal, "attend: no scratch for windows of keys");
    const int64_t rows = blocks(p.queries) * args_.block * p.heads;
    if (rows > kStateRows || !fits(rows * int64_t(attend_state_bytes(args_.q.dim)))) return split(p, false);
    record(p, window);
  }

  // Halves a part, by heads or by queries as asked if it can be.
  void split(const Part &p, bool by_heads) {
    const bool heads = p.heads > 1 && (by_heads || p.queries <= args_.block);
    SEER_REQUIRE(heads || p.queries > args_.block, Status::unsupported,
                 "attend: a block of one head spans more than the %llu bytes that a binding of this device sees",
                 (unsigned long long)device_.caps.max_range);
    Part a = p, b = p;
    if (heads) {
      a.heads = p.heads / 2;
      // At the border of a KV head where there is one, so that parts of several hold all of each.
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

  // Records a part whose rows fit, in windows of keys.
  void record(const Part &p, int64_t window) {
    const Sequence &s = *p.sequence;
    Recorder &recorder = *device_.recorder;
    const auto elements = [](const Window &w, DType dtype) { return w.skip / uint32_t(element_size(dtype)); };
    const auto rows_of = [&](const TokenView &x) {
      return recorder.window(address(x, s.batch, s.q_begin + p.query, p.head), uint64_t(extent(x, p.queries, p.heads)));
    };
    const Window q = rows_of(args_.q), out = rows_of(args_.out);
    Window lse = recorder.absent(), mask = recorder.absent(), state = recorder.absent();
    AttendPush push{};
    push.tiles = uint32_t((p.queries + kernel_.rows - 1) / kernel_.rows);
    push.heads = uint32_t(p.heads);
    const KvHeads kv = kv_heads(p);
    // A part of several KV heads begins and ends at their borders.
    push.group = uint32_t(kv.count == 1 ? p.heads : group_);
    push.q_rows = uint32_t(p.queries);
    push.position = uint32_t(s.offset() + p.query);
    push.q_base = elements(q, args_.q.dtype);
    push.q_token = uint32_t(args_.q.stride_token);
    push.q_head = uint32_t(args_.q.stride_head);
    push.out_base = elements(out, args_.out.dtype);
    push.out_token = uint32_t(args_.out.stride_token);
    push.out_head = uint32_t(args_.out.stride_head);
    push.k_token = uint32_t(args_.k.stride_token);
    push.k_head = uint32_t(args_.k.stride_head);
    push.v_token = uint32_t(args_.v.stride_token);
    push.v_head = uint32_t(args_.v.stride_head);
    push.scale_log2 = static_cast<float>(args_.scale * std::numbers::log2e);
    if (args_.lse.data) {
      const FloatView &x = args_.lse;
      lse = recorder.window(x.at(s.batch, p.head, s.q_begin + p.query),
                            uint64_t((p.queries - 1) * x.stride_token + (p.heads - 1) * x.stride_head + 1) * 4);
      push.lse_base = lse.skip / 4;
      push.lse_token = uint32_t(x.stride_token);
      push.lse_head = uint32_t(x.stride_head);
      push.flags |= kAttendLse;
    }
    if (args_.mask.words) {
      const BlockMaskView &x = args_.mask;
      mask = recorder.window(x.row(s.batch, p.head, s.mask_row + p.query / args_.block),
                             uint64_t((blocks(p.queries) - 1) * x.stride_row + (p.heads - 1) * x.stride_head +
                                      mask_words(blocks(p.keys()))) *
                                 4);
      push.mask_base = mask.skip / 4;
      push.mask_row = uint32_t(x.stride_row);
      push.mask_head = uint32_t(x.stride_head);
      push.flags |= kAttendMask;
    }
    const uint64_t items = uint64_t(push.tiles) * push.heads;
    const int64_t keys = p.keys();
    if (window < keys) {
      state = recorder.window(args_.scratch, items * kernel_.rows * attend_state_bytes(args_.q.dim));
      push.state_base = state.skip / 4;
    }
    for (int64_t begin = 0; begin < keys; begin += window) {
      const int64_t end = std::min(begin + window, keys);
      const auto keys_of = [&](const TokenView &x) {
        return recorder.window(address(x, s.batch, s.k_begin + begin, kv.first),
                               uint64_t(extent(x, end - begin, kv.count)));
      };
      const Window k = keys_of(args_.k), v = keys_of(args_.v);
      AttendPush piece = push;
      piece.k_base = elements(k, args_.k.dtype);
      piece.v_base = elements(v, args_.v.dtype);
      piece.key_begin = uint32_t(begin);
      piece.key_end = uint32_t(end);
      if (begin > 0) piece.flags |= kAttendResume;
      if (end < keys) piece.flags |= kAttendSuspend;
      const Window windows[] = {q, k, v, out, lse, mask, state};
      const Work work{.items = items,
                      .flops = 4.0 * kernel_.rows * double(end - begin) * double(args_.q.dim),
                      .units = end < keys ? 0 : uint64_t(blocks(p.queries) * p.heads),
                      .beside = recorded_ && window == keys};
      recorder.dispatch(exec_, *pipeline_, windows, piece, work);
      recorded_ = true;
    }
  }

  VulkanDevice &device_;
  Exec &exec_;
  const AttendArgs &args_;
  const int64_t group_;
  AttendKernel kernel_;
  const Kernel *pipeline_ = nullptr;
  bool recorded_ = false;
};

}  // namespace

void attend(VulkanDevice &device, Exec &exec, const AttendArgs &args) {
  if (std::all_of(args.sequences.begin(), args.sequences.end(), [](const Sequence &s) { return s.q_len == 0; })) return;
  Attend(device, exec, args).run();
}

uint64_t attend_scratch(const VulkanDevice &device, const AttendArgs &args) {
  // Windows of keys are needed where a KV head's keys go beyond what a binding sees, in the caller's layout or in the
  // packed one of a rotated copy.
  int64_t keys = 0, rows = 0;
  for (const Sequence &s : args.sequences) {
    keys = std::max(keys, s.k_len);
    rows += (s.q_len + args.block - 1) / args.block * args.block * args.q.heads;
  }
  const int64_t token = std::max({args.k.heads * args.k.dim, args.k.stride_token, args.v.stride_token});
  const uint64_t bytes = uint64_t(keys * token * element_size(args.k.dtype));
  if (bytes + device.caps.offset_alignment <= device.caps.max_range) return 0;
  return uint64_t(std::min(rows, kStateRows)) * attend_state_bytes(args.q.dim);
}

}  // namespace seer::vulkan
