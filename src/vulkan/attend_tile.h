// Which attend kernel runs a call, and with which tile: pure functions of the device's limits and the call's shape.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include "../dtype.h"
#include "pipelines.h"

namespace seer::vulkan {

// What a kernel of attend is specialized for.
struct AttendShape {
  DType dtype = DType::none;
  int64_t dim = 0;
  int64_t block = 0;
  // Every row of q, k, v and out begins at an even element and dim is even: 16-bit kernels move whole words.
  bool paired = false;
  bool wide = false;  // every row of q, k and v begins at a multiple of 16 bytes
};

// Which kernels there are, worst first. SEER_VK_TIER names the best that may be used.
enum class AttendTier { scalar, coopmat };

// A kernel and what the host must know of it.
struct AttendKernel {
  KernelKey key;
  uint32_t rows = 0;   // queries of an item; divides the block
  uint32_t heads = 1;  // of an item; divides the GQA group
  // scalar: can go on from an earlier window of keys. coopmat: cannot, and marks items for scalar to compute again.
  AttendTier tier = AttendTier::scalar;
};

// The scalar tier (shaders/attend.comp), for so many rows in all: tiles shrink when there are too few to fill the
// device. Throws unsupported where not even the smallest tile fits.
AttendKernel attend_scalar(const Caps &caps, const AttendShape &shape, int64_t rows);

// Cooperative matrices (shaders/attend_coopmat.comp). Items are `heads` heads, 1 or more, by at least redo_rows rows,
// the rows of scalar's items. Nothing, with the reason in `why`, where the device or the shape does not allow it.
std::optional<AttendKernel> attend_coopmat(const Caps &caps, const AttendShape &shape, uint32_t heads,
                                           uint32_t redo_rows, std::string &why);

// Bytes of state of one row, of kernels that can go on from it.
uint64_t attend_state_bytes(int64_t dim);

}  // namespace seer::vulkan
