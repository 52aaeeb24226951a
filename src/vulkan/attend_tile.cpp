#include "attend_tile.h"

#include <algorithm>
#include <cstdlib>
#include <string>

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
  kernel.key = {.module = "attend",
                .constants = {best->threads, best->rows, best->keys, kColumns, uint32_t(shape.dim),
                              uint32_t(shape.block), uint32_t(shape.dtype), uint32_t(shape.paired)},
                .bindings = kAttendBindings,
                .push_bytes = sizeof(AttendPush),
                .shared_bytes = shared_bytes(*best, shape)};
  return kernel;
}

namespace {

// SEER_VK_<name> for tests and for tuning, else the choice made here.
uint32_t choice(const char *name, uint32_t chosen) {
  const char *text = std::getenv((std::string("SEER_VK_") + name).c_str());
  return text && *text ? uint32_t(std::strtoul(text, nullptr, 10)) : chosen;
}

struct CoopTile {
  uint32_t rows, keys, heads, size;
  CoopShape shape;
  bool ahead, apart, spread;

  uint32_t subgroups() const { return heads * rows / shape.m; }
  uint32_t threads() const { return subgroups() * size; }
  // What attend_coopmat.comp declares.
  uint32_t shared_bytes(int64_t dim) const {
    const auto kv = (apart ? 2 : 1) * keys * (uint32_t(dim) / 8 + 1);
    return 16 * (kv + subgroups() * shape.m * (keys / 4 + 1)) + 4 * subgroups() * shape.m * (spread ? 1 : shape.n) + 4;
  }
};

bool divides(int64_t a, int64_t b) { return a > 0 && b % a == 0; }

// Whether the kernel's assumptions hold, but for what the device allows.
bool sound(const CoopTile &t, const AttendShape &s) {
  const auto [m, n, k, bf16] = t.shape;
  const uint32_t lanes = m ? t.size / m : 0;
  return divides(m, t.size) && (lanes & (lanes - 1)) == 0 && divides(8, k) && divides(8, n) && divides(n, s.dim) &&
         divides(k, s.dim) && divides(n, t.keys) && divides(k, t.keys) && divides(m, t.keys) &&
         divides(t.keys, s.block) && divides(m, t.rows) && divides(t.rows, s.block) && divides(8 * lanes, t.keys);
}

}  // namespace

std::optional<AttendKernel> attend_coopmat(const Caps &caps, const AttendShape &shape, uint32_t heads,
                                           uint32_t redo_rows, std::string &why) {
  if (const char *tier = std::getenv("SEER_VK_TIER"); tier && std::string(tier) == "scalar") why = "SEER_VK_TIER";
  if (!caps.coopmat || caps.coop_shapes.empty()) why = "the device has no cooperative matrices";
  if (!caps.fp16) why = "the device has no f16 arithmetic";
  constexpr uint32_t ops =
      VK_SUBGROUP_FEATURE_BASIC_BIT | VK_SUBGROUP_FEATURE_VOTE_BIT | VK_SUBGROUP_FEATURE_SHUFFLE_BIT;
  if ((caps.subgroup_ops & ops) != ops) why = "the device lacks subgroup votes or shuffles";
  if (shape.dtype == DType::f32) why = "f32 tensors";
  if (!why.empty()) return std::nullopt;
  // bf16 on its own matrices where there are some, else on f16's.
  const bool own_bf16 = shape.dtype == DType::bf16 && std::any_of(caps.coop_shapes.begin(), caps.coop_shapes.end(),
                                                                  [](const CoopShape &s) { return s.bf16; });
  constexpr uint32_t kIntel = 0x8086;
  const bool sizes = caps.subgroup_size_control && caps.full_subgroups;
  const uint32_t size = sizes && caps.vendor_id == kIntel ? caps.min_subgroup_size : caps.subgroup_size;
  for (const CoopShape &s : caps.coop_shapes) {
    if (s.bf16 != own_bf16) continue;
    for (const uint32_t keys : {choice("TILE_KEYS", 32), 16u})
      for (uint32_t rows = choice("TILE_ROWS", uint32_t(std::min<int64_t>(shape.block, 64))); rows >= redo_rows;
           rows /= 2)
        for (const bool apart : {choice("TILE_APART", 1) != 0, false}) {
          const CoopTile t{.rows = rows,
                           .keys = keys,
                           .heads = heads,
                           .size = size,
                           .shape = s,
                           .ahead = choice("TILE_AHEAD", caps.software() ? 0 : 1) != 0,
                           .apart = apart,
                           .spread = choice("TILE_SPREAD", 1) != 0};
          if (!sound(t, shape) || t.threads() > caps.max_invocations || t.shared_bytes(shape.dim) > caps.max_shared)
            continue;
          AttendKernel kernel;
          kernel.tier = AttendTier::coopmat;
          kernel.rows = rows;
          kernel.heads = heads;
          kernel.key = {.module = own_bf16 ? "attend_coopmat_bf16" : "attend_coopmat_f16",
                        .constants = {t.threads(), rows, keys, heads, uint32_t(shape.dim), uint32_t(shape.block),
                                      uint32_t(shape.dtype), uint32_t(shape.paired), uint32_t(shape.wide), size, s.m,
                                      s.n, s.k, uint32_t(t.ahead), uint32_t(t.apart), uint32_t(t.spread),
                                      choice("TILE_EVEN", caps.software()), redo_rows},
                        .bindings = kAttendBindings,
                        .push_bytes = sizeof(AttendPush),
                        .subgroup_size = sizes ? size : 0,
                        .full_subgroups = sizes,
                        .shared_bytes = t.shared_bytes(shape.dim)};
          return kernel;
        }
  }
  why = "no tile of the device's matrix shapes fits this head dim and block";
  return std::nullopt;
}

// attend.comp's kStateOf: the output, a maximum and a sum for each of the threads that share the row.
uint64_t attend_state_bytes(int64_t dim) { return 4 * (2 * padded_pairs(dim) + 2 * kColumns); }

}  // namespace seer::vulkan
