// Masks of bytes to bits, and back.
#include <algorithm>

#include "../../cuda/launch_mask.h"
#include "kernels.h"

namespace seer::cuda {
namespace {

void convert(CudaDevice &device, Exec &exec, const MaskBytesArgs &args, bool to_bytes) {
  Recorder &recorder = *device.recorder;
  recorder.stage(exec);
  const Kernel &kernel = device.kernel("mask", to_bytes ? "mask_unpack" : "mask_pack");
  for (const Sequence &s : args.sequences) {
    const int64_t rows = s.q_blocks(args.block), cols = args.bytes.cols;
    if (rows == 0) continue;
    MaskParams p{};
    p.bits = args.bits.row(s.batch, 0, s.mask_row);
    p.bits_head = args.bits.stride_head;
    p.bits_row = args.bits.stride_row;
    p.bytes = args.bytes.bytes + s.batch * args.bytes.stride_batch + s.mask_row * args.bytes.stride_row;
    p.bytes_head = args.bytes.stride_head;
    p.bytes_row = args.bytes.stride_row;
    p.words = int32_t(args.row_words);
    p.cols = int32_t(to_bytes ? cols : std::min(cols, s.k_blocks(args.block)));
    recorder.launch(kernel, {.blocks = uint64_t(rows), .blocks_y = uint32_t(args.q_heads), .threads = kMaskThreads}, p);
  }
}

}  // namespace

void pack_mask(CudaDevice &device, Exec &exec, const MaskBytesArgs &args) { convert(device, exec, args, false); }
void unpack_mask(CudaDevice &device, Exec &exec, const MaskBytesArgs &args) { convert(device, exec, args, true); }

}  // namespace seer::cuda
