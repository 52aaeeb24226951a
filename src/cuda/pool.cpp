// pool: see cuda/pool.cu, pool_rotate.cu and pool_plain.cu.
#include <algorithm>

#include "../../cuda/launch.h"
#include "../checked.h"
#include "kernels.h"

namespace seer::cuda {
namespace {

// Rows of the fast kernel start at multiples of 16 bytes.
bool aligned(const TokenView &view) {
  const int64_t element = element_size(view.dtype);
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.stride_batch * element % 16 == 0 &&
         view.stride_token * element % 16 == 0 && view.stride_head * element % 16 == 0;
}

}  // namespace

void pool(CudaDevice &device, Exec &exec, const PoolArgs &args) {
  const TokenView &x = args.x;
  const bool q = args.side == Side::q, rotates = args.rotated.data != nullptr;
  Recorder &recorder = *device.recorder;
  recorder.stage(exec);

  PoolParams p{};
  std::vector<PoolSequence> sequences;
  int64_t items = 0, positions = 0;
  for (const Sequence &s : args.sequences) {
    // Blocks that are neither pooled nor rotated are not looked at.
    const int64_t length = q ? s.q_len : s.k_len, blocks = ceil_div(length, args.block);
    const int64_t cached = q ? 0 : s.cached_blocks, position = q ? s.offset() : 0;
    const int64_t skip = rotates ? 0 : cached;
    if (blocks <= skip) continue;
    sequences.push_back({.batch = int32_t(s.batch),
                         .begin = int32_t((q ? s.q_begin : s.k_begin) + skip * args.block),
                         .length = int32_t(length - skip * args.block),
                         .position = int32_t(position + skip * args.block),
                         .first_block = int32_t(cached - skip),
                         .first_row = int32_t(q ? s.q_row : s.k_pool_row),
                         .first_item = int32_t(items)});
    items += blocks - skip;
    positions = std::max(positions, position + length);
  }
  if (sequences.empty()) return;
  SEER_REQUIRE(items <= INT32_MAX, Status::unsupported, "the call has %lld blocks; a launch has at most 2147483647",
               (long long)items);

  p.x = x.data;
  p.x_batch = x.stride_batch;
  p.x_token = x.stride_token;
  p.x_head = x.stride_head;
  p.rotated = args.rotated.data;
  p.rotated_batch = args.rotated.stride_batch;
  p.rotated_token = args.rotated.stride_token;
  p.rotated_head = args.rotated.stride_head;
  p.pooled = args.pooled;
  p.bits = args.pool_bits;
  p.block = int32_t(args.block);
  p.heads = int32_t(x.heads);
  p.items = int32_t(items);
  p.sequences = int32_t(sequences.size());
  p.only = sequences.front();
  if (sequences.size() > 1) p.sequence = recorder.upload(std::span<const PoolSequence>(sequences));
  if (rotates && args.rope.inv_freq) {
    const RopePair tables = device.rope->get(args.rope, positions);
    p.coarse = tables.coarse;
    p.fine = tables.fine;
  }

  const bool fast = x.dtype != DType::f32 && (x.dim == 64 || x.dim == 128) && aligned(x) &&
                    (!rotates || (p.coarse && aligned(args.rotated)));
  const std::string type = dtype_name(x.dtype);
  if (fast) {
    const std::string name = std::string(rotates ? "pool_rotate_" : "pool_") + type + "_" + std::to_string(x.dim);
    recorder.launch(device.kernel(rotates ? "pool_rotate" : "pool", name),
                    {.blocks = uint64_t(items * ceil_div(x.heads, kPoolHeads)),
                     .threads = kPoolThreads,
                     .shared = uint64_t(pool_shared(int(args.block), int(x.dim), rotates)),
                     .overlap = true},
                    p);
  } else {
    const Kernel &kernel = device.kernel("pool_plain", "pool_plain_" + type);
    recorder.launch(kernel, {.blocks = uint64_t(items), .blocks_y = uint32_t(x.heads), .threads = kPoolThreads}, p,
                    int32_t(x.dim));
  }
}

}  // namespace seer::cuda
