// Block masks: a byte for each block to a bit for each (non-zero keeps), and back (0 or 1).
#include "launch_mask.h"

namespace seer::cuda {

extern "C" __global__ void __launch_bounds__(kMaskThreads) mask_pack(const __grid_constant__ MaskParams p) {
  uint32_t *bits = p.bits + blockIdx.y * p.bits_head + blockIdx.x * p.bits_row;
  const uint8_t *bytes = p.bytes + blockIdx.y * p.bytes_head + blockIdx.x * p.bytes_row;
  const int lane = threadIdx.x % 32;
  for (int word = threadIdx.x / 32; word < p.words; word += kMaskThreads / 32) {
    const int col = word * 32 + lane;
    const uint32_t kept = __ballot_sync(~0u, col < p.cols && bytes[col] != 0);
    if (lane == 0) bits[word] = kept;
  }
}

extern "C" __global__ void __launch_bounds__(kMaskThreads) mask_unpack(const __grid_constant__ MaskParams p) {
  const uint32_t *bits = p.bits + blockIdx.y * p.bits_head + blockIdx.x * p.bits_row;
  uint8_t *bytes = p.bytes + blockIdx.y * p.bytes_head + blockIdx.x * p.bytes_row;
  for (int col = threadIdx.x; col < p.cols; col += kMaskThreads) bytes[col] = bits[col / 32] >> col % 32 & 1;
}

}  // namespace seer::cuda
