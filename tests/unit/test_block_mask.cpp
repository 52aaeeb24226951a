#include "block_mask.h"

#include <algorithm>
#include <random>

#include "files.h"

using namespace seer;

namespace {

std::vector<uint8_t> random_bytes(int64_t n, uint32_t seed, double density) {
  std::mt19937 random(seed);
  std::bernoulli_distribution keep(density);
  std::vector<uint8_t> bytes(size_t(n), 0);
  for (uint8_t &b : bytes) b = keep(random);
  return bytes;
}

}  // namespace

TEST_CASE("ranges of bits") {
  for (int64_t first = 0; first <= 100; first += 3)
    for (int64_t last = 0; last <= 128; ++last) {
      uint32_t row[5] = {0, 0, 0, 0, 0xabcdu};
      mask_set_range(row, first, last);
      int64_t wrong = 0;
      for (int64_t j = 0; j < 128; ++j) wrong += mask_test(row, j) != (j >= first && j < last);
      REQUIRE(wrong == 0);
      REQUIRE(row[4] == 0xabcdu);
      REQUIRE(mask_count(row, 128) == std::max<int64_t>(0, last - first));
    }
}

TEST_CASE("clearing and counting below any bit") {
  for (int64_t n = 0; n <= 130; ++n) {
    uint32_t row[5] = {~0u, ~0u, ~0u, ~0u, ~0u};
    CHECK(mask_count(row, n) == n);
    mask_clear_from(row, n, 4);
    CHECK(mask_count(row, 128) == std::min<int64_t>(n, 128));
    CHECK(row[4] == ~0u);
    if (n > 0) CHECK(mask_test(row, std::min<int64_t>(n, 128) - 1));
  }
}

TEST_CASE("causal blocks of a row") {
  CHECK(causal_blocks(0, 256, 0, 64) == 1);
  CHECK(causal_blocks(3, 256, 0, 64) == 4);
  CHECK(causal_blocks(3, 200, 0, 64) == 4);    // a tail row
  CHECK(causal_blocks(0, 10, 0, 64) == 1);     // shorter than a block
  CHECK(causal_blocks(0, 64, 128, 64) == 3);   // a later chunk
  CHECK(causal_blocks(0, 64, 100, 64) == 3);   // not on a border: keys 0 .. 163
  CHECK(causal_blocks(1, 100, 100, 64) == 4);  // keys 0 .. 199
}

TEST_CASE("masks go to bytes and lists and back") {
  for (int64_t cols : {0, 1, 31, 32, 33, 64, 100})
    for (double density : {0.0, 0.1, 1.0}) {
      const auto bytes = random_bytes(3 * 5 * cols, uint32_t(cols), density);
      const BlockMask mask = BlockMask::from_bytes(bytes, 3, 5, cols);
      CHECK(mask.to_bytes() == bytes);
      CHECK(mask.count() == std::count(bytes.begin(), bytes.end(), 1));
      const BlockMask::Lists lists = mask.to_lists();
      CHECK(int64_t(lists.indices.size()) == mask.count());
      for (size_t i = 0; i + 1 < lists.offsets.size(); ++i)
        CHECK(std::is_sorted(lists.indices.begin() + lists.offsets[i], lists.indices.begin() + lists.offsets[i + 1]));
      CHECK(BlockMask::from_lists(lists, 3, 5, cols).to_bytes() == bytes);
    }
  const uint8_t any[] = {0, 2, 255, 1};
  CHECK(BlockMask::from_bytes(any, 1, 1, 4).to_bytes() == std::vector<uint8_t>{0, 1, 1, 1});
}

TEST_CASE("a view names the same bits") {
  BlockMask mask(2, 3, 40);
  mask.set(1, 2, 39);
  const BlockMaskView view = mask.view();
  CHECK(mask_test(view.row(0, 1, 2), 39));
  mask_set(view.row(0, 0, 1), 33);
  CHECK(mask.test(0, 1, 33));
  CHECK(mask.count() == 2);
}

TEST_CASE("malformed bytes and lists are refused") {
  const uint8_t bytes[4] = {};
  CHECK_FAILS(Status::shape, "4 bytes, expected 6", BlockMask::from_bytes(bytes, 1, 2, 3));
  CHECK_FAILS(Status::shape, "negative", BlockMask(1, -1, 3));
  CHECK_FAILS(Status::out_of_bounds, "overflows", BlockMask(int64_t{1} << 40, int64_t{1} << 40, 3));
  const auto lists = [](std::vector<int64_t> offsets, std::vector<int32_t> indices) {
    return BlockMask::from_lists({std::move(offsets), std::move(indices)}, 1, 2, 3);
  };
  CHECK(lists({0, 1, 3}, {2, 0, 1}).count() == 3);
  CHECK_FAILS(Status::shape, "2 offsets, expected 3", lists({0, 1}, {0}));
  CHECK_FAILS(Status::shape, "0 offsets", lists({}, {}));
  CHECK_FAILS(Status::out_of_bounds, "expected 0 to 1", lists({0, 1, 2}, {0}));
  CHECK_FAILS(Status::out_of_bounds, "expected 0 to 1", lists({1, 1, 1}, {0}));
  CHECK_FAILS(Status::out_of_bounds, "offset 2", lists({0, 5, 1}, {0}));
  CHECK_FAILS(Status::out_of_bounds, "offset 1", lists({0, -1, 1}, {0}));
  CHECK_FAILS(Status::out_of_bounds, "keeps key block 3", lists({0, 1, 1}, {3}));
  CHECK_FAILS(Status::out_of_bounds, "keeps key block -1", lists({0, 0, 1}, {-1}));
}

TEST_CASE("the validator knows the triangle and empty rows") {
  BlockMask mask(1, 3, 3);
  mask.validate(192, 192, 64, false);
  CHECK_FAILS(Status::invalid_argument, "row 0 keeps no block", mask.validate(192, 192, 64, true));
  for (int64_t r = 0; r < 3; ++r) mask.set(0, r, r);
  mask.validate(192, 192, 64, true);
  mask.validate(130, 192, 64, true);
  CHECK_FAILS(Status::shape, "expected 3 and 4", mask.validate(192, 256, 64, true));
  mask.set(0, 1, 2);
  CHECK_FAILS(Status::invalid_argument, "row 1 keeps 1 blocks after its last causal block 1",
              mask.validate(192, 192, 64, true));
  CHECK_FAILS(Status::shape, "keys >= queries", mask.validate(192, 128, 64, true));
  // A bit behind the last column is outside as well.
  BlockMask tail(1, 1, 1);
  *tail.row(0, 0) = 3;
  CHECK_FAILS(Status::invalid_argument, "row 0 keeps 1 blocks", tail.validate(64, 64, 64, true));
}
