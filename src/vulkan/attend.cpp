// attend: chooses kernels and records the parts of a call.
#include <algorithm>
#include <numbers>
#include <string>
#include <vector>

#include "../../shaders/attend_args.h"
#include "attend_parts.h"
#include "attend_tile.h"
#include "kernels.h"

namespace seer::vulkan {
namespace {

const std::byte *address(const TokenView &x, int64_t batch, int64_t token, int64_t head) {
  return static_cast<const std::byte *>(x.data) +
         element_size(x.dtype) * (batch * x.stride_batch + token * x.stride_token + head * x.stride_head);
}

AttendShape shape_of(const AttendArgs &args) {
  // Whether every row of x begins at a multiple of so many bytes.
  const auto begins_at = [](const TokenView &x, int64_t bytes) {
    const int64_t size = element_size(x.dtype);
    return reinterpret_cast<uintptr_t>(x.data) % uint64_t(bytes) == 0 && x.stride_batch * size % bytes == 0 &&
           x.stride_token * size % bytes == 0 && x.stride_head * size % bytes == 0;
  };
  AttendShape shape{.dtype = args.q.dtype, .dim = args.q.dim, .block = args.block};
  shape.paired = shape.dtype == DType::f32 || (shape.dim % 2 == 0 && begins_at(args.q, 4) && begins_at(args.k, 4) &&
                                               begins_at(args.v, 4) && begins_at(args.out, 4));
  shape.wide = begins_at(args.q, 16) && begins_at(args.k, 16) && begins_at(args.v, 16);
  return shape;
}

// Items of which another tier may mark some to be computed again by the scalar kernel: small ones.
AttendKernel redo_kernel(const Caps &caps, const AttendShape &shape) { return attend_scalar(caps, shape, 1); }

// What a call of these sizes keeps in its scratch: the state of rows between windows of keys, then a bit for each item
// that is to be computed again.
struct Scratch {
  uint64_t state_bytes = 0, redo_words = 0;
};

// Parts of a sequence that may come out as many: each begins with a word of its own.
constexpr uint64_t kRedoParts = 64;

Scratch scratch_of(const Caps &caps, const AttendArgs &args) {
  Scratch scratch;
  if (attend_windows(caps, args)) {
    int64_t rows = 0;
    for (const Sequence &s : args.sequences) rows += s.q_blocks(args.block) * args.block * args.q.heads;
    scratch.state_bytes = uint64_t(std::min(rows, kAttendStateRows)) * attend_state_bytes(args.q.dim);
  }
  const AttendShape shape{.dtype = args.q.dtype, .dim = args.q.dim, .block = args.block};
  const uint32_t redo_rows = redo_kernel(caps, shape).rows;
  std::string why;
  if (attend_coopmat(caps, shape, 1, redo_rows, why))
    for (const Sequence &s : args.sequences)
      scratch.redo_words += uint64_t((s.q_len + redo_rows - 1) / redo_rows * args.q.heads) / 32 + kRedoParts;
  return scratch;
}

class Attend {
public:
  Attend(VulkanDevice &device, Exec &exec, const AttendArgs &args)
      : device_(device), recorder_(*device.recorder), exec_(exec), args_(args), shape_(shape_of(args)) {
    int64_t rows = 0;
    for (const Sequence &s : args.sequences) rows += s.q_len * args.q.heads;
    scalar_ = attend_scalar(device.caps, shape_, rows);
    redo_ = redo_kernel(device.caps, shape_);
    scratch_ = scratch_of(device.caps, args);
  }

  void run() {
    choose_coopmat();
    attend_parts(device_.caps, args_, [&](const AttendPart &p) {
      const std::optional<AttendKernel> &coopmat = pair_ && p.heads % 2 == 0 ? pair_ : single_;
      if (coopmat && p.whole() && reserve_redo(p)) {
        record(p, *coopmat);
      } else {
        record(p, scalar_);
      }
    });
    beside_ = false;
    for (const Again &again : redos_) dispatch(redo_, again.windows, again.push, again.words, 1e4, 0);
  }

private:
  // A dispatch that computes again what was marked.
  struct Again {
    std::vector<Window> windows;
    AttendPush push;
    uint64_t words;
  };

  // The cooperative-matrix kernels of this call, if the device has them and they build.
  void choose_coopmat() {
    if (!scratch_.redo_words || !args_.scratch) return;
    const int64_t group = args_.q.heads / args_.k.heads;
    std::string why;
    try {
      single_ = attend_coopmat(device_.caps, shape_, 1, redo_.rows, why);
      if (single_) device_.kernel(single_->key);
      // Dense rows: all heads of a group want the same keys.
      if (single_ && !args_.mask.words && group % 2 == 0)
        pair_ = attend_coopmat(device_.caps, shape_, 2, redo_.rows, why);
    } catch (const Error &error) {
      if (error.status() != Status::unsupported) throw;
      device_.log(LogLevel::warn, "attend uses the scalar kernels: %s", error.what());
      single_.reset();
    }
    if (single_) recorder_.fill_zero(redo_address(0), scratch_.redo_words * 4);
  }

  std::byte *redo_address(uint64_t word) const {
    return static_cast<std::byte *>(args_.scratch) + scratch_.state_bytes + word * 4;
  }

  uint64_t redo_words(const AttendPart &p) const {
    return (uint64_t((p.queries + redo_.rows - 1) / redo_.rows * p.heads) + 31) / 32;
  }

  bool reserve_redo(const AttendPart &p) {
    if (redo_used_ + redo_words(p) > scratch_.redo_words) return false;
    redo_used_ += redo_words(p);
    return true;
  }

  // Bindings and push constants of a part, but for those of K, V and state.
  AttendPush describe(const AttendPart &p, std::vector<Window> &windows) const {
    const Sequence &s = *p.sequence;
    const auto tokens = [&](const TokenView &x) {
      return recorder_.window(address(x, s.batch, s.q_begin + p.query, p.head),
                              uint64_t(attend_extent(x, p.queries, p.heads)));
    };
    const auto elements = [&](const Window &w) { return w.skip / uint32_t(element_size(args_.q.dtype)); };
    const int64_t mask_rows = (p.queries + args_.block - 1) / args_.block;
    const int64_t mask_cols = (p.keys() + args_.block - 1) / args_.block;
    const Window q = tokens(args_.q), out = tokens(args_.out);
    Window lse = recorder_.absent(), mask = recorder_.absent();
    AttendPush push{};
    if (args_.lse.data) {
      push.flags |= kAttendLse;
      lse = recorder_.window(args_.lse.at(s.batch, p.head, s.q_begin + p.query),
                             uint64_t(attend_extent(args_.lse, p.queries, p.heads)));
    }
    if (args_.mask.words) {
      push.flags |= kAttendMask;
      mask = recorder_.window(args_.mask.row(s.batch, p.head, s.mask_row + p.query / args_.block),
                              uint64_t(attend_extent(args_.mask, mask_rows, p.heads, mask_cols)));
    }
    windows = {q, recorder_.absent(), recorder_.absent(), out, lse, mask, recorder_.absent()};
    push.heads = uint32_t(p.heads);
    push.group = uint32_t(p.kv_heads == 1 ? p.heads : args_.q.heads / args_.k.heads);
    push.q_rows = uint32_t(p.queries);
    push.position = uint32_t(s.offset() + p.query);
    push.q_base = elements(q);
    push.q_token = uint32_t(args_.q.stride_token);
    push.q_head = uint32_t(args_.q.stride_head);
    push.k_token = uint32_t(args_.k.stride_token);
    push.k_head = uint32_t(args_.k.stride_head);
    push.v_token = uint32_t(args_.v.stride_token);
    push.v_head = uint32_t(args_.v.stride_head);
    push.out_base = elements(out);
    push.out_token = uint32_t(args_.out.stride_token);
    push.out_head = uint32_t(args_.out.stride_head);
    push.lse_base = lse.skip / 4;
    push.lse_token = uint32_t(args_.lse.stride_token);
    push.lse_head = uint32_t(args_.lse.stride_head);
    push.mask_base = mask.skip / 4;
    push.mask_row = uint32_t(args_.mask.stride_row);
    push.mask_head = uint32_t(args_.mask.stride_head);
    push.scale_log2 = static_cast<float>(args_.scale * std::numbers::log2e);
    return push;
  }

  void show_keys(const AttendPart &p, int64_t begin, int64_t end, std::vector<Window> &windows,
                 AttendPush &push) const {
    const Sequence &s = *p.sequence;
    const auto tokens = [&](const TokenView &x) {
      return recorder_.window(address(x, s.batch, s.k_begin + begin, p.kv_head),
                              uint64_t(attend_extent(x, end - begin, p.kv_heads)));
    };
    windows[1] = tokens(args_.k);
    windows[2] = tokens(args_.v);
    push.k_base = windows[1].skip / uint32_t(element_size(args_.k.dtype));
    push.v_base = windows[2].skip / uint32_t(element_size(args_.v.dtype));
    push.key_begin = uint32_t(begin);
    push.key_end = uint32_t(end);
  }

  void show_state(const std::byte *at, uint64_t bytes, std::vector<Window> &windows, AttendPush &push) const {
    windows[6] = recorder_.window(at, bytes);
    push.state_base = windows[6].skip / 4;
  }

  // Records a part, in windows of keys.
  void record(const AttendPart &p, const AttendKernel &kernel) {
    std::vector<Window> windows;
    AttendPush push = describe(p, windows);
    const auto tiles = [&](const AttendKernel &k) { return uint32_t((p.queries + k.rows - 1) / k.rows); };
    push.tiles = tiles(kernel);
    const uint64_t items = uint64_t(push.tiles) * push.heads / kernel.heads;
    const uint64_t units = uint64_t((p.queries + args_.block - 1) / args_.block * p.heads);
    const auto flops = [&](int64_t keys) {
      return 4.0 * kernel.rows * kernel.heads * double(keys) * double(args_.q.dim);
    };
    if (kernel.tier == AttendTier::coopmat) {
      const uint64_t words = redo_words(p);
      show_keys(p, 0, p.keys(), windows, push);
      show_state(redo_address(redo_used_ - words), words * 4, windows, push);
      dispatch(kernel, windows, push, items, flops(p.keys()), units);
      push.flags |= kAttendRedo;
      push.tiles = tiles(redo_);
      redos_.push_back({windows, push, words});
      return;
    }
    if (!p.whole()) {
      const auto *state = static_cast<const std::byte *>(args_.scratch);
      SEER_REQUIRE(state && scratch_.state_bytes, Status::internal, "attend: no scratch for windows of keys");
      show_state(state, items * kernel.rows * attend_state_bytes(args_.q.dim), windows, push);
      beside_ = false;  // the part before may use it, too
    }
    for (int64_t begin = 0; begin < p.keys(); begin += p.window) {
      const int64_t end = std::min(begin + p.window, p.keys());
      AttendPush piece = push;
      show_keys(p, begin, end, windows, piece);
      if (begin > 0) piece.flags |= kAttendResume;
      if (end < p.keys()) piece.flags |= kAttendSuspend;
      dispatch(kernel, windows, piece, items, flops(end - begin), end < p.keys() ? 0 : units);
      if (end < p.keys()) beside_ = false;
    }
  }

  void dispatch(const AttendKernel &kernel, const std::vector<Window> &windows, const AttendPush &push, uint64_t items,
                double flops, uint64_t units) {
    recorder_.dispatch(exec_, device_.kernel(kernel.key), windows, push,
                       {.items = items, .flops = flops, .units = units, .beside = beside_});
    beside_ = true;
  }

  VulkanDevice &device_;
  Recorder &recorder_;
  Exec &exec_;
  const AttendArgs &args_;
  const AttendShape shape_;
  AttendKernel scalar_, redo_;
  std::optional<AttendKernel> single_, pair_;  // cooperative matrices: of one head and of two
  Scratch scratch_;
  uint64_t redo_used_ = 0;  // words
  std::vector<Again> redos_;
  bool beside_ = false;  // the next dispatch does not depend on the one before
};

}  // namespace

void attend(VulkanDevice &device, Exec &exec, const AttendArgs &args) {
  if (std::all_of(args.sequences.begin(), args.sequences.end(), [](const Sequence &s) { return s.q_len == 0; })) return;
  Attend(device, exec, args).run();
}

uint64_t attend_scratch(const VulkanDevice &device, const AttendArgs &args) {
  const Scratch scratch = scratch_of(device.caps, args);
  return scratch.state_bytes + scratch.redo_words * 4;
}

}  // namespace seer::vulkan
