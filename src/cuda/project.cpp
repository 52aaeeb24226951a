// project: see cuda/project.cu and project_sm90.cu.
#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "../../cuda/launch_gate.h"
#include "../checked.h"
#include "gate.h"

namespace seer::cuda {
namespace {

bool aligned(const void *p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

constexpr int64_t kTermDim = 128;  // channels of a kind of pool, and columns of a matrix, of project_sm90.cu

// What of ProjectParams and ProjectTermsParams is the same. `rows`: of a tile. Returns the list of sequences, which
// may be empty; positions of their blocks are below `positions`.
std::vector<ProjectSequence> list(const ProjectArgs &args, int64_t rows, int64_t &items, int64_t &positions) {
  const bool q = args.side == Side::q;
  std::vector<ProjectSequence> sequences;
  items = positions = 0;
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
    items += ceil_div(blocks, rows);
    positions = std::max(positions, position + blocks);
  }
  return sequences;
}

// The fields that both kernels' parameters have.
template <class Params>
void fill(CudaDevice &device, const ProjectArgs &args, const std::vector<ProjectSequence> &sequences, int64_t positions,
          Params &p) {
  p.gate = args.gate;
  p.pooled_heads = int32_t(args.pooled_heads);
  p.gate_heads = int32_t(args.gate_heads);
  p.sequences = int32_t(sequences.size());
  p.only = sequences.front();
  if (sequences.size() > 1) p.sequence = device.recorder->upload(std::span<const ProjectSequence>(sequences));
  if (args.rope.inv_freq) {
    const RopePair tables = device.rope->get(args.rope, positions);
    p.coarse = tables.coarse;
    p.fine = tables.fine;
  }
}

}  // namespace

void record_project(CudaDevice &device, const ProjectArgs &args) {
  int64_t items = 0, positions = 0;
  const std::vector<ProjectSequence> sequences = list(args, kProjectRows, items, positions);
  if (sequences.empty()) return;
  ProjectParams p{};
  fill(device, args, sequences, positions, p);
  p.pooled = args.pooled;
  p.weight = args.weight.data;
  p.in = int32_t(args.in);
  p.out = int32_t(args.out);
  p.items = int32_t(items);

  std::string name = "project_none";
  int shared = 0;
  if (args.weight.present()) {
    const bool fast = (args.out == 64 || args.out == 128) && args.in % 4 == 0 && aligned(args.pooled) &&
                      aligned(args.weight.data) && aligned(args.gate);
    const std::string type = dtype_name(args.weight.dtype);
    if (fast) {
      const DType dtype = args.weight.dtype;
      shared = project_shared(int(args.out), dtype == DType::bf16 ? 1 : dtype == DType::f16 ? 2 : 3);
    }
    name = fast ? "project_" + type + "_" + std::to_string(args.out) : "project_any_" + type;
  }
  device.recorder->launch(device.kernel("project", name),
                          {.blocks = uint64_t(checked_mul(items, args.gate_heads)),
                           .threads = kProjectThreads,
                           .shared = uint64_t(shared),
                           .overlap = true},
                          p);
}

int64_t project_tiles(const CudaDevice &device, const PoolArgs &pool, const ProjectArgs &args) {
  const bool takes = device.caps.sm == 90 && pool.x.dtype == DType::bf16 && args.weight.dtype == DType::bf16 &&
                     pool.x.dim == kTermDim && args.out == kTermDim && aligned(args.pooled) &&
                     aligned(args.weight.data) && aligned(args.gate);
  // Terms take two bytes a channel, and lie where f32 would.
  if (!takes || 2 * pool_terms(pool.pool_bits) > 4 * pool_count(pool.pool_bits)) return 0;
  int64_t rows = 0;
  for (const Sequence &s : args.sequences) {
    const int64_t first = args.side == Side::q ? s.q_row : s.k_pool_row;
    rows = std::max(rows,
                    first + (args.side == Side::q ? s.q_blocks(args.block) : s.k_blocks(args.block) - s.cached_blocks));
  }
  return ceil_div(rows, int64_t{kTermRows});
}

void record_project_terms(CudaDevice &device, const ProjectArgs &args, uint32_t pool_bits, int64_t tiles) {
  int64_t unused = 0, positions = 0;
  const std::vector<ProjectSequence> sequences = list(args, kTermRows, unused, positions);
  if (sequences.empty()) return;
  ProjectTermsParams p{};
  fill(device, args, sequences, positions, p);
  p.terms = args.pooled;
  p.bits = pool_bits;
  p.tiles = int32_t(tiles);
  p.first_tile = sequences.front().pooled_row / kTermRows;
  // Large tiles read less, small ones are more.
  const int64_t wanted = tiles - p.first_tile, units = device.caps.multiprocessors;
  const int rows = ceil_div(wanted, int64_t{2}) * args.gate_heads * 2 > units ? 2 * kTermRows : kTermRows;
  const int64_t items = checked_mul(ceil_div(wanted, int64_t{rows / kTermRows}), args.gate_heads);
  SEER_REQUIRE(items <= INT32_MAX, Status::unsupported, "project has %lld tiles; a launch has at most 2147483647",
               (long long)items);
  p.items = int32_t(items);

  const GateMatrix &w = args.weight;
  const std::array<uint64_t, 2> extent = {uint64_t(w.out), uint64_t(w.heads * w.in)};
  const std::array<uint64_t, 1> stride = {uint64_t(w.out) * 2};
  const std::array<uint32_t, 2> box = {64, 64}, ones = {1, 1};
  CUtensorMap map{};
  device.check(device.fn.cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void *>(w.data),
                                                extent.data(), stride.data(), box.data(), ones.data(),
                                                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
               "cuTensorMapEncodeTiled");
  device.recorder->launch(device.kernel("project_sm90", "project_terms_" + std::to_string(rows)),
                          {.blocks = uint64_t(std::min(items, units)),
                           .threads = uint32_t(project_terms_threads(rows)),
                           .shared = uint64_t(project_terms_shared(rows)),
                           .overlap = true},
                          map, p);
}

void project(CudaDevice &device, Exec &exec, const ProjectArgs &args) {
  device.recorder->stage(exec);
  record_project(device, args);
}

}  // namespace seer::cuda
