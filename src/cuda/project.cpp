// project: see cuda/project.cu.
#include <algorithm>
#include <string>

#include "../../cuda/launch_gate.h"
#include "../checked.h"
#include "kernels.h"

namespace seer::cuda {
namespace {

bool aligned(const void *p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

void project(CudaDevice &device, Exec &exec, const ProjectArgs &args) {
  const bool q = args.side == Side::q, matrix = args.weight.present();
  Recorder &recorder = *device.recorder;
  recorder.stage(exec);

  ProjectParams p{};
  std::vector<ProjectSequence> sequences;
  int64_t items = 0, positions = 0;
  for (const Sequence &s : args.sequences) {
    const int64_t cached = q ? 0 : s.cached_blocks,
                  blocks = (q ? s.q_blocks(args.block) : s.k_blocks(args.block)) - cached;
    if (blocks <= 0) continue;
    const int64_t position = q ? s.offset() / args.block : cached;
    sequences.push_back({.blocks = int32_t(blocks),
                         .pooled_row = int32_t(q ? s.q_row : s.k_pool_row),
                         .gate_row = int32_t(q ? s.q_row : s.k_row + cached),
                         .position = int32_t(position),
                         .first_item = int32_t(items)});
    items += ceil_div(blocks, int64_t{kProjectRows});
    positions = std::max(positions, position + blocks);
  }
  if (sequences.empty()) return;

  p.pooled = args.pooled;
  p.weight = args.weight.data;
  p.gate = args.gate;
  p.pooled_heads = int32_t(args.pooled_heads);
  p.gate_heads = int32_t(args.gate_heads);
  p.in = int32_t(args.in);
  p.out = int32_t(args.out);
  p.items = int32_t(items);
  p.sequences = int32_t(sequences.size());
  p.only = sequences.front();
  if (sequences.size() > 1) p.sequence = recorder.upload(std::span<const ProjectSequence>(sequences));
  if (args.rope.inv_freq) {
    const RopePair tables = device.rope->get(args.rope, positions);
    p.coarse = tables.coarse;
    p.fine = tables.fine;
  }

  std::string name = "project_none";
  int shared = 0;
  if (matrix) {
    const bool fast = (args.out == 64 || args.out == 128) && args.in % 4 == 0 && aligned(args.pooled) &&
                      aligned(args.weight.data) && aligned(args.gate);
    const std::string type = dtype_name(args.weight.dtype);
    if (fast) {
      const DType dtype = args.weight.dtype;
      shared = project_shared(int(args.out), dtype == DType::bf16 ? 1 : dtype == DType::f16 ? 2 : 3);
    }
    name = fast ? "project_" + type + "_" + std::to_string(args.out) : "project_any_" + type;
  }
  const Kernel &kernel = device.kernel("project", name);
  recorder.launch(kernel,
                  {.blocks = uint64_t(checked_mul(items, args.gate_heads)),
                   .threads = kProjectThreads,
                   .shared = uint64_t(shared),
                   .overlap = true},
                  p);
}

}  // namespace seer::cuda
