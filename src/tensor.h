// A borrowed view of memory: what the C API's seer_tensor becomes once its struct is checked.
#pragma once
#include <cstdint>

#include "dtype.h"

namespace seer {

// Same values as seer_mem, less BUFFER: a buffer has become the memory behind it.
enum class Mem : int32_t { none = 0, host = 1, cuda = 2, vulkan = 3 };

struct Tensor {
  Mem mem = Mem::none;
  DType dtype = DType::none;
  int ndim = 0;
  void *data = nullptr;  // address of the first element (offset already added); null if handle is set
  uint64_t handle = 0;   // vulkan: VkBuffer, of memory that is not the library's
  uint64_t offset = 0;   // with handle: bytes to the first element
  uint64_t size = 0;     // bytes reachable from the first element; 0 = unknown (cuda)
  int64_t shape[4] = {};
  int64_t stride[4] = {};  // elements

  bool present() const { return mem != Mem::none; }
  int64_t elements() const;  // product of the shape, checked
  // Bytes from the first element to the end of the last; 0 if any extent is 0. Checked.
  int64_t extent_bytes() const;
};

// Gives a view whose strides are all zero packed ones (last dimension fastest). Checked.
void pack_strides(Tensor &t);
// Whether two distinct indices may name the same element. Exact for the strides of permuted and sliced packed tensors.
bool may_self_overlap(const Tensor &t);
// Whether the byte ranges of two views of the same memory kind intersect.
bool may_overlap(const Tensor &a, const Tensor &b);

}  // namespace seer
