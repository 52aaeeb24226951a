// What the fast attend kernels share, whatever their instructions: how a call is cut into packed key blocks and tiles
// of query rows, in which order, and who does them.
//
// K (rotated) and V of a KV head are packed once, block by block, into the layout a kernel wants; then every tile of at
// most kTileRows query rows of the head's G query heads runs over its kept blocks. Packed heads share the call's
// scratch: as many at a time as fit into kPackedBudget, at least one (256k tokens, D 128: 256 MiB in f32, 128 MiB in
// bf16).
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels.h"

namespace seer::cpu {

inline constexpr int64_t kTileRows = 64;
inline constexpr int64_t kMaxBlock = 128;
inline constexpr int64_t kMaxTileDim = 256;  // larger heads go to attend_ref
inline constexpr size_t kPackedBudget = size_t{64} << 20;

// One tile: rows row .. row + rows - 1 of a sequence's queries, in one head and one block row.
struct AttendTile {
  const AttendArgs *args = nullptr;
  const Sequence *sequence = nullptr;
  int64_t head = 0;
  int64_t row = 0, rows = 0;
  const std::byte *packed = nullptr;  // block j of this head's KV head is at packed + j * block_bytes
  const uint8_t *finite = nullptr;    // [block]: whether all its values are finite
  const int32_t *kept = nullptr;      // kept key blocks that some row of the tile sees, rising
  int64_t kept_count = 0;

  // Keys below this bound are seen by row r of the tile.
  int64_t keys_seen(int64_t r) const { return sequence->offset() + row + r + 1; }
};

struct AttendKernel {
  size_t block_bytes = 0;    // of a packed block of K and V, multiple of 64
  size_t scratch_bytes = 0;  // per worker, multiple of 64
  // Packs key block j of a sequence's KV head; keys beyond k_len are zero. Returns whether all its values are finite.
  bool (*pack)(const AttendArgs &, const Sequence &, int64_t kv_head, int64_t j, std::byte *packed) = nullptr;
  // Writes out and lse of a tile. scratch is the worker's.
  void (*tile)(const AttendTile &, std::byte *scratch) = nullptr;
};

uint64_t attend_tiles_scratch(const AttendArgs &, const AttendKernel &, int workers);
void attend_tiles(Workers &, const AttendArgs &, const AttendKernel &);

}  // namespace seer::cpu
