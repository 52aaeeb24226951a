// project: see shaders/project.comp and project_coopmat.comp.
#include <array>

#include "../../shaders/args.h"
#include "gate_proof.h"
#include "kernels.h"
#include "pieces.h"
#include "rope.h"

namespace seer::vulkan {

void project(VulkanDevice &device, Exec &exec, const ProjectArgs &args) {
  Recorder &recorder = *device.recorder;
  const bool q = args.side == Side::q, matrix = args.weight.present(), rotates = args.rope.inv_freq != nullptr;
  const int64_t pooled_row_elements = args.pooled_heads * args.in, gate_row_elements = args.gate_heads * args.out;
  const int64_t matrix_bytes = matrix ? checked_mul(args.in, args.out, element_size(args.weight.dtype)) : 0;

  int64_t table_rows = 0;
  for (const Sequence &s : args.sequences)
    if (q ? s.q_len > 0 : s.k_blocks(args.block) > s.cached_blocks)
      table_rows = std::max(table_rows, s.k_blocks(args.block));
  std::optional<ProjectTile> matrices = matrix ? project_tile(device.caps, args) : std::nullopt;
  if (matrices && !project_proven(device, *matrices, rotates)) matrices.reset();
  const Window table = rotates && table_rows > 0 ? device.rope->get(args.rope, table_rows) : recorder.absent();

  bool beside = !q && recorder.marked(Recorder::Mark::projected_q), any = false;
  for (const Sequence &s : args.sequences) {
    const int64_t blocks = q ? s.q_blocks(args.block) : s.k_blocks(args.block) - s.cached_blocks;
    const int64_t pooled_row = q ? s.q_row : s.k_pool_row, gate_row = q ? s.q_row : s.k_row + s.cached_blocks;
    const int64_t position = q ? s.offset() / args.block : s.cached_blocks;
    const auto bytes = [&](const Piece &p) {
      return std::max({checked_mul(p.rows, pooled_row_elements, 4), checked_mul(p.rows, gate_row_elements, 4),
                       checked_mul(p.heads, matrix_bytes)});
    };
    // Without a matrix there is nothing to cut by heads.
    each_piece(device.caps, {0, blocks, 0, matrix ? args.gate_heads : 1}, bytes, [&](const Piece &p) {
      const Window pooled = recorder.window(args.pooled + (pooled_row + p.row) * pooled_row_elements,
                                            uint64_t(p.rows * pooled_row_elements * 4));
      const Window gate =
          recorder.window(args.gate + (gate_row + p.row) * gate_row_elements, uint64_t(p.rows * gate_row_elements * 4));
      const Window weight = recorder.window(static_cast<const char *>(args.weight.data) + p.head * matrix_bytes,
                                            uint64_t(p.heads * matrix_bytes));
      ProjectPush push{};
      push.pooled_skip = pooled.skip;
      push.weight_skip = weight.skip;
      push.gate_skip = gate.skip;
      push.table_skip = table.skip;
      push.rows = uint32_t(p.rows);
      push.head = uint32_t(p.head);
      push.pooled_heads = uint32_t(args.pooled_heads);
      push.gate_heads = uint32_t(args.gate_heads);
      push.in_dim = uint32_t(args.in);
      push.out_dim = uint32_t(args.out);
      push.half_dim = uint32_t((args.out + 1) / 2);
      push.position = uint32_t(position + p.row);
      // Small tiles fill a GPU sooner; a CPU gains from what large ones reuse.
      const bool large = device.caps.software();
      const uint32_t pairs = large && push.half_dim > kProjectMostPairs / 2 ? kProjectMostPairs : kProjectMostPairs / 2;
      const uint32_t thread_rows = large ? 8 : 4, rows = thread_rows * kProjectThreads * 4 / pairs;
      push.row_tiles = uint32_t(ceil_div(p.rows, int64_t{rows}));
      push.pair_tiles = uint32_t(ceil_div(push.half_dim, pairs));

      const auto wide = [](const Window &window) { return window.skip % 16 == 0; };
      if (matrices && wide(pooled) && wide(weight) && wide(gate)) {
        push.row_tiles = uint32_t(ceil_div(p.rows, int64_t{matrices->rows}));
        push.pair_tiles = push.half_dim / matrices->pairs;
        const uint64_t items = uint64_t(p.heads) * push.row_tiles * push.pair_tiles;
        recorder.dispatch(
            exec, device.kernel(matrices->key(rotates)), std::array{pooled, weight, gate, table}, push,
            {.items = items, .flops = 4.0 * matrices->rows * matrices->pairs * double(args.in), .beside = beside});
        beside = any = true;
        return;
      }
      const bool by_four = args.in % 4 == 0 && pooled.skip % 16 == 0;
      const bool matrix_by_four =
          matrix && args.out % 8 == 0 && weight.skip % (4 * element_size(args.weight.dtype)) == 0;
      const Kernel &kernel =
          device.kernel({.module = "project",
                         .constants = {uint32_t(args.weight.dtype), uint32_t(by_four), uint32_t(rotates), pairs,
                                       uint32_t(matrix_by_four), thread_rows},
                         .bindings = 4,
                         .push_bytes = sizeof push,
                         .shared_bytes = kProjectSharedBytes});
      Work work{.beside = beside};
      if (matrix) {
        work.items = uint64_t(p.heads) * push.row_tiles * push.pair_tiles;
        work.flops = 4.0 * rows * pairs * double(args.in);
      } else {
        work.items = uint64_t(ceil_div(p.rows * args.gate_heads * push.half_dim, kProjectThreads));
        work.flops = 4.0 * 16 * kProjectThreads;
      }
      recorder.dispatch(exec, kernel, std::array{pooled, weight, gate, table}, push, work);
      beside = any = true;
    });
  }
  if (any && q) recorder.mark(Recorder::Mark::projected_q);
}

}  // namespace seer::vulkan
