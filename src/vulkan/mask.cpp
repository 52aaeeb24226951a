// Masks of bytes to bits, and back.
#include <array>

#include "kernels.h"

namespace seer::vulkan {
namespace {

struct Push {
  uint32_t first = 0, count = 0;
  uint32_t rows = 0;
  uint32_t bits_base = 0, bits_head = 0, bits_row = 0, words = 0;
  uint32_t bytes_base = 0, bytes_head = 0, bytes_row = 0, cols = 0;
};

void convert(VulkanDevice &device, Exec &exec, const MaskBytesArgs &args, bool to_bytes) {
  Recorder &recorder = *device.recorder;
  const Kernel &kernel = device.kernel({.module = "mask",
                                        .constants = {uint32_t(to_bytes)},
                                        .bindings = 2,
                                        .push_bytes = sizeof(Push),
                                        .subgroup_size = 0,
                                        .full_subgroups = false,
                                        .shared_bytes = 0});
  bool beside = false;
  for (const Sequence &s : args.sequences) {
    const int64_t rows = s.q_blocks(args.block), cols = args.bytes.cols;
    if (rows == 0) continue;
    const auto bits_bytes = [&](int64_t, int64_t heads) {
      return 4 * ((heads - 1) * args.bits.stride_head + (rows - 1) * args.bits.stride_row + args.row_words);
    };
    const auto bytes_bytes = [&](int64_t, int64_t heads) {
      return (heads - 1) * args.bytes.stride_head + (rows - 1) * args.bytes.stride_row + cols;
    };
    const auto larger = [&](int64_t first, int64_t n) { return std::max(bits_bytes(first, n), bytes_bytes(first, n)); };
    each_window(device.caps, args.q_heads, larger, [&](int64_t head, int64_t heads) {
      const Window bits = recorder.window(args.bits.row(s.batch, head, s.mask_row), uint64_t(bits_bytes(head, heads)));
      const Window bytes = recorder.window(args.bytes.bytes + s.batch * args.bytes.stride_batch +
                                               head * args.bytes.stride_head + s.mask_row * args.bytes.stride_row,
                                           uint64_t(bytes_bytes(head, heads)));
      Push push;
      push.rows = uint32_t(rows);
      push.bits_base = bits.skip / 4;
      push.bits_head = uint32_t(args.bits.stride_head);
      push.bits_row = uint32_t(args.bits.stride_row);
      push.words = uint32_t(args.row_words);
      push.bytes_base = bytes.skip;
      push.bytes_head = uint32_t(args.bytes.stride_head);
      push.bytes_row = uint32_t(args.bytes.stride_row);
      push.cols = uint32_t(to_bytes ? cols : std::min(cols, s.k_blocks(args.block)));
      recorder.dispatch(exec, kernel, std::array{bits, bytes}, push,
                        {.items = uint64_t(rows * heads), .flops = double(cols) * 8, .units = 0, .beside = beside});
      beside = true;
    });
  }
}

}  // namespace

void pack_mask(VulkanDevice &device, Exec &exec, const MaskBytesArgs &args) { convert(device, exec, args, false); }
void unpack_mask(VulkanDevice &device, Exec &exec, const MaskBytesArgs &args) { convert(device, exec, args, true); }

}  // namespace seer::vulkan
