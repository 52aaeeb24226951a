// pool: see shaders/pool.comp.
#include <array>
#include <bit>

#include "../../shaders/args.h"
#include "kernels.h"
#include "pieces.h"
#include "rope.h"

namespace seer::vulkan {
namespace {

static_assert(int(DType::f32) == kDTypeF32 && int(DType::f16) == kDTypeF16 && int(DType::bf16) == kDTypeBf16);

const TokenView &absent_view() {
  static const TokenView view;
  return view;
}

struct Call {
  VulkanDevice &device;
  Exec &exec;
  const PoolArgs &args;
  uint32_t writes;  // kPoolOnly, kPoolRotates or kPoolCopies
  Window table;
  bool beside = false;

  int64_t element() const { return element_size(args.x.dtype); }
  // The rotated tensor, or nothing.
  const TokenView &rotated() const { return writes != kPoolOnly ? args.rotated : absent_view(); }

  bool sequence(const Sequence &s);  // whether there was anything to do
  void piece(const Sequence &s, const Piece &piece, int64_t unpooled);
  uint32_t words(const Window &x, const Window &rotated, const Piece &piece) const;
};

// How wide a thread may load, as specialization constant 1 takes it.
uint32_t Call::words(const Window &x, const Window &out, const Piece &piece) const {
  const auto aligned = [&](int64_t bytes) {
    const auto view_aligned = [&](const TokenView &view, const Window &window) {
      return window.skip % bytes == 0 && (piece.rows * args.block == 1 || view.stride_token * element() % bytes == 0) &&
             (piece.heads == 1 || view.stride_head * element() % bytes == 0);
    };
    return args.x.dim % 2 == 0 && args.x.dim / 2 * element() % bytes == 0 && view_aligned(args.x, x) &&
           (writes == kPoolOnly || view_aligned(args.rotated, out));
  };
  if (aligned(16)) return 4;
  return aligned(4) || args.x.dtype == DType::f32 ? 1 : 0;
}

bool Call::sequence(const Sequence &s) {
  const bool q = args.side == Side::q;
  const int64_t blocks = q ? s.q_blocks(args.block) : s.k_blocks(args.block);
  const int64_t pooled_from = q ? 0 : s.cached_blocks, first = writes == kPoolOnly ? pooled_from : 0;
  const TokenView &x = args.x;
  const auto view_bytes = [&](const TokenView &view, const Piece &p) {
    return view.data ? span_elements({0, p.rows * args.block, 0, p.heads}, view.stride_token, view.stride_head, x.dim) *
                           element()
                     : 0;
  };
  const auto bytes = [&](const Piece &p) {
    const int64_t pooled = args.pooled ? checked_mul(p.rows, x.heads, x.dim, pool_count(args.pool_bits), 4) : 0;
    return std::max({view_bytes(x, p), view_bytes(rotated(), p), pooled});
  };
  each_piece(device.caps, {first, blocks - first, 0, x.heads}, bytes,
             [&](const Piece &p) { piece(s, p, std::clamp<int64_t>(pooled_from - p.row, 0, p.rows)); });
  return blocks > first;
}

void Call::piece(const Sequence &s, const Piece &p, int64_t unpooled) {
  const bool q = args.side == Side::q;
  const TokenView &x = args.x;
  const int64_t length = q ? s.q_len : s.k_len, token = p.row * args.block;
  const int64_t tokens = std::min(p.rows * args.block, length - token);
  const int64_t begin = (q ? s.q_begin : s.k_begin) + token;
  const int64_t channels = x.dim * pool_count(args.pool_bits);
  const bool pools = args.pooled && unpooled < p.rows;
  Recorder &recorder = *device.recorder;

  const auto window = [&](const TokenView &view) {
    if (!view.data) return recorder.absent();
    const int64_t span = span_elements({0, tokens, 0, p.heads}, view.stride_token, view.stride_head, x.dim);
    const int64_t first = s.batch * view.stride_batch + begin * view.stride_token + p.head * view.stride_head;
    return recorder.window(static_cast<const char *>(view.data) + first * element(), uint64_t(span * element()));
  };
  const Window on_x = window(x), on_rotated = window(rotated());
  Window on_pooled = recorder.absent();
  if (pools) {
    const int64_t row = q ? s.q_row + p.row : s.k_pool_row + p.row + unpooled - s.cached_blocks;
    const int64_t elements = ((p.rows - unpooled - 1) * x.heads + p.heads) * channels;
    on_pooled = recorder.window(args.pooled + (row * x.heads + p.head) * channels, uint64_t(elements * 4));
  }

  const uint32_t load = words(on_x, on_rotated, p);
  const auto per_word = uint32_t(4 / element());
  const uint32_t wide = load == 0 ? 1 : load * per_word;
  PoolPush push{};
  push.x_skip = on_x.skip;
  push.x_token = kernel_stride(x.stride_token, tokens);
  push.x_head = kernel_stride(x.stride_head, p.heads);
  push.rotated_skip = on_rotated.skip;
  push.rotated_token = kernel_stride(rotated().stride_token, tokens);
  push.rotated_head = kernel_stride(rotated().stride_head, p.heads);
  push.pooled_skip = on_pooled.skip;
  push.pooled_row = kernel_stride(x.heads * channels, p.rows);
  push.pooled_head = uint32_t(channels);
  push.table_skip = table.skip;
  push.tokens = uint32_t(tokens);
  push.position = uint32_t((q ? s.offset() : 0) + token);
  push.block = uint32_t(args.block);
  push.unpooled = uint32_t(pools ? unpooled : p.rows);
  push.dim = uint32_t(x.dim);
  push.half_dim = uint32_t((x.dim + 1) / 2);
  push.lanes = (push.half_dim + wide - 1) / wide;
  push.units = push.lanes * uint32_t(p.heads);
  // Few units leave more threads for the tokens of a block.
  const uint32_t units = std::min(std::bit_ceil(push.units), kPoolThreads / 4);
  push.tiles = (push.units + units - 1) / units;

  // A CPU gains nothing from loads in flight, and its compiler takes long for unrolled code.
  const uint32_t in_flight = device.caps.software() ? 1 : 2;
  const Kernel &kernel =
      device.kernel({.module = "pool",
                     .constants = {uint32_t(x.dtype), load, units, writes, uint32_t(pools), in_flight, args.pool_bits},
                     .bindings = 4,
                     .push_bytes = sizeof push,
                     .shared_bytes = kPoolSharedBytes});
  const double item_bytes = double(args.block * units) * 2 * wide * double(element()) * (writes == kPoolOnly ? 1 : 2);
  recorder.dispatch(exec, kernel, std::array{on_x, on_pooled, on_rotated, table}, push,
                    {.items = uint64_t(p.rows) * push.tiles, .flops = 4 * item_bytes, .beside = beside});
  beside = true;
}

}  // namespace

void pool(VulkanDevice &device, Exec &exec, const PoolArgs &args) {
  Call call{.device = device, .exec = exec, .args = args, .writes = kPoolOnly, .table = device.recorder->absent()};
  if (args.rotated.data) call.writes = args.rope.inv_freq ? kPoolRotates : kPoolCopies;
  if (call.writes == kPoolRotates) {
    int64_t rows = 0;
    for (const Sequence &s : args.sequences)
      if ((args.side == Side::q ? s.q_len : s.k_len) > 0) rows = std::max(rows, s.k_len);
    if (rows > 0) call.table = device.rope->get(args.rope, rows);
  }
  Recorder &recorder = *device.recorder;
  call.beside = args.side == Side::k && recorder.marked(Recorder::Mark::pooled_q);
  bool any = false;
  for (const Sequence &s : args.sequences) any |= call.sequence(s);
  if (any && args.side == Side::q) recorder.mark(Recorder::Mark::pooled_q);
}

}  // namespace seer::vulkan
