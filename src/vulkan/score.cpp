// score: see shaders/score.comp and shaders/softmax.comp.
#include "score.h"

#include <array>

namespace seer::vulkan {

uint32_t cached_scores(const Caps &caps, int64_t cols) {
  // Few sizes, for each is a pipeline; 3072, 6144 and 10240 are what 16, 32 and 48 KB hold.
  for (const uint32_t scores : {512u, 2048u, 3072u, 4096u, 6144u, 8192u, 10240u})
    if (cols <= scores) return row_shared_bytes(scores) <= caps.max_shared ? scores : 0;
  return 0;
}

void record_logits(VulkanDevice &device, Exec &exec, const Logits &l, bool beside) {
  Recorder &recorder = *device.recorder;
  const Sequence &s = l.sequence;
  const GateVectors &gate = l.gate;
  const int64_t q_row = gate.q_heads * gate.dim, k_row = gate.k_heads * gate.dim;
  const int64_t keys = s.k_blocks(l.block);
  const auto column_bytes = [&](int64_t, int64_t cols) { return checked_mul(std::min(cols, keys), k_row, 4); };

  each_window(device.caps, l.cols, column_bytes, [&](int64_t col, int64_t cols) {
    const int64_t k_rows = std::clamp<int64_t>(keys - col, 0, cols);
    const Window k = recorder.window(gate.k + (s.k_row + col) * k_row, uint64_t(k_rows * k_row * 4));
    const auto scores_elements = [&](const Piece &p) { return span_elements(p, l.stride_row, l.stride_head, cols); };
    const auto bytes = [&](const Piece &p) {
      return checked_mul(std::max(checked_mul(p.rows, q_row), scores_elements(p)), 4);
    };
    each_piece(device.caps, l.rows, bytes, [&](const Piece &p) {
      const int64_t seen = causal_blocks(p.row + p.rows - 1, s.q_len, s.offset(), l.block);
      if (!l.fill && col >= seen) return;
      const Window q = recorder.window(gate.q + (s.q_row + p.row) * q_row, uint64_t(p.rows * q_row * 4));
      float *to = l.to + (p.head - l.rows.head) * l.stride_head + (p.row - l.rows.row) * l.stride_row + col;
      const Window scores = recorder.window(to, uint64_t(scores_elements(p) * 4));
      ScorePush push{};
      push.q_skip = q.skip;
      push.k_skip = k.skip;
      push.scores_skip = scores.skip;
      push.q_heads = uint32_t(gate.q_heads);
      push.k_heads = uint32_t(gate.k_heads);
      push.dim = uint32_t(gate.dim);
      push.head = uint32_t(p.head);
      push.scores_head = kernel_stride(l.stride_head, p.heads);
      push.scores_row = kernel_stride(l.stride_row, p.rows);
      push.row = uint32_t(p.row);
      push.rows = uint32_t(p.rows);
      push.col = uint32_t(col);
      push.cols = uint32_t(l.fill ? cols : std::min(cols, seen - col));
      push.row_tiles = uint32_t(ceil_div(p.rows, kScoreTile));
      push.col_tiles = uint32_t(ceil_div(push.cols, kScoreTile));
      push.block = uint32_t(l.block);
      push.q_len = uint32_t(s.q_len);
      push.offset = uint32_t(s.offset());
      push.fill = l.fill;
      push.scale = float(gate.scale);

      const bool by_four = gate.dim % 4 == 0 && q.skip % 16 == 0 && k.skip % 16 == 0;
      const Kernel &kernel = device.kernel({.module = "score",
                                            .constants = {uint32_t(by_four)},
                                            .bindings = 3,
                                            .push_bytes = sizeof push,
                                            .shared_bytes = kScoreSharedBytes});
      recorder.dispatch(exec, kernel, std::array{q, k, scores}, push,
                        {.items = uint64_t(p.heads) * push.row_tiles * push.col_tiles,
                         .flops = 2.0 * kScoreTile * kScoreTile * double(gate.dim),
                         .beside = beside});
      beside = true;
    });
  });
}

namespace {

void record_softmax(VulkanDevice &device, Exec &exec, const ScoreArgs &args, const Sequence &s, bool beside) {
  const FloatView &view = args.scores;
  const auto elements = [&](const Piece &p) {
    return span_elements(p, view.stride_token, view.stride_head, args.cols);
  };
  const auto bytes = [&](const Piece &p) { return checked_mul(elements(p), 4); };
  each_piece(device.caps, {0, s.q_blocks(args.block), 0, args.gate.q_heads}, bytes, [&](const Piece &p) {
    const Window scores =
        device.recorder->window(view.at(s.batch, p.head, s.mask_row + p.row), uint64_t(elements(p) * 4));
    SoftmaxPush push{};
    push.scores_skip = scores.skip;
    push.scores_head = kernel_stride(view.stride_head, p.heads);
    push.scores_row = kernel_stride(view.stride_token, p.rows);
    push.row = uint32_t(p.row);
    push.rows = uint32_t(p.rows);
    push.cols = uint32_t(args.cols);
    push.block = uint32_t(args.block);
    push.q_len = uint32_t(s.q_len);
    push.offset = uint32_t(s.offset());
    const uint32_t cached =
        cached_scores(device.caps, causal_blocks(p.row + p.rows - 1, s.q_len, s.offset(), args.block));
    const Kernel &kernel = device.kernel({.module = "softmax",
                                          .constants = {cached},
                                          .bindings = 1,
                                          .push_bytes = sizeof push,
                                          .shared_bytes = row_shared_bytes(cached)});
    device.recorder->dispatch(
        exec, kernel, std::array{scores}, push,
        {.items = uint64_t(p.rows * p.heads), .flops = 64.0 * double(args.cols), .beside = beside});
    beside = true;
  });
}

}  // namespace

void score(VulkanDevice &device, Exec &exec, const ScoreArgs &args) {
  // The softmax writes what lies outside the triangle; without it the logits' kernel does.
  bool beside = false;
  for (const Sequence &s : args.sequences) {
    const Piece all{0, s.q_blocks(args.block), 0, args.gate.q_heads};
    if (all.rows == 0) continue;
    record_logits(device, exec,
                  {.gate = args.gate,
                   .sequence = s,
                   .block = args.block,
                   .rows = all,
                   .cols = args.softmax ? std::min(args.cols, s.k_blocks(args.block)) : args.cols,
                   .to = args.scores.at(s.batch, 0, s.mask_row),
                   .stride_head = args.scores.stride_head,
                   .stride_row = args.scores.stride_token,
                   .fill = !args.softmax},
                  beside);
    beside = true;
  }
  if (!args.softmax) return;
  beside = false;
  for (const Sequence &s : args.sequences) {
    if (s.q_blocks(args.block) == 0) continue;
    record_softmax(device, exec, args, s, beside);
    beside = true;
  }
}

}  // namespace seer::vulkan
