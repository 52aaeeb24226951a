// Which attend kernel runs a call, and with which tile: pure functions of the device's limits and the call's shape.
#pragma once
#include <cstdint>

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
};

// A kernel and what the host must know of it.
struct AttendKernel {
  KernelKey key;
  uint32_t rows = 0;   // queries of an item; divides the block
  bool state = false;  // can go on from an earlier window of keys
};

// The scalar tier (shaders/attend.comp), for so many rows in all: tiles shrink when there are too few to fill the
// device. Throws unsupported where not even the smallest tile fits.
AttendKernel attend_scalar(const Caps &caps, const AttendShape &shape, int64_t rows);

// Bytes of state of one row, of kernels that can go on from it.
uint64_t attend_state_bytes(int64_t dim);

}  // namespace seer::vulkan
