#include "attend_tiles.h"

#include <algorithm>
#include <vector>

#include "../checked.h"

namespace seer::cpu {
namespace {

// A KV head of a sequence within the current round.
struct PackedHead {
  const Sequence *sequence;
  int64_t kv_head;
  int64_t first_block;  // in the round's packed blocks
  int64_t first_tile;   // in the round's tiles
  int64_t tiles_per_head, tiles;
};

int64_t tile_rows(int64_t block) { return std::min(block, kTileRows); }

// The head that packed block or tile i of the round belongs to.
const PackedHead &owner(const std::vector<PackedHead> &heads, int64_t i, int64_t PackedHead::*first) {
  auto after = std::upper_bound(heads.begin(), heads.end(), i,
                                [first](int64_t value, const PackedHead &h) { return value < h.*first; });
  return *(after - 1);
}

// Sequences of the same length make tiles of uneven length; dealing them out in turn, longest first, gives each
// worker's starting share the same mix, so that stealing only evens out what masks leave uneven.
int64_t dealt(int64_t i, int64_t n, int64_t workers) {
  const int64_t share = n / workers, longer = n % workers;
  const int64_t worker = i < longer * (share + 1) ? i / (share + 1) : longer + (i - longer * (share + 1)) / share;
  const int64_t begin = worker * share + std::min(worker, longer);
  return (i - begin) * workers + worker;
}

void list_kept(const AttendTile &tile, std::vector<int32_t> &kept) {
  const AttendArgs &args = *tile.args;
  const Sequence &s = *tile.sequence;
  const int64_t visible = (tile.keys_seen(tile.rows - 1) + args.block - 1) / args.block;
  kept.clear();
  if (!args.mask.words) {
    for (int64_t j = 0; j < visible; j++) kept.push_back(static_cast<int32_t>(j));
    return;
  }
  const uint32_t *words = args.mask.row(s.batch, tile.head, s.mask_row + tile.row / args.block);
  for (int64_t w = 0; w < mask_words(visible); w++) {
    uint32_t bits = words[w];
    if (32 * (w + 1) > visible) bits &= (uint32_t{2} << ((visible - 1) & 31)) - 1;
    for (; bits; bits &= bits - 1) kept.push_back(static_cast<int32_t>(32 * w + std::countr_zero(bits)));
  }
}

}  // namespace

uint64_t attend_tiles_scratch(const AttendArgs &args, const AttendKernel &kernel, int workers) {
  int64_t largest = 0, all = 0;
  for (const Sequence &s : args.sequences) {
    if (s.q_len == 0) continue;
    const int64_t head = checked_mul(s.k_blocks(args.block), static_cast<int64_t>(kernel.block_bytes));
    largest = std::max(largest, head);
    all = checked_add(all, checked_mul(head, args.k.heads));
  }
  const int64_t packed = std::max(largest, std::min(all, static_cast<int64_t>(kPackedBudget)));
  return static_cast<uint64_t>(packed) + static_cast<uint64_t>(workers) * kernel.scratch_bytes;
}

void attend_tiles(Workers &workers, const AttendArgs &args, const AttendKernel &kernel) {
  const int64_t kv_heads = args.k.heads, group = args.q.heads / kv_heads;
  const int64_t rows = tile_rows(args.block);
  const auto worker_count = static_cast<size_t>(workers.pool.size());

  std::vector<std::vector<int32_t>> kept(worker_count);
  std::vector<PackedHead> heads;
  std::vector<uint8_t> finite;
  size_t next_sequence = 0;
  int64_t next_head = 0;
  while (next_sequence < args.sequences.size()) {
    // A round: as many heads as the budget holds.
    heads.clear();
    int64_t blocks = 0, tiles = 0;
    while (next_sequence < args.sequences.size()) {
      const Sequence &s = args.sequences[next_sequence];
      const int64_t more = s.q_len > 0 ? s.k_blocks(args.block) : 0;
      if (more > 0) {
        const auto bytes = static_cast<uint64_t>(checked_mul(blocks + more, static_cast<int64_t>(kernel.block_bytes)));
        if (!heads.empty() && bytes > kPackedBudget) break;
        const int64_t per_head = ceil_div(s.q_len, rows);
        heads.push_back({&s, next_head, blocks, tiles, per_head, per_head * group});
        blocks += more;
        tiles += per_head * group;
      }
      if (++next_head == kv_heads) {
        next_head = 0;
        next_sequence++;
      }
    }
    if (heads.empty()) break;

    const size_t packed_bytes = static_cast<size_t>(blocks) * kernel.block_bytes;
    auto *packed = static_cast<std::byte *>(args.scratch);
    finite.assign(static_cast<size_t>(blocks), 1);
    workers.pool.parallel_for(blocks, [&](int64_t i, int) {
      const PackedHead &h = owner(heads, i, &PackedHead::first_block);
      finite[static_cast<size_t>(i)] = kernel.pack(args, *h.sequence, h.kv_head, i - h.first_block,
                                                   packed + static_cast<size_t>(i) * kernel.block_bytes);
    });
    workers.exec.check_cancelled();

    workers.pool.parallel_for(tiles, [&](int64_t i, int worker) {
      workers.exec.check_cancelled();
      const int64_t t = dealt(i, tiles, workers.pool.size());
      const PackedHead &h = owner(heads, t, &PackedHead::first_tile);
      const Sequence &s = *h.sequence;
      // The last rows see most. The query heads of a group follow each other: they read the same packed blocks.
      const int64_t local = t - h.first_tile, from_end = local / group;
      AttendTile tile;
      tile.args = &args;
      tile.sequence = &s;
      tile.head = h.kv_head * group + local % group;
      tile.row = (h.tiles_per_head - 1 - from_end) * rows;
      tile.rows = std::min(rows, s.q_len - tile.row);
      tile.packed = packed + static_cast<size_t>(h.first_block) * kernel.block_bytes;
      tile.finite = finite.data() + h.first_block;
      std::vector<int32_t> &list = kept[static_cast<size_t>(worker)];
      list_kept(tile, list);
      tile.kept = list.data();
      tile.kept_count = static_cast<int64_t>(list.size());
      kernel.tile(tile, packed + packed_bytes + static_cast<size_t>(worker) * kernel.scratch_bytes);
      const int64_t end = tile.row + tile.rows;
      if (end % args.block == 0 || end == s.q_len) workers.exec.step(1);
    });
  }
}

}  // namespace seer::cpu
