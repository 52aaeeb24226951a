#include "attend_tile.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <iterator>
#include <string>

#include "../../shaders/attend_args.h"
#include "../status.h"

namespace seer::vulkan {
namespace {

constexpr const char *kNoTile = "no tile of the device's matrix shapes fits this head dim and block";

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

constexpr uint32_t kIntel = 0x8086;   // vendor
constexpr float kSlack = 8;           // weights of up to 2^8
constexpr uint32_t kNumbers = 65536;  // of a matrix's elements, that f32 tells apart

struct CoopTile {
  uint32_t rows, keys, heads, tiles, split, turns, size;
  CoopShape shape;
  bool wide;  // weights go through shared memory in f32

  uint32_t own() const { return tiles * shape.m; }  // rows of a subgroup
  uint32_t subgroups() const { return heads * rows / own() * split; }
  uint32_t threads() const { return subgroups() * size; }
  uint32_t tile_chunks(int64_t dim) const { return 2 * keys * (uint32_t(dim) / 8 | 1); }
  // What attend_coopmat.comp declares.
  uint32_t shared_bytes(int64_t dim) const {
    const uint32_t all = heads * rows;
    const uint32_t f32_weights = wide ? subgroups() * own() * (keys / split / 4 | 1) : 0;
    return 16 * (tile_chunks(dim) + all * (keys / 8 | 1) + f32_weights) +
           4 * (shape.m * shape.n + (split + 1) * all + 2);
  }
  // What a lane holds of queries and output all the time.
  uint32_t lane_words(int64_t dim) const { return own() * uint32_t(dim) / size * (2 + split) / (2 * split); }
};

bool divides(int64_t a, int64_t b) { return a > 0 && b % a == 0; }

// Whether the kernel's assumptions hold, but for what the device allows.
bool sound(const CoopTile &t, const AttendShape &s) {
  const uint32_t m = t.shape.m, n = t.shape.n, k = t.shape.k;
  return divides(8, k) && divides(8, n) && divides(t.split * n, s.dim) && divides(k, s.dim) &&
         divides(t.split * n, t.keys) && divides(k, t.keys) && divides(t.turns * t.keys, s.block) &&
         divides(t.rows, s.block) && divides(t.own(), t.rows) && divides(m, 2 * t.keys) && m * n <= kNumbers &&
         m * n / 4 <= t.tile_chunks(s.dim) && m * (uint32_t(s.dim) / 4 | 1) <= t.tile_chunks(s.dim);
}

// Of any kernel on matrices.
template <class Found>
bool fits(const Found &t, const Caps &caps, const AttendShape &shape) {
  return sound(t, shape) && t.threads() <= caps.max_invocations && t.shared_bytes(shape.dim) <= caps.max_shared;
}

// What all kernels with matrices need; "" = it is there.
std::string lacks(const Caps &caps, const AttendShape &shape, AttendTier tier) {
  if (caps.tier < tier) return "SEER_VK_TIER";
  if (!caps.coopmat || caps.coop_shapes.empty()) return "the device has no cooperative matrices";
  if (!caps.fp16) return "the device has no f16 arithmetic";
  constexpr uint32_t ops = VK_SUBGROUP_FEATURE_BASIC_BIT | VK_SUBGROUP_FEATURE_VOTE_BIT |
                           VK_SUBGROUP_FEATURE_BALLOT_BIT | VK_SUBGROUP_FEATURE_SHUFFLE_BIT;
  if ((caps.subgroup_ops & ops) != ops) return "the device lacks subgroup votes, ballots or shuffles";
  if (shape.dtype == DType::f32) return "f32 tensors";
  return {};
}

bool chooses_sizes(const Caps &caps) { return caps.subgroup_size_control && caps.full_subgroups; }

// Two tiles of rows a subgroup, as each fragment of K and V serves both, where registers bear their queries and output.
std::optional<CoopTile> coop_tile(const Caps &caps, const AttendShape &shape, const CoopShape &matrix, bool wide,
                                  uint32_t heads, uint32_t redo_rows) {
  const uint32_t most_words = caps.vendor_id == kIntel ? 64 : 128;
  const uint32_t best_rows = choice("TILE_ROWS", uint32_t(std::min<int64_t>(shape.block, 64)));
  const uint32_t best_keys = choice("TILE_KEYS", caps.software() ? 16 : 32);
  const uint32_t best_turns = choice("TILE_TURNS", caps.software() ? 1 : 2);
  std::optional<CoopTile> best;
  for (const uint32_t tiles : {choice("TILE_TILES", caps.software() ? 1 : 2), 1u})
    for (const uint32_t split : {choice("TILE_SPLIT", 2), 1u})
      for (uint32_t keys = best_keys; keys >= 16; keys /= 2)
        for (uint32_t rows = best_rows; rows >= redo_rows; rows /= 2) {
          const CoopTile t{.rows = rows,
                           .keys = keys,
                           .heads = heads,
                           .tiles = tiles,
                           .split = split,
                           .turns = std::min(best_turns, std::max(uint32_t(shape.block) / keys, 1u)),
                           .size = attend_subgroup(caps),
                           .shape = matrix,
                           .wide = wide};
          if (!fits(t, caps, shape)) continue;
          if (t.lane_words(shape.dim) <= most_words) return t;
          if (!best || t.lane_words(shape.dim) < best->lane_words(shape.dim)) best = t;
        }
  return best;
}

AttendKernel kernel_of(const Caps &caps, const AttendShape &shape, const CoopTile &t, uint32_t redo_rows) {
  const CoopShape &s = t.shape;
  AttendKernel kernel;
  kernel.tier = AttendTier::coopmat;
  kernel.rows = t.rows;
  kernel.heads = t.heads;
  kernel.dense = t.heads > 1;
  kernel.key = {
      .module = std::string("attend_coopmat") + (s.bf16 ? "_bf16" : "_f16") + (t.wide ? "_wide" : ""),
      .constants = {t.threads(), t.rows, t.keys, t.heads, uint32_t(shape.dim), uint32_t(shape.block),
                    uint32_t(shape.dtype), uint32_t(shape.paired), uint32_t(shape.wide), uint32_t(shape.wide_out),
                    t.size, s.m, s.n, s.k, t.tiles, t.split, t.turns, std::bit_cast<uint32_t>(kSlack), redo_rows},
      .bindings = kAttendBindings,
      .push_bytes = sizeof(AttendPush),
      .subgroup_size = chooses_sizes(caps) ? t.size : 0,
      .full_subgroups = chooses_sizes(caps),
      .shared_bytes = t.shared_bytes(shape.dim)};
  return kernel;
}

}  // namespace

std::vector<CoopShape> attend_matrices(const Caps &caps, DType dtype) {
  const bool own_bf16 = dtype == DType::bf16 && std::any_of(caps.coop_shapes.begin(), caps.coop_shapes.end(),
                                                            [](const CoopShape &s) { return s.bf16; });
  std::vector<CoopShape> matrices;
  std::copy_if(caps.coop_shapes.begin(), caps.coop_shapes.end(), std::back_inserter(matrices),
               [&](const CoopShape &s) { return s.bf16 == own_bf16; });
  return matrices;
}

uint32_t attend_subgroup(const Caps &caps) {
  return chooses_sizes(caps) && caps.vendor_id == kIntel ? caps.min_subgroup_size : caps.subgroup_size;
}

namespace {

// Shows the tiles of attend_coopmat.comp, the best first, to `taken` until it says yes; returns whether it did.
template <class Taken>
bool any_tile(const Caps &caps, const AttendShape &shape, uint32_t heads, uint32_t redo_rows, Taken taken) {
  for (const CoopShape &matrix : attend_matrices(caps, shape.dtype))
    for (const bool wide : {false, true}) {
      if (!wide && (!matrix.f16_accumulators || choice("TILE_WIDE", 0) != 0)) continue;
      const auto tile = coop_tile(caps, shape, matrix, wide, heads, redo_rows);
      if (tile && taken(*tile)) return true;
    }
  return false;
}

}  // namespace

bool attend_coopmat_serves(const Caps &caps, const AttendShape &shape, uint32_t redo_rows) {
  return lacks(caps, shape, AttendTier::coopmat).empty() &&
         any_tile(caps, shape, 1, redo_rows, [](const CoopTile &) { return true; });
}

std::vector<AttendKernel> attend_coopmat(const Caps &caps, const AttendShape &shape, uint32_t heads, uint32_t redo_rows,
                                         std::string &why) {
  std::vector<AttendKernel> kernels;
  why = lacks(caps, shape, AttendTier::coopmat);
  if (!why.empty()) return kernels;
  any_tile(caps, shape, heads, redo_rows, [&](const CoopTile &tile) {
    kernels.push_back(kernel_of(caps, shape, tile, redo_rows));
    return false;
  });
  if (kernels.empty()) why = kNoTile;
  return kernels;
}

namespace {

struct FlexibleTile {
  uint32_t rows, keys, heads, tiles, step, size, m, n;

  uint32_t own() const { return tiles * m; }  // rows of a subgroup
  uint32_t threads() const { return heads * rows / own() * size; }
  // What attend_flexible.comp declares.
  uint32_t shared_bytes(int64_t dim) const { return 16 * 2 * keys * ((uint32_t(dim) / 8) | 1) + 4 * m * n + 16; }
};

bool sound(const FlexibleTile &t, const AttendShape &s) {
  return divides(t.n, s.dim) && divides(8, s.dim) && divides(t.rows, s.block) && divides(t.keys, s.block) &&
         divides(t.own(), t.rows) && divides(t.step, t.keys) && divides(t.n, t.step) && divides(t.m, 2 * t.keys) &&
         divides(4, t.m * t.n);
}

// The more rows a subgroup has, the fewer loads of K and V from shared memory for each product; but two tiles of rows
// are all that registers bear, and only several heads leave enough subgroups then.
std::optional<FlexibleTile> flexible_tile(const Caps &caps, const AttendShape &shape, const CoopShape &matrix,
                                          uint32_t heads, uint32_t redo_rows) {
  const bool short_rows = shape.dim <= 64;  // half the registers for Q and the output
  uint32_t best_keys = heads >= 4 || (heads == 2 && short_rows) ? 64 : 32;
  uint32_t best_step = short_rows ? 64 : heads >= 2 && matrix.bf16 ? 16 : 32;
  if (caps.software()) best_keys = best_step = 16;  // they compile for minutes what is unrolled that much
  best_keys = choice("TILE_KEYS", best_keys);
  best_step = choice("TILE_STEP", best_step);
  const uint32_t best_rows = choice("TILE_ROWS", uint32_t(std::min<int64_t>(shape.block, 64)));
  for (const uint32_t tiles : {choice("TILE_TILES", heads >= 2 ? 2 : 1), 1u})
    for (uint32_t keys = best_keys; keys >= 16; keys /= 2)
      for (uint32_t rows = best_rows; rows >= redo_rows; rows /= 2) {
        const FlexibleTile t{.rows = rows,
                             .keys = keys,
                             .heads = heads,
                             .tiles = tiles,
                             .step = std::min(best_step, keys),
                             .size = attend_subgroup(caps),
                             .m = matrix.m,
                             .n = matrix.n};
        if (fits(t, caps, shape)) return t;
      }
  return std::nullopt;
}

// Of attend_split.comp.
struct SplitTile {
  uint32_t rows, keys, split, turns, heads, tiles, size, m, n;

  uint32_t own() const { return tiles * m; }  // rows of a subgroup
  uint32_t subgroups() const { return heads * rows / own() * split; }
  uint32_t threads() const { return subgroups() * size; }
  // What attend_split.comp declares.
  uint32_t shared_bytes(int64_t dim) const {
    const uint32_t weights = split > 1 ? heads * rows * (keys / 8 | 1) : 1;
    return 16 * (2 * keys * (uint32_t(dim) / 8 | 1) + weights) + 4 * (m * n + split * heads * rows + subgroups() + 1);
  }
};

bool sound(const SplitTile &t, const AttendShape &s) {
  return divides(t.split * t.n, s.dim) && divides(8, s.dim) && divides(t.rows, s.block) &&
         divides(t.turns * t.keys, s.block) && divides(t.own(), t.rows) && divides(t.split * t.n, t.keys) &&
         divides(t.m, 2 * t.keys) && divides(4, t.m * t.n);
}

std::optional<SplitTile> split_tile(const Caps &caps, const AttendShape &shape, const CoopShape &matrix, uint32_t heads,
                                    uint32_t redo_rows) {
  const uint32_t best_rows = choice("TILE_ROWS", uint32_t(std::min<int64_t>(shape.block, 64)));
  // Of one head and long rows, four subgroups of two tiles of rows each; otherwise registers bear all channels of two.
  const uint32_t split = choice("TILE_SPLIT", heads == 1 && shape.dim > 64 ? 2 : 1);
  const uint32_t turns = choice("TILE_TURNS", split > 1 && !caps.software() ? 2 : 1);
  for (const uint32_t tiles : {choice("TILE_TILES", 2), 1u})
    for (uint32_t keys = choice("TILE_KEYS", caps.software() ? 16 : 32); keys >= 16; keys /= 2)
      for (uint32_t rows = best_rows; rows >= redo_rows; rows /= 2) {
        const SplitTile t{.rows = rows,
                          .keys = keys,
                          .split = split,
                          .turns = std::min(turns, std::max(uint32_t(shape.block) / keys, 1u)),
                          .heads = heads,
                          .tiles = tiles,
                          .size = attend_subgroup(caps),
                          .m = matrix.m,
                          .n = matrix.n};
        if (fits(t, caps, shape)) return t;
      }
  return std::nullopt;
}

// What both kernels with a known layout need.
std::string lacks(const Caps &caps, const AttendShape &shape, const CoopShape &matrix) {
  if (std::string why = lacks(caps, shape, AttendTier::flexible); !why.empty()) return why;
  if (matrix.bf16 != (shape.dtype == DType::bf16)) return "the device has no matrices of bf16";
  if (!shape.wide) return "rows that do not begin at multiples of 16 bytes";
  if (shape.dim > kFlexibleDim) return "a head dim beyond " + std::to_string(kFlexibleDim);
  return {};
}

// Both kernels, but for the constants from 12 on.
template <class Tile>
AttendKernel kernel_of(const Caps &caps, const AttendShape &shape, const CoopShape &matrix, const Tile &t,
                       const char *name, uint32_t constant3) {
  const bool f16_sums = caps.f16_sums && matrix.f16_sums;
  AttendKernel kernel;
  kernel.tier = AttendTier::flexible;
  kernel.rows = t.rows;
  kernel.heads = t.heads;
  kernel.dense = t.heads > 1;
  kernel.key = {
      .module = std::string(name) + (matrix.bf16 ? "_bf16"
                                     : f16_sums  ? "_f16_sums"
                                                 : "_f16"),
      .constants = {t.threads(), t.rows, t.keys, constant3, uint32_t(shape.dim), uint32_t(shape.block),
                    uint32_t(shape.dtype), uint32_t(shape.paired), uint32_t(shape.wide_out), t.size, t.m, t.n, t.tiles},
      .bindings = kAttendBindings,
      .push_bytes = sizeof(AttendPush),
      .subgroup_size = chooses_sizes(caps) ? t.size : 0,
      .full_subgroups = chooses_sizes(caps),
      .shared_bytes = t.shared_bytes(shape.dim)};
  return kernel;
}

void add(KernelKey &key, std::initializer_list<uint32_t> constants) {
  key.constants.insert(key.constants.end(), constants.begin(), constants.end());
}

// A weight of up to 2^kSlack is too much for sums in f16.
uint32_t slack_of(const Caps &caps, const CoopShape &matrix) {
  return std::bit_cast<uint32_t>(caps.f16_sums && matrix.f16_sums ? 0.0f : kSlack);
}

// The tile of such a kernel; nothing, with the reason in `why`.
template <class Found>
std::optional<Found> tile_or_reason(std::optional<Found> (*find)(const Caps &, const AttendShape &, const CoopShape &,
                                                                 uint32_t heads, uint32_t redo_rows),
                                    const Caps &caps, const AttendShape &shape, const CoopShape &matrix, uint32_t heads,
                                    uint32_t redo_rows, std::string &why) {
  why = lacks(caps, shape, matrix);
  if (!why.empty()) return std::nullopt;
  std::optional<Found> tile = find(caps, shape, matrix, heads, redo_rows);
  if (!tile) why = kNoTile;
  return tile;
}

}  // namespace

std::optional<AttendKernel> attend_flexible(const Caps &caps, const AttendShape &shape, const CoopShape &matrix,
                                            const CoopLayout &layout, uint32_t heads, uint32_t redo_rows,
                                            std::string &why) {
  const auto t = tile_or_reason(flexible_tile, caps, shape, matrix, heads, redo_rows, why);
  if (!t) return std::nullopt;
  AttendKernel kernel = kernel_of(caps, shape, matrix, *t, "attend_flexible", heads);
  add(kernel.key, {t->step, choice("TILE_AHEAD", 0), layout.slots, layout.slot_shift, layout.lane_bits,
                   slack_of(caps, matrix), redo_rows, uint32_t(heads > 1 && !kernel.dense)});
  return kernel;
}

std::optional<AttendKernel> attend_split(const Caps &caps, const AttendShape &shape, const CoopShape &matrix,
                                         const CoopLayout &layout, uint32_t heads, uint32_t redo_rows,
                                         std::string &why) {
  const auto t = tile_or_reason(split_tile, caps, shape, matrix, heads, redo_rows, why);
  if (!t) return std::nullopt;
  AttendKernel kernel = kernel_of(caps, shape, matrix, *t, "attend_split", t->split);
  add(kernel.key,
      {layout.slots, layout.slot_shift, layout.lane_bits, slack_of(caps, matrix), redo_rows, heads, t->turns});
  return kernel;
}

// attend.comp's kStateOf: the output, a maximum and a sum for each of the threads that share the row.
uint64_t attend_state_bytes(int64_t dim) { return 4 * (2 * padded_pairs(dim) + 2 * kColumns); }

}  // namespace seer::vulkan
