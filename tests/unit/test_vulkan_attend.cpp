// attend on Vulkan, what the host decides: no device needed.
#include <doctest/doctest.h>

#include <random>
#include <set>
#include <vector>

#include "status.h"
#include "vulkan/attend_layout.h"
#include "vulkan/attend_parts.h"
#include "vulkan/attend_tile.h"

namespace seer::vulkan {
namespace {

Caps caps_of(uint32_t shared, uint32_t invocations) {
  Caps caps;
  caps.max_shared = shared;
  caps.max_invocations = invocations;
  caps.max_range = 128 << 20;
  caps.offset_alignment = 16;
  return caps;
}

// The same with cooperative matrices.
Caps matrix_caps(uint32_t shared, uint32_t invocations, uint32_t size, std::vector<CoopShape> shapes) {
  Caps caps = caps_of(shared, invocations);
  caps.coopmat = caps.fp16 = true;
  caps.subgroup_size = caps.min_subgroup_size = size;
  caps.subgroup_ops = ~0u;
  caps.coop_shapes = std::move(shapes);
  return caps;
}

TokenView view(int64_t tokens, int64_t heads, int64_t dim, bool heads_outside) {
  return {.dtype = DType::f16,
          .heads = heads,
          .dim = dim,
          .stride_batch = tokens * heads * dim,
          .stride_token = heads_outside ? dim : heads * dim,
          .stride_head = heads_outside ? tokens * dim : dim};
}

TEST_CASE("vulkan attend: parts hold every row once, within what bindings see") {
  std::minstd_rand random(7);
  int windowed = 0, split = 0;
  for (int round = 0; round < 300; round++) {
    const int64_t block = 32 << random() % 3, group = 1 + random() % 4, kv_heads = 1 + random() % 4;
    const int64_t q_heads = group * kv_heads, dim = 64, q_len = 1 + random() % 700, k_len = q_len + random() % 300;
    const Sequence sequence{.q_len = q_len, .k_len = k_len, .total_len = k_len};
    const bool heads_outside = random() % 2;
    int dummy = 0;
    AttendArgs args{.sequences = {&sequence, 1}, .block = block};
    args.q = args.out = view(q_len, q_heads, dim, heads_outside);
    args.k = args.v = view(k_len, kv_heads, dim, heads_outside);
    args.lse = {.data = reinterpret_cast<float *>(&dummy), .stride_head = q_len};
    args.mask.words = reinterpret_cast<uint32_t *>(&dummy);
    args.mask.stride_row = mask_words(sequence.k_blocks(block));
    args.mask.stride_head = sequence.q_blocks(block) * args.mask.stride_row;
    Caps caps = caps_of(32768, 256);
    caps.max_range = 1u << (15 + random() % 8);
    const auto fits = [&](int64_t bytes) { return uint64_t(bytes) + caps.offset_alignment <= caps.max_range; };

    std::set<std::pair<int64_t, int64_t>> rows;  // (block row, head)
    int64_t parts = 0;
    const auto use = [&](const AttendPart &p) {
      parts++;
      REQUIRE(p.query % block == 0);
      REQUIRE((p.query + p.queries == q_len || p.queries % block == 0));
      for (int64_t q = p.query; q < p.query + p.queries; q += block)
        for (int64_t h = p.head; h < p.head + p.heads; h++) REQUIRE(rows.emplace(q / block, h).second);
      CHECK(p.kv_head == p.head / group);
      CHECK(p.kv_head + p.kv_heads - 1 == (p.head + p.heads - 1) / group);
      if (p.kv_heads > 1) CHECK((p.head % group == 0 && p.heads % group == 0));
      CHECK(fits(attend_extent(args.q, p.queries, p.heads)));
      CHECK(fits(attend_extent(args.lse, p.queries, p.heads)));
      CHECK(fits(attend_extent(args.k, std::min(p.window, p.keys()), p.kv_heads)));
      if (p.whole()) return;
      windowed++;
      CHECK(p.window % block == 0);
      CHECK(attend_windows(caps, args));
      const int64_t padded = (p.queries + block - 1) / block * block * p.heads;
      CHECK(padded <= kAttendStateRows);
      CHECK(fits(padded * int64_t(attend_state_bytes(dim))));
    };
    try {
      attend_parts(caps, args, use);
    } catch (const Error &error) {
      CHECK(error.status() == Status::unsupported);
      // A block of one head must really be too much for it.
      const bool possible = fits(attend_extent(args.q, block, 1)) && fits(attend_extent(args.k, block, 1)) &&
                            fits(block * int64_t(attend_state_bytes(dim)));
      CHECK(!possible);
      continue;
    }
    CHECK(int64_t(rows.size()) == sequence.q_blocks(block) * q_heads);
    split += parts > 1;
  }
  CHECK(windowed > 0);
  CHECK(split > 0);
}

TEST_CASE("vulkan attend: a scalar tile for every device and shape") {
  for (const uint32_t shared : {16384u, 32768u, 49152u, 65536u, 232448u})
    for (const uint32_t invocations : {128u, 256u, 1024u})
      for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
        for (const int64_t block : {32, 64, 128})
          for (int64_t dim = 1; dim <= 256; dim++)
            for (const int64_t rows : {1, 100000}) {
              const Caps caps = caps_of(shared, invocations);
              const AttendKernel kernel = attend_scalar(caps, {.dtype = dtype, .dim = dim, .block = block}, rows);
              const auto &c = kernel.key.constants;
              const uint32_t threads = c[0], keys = c[2], columns = c[3];
              REQUIRE(kernel.key.shared_bytes <= shared);
              REQUIRE(threads <= invocations);
              REQUIRE(c[1] == kernel.rows);
              REQUIRE((block % kernel.rows == 0 && block % keys == 0 && keys % columns == 0));
              REQUIRE((kernel.rows * columns % threads == 0 && kernel.rows * columns >= threads));
            }
}

TEST_CASE("vulkan attend: matrix tiles keep what their kernel assumes") {
  int found = 0, narrow = 0;
  for (const CoopShape &m : {CoopShape{16, 16, 16}, CoopShape{16, 8, 16}, CoopShape{8, 16, 16}, CoopShape{8, 8, 16},
                             CoopShape{8, 8, 8}, CoopShape{32, 32, 16}, CoopShape{7, 8, 8}})
    for (const uint32_t size : {4u, 8u, 16u, 32u, 64u, 128u})
      for (const uint32_t shared : {16384u, 32768u, 49152u, 65536u})
        for (const int64_t dim : {64, 80, 96, 128, 256})
          for (const int64_t block : {32, 64, 128})
            for (const uint32_t heads : {1u, 2u}) {
              CoopShape shape = m;
              shape.f16_accumulators = block != 64;
              const Caps caps = matrix_caps(shared, 512, size, {shape});
              std::string why;
              const AttendShape of{.dtype = DType::bf16, .dim = dim, .block = block};
              const auto kernels = attend_coopmat(caps, of, heads, 16, why);
              CHECK(kernels.empty() == !why.empty());
              if (heads == 1) CHECK(attend_coopmat_serves(caps, of, 16) == !kernels.empty());
              for (const AttendKernel &kernel : kernels) {
                found++;
                const auto &c = kernel.key.constants;
                const uint32_t threads = c[0], rows = c[1], keys = c[2], tiles = c[14], split = c[15], turns = c[16];
                const bool wide = kernel.key.module == "attend_coopmat_f16_wide";
                REQUIRE((wide || (shape.f16_accumulators && kernel.key.module == "attend_coopmat_f16")));
                narrow += !wide;
                REQUIRE((threads == heads * rows / (tiles * m.m) * split * size && threads <= 512));
                REQUIRE(kernel.key.shared_bytes <= shared);
                REQUIRE((block % rows == 0 && block % (turns * keys) == 0 && rows % 16 == 0 && kernel.rows == rows));
                // A matrix's rows of Q come in one load; parts of keys and channels are whole matrices.
                REQUIRE((2 * keys % m.m == 0 && rows % (tiles * m.m) == 0));
                REQUIRE((dim % (split * m.n) == 0 && dim % m.k == 0));
                REQUIRE((keys % (split * m.n) == 0 && keys % m.k == 0));
                // Where the tiles of K and V were, there is room for a matrix of sums and for the output of its rows.
                const int64_t words = 2 * keys * (dim / 8 | 1) * 4;
                REQUIRE((m.m * m.n <= words && m.m * (dim / 4 | 1) * 4 <= words));
                REQUIRE(kernel.dense == (heads > 1));
              }
            }
  CHECK(found > 100);
  CHECK(narrow > 50);

  Caps caps = matrix_caps(49152, 1024, 32, {{16, 16, 16, false}, {16, 16, 16, true}});
  std::string why;
  const AttendShape bf16{.dtype = DType::bf16, .dim = 128, .block = 64};
  CHECK(attend_coopmat(caps, bf16, 1, 16, why).front().key.module == "attend_coopmat_bf16_wide");
  for (CoopShape &shape : caps.coop_shapes) shape.f16_accumulators = true;
  CHECK(attend_coopmat(caps, bf16, 1, 16, why).front().key.module == "attend_coopmat_bf16");
  CHECK(attend_coopmat(caps, {.dtype = DType::f32, .dim = 128, .block = 64}, 1, 16, why).empty());
  CHECK(!why.empty());
}

// What the lanes of a subgroup say they hold, where row(lane, e) and column(lane, e) are the driver's way.
template <class Row, class Column>
std::vector<uint32_t> numbers_of(const CoopShape &shape, uint32_t size, Row row, Column column) {
  const uint32_t length = shape.m * shape.n / size;
  std::vector<uint32_t> numbers(2 * size_t(length + 1) * size, ~0u);
  for (uint32_t lane = 0; lane < size; lane++)
    for (uint32_t e = 0; e < length; e++)
      for (uint32_t a : {0u, 1u}) numbers[(2 * e + a) * size + lane] = row(lane, e) * shape.n + column(lane, e);
  return numbers;
}

TEST_CASE("vulkan attend: layouts of matrices") {
  const CoopShape square{16, 16, 16};
  // NVIDIA: four lanes a row, two rows a lane.
  auto numbers = numbers_of(
      square, 32, [](uint32_t lane, uint32_t e) { return lane / 4 + 8 * (e / 4); },
      [](uint32_t lane, uint32_t e) { return lane % 4 * 2 + e % 2 + 8 * (e / 2 % 2); });
  CHECK(find_layout(square, 32, numbers) == CoopLayout{.slots = 2, .slot_shift = 2, .lane_bits = 3});
  // lavapipe: a lane holds a column.
  const CoopShape small{8, 8, 8};
  CHECK(find_layout(small, 8,
                    numbers_of(
                        small, 8, [](uint32_t, uint32_t e) { return e; }, [](uint32_t l, uint32_t) { return l; })) ==
        CoopLayout{.slots = 8, .slot_shift = 0, .lane_bits = 7});
  // A lane holds a row of its own.
  CHECK(find_layout(small, 8,
                    numbers_of(
                        small, 8, [](uint32_t l, uint32_t) { return l; }, [](uint32_t, uint32_t e) { return e; })) ==
        CoopLayout{.slots = 1, .slot_shift = 0, .lane_bits = 0});
  // Rows that no bits of an element's or a lane's number tell.
  CHECK(!find_layout(
      small, 8,
      numbers_of(
          small, 8, [](uint32_t l, uint32_t e) { return (l + e) % 8; }, [](uint32_t l, uint32_t) { return l; })));
  CHECK(!find_layout({16, 8, 16}, 32, numbers));  // N is not K

  auto wrong = numbers;
  std::swap(wrong[32], wrong[33]);  // A is not held as accumulators are
  CHECK(!find_layout(square, 32, wrong));
  wrong = numbers;
  wrong[0] = wrong[1] = numbers[2];  // an element twice, another never
  CHECK(!find_layout(square, 32, wrong));
  wrong = numbers;
  wrong[2 * 8 * 32 + 5] = 7;  // a lane holds more than its share
  CHECK(!find_layout(square, 32, wrong));
  numbers.pop_back();
  CHECK(!find_layout(square, 32, numbers));
}

TEST_CASE("vulkan attend: tiles of matrices of known layout keep what their kernel assumes") {
  int found = 0;
  for (const uint32_t m : {8u, 16u})
    for (const uint32_t size : {8u, 16u, 32u, 64u})
      for (const uint32_t shared : {16384u, 32768u, 49152u})
        for (const uint32_t invocations : {128u, 256u, 1024u})
          for (const int64_t dim : {48, 64, 80, 96, 100, 128, 256})
            for (const int64_t block : {32, 64, 128})
              for (const uint32_t heads : {1u, 2u, 4u}) {
                Caps caps = matrix_caps(shared, invocations, size, {{m, m, m, false}});
                const AttendShape shape{.dtype = DType::f16, .dim = dim, .block = block, .paired = true, .wide = true};
                std::string why;
                const auto kernel = attend_flexible(caps, shape, caps.coop_shapes[0], {.slots = 1}, heads, 16, why);
                CHECK(kernel.has_value() == why.empty());
                if (!kernel) continue;
                found++;
                const auto &c = kernel->key.constants;
                const uint32_t threads = c[0], rows = c[1], keys = c[2], tiles = c[12], step = c[13];
                REQUIRE((threads == heads * rows / (tiles * m) * size && threads <= invocations));
                REQUIRE(kernel->key.shared_bytes <= shared);
                REQUIRE((block % rows == 0 && block % keys == 0 && rows % 16 == 0 && kernel->rows == rows));
                REQUIRE((keys % step == 0 && step % m == 0 && dim % m == 0 && dim <= 128));
                REQUIRE(2 * keys % m == 0);  // a subgroup's rows of Q, and of the output, come in one load
              }
  CHECK(found > 100);

  Caps caps = matrix_caps(49152, 1024, 32, {{16, 16, 16, false}, {16, 16, 16, true}});
  const AttendShape bf16{.dtype = DType::bf16, .dim = 128, .block = 64, .paired = true, .wide = true};
  std::string why;
  CHECK(attend_matrices(caps, DType::bf16) == std::vector<CoopShape>{{16, 16, 16, true}});
  CHECK(attend_flexible(caps, bf16, caps.coop_shapes[1], {}, 1, 16, why)->key.module == "attend_flexible_bf16");
  CHECK(!attend_flexible(caps, bf16, caps.coop_shapes[0], {}, 1, 16, why));  // not by way of f16
  AttendShape narrow = bf16;
  narrow.wide = false;
  CHECK(!attend_flexible(caps, narrow, caps.coop_shapes[1], {}, 1, 16, why));
  caps.tier = AttendTier::coopmat;
  CHECK(!attend_flexible(caps, bf16, caps.coop_shapes[1], {}, 1, 16, why));
  CHECK(why == "SEER_VK_TIER");
  CHECK(!attend_coopmat(caps, bf16, 1, 16, why).empty());
}

TEST_CASE("vulkan attend: tiles that subgroups split keep what their kernel assumes") {
  int found = 0;
  for (const uint32_t m : {8u, 16u})
    for (const uint32_t size : {8u, 16u, 32u, 64u})
      for (const uint32_t shared : {16384u, 32768u, 49152u})
        for (const uint32_t invocations : {64u, 128u, 1024u})
          for (const int64_t dim : {32, 48, 64, 80, 96, 100, 128, 256})
            for (const int64_t block : {32, 64, 128}) {
              Caps caps = matrix_caps(shared, invocations, size, {{m, m, m, false}});
              const AttendShape shape{.dtype = DType::f16, .dim = dim, .block = block, .paired = true, .wide = true};
              std::string why;
              const auto kernel = attend_split(caps, shape, caps.coop_shapes[0], {.slots = 1}, 1, 16, why);
              CHECK(kernel.has_value() == why.empty());
              if (!kernel) continue;
              found++;
              const auto &c = kernel->key.constants;
              const uint32_t threads = c[0], rows = c[1], keys = c[2], split = c[3], tiles = c[12];
              REQUIRE((threads == rows / (tiles * m) * split * size && threads <= invocations));
              REQUIRE(kernel->key.shared_bytes <= shared);
              REQUIRE((block % rows == 0 && block % keys == 0 && rows % 16 == 0 && kernel->rows == rows));
              // Whole matrices of keys and of channels for each subgroup of a row.
              REQUIRE((keys % (split * m) == 0 && dim % (split * m) == 0 && dim <= 128));
              REQUIRE(2 * keys % m == 0);
              REQUIRE((c.size() == 20 && c[17] == 16 && c[18] == 1 && block % (c[19] * keys) == 0));
            }
  CHECK(found > 100);
}

}  // namespace
}  // namespace seer::vulkan
