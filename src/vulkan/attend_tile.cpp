#include "attend_tile.h"

#include <algorithm>
#include <cstdlib>

#include "../../shaders/attend_args.h"
#include "../status.h"

namespace seer::vulkan {
namespace {

constexpr uint32_t kColumns = 8;  // threads that share a row
struct Tile {
  uint32_t rows, keys, threads;
};

// Best first. What a thread holds of the output, rows * dim / threads floats, is what GPUs run out of.
constexpr uint32_t kThreadFloats = 64;
constexpr Tile kTiles[] = {
    {64, 32, 128}, {64, 32, 256}, {32, 32, 128}, {32, 16, 128}, {16, 32, 64},
    {16, 16, 128}, {16, 16, 64},  {8, 16, 64},   {8, 8, 64},    {4, 8, 32},
};

// Pairs of channels in shared memory and registers: the columns divide them.
uint32_t padded_pairs(int64_t dim) {
  const auto pairs = static_cast<uint32_t>((dim + 1) / 2);
  return (pairs + kColumns - 1) / kColumns * kColumns;
}

// What attend.comp declares.
uint32_t shared_bytes(const Tile &tile, const AttendShape &shape) {
  const uint32_t stride = padded_pairs(shape.dim) * (shape.dtype == DType::f32 ? 2 : 1) + 1;
  return 4 * ((tile.rows + tile.keys) * stride + tile.rows * (tile.keys + 1) + tile.rows * kColumns);
}

bool runs(const Caps &caps, const AttendShape &shape, const Tile &tile) {
  return tile.threads <= caps.max_invocations && shared_bytes(tile, shape) <= caps.max_shared &&
         shape.block % tile.rows == 0 && shape.block % tile.keys == 0 &&
         tile.rows * padded_pairs(shape.dim) * 2 <= kThreadFloats * tile.threads;
}

}  // namespace

AttendKernel attend_scalar(const Caps &caps, const AttendShape &shape, int64_t rows) {
  const Tile *best = nullptr;
  const int64_t wanted = 2 * std::max<int64_t>(caps.cores, 8);  // items that keep the device busy
  for (const Tile &tile : kTiles) {
    if (!runs(caps, shape, tile)) continue;
    if (!best || (rows < wanted * best->rows && tile.rows < best->rows && tile.rows >= 16)) best = &tile;
  }
  SEER_REQUIRE(best, Status::unsupported,
               "attend: no tile of head dim %lld fits %u bytes of shared memory and %u threads", (long long)shape.dim,
               caps.max_shared, caps.max_invocations);
  AttendKernel kernel;
  kernel.rows = best->rows;
  kernel.state = true;
  kernel.key = {.module = "attend",
                .constants = {best->threads, best->rows, best->keys, kColumns, uint32_t(shape.dim),
                              uint32_t(shape.block), uint32_t(shape.dtype), uint32_t(shape.paired)},
                .bindings = kAttendBindings,
                .push_bytes = sizeof(AttendPush),
                .shared_bytes = shared_bytes(*best, shape)};
  return kernel;
}

// attend.comp's kStateOf: the output, a maximum and a sum for each of the threads that share the row.
uint64_t attend_state_bytes(int64_t dim) { return 4 * (2 * padded_pairs(dim) + 2 * kColumns); }

}  // namespace seer::vulkan
