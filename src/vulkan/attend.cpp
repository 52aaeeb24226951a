// attend: chooses kernels and records the parts of a call.
#include <algorithm>
#include <numbers>
#include <string>
#include <vector>

#include "../../shaders/attend_args.h"
#include "attend_layout.h"
#include "attend_parts.h"
#include "attend_proof.h"
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
  shape.wide_out = begins_at(args.out, 16);
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
  if (attend_coopmat_serves(caps, shape, redo_rows))
    for (const Sequence &s : args.sequences)
      scratch.redo_words += uint64_t((s.q_len + redo_rows - 1) / redo_rows * args.q.heads) / 32 + kRedoParts;
  return scratch;
}

// The matrix kernels of a call, those for many heads of a group first.
using MatrixKernels = std::vector<AttendKernel>;

class Attend {
public:
  Attend(VulkanDevice &device, Exec &exec, const AttendArgs &args, const AttendShape &shape, MatrixKernels kernels)
      : device_(device), recorder_(*device.recorder), exec_(exec), args_(args), matrix_(std::move(kernels)) {
    int64_t rows = 0;
    for (const Sequence &s : args.sequences) rows += s.q_len * args.q.heads;
    scalar_ = attend_scalar(device.caps, shape, rows);
    redo_ = redo_kernel(device.caps, shape);
    scratch_ = scratch_of(device.caps, args);
  }

  void run() {
    if (!matrix_.empty()) recorder_.fill_zero(redo_address(0), scratch_.redo_words * 4);
    attend_parts(device_.caps, args_, [&](const AttendPart &p) {
      const auto fits = [&](const AttendKernel &k) { return p.heads % k.heads == 0; };
      const auto kernel = std::find_if(matrix_.begin(), matrix_.end(), fits);
      record(p, kernel != matrix_.end() && p.whole() && reserve_redo(p) ? *kernel : scalar_);
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
    if (kernel.tier != AttendTier::scalar) {
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
  AttendKernel scalar_, redo_;
  const MatrixKernels matrix_;
  Scratch scratch_;
  uint64_t redo_used_ = 0;  // words
  std::vector<Again> redos_;
  bool beside_ = false;  // the next dispatch does not depend on the one before
};

// A small call with everything that has gone wrong in drivers before: rows that keep different numbers of blocks and
// none at all, a tail, an offset that is off the blocks' grid. Returns what is wrong, or "".
std::string test_kernel(VulkanDevice &device, const AttendShape &shape, const AttendKernel &kernel) {
  AttendProof proof(shape, kernel.heads, kernel.dense);
  const Memory memory = device.memory->alloc(proof.bytes());
  struct Freed {
    VulkanDevice &device;
    Memory memory;
    ~Freed() { device.memory->free(memory); }
  } freed{device, memory};
  AttendArgs args = proof.args(static_cast<std::byte *>(memory.address));
  device.recorder->write(memory.address, proof.input().data(), proof.input().size());
  const Scratch scratch = scratch_of(device.caps, args);
  const Memory scratch_memory = device.memory->alloc(scratch.state_bytes + scratch.redo_words * 4);
  const Freed freed_scratch{device, scratch_memory};
  args.scratch = scratch_memory.address;
  Exec exec;
  Attend(device, exec, args, shape, kernel.tier == AttendTier::scalar ? MatrixKernels{} : MatrixKernels{kernel}).run();
  std::vector<std::byte> output(proof.output_bytes());
  device.recorder->read(static_cast<std::byte *>(memory.address) + proof.input().size(), output.data(), output.size());
  return proof.fault(output);
}

// The kernel, if it builds and computes what it should.
std::optional<AttendKernel> proven(VulkanDevice &device, const AttendShape &shape, std::optional<AttendKernel> kernel) {
  Pipelines &pipelines = *device.gpu->pipelines;
  if (!kernel || pipelines.failed(kernel->key)) return std::nullopt;
  try {
    if (!pipelines.judged(kernel->key)) {
      if (device.collects()) return kernel;  // tried once it is compiled, beside what else the call takes
      pipelines.get(kernel->key);
      pipelines.judge(kernel->key, test_kernel(device.tester(), shape, *kernel));
      pipelines.get(kernel->key);
    }
    return kernel;
  } catch (const Error &error) {
    if (error.status() != Status::unsupported) throw;
    device.log(LogLevel::warn, "attend does without one of its kernels: %s", error.what());
    return std::nullopt;
  }
}

// The best tier of which a kernel for one head at a time is right on this device, with more heads where that pays.
MatrixKernels choose_kernels(VulkanDevice &device, const AttendArgs &args, const AttendShape &shape) {
  const Caps &caps = device.caps;
  const uint32_t redo_rows = redo_kernel(caps, shape).rows;
  const int64_t group = args.q.heads / args.k.heads;
  std::string why;
  const auto kernel = [&](AttendTier tier, uint32_t heads) -> std::optional<AttendKernel> {
    // Scores meet their maximum before they are scaled.
    if (!(args.scale >= kFlexibleScale.first && args.scale <= kFlexibleScale.second)) return std::nullopt;
    if (tier == AttendTier::coopmat) {
      for (const AttendKernel &candidate : attend_coopmat(caps, shape, heads, redo_rows, why))
        if (auto k = proven(device, shape, candidate)) return k;
      return std::nullopt;
    }
    for (const CoopShape &matrix : attend_matrices(caps, shape.dtype)) {
      if (caps.tier < AttendTier::flexible) break;
      const auto layout = coop_layout(device, matrix, attend_subgroup(caps));
      if (!layout) continue;
      // What serves a single head, or sums of half the registers, best.
      if (heads == 1 || (caps.f16_sums && matrix.f16_sums))
        if (auto k = proven(device, shape, attend_split(caps, shape, matrix, *layout, heads, redo_rows, why))) return k;
      if (auto k = proven(device, shape, attend_flexible(caps, shape, matrix, *layout, heads, redo_rows, why)))
        return k;
    }
    return std::nullopt;
  };
  MatrixKernels kernels;
  for (const AttendTier tier : {AttendTier::flexible, AttendTier::coopmat}) {
    if (const auto single = kernel(tier, 1)) kernels.push_back(*single);
    if (kernels.empty()) continue;
    // Dense rows: all heads of a group want the same keys.
    const bool few = tier == AttendTier::coopmat || caps.software() || shape.dim <= 64 ||
                     (caps.f16_sums && shape.dtype == DType::f16);
    const uint32_t most = few ? 2 : 4;
    for (uint32_t heads = args.mask.words ? 1 : most; heads > 1; heads /= 2) {
      if (group % heads != 0) continue;
      const auto together = kernel(tier, heads);
      if (!together) continue;
      kernels.insert(kernels.begin(), *together);
      break;
    }
    break;
  }
  return kernels;
}

}  // namespace

void attend(VulkanDevice &device, Exec &exec, const AttendArgs &args) {
  if (std::all_of(args.sequences.begin(), args.sequences.end(), [](const Sequence &s) { return s.q_len == 0; })) return;
  const AttendShape shape = shape_of(args);
  Attend(device, exec, args, shape, args.scratch ? choose_kernels(device, args, shape) : MatrixKernels{}).run();
}

uint64_t attend_scratch(const VulkanDevice &device, const AttendArgs &args) {
  const Scratch scratch = scratch_of(device.caps, args);
  return scratch.state_bytes + scratch.redo_words * 4;
}

}  // namespace seer::vulkan
