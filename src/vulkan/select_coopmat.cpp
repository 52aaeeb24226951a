#include "select_coopmat.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>

#include "../../shaders/args.h"
#include "attend_layout.h"
#include "gate_proof.h"
#include "score_coopmat.h"
#include "select_push.h"

namespace seer::vulkan {
namespace {

// SEER_VK_<name> for tuning, else the choice made here.
uint32_t choice(const char *name, uint32_t chosen) {
  const char *text = std::getenv((std::string("SEER_VK_") + name).c_str());
  return text && *text ? uint32_t(std::strtoul(text, nullptr, 10)) : chosen;
}

bool divides(uint32_t a, int64_t b) { return a > 0 && b % a == 0; }

// Whether the kernel's assumptions hold, but for the layout.
bool sound(const Caps &caps, const SelectTile &t) {
  const CoopShape &s = t.shape;
  const uint32_t loads = kSelectCols * t.dim / 4;
  // Registers hold the vectors of rows whole. A compiler for CPUs takes half a minute for that: for tests only.
  const uint32_t most = caps.software() ? choice("TILE_SELECT_CPU", 0) : 128;
  return !s.bf16 && s.n == s.k && divides(s.n, kSelectCols) && divides(4, s.n) && divides(8, s.k) &&
         divides(s.k, t.dim) && t.dim <= most && divides(t.threads, loads) && divides(t.size, t.threads) &&
         t.threads <= caps.max_invocations && t.shared_bytes() <= caps.max_shared;
}

std::optional<SelectTile> tile_of(const Caps &caps, int64_t dim, uint32_t subgroups, uint32_t tiles) {
  constexpr uint32_t ops = VK_SUBGROUP_FEATURE_BASIC_BIT | VK_SUBGROUP_FEATURE_VOTE_BIT |
                           VK_SUBGROUP_FEATURE_BALLOT_BIT | VK_SUBGROUP_FEATURE_ARITHMETIC_BIT |
                           VK_SUBGROUP_FEATURE_SHUFFLE_BIT;
  if (!caps.coopmat || !caps.coopmat_score || !caps.coopmat_select || !caps.fp16 || !caps.subgroup_size_control ||
      !caps.full_subgroups || (caps.subgroup_ops & ops) != ops || caps.max_push < sizeof(SelectSplitPush))
    return std::nullopt;
  for (const CoopShape &shape : caps.coop_shapes)
    for (const uint32_t buffers : {choice("TILE_SELECT_BUFFERS", 2), 1u}) {
      const SelectTile t{.threads = subgroups * caps.subgroup_size,
                         .size = caps.subgroup_size,
                         .shape = shape,
                         .layout = {},
                         .dim = uint32_t(dim),
                         .tiles = tiles,
                         .buffers = buffers};
      if (sound(caps, t)) return t;
    }
  return std::nullopt;
}

// Once the device was asked, by its self-test (selftest.cpp).
std::optional<CoopLayout> known_layout(Gpu &gpu, const CoopShape &shape) {
  std::lock_guard lock(gpu.layouts_mutex);
  for (const auto &[known, layout] : gpu.layouts)
    if (known == shape) return layout;
  return std::nullopt;
}

}  // namespace

std::optional<CoopShape> select_shape(const Caps &caps) {
  const std::optional<SelectTile> tile = tile_of(caps, 64, 4, 1);
  return tile ? std::optional(tile->shape) : std::nullopt;
}

uint32_t SelectTile::shared_bytes() const {
  const uint32_t chunks = dim / 8;
  const uint32_t keys = buffers * kSelectCols * (2 * chunks + 1), queries = threads / size * shape.m * (chunks | 1);
  const uint32_t factors = buffers * std::max(threads, kSelectCols);
  return 16 * std::max(keys, queries) + 4 * (factors + shape.m * shape.n + rows()) + 12;
}

KernelKey SelectTile::key() const {
  return {.module = "select_coopmat",
          .constants = {threads, size, shape.m, shape.n, shape.k, dim, tiles, layout.slots, layout.slot_shift,
                        layout.lane_bits, buffers},
          .bindings = 5,
          .push_bytes = sizeof(SelectSplitPush),
          .subgroup_size = size,
          .full_subgroups = true,
          .shared_bytes = shared_bytes()};
}

bool selects_on_matrices(const VulkanDevice &device, int64_t dim) {
  const std::optional<SelectTile> tile = tile_of(device.caps, dim, 4, 1);
  return tile && known_layout(*device.gpu, tile->shape);
}

std::optional<SelectTile> select_tile(VulkanDevice &device, int64_t dim, int64_t rows) {
  const Caps &caps = device.caps;
  const uint32_t subgroups = choice("TILE_SELECT_SUBGROUPS", 4), fixed = choice("TILE_SELECT_TILES", 0);
  // A subgroup of more rows reads each key block for more of them, where there are enough items all the same.
  for (const uint32_t tiles : {2u, 1u}) {
    std::optional<SelectTile> tile = tile_of(caps, dim, subgroups, fixed ? fixed : tiles);
    if (!tile || (!fixed && tiles > 1 && rows < int64_t{2} * std::max(caps.cores, 8u) * tile->rows())) continue;
    const std::optional<CoopLayout> layout = known_layout(*device.gpu, tile->shape);
    if (!layout) return std::nullopt;
    tile->layout = *layout;
    if (select_proven(device, *tile)) return tile;
  }
  return std::nullopt;
}

void record_select_split(VulkanDevice &device, Exec &exec, const SelectTile &tile, const SelectSplit &what,
                         bool beside) {
  Recorder &recorder = *device.recorder;
  const SelectArgs &args = what.args;
  const Sequence &s = what.sequence;
  const GateVectors &gate = args.gate;
  const int64_t q_row = gate.q_heads * gate.dim;
  const Window k = recorder.window(gate.k + s.k_row * gate.k_heads * gate.dim, uint64_t(what.k_vectors * gate.dim * 4));
  const Window split = recorder.window(what.split_k, split_bytes(what.k_vectors, gate.dim));
  const auto bytes = [&](const Piece &p) {
    return checked_mul(std::max(select_mask_words(args, p), checked_mul(p.rows, q_row)), 4);
  };
  each_piece(device.caps, {0, what.rows, 0, args.q_heads}, bytes, [&](const Piece &p) {
    const Window q = recorder.window(gate.q + (s.q_row + p.row) * q_row, uint64_t(p.rows * q_row * 4));
    const SelectOut out = select_out(recorder, args, s, p);
    auto push = select_push<SelectSplitPush>(args, s, p, out);
    push.q_skip = q.skip;
    push.k_skip = k.skip;
    push.split_skip = split.skip;
    push.powers = split.skip / 4 + uint32_t(what.k_vectors * gate.dim);
    push.q_heads = uint32_t(gate.q_heads);
    push.k_heads = uint32_t(gate.k_heads);
    push.head = uint32_t(p.head);
    push.row_tiles = uint32_t(ceil_div(p.rows, int64_t{tile.rows()}));
    push.scale = float(gate.scale);
    const int64_t cols = causal_blocks(p.row + p.rows - 1, s.q_len, s.offset(), args.block);
    const uint64_t items = uint64_t(p.heads) * push.row_tiles;
    recorder.dispatch(exec, device.kernel(tile.key()), std::array{q, k, split, out.mask, out.stats}, push,
                      {.items = items,
                       .flops = 8.0 * tile.rows() * double(cols) * double(gate.dim),
                       .units = uint64_t(p.rows * p.heads),
                       .beside = beside});
    beside = true;
  });
}

}  // namespace seer::vulkan
