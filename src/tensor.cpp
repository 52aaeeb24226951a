#include "tensor.h"

#include <algorithm>
#include <array>

#include "checked.h"

namespace seer {

int64_t Tensor::elements() const {
  int64_t n = 1;
  for (int d = 0; d < ndim; ++d) n = checked_mul(n, shape[d]);
  return n;
}

int64_t Tensor::extent_bytes() const {
  int64_t last = 0;  // index of the last element
  for (int d = 0; d < ndim; ++d) {
    if (shape[d] == 0) return 0;
    last = checked_add(last, checked_mul(shape[d] - 1, stride[d]));
  }
  return checked_mul(checked_add(last, 1), element_size(dtype));
}

void pack_strides(Tensor &t) {
  if (std::any_of(t.stride, t.stride + t.ndim, [](int64_t s) { return s != 0; })) return;
  int64_t step = 1;
  for (int d = t.ndim - 1; d >= 0; --d) {
    t.stride[d] = step;
    step = checked_mul(step, std::max<int64_t>(t.shape[d], 1));
  }
}

bool may_self_overlap(const Tensor &t) {
  struct Axis {
    int64_t extent = 1, stride = 0;
  };
  std::array<Axis, 4> axes;
  for (int d = 0; d < t.ndim; ++d) {
    if (t.shape[d] == 0) return false;
    axes[size_t(d)] = {t.shape[d], t.stride[d]};
  }
  std::sort(axes.begin(), axes.end(), [](const Axis &a, const Axis &b) { return a.stride < b.stride; });
  // Distinct if every step of an axis jumps over all that the finer axes reach together.
  int64_t reach = 0;
  for (const Axis &axis : axes) {
    if (axis.extent == 1) continue;
    if (axis.stride <= reach) return true;
    reach = checked_add(reach, checked_mul(axis.extent - 1, axis.stride));
  }
  return false;
}

bool may_overlap(const Tensor &a, const Tensor &b) {
  if (!a.present() || a.mem != b.mem) return false;
  const auto a_bytes = static_cast<uint64_t>(a.extent_bytes()), b_bytes = static_cast<uint64_t>(b.extent_bytes());
  if (a_bytes == 0 || b_bytes == 0) return false;
  if (a.handle != b.handle) return false;
  const uint64_t a_first = a.handle ? a.offset : reinterpret_cast<uintptr_t>(a.data);
  const uint64_t b_first = b.handle ? b.offset : reinterpret_cast<uintptr_t>(b.data);
  return a_first <= b_first ? b_first - a_first < a_bytes : a_first - b_first < b_bytes;
}

}  // namespace seer
