// attend without Hopper's instructions: tensor cores (cuda/attend_sm80.cu), and plain arithmetic for all that these do
// not take (cuda/attend_plain.cu), which every device, type, size and alignment has.
#pragma once
#include <string>

#include "device.h"

namespace seer::cuda {

// Why the tensor cores' kernel cannot run a call; empty: it can.
std::string attend_sm80_refusal(const AttendArgs &args);
void attend_sm80(CudaDevice &device, const AttendArgs &args);  // only what is not refused
void attend_plain(CudaDevice &device, const AttendArgs &args);

}  // namespace seer::cuda
