// pool: see cuda/pool.cu, pool_rotate.cu and pool_plain.cu.
#include <algorithm>
#include <array>
#include <vector>

#include "../../cuda/launch.h"
#include "../checked.h"
#include "gate.h"
#include "kernels.h"

namespace seer::cuda {
namespace {

// Rows of the fast kernels start at multiples of 16 bytes.
bool aligned(const TokenView &view) {
  const int64_t element = element_size(view.dtype);
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.stride_batch * element % 16 == 0 &&
         view.stride_token * element % 16 == 0 && view.stride_head * element % 16 == 0;
}

// Items 0: nothing to do.
PoolSide plan_side(CudaDevice &device, const PoolJob &job) {
  const PoolArgs &args = job.args;
  const TokenView &x = args.x;
  const bool q = args.side == Side::q, rotates = args.rotated.data != nullptr;
  PoolSide s{};
  if (!args.pooled && !rotates) return s;
  std::vector<PoolSequence> sequences;
  int64_t items = 0, positions = 0, gate_positions = 0;
  for (const Sequence &seq : args.sequences) {
    // Blocks that are neither pooled nor rotated are not looked at.
    const int64_t length = q ? seq.q_len : seq.k_len, blocks = ceil_div(length, args.block);
    const int64_t cached = q ? 0 : seq.cached_blocks, position = q ? seq.offset() : 0;
    const int64_t skip = rotates ? 0 : cached;
    if (blocks <= skip) continue;
    sequences.push_back({.batch = int32_t(seq.batch),
                         .begin = int32_t((q ? seq.q_begin : seq.k_begin) + skip * args.block),
                         .length = int32_t(length - skip * args.block),
                         .position = int32_t(position + skip * args.block),
                         .first_block = int32_t(cached - skip),
                         .first_row = int32_t(q ? seq.q_row : seq.k_pool_row),
                         .first_item = int32_t(items),
                         .gate_position = int32_t(position / args.block + skip)});
    items += blocks - skip;
    positions = std::max(positions, position + length);
    gate_positions = std::max(gate_positions, position / args.block + blocks);
  }
  if (sequences.empty()) return s;
  SEER_REQUIRE(items <= INT32_MAX, Status::unsupported, "the call has %lld blocks; a launch has at most 2147483647",
               (long long)items);

  s.x = x.data;
  s.x_batch = x.stride_batch;
  s.x_token = x.stride_token;
  s.x_head = x.stride_head;
  s.rotated = args.rotated.data;
  s.rotated_batch = args.rotated.stride_batch;
  s.rotated_token = args.rotated.stride_token;
  s.rotated_head = args.rotated.stride_head;
  s.pooled = args.pooled;
  s.tiles = int32_t(job.tiles);
  s.bits = args.pool_bits;
  s.heads = int32_t(x.heads);
  s.items = int32_t(items);
  s.sequences = int32_t(sequences.size());
  s.only = sequences.front();
  if (sequences.size() > 1) s.sequence = device.recorder->upload(std::span<const PoolSequence>(sequences));
  if (rotates && args.rope.inv_freq) {
    const RopePair tables = device.rope->get(args.rope, positions);
    s.coarse = tables.coarse;
    s.fine = tables.fine;
  }
  if (job.gate_rope.inv_freq) {
    const RopePair tables = device.rope->get(job.gate_rope, gate_positions);
    s.gate_coarse = tables.coarse;
    s.gate_fine = tables.fine;
  }
  return s;
}

struct Planned {
  const PoolArgs *args = nullptr;
  PoolSide side{};
};

void launch_plain(CudaDevice &device, const Planned &one) {
  const TokenView &x = one.args->x;
  PoolParams p{};
  p.side[0] = one.side;
  p.block = int32_t(one.args->block);
  device.recorder->launch(device.kernel("pool_plain", std::string("pool_plain_") + dtype_name(x.dtype)),
                          {.blocks = uint64_t(one.side.items), .blocks_y = uint32_t(x.heads), .threads = kPoolThreads},
                          p, int32_t(x.dim));
}

// One launch for one or two.
void launch_fast(CudaDevice &device, std::span<const Planned> all) {
  const PoolArgs &args = *all.front().args;
  PoolParams p{};
  p.block = int32_t(args.block);
  bool rotates = false;
  int64_t blocks = 0;
  for (size_t i = 0; i < all.size(); i++) {
    p.side[i] = all[i].side;
    rotates |= all[i].side.rotated != nullptr;
    blocks += int64_t{all[i].side.items} * all[i].side.heads;
    if (i == 0) p.first = int32_t(std::min<int64_t>(blocks, INT32_MAX));
  }
  const char *image = rotates ? "pool_rotate" : "pool";
  const std::string name = std::string(image) + "_" + dtype_name(args.x.dtype) + "_" + std::to_string(args.x.dim);
  device.recorder->launch(device.kernel(image, name),
                          {.blocks = uint64_t(blocks), .threads = kPoolThreads, .overlap = true}, p);
}

}  // namespace

bool pools_fast(const PoolArgs &args) {
  const TokenView &x = args.x;
  return x.dtype != DType::f32 && (x.dim == 64 || x.dim == 128) && aligned(x) &&
         (!args.rotated.data || (args.rope.inv_freq && aligned(args.rotated)));
}

void record_pools(CudaDevice &device, std::span<const PoolJob> jobs) {
  std::vector<Planned> fast;
  for (const PoolJob &job : jobs) {
    const Planned one{&job.args, plan_side(device, job)};
    if (one.side.items == 0) continue;
    if (pools_fast(job.args))
      fast.push_back(one);
    else
      launch_plain(device, one);
  }
  if (!fast.empty()) launch_fast(device, fast);
}

void pool(CudaDevice &device, Exec &exec, const PoolArgs &args) {
  device.recorder->stage(exec);
  record_pools(device, std::array{PoolJob{args}});
}

}  // namespace seer::cuda
