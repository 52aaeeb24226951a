#include "tensor.h"

#include <algorithm>
#include <vector>

#include "files.h"

using namespace seer;

namespace {

Tensor tensor(std::vector<int64_t> shape, std::vector<int64_t> stride = {}, DType dtype = DType::f32) {
  Tensor t;
  t.mem = Mem::host;
  t.dtype = dtype;
  t.ndim = int(shape.size());
  std::copy(shape.begin(), shape.end(), t.shape);
  std::copy(stride.begin(), stride.end(), t.stride);
  return t;
}

// Whether two indices name one element, by trying all.
bool overlaps_really(const Tensor &t) {
  std::vector<int64_t> seen;
  int64_t i[4] = {};
  if (t.elements() == 0) return false;
  for (;;) {
    int64_t at = 0;
    for (int d = 0; d < t.ndim; ++d) at += i[d] * t.stride[d];
    seen.push_back(at);
    int d = t.ndim - 1;
    while (d >= 0 && ++i[d] == t.shape[d]) i[d--] = 0;
    if (d < 0) break;
  }
  std::sort(seen.begin(), seen.end());
  return std::adjacent_find(seen.begin(), seen.end()) != seen.end();
}

}  // namespace

TEST_CASE("elements and bytes of a view") {
  Tensor t = tensor({2, 3, 4});
  pack_strides(t);
  CHECK(t.stride[0] == 12);
  CHECK(t.stride[1] == 4);
  CHECK(t.stride[2] == 1);
  CHECK(t.elements() == 24);
  CHECK(t.extent_bytes() == 96);
  CHECK(tensor({2, 3}, {100, 1}, DType::bf16).extent_bytes() == 206);  // a gap between the rows, none after the last
  CHECK(tensor({5, 0, 3}, {100, 10, 1}).extent_bytes() == 0);
  CHECK(tensor({5, 0, 3}).elements() == 0);
}

TEST_CASE("only a view without strides is packed") {
  Tensor t = tensor({2, 3}, {7, 1});
  pack_strides(t);
  CHECK(t.stride[0] == 7);
  Tensor empty = tensor({2, 0, 3});
  pack_strides(empty);
  CHECK(empty.stride[2] == 1);
  CHECK(empty.extent_bytes() == 0);
}

TEST_CASE("sizes that overflow are errors") {
  const int64_t big = int64_t{1} << 40;
  CHECK_FAILS(Status::out_of_bounds, "overflows", tensor({big, big}).elements());
  CHECK_FAILS(Status::out_of_bounds, "overflows", tensor({big, 2}, {big, 1}).extent_bytes());
  CHECK_FAILS(Status::out_of_bounds, "overflows", tensor({2}, {INT64_MAX - 1}, DType::f32).extent_bytes());
  Tensor t = tensor({big, big, big});
  CHECK_FAILS(Status::out_of_bounds, "overflows", pack_strides(t));
}

TEST_CASE("a view that names an element twice is seen") {
  CHECK_FALSE(may_self_overlap(tensor({2, 3, 4}, {12, 4, 1})));
  CHECK_FALSE(may_self_overlap(tensor({2, 3, 4}, {4, 8, 1})));    // permuted
  CHECK_FALSE(may_self_overlap(tensor({2, 3, 4}, {100, 9, 2})));  // sliced
  CHECK_FALSE(may_self_overlap(tensor({1, 3}, {0, 1})));          // the stride of an extent of 1 does not matter
  CHECK_FALSE(may_self_overlap(tensor({2, 0}, {0, 0})));
  CHECK(may_self_overlap(tensor({2, 3}, {0, 1})));  // broadcast
  CHECK(may_self_overlap(tensor({2, 3}, {2, 1})));
  CHECK(may_self_overlap(tensor({2, 2, 2}, {3, 2, 1})));  // 3 = 2 + 1
  // Exact where strides are a permutation or slice of packed ones; never silent elsewhere.
  const std::vector<int64_t> exact[] = {{12, 3, 1}, {3, 12, 1}, {1, 12, 3}, {3, 1, 12},
                                        {24, 6, 2}, {0, 3, 1},  {1, 1, 4}};
  const std::vector<int64_t> other[] = {{2, 3, 1}, {5, 3, 2}, {7, 4, 3}, {6, 4, 9}};
  int64_t overlapping = 0;
  for (int64_t a = 1; a <= 4; ++a)
    for (int64_t b = 1; b <= 4; ++b)
      for (int64_t c = 1; c <= 3; ++c) {
        for (const auto &stride : exact)
          CHECK(may_self_overlap(tensor({a, b, c}, stride)) == overlaps_really(tensor({a, b, c}, stride)));
        for (const auto &stride : other)
          if (overlaps_really(tensor({a, b, c}, stride))) {
            CHECK(may_self_overlap(tensor({a, b, c}, stride)));
            ++overlapping;
          }
      }
  CHECK(overlapping > 10);
}

TEST_CASE("two views overlap where their bytes do") {
  float memory[64];
  Tensor a = tensor({4, 4}, {4, 1}), b = a;
  a.data = memory;
  b.data = memory + 16;
  CHECK_FALSE(may_overlap(a, b));
  CHECK_FALSE(may_overlap(b, a));
  b.data = memory + 15;
  CHECK(may_overlap(a, b));
  CHECK(may_overlap(b, a));
  b.shape[0] = 0;
  CHECK_FALSE(may_overlap(a, b));
  b.shape[0] = 4;
  b.mem = Mem::cuda;
  CHECK_FALSE(may_overlap(a, b));
  CHECK_FALSE(may_overlap(Tensor{}, Tensor{}));

  a.mem = b.mem = Mem::vulkan;
  a.handle = b.handle = 7;
  a.offset = 0;
  b.offset = 64;
  CHECK_FALSE(may_overlap(a, b));
  b.offset = 60;
  CHECK(may_overlap(a, b));
  b.handle = 8;
  CHECK_FALSE(may_overlap(a, b));
}
