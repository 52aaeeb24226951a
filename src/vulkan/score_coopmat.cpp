#include "score_coopmat.h"

#include <algorithm>
#include <array>

namespace seer::vulkan {

uint32_t ScoreTile::shared_bytes() const {
  const uint32_t slices = (2 * rows + 2 * cols) * (depth / 8 + 1);
  const uint32_t patches = threads / size * shape.m * (subgroup_cols / 4 + 1);
  return 16 * std::max(slices, patches) + 4;
}

std::optional<ScoreTile> score_tile(const Caps &caps, int64_t dim) {
  if (!caps.coopmat || !caps.coopmat_score || !caps.fp16 || !caps.subgroup_size_control || !caps.full_subgroups ||
      !(caps.subgroup_ops & VK_SUBGROUP_FEATURE_VOTE_BIT) || caps.max_bindings < 5 ||
      caps.max_push < sizeof(ScoreSplitPush))
    return std::nullopt;
  const auto divides = [](uint32_t a, int64_t b) { return a > 0 && b % a == 0; };
  for (const CoopShape &shape : caps.coop_shapes)
    for (const uint32_t depth : {32u, 16u}) {
      ScoreTile t{.threads = 4 * caps.subgroup_size, .size = caps.subgroup_size, .shape = shape, .depth = depth};
      // A compiler for CPUs takes long for large tiles.
      t.subgroup_rows = t.subgroup_cols = caps.software() ? 16 : 32;
      t.rows = 2 * t.subgroup_rows;
      t.cols = 2 * t.subgroup_cols;
      const uint32_t lines = t.threads / (depth / 8);
      if (!shape.bf16 && divides(shape.m, t.subgroup_rows) && divides(shape.n, t.subgroup_cols) &&
          divides(4, shape.n) && divides(shape.k, depth) && divides(8, shape.k) && divides(depth, dim) &&
          divides(lines, 2 * t.rows) && divides(lines, 2 * t.cols) && t.threads <= caps.max_invocations &&
          t.shared_bytes() <= caps.max_shared)
        return t;
    }
  return std::nullopt;
}

uint64_t split_bytes(int64_t vectors, int64_t dim) { return uint64_t(checked_mul(vectors, dim + 1, 4) + 15) / 16 * 16; }

void record_split(VulkanDevice &device, Exec &exec, const float *from, int64_t vectors, int64_t dim, void *to,
                  bool beside) {
  Recorder &recorder = *device.recorder;
  const Window on_from = recorder.window(from, uint64_t(vectors * dim * 4));
  const Window on_to = recorder.window(to, split_bytes(vectors, dim));
  SplitPush push{};
  push.from_skip = on_from.skip;
  push.to_skip = on_to.skip;
  push.vectors = uint32_t(vectors);
  push.dim = uint32_t(dim);
  const Kernel &kernel = device.kernel({.module = "score_split",
                                        .constants = {},
                                        .bindings = 2,
                                        .push_bytes = sizeof push,
                                        .shared_bytes = kSplitSharedBytes});
  recorder.dispatch(exec, kernel, std::array{on_from, on_to}, push,
                    {.items = uint64_t(ceil_div(vectors, kSplitVectors)),
                     .flops = 32.0 * kSplitVectors * double(dim),
                     .beside = beside});
}

void record_split_logits(VulkanDevice &device, Exec &exec, const ScoreTile &tile, const Logits &l,
                         const SplitLogits &split, bool beside) {
  Recorder &recorder = *device.recorder;
  const Sequence &s = l.sequence;
  const GateVectors &gate = l.gate;
  const int64_t q_row = gate.q_heads * gate.dim, k_row = gate.k_heads * gate.dim;
  const Window q = recorder.window(gate.q + (s.q_row + l.rows.row) * q_row, uint64_t(l.rows.rows * q_row * 4));
  const Window k = recorder.window(gate.k + s.k_row * k_row, uint64_t(l.cols * k_row * 4));
  const Window scores = recorder.window(l.to, uint64_t(span_elements(l.rows, l.stride_row, l.stride_head, l.cols) * 4));
  const Window split_q = recorder.window(split.split_q, split_bytes(split.q_vectors, gate.dim));
  const Window split_k = recorder.window(split.split_k, split_bytes(split.k_vectors, gate.dim));
  ScoreSplitPush push{};
  push.q_skip = q.skip;
  push.k_skip = k.skip;
  push.scores_skip = scores.skip;
  push.split_q_skip = split_q.skip + uint32_t(l.rows.row * q_row * 4);
  push.split_k_skip = split_k.skip;
  push.powers_q = split_q.skip / 4 + uint32_t(split.q_vectors * gate.dim + l.rows.row * gate.q_heads);
  push.powers_k = split_k.skip / 4 + uint32_t(split.k_vectors * gate.dim);
  push.q_heads = uint32_t(gate.q_heads);
  push.k_heads = uint32_t(gate.k_heads);
  push.dim = uint32_t(gate.dim);
  push.head = uint32_t(l.rows.head);
  push.scores_head = kernel_stride(l.stride_head, l.rows.heads);
  push.scores_row = kernel_stride(l.stride_row, l.rows.rows);
  push.row = uint32_t(l.rows.row);
  push.rows = uint32_t(l.rows.rows);
  push.cols = uint32_t(l.cols);
  push.row_tiles = uint32_t(ceil_div(l.rows.rows, int64_t{tile.rows}));
  push.col_tiles = uint32_t(ceil_div(l.cols, int64_t{tile.cols}));
  push.block = uint32_t(l.block);
  push.q_len = uint32_t(s.q_len);
  push.offset = uint32_t(s.offset());
  push.scale = float(gate.scale);
  const Kernel &kernel =
      device.kernel({.module = "score_coopmat",
                     .constants = {tile.threads, tile.size, tile.shape.m, tile.shape.n, tile.shape.k, tile.rows,
                                   tile.cols, tile.subgroup_rows, tile.subgroup_cols, tile.depth},
                     .bindings = 5,
                     .push_bytes = sizeof push,
                     .subgroup_size = tile.size,
                     .full_subgroups = true,
                     .shared_bytes = tile.shared_bytes()});
  recorder.dispatch(exec, kernel, std::array{q, k, scores, split_q, split_k}, push,
                    {.items = uint64_t(l.rows.heads) * push.row_tiles * push.col_tiles,
                     .flops = 2.0 * tile.rows * tile.cols * double(gate.dim),
                     .beside = beside});
}

}  // namespace seer::vulkan
