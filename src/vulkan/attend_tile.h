// Which attend kernel runs a call, and with which tile: pure functions of the device's limits and the call's shape.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

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
  bool wide = false;      // every row of q, k and v begins at a multiple of 16 bytes
  bool wide_out = false;  // and every row of out
};

// A kernel and what the host must know of it.
struct AttendKernel {
  KernelKey key;
  uint32_t rows = 0;   // queries of an item; divides the block
  uint32_t heads = 1;  // of an item; divides the GQA group
  bool dense = false;  // takes no mask
  // scalar: can go on from an earlier window of keys. The others: cannot, and mark items for scalar to compute again.
  AttendTier tier = AttendTier::scalar;
};

// The scalar tier (shaders/attend.comp), for so many rows in all: tiles shrink when there are too few to fill the
// device. Throws unsupported where not even the smallest tile fits.
AttendKernel attend_scalar(const Caps &caps, const AttendShape &shape, int64_t rows);

// Cooperative matrices (shaders/attend_coopmat.comp): what may serve, the best first. Items are `heads` heads, 1 or, of
// calls without a mask, more, by at least redo_rows rows, the rows of scalar's items. None, with the reason in `why`,
// where the device or the shape does not allow it.
std::vector<AttendKernel> attend_coopmat(const Caps &caps, const AttendShape &shape, uint32_t heads, uint32_t redo_rows,
                                         std::string &why);

// Whether attend_coopmat has a kernel for one head: what a call's scratch depends on, found without naming kernels.
bool attend_coopmat_serves(const Caps &caps, const AttendShape &shape, uint32_t redo_rows);

// Cooperative matrices whose layout is known (shaders/attend_flexible.comp): the softmax stays in registers. As
// attend_coopmat otherwise.
std::optional<AttendKernel> attend_flexible(const Caps &caps, const AttendShape &shape, const CoopShape &matrix,
                                            const CoopLayout &layout, uint32_t heads, uint32_t redo_rows,
                                            std::string &why);

// The same with the tile's keys and the output's channels split among subgroups (shaders/attend_split.comp).
std::optional<AttendKernel> attend_split(const Caps &caps, const AttendShape &shape, const CoopShape &matrix,
                                         const CoopLayout &layout, uint32_t heads, uint32_t redo_rows,
                                         std::string &why);

// The least and the largest scale that all kernels on matrices take, and the most channels of those of the last tier.
constexpr std::pair<double, double> kFlexibleScale{1e-15, 1e6};
constexpr int64_t kFlexibleDim = 128;

// The matrices that a call of such tensors is for, the best first: bf16 on its own where there are some, else on f16's.
std::vector<CoopShape> attend_matrices(const Caps &caps, DType dtype);
// Of the subgroups that multiply them.
uint32_t attend_subgroup(const Caps &caps);

// Bytes of state of one row, of kernels that can go on from it.
uint64_t attend_state_bytes(int64_t dim);

}  // namespace seer::vulkan
