// attend on tensor cores from Ampere on, and without any: plans the launches of cuda/attend_sm80.cu and
// attend_plain.cu.
#include "attend_sm80.h"

#include <algorithm>
#include <bit>
#include <initializer_list>

#include "../../cuda/launch_attend80.h"
#include "../checked.h"

namespace seer::cuda {
namespace {

constexpr double kLog2e = 1.4426950408889634;
constexpr int64_t kSectionBytes = int64_t{34} << 20;  // K and V of interleaved heads: what stays in L2

// The least of the dims that kernels are made for.
int64_t kernel_dim(int64_t dim, std::initializer_list<int64_t> dims) {
  for (int64_t d : dims)
    if (d >= dim) return d;
  fail(Status::unsupported, "backend cuda: attend takes up to %lld channels a head; these are %lld",
       (long long)std::max(dims), (long long)dim);
}

// Whether the rows of a tensor begin at 16 bytes. A stride that nothing steps over may be any.
bool rows_aligned(const TokenView &view) {
  const int64_t element = element_size(view.dtype);
  const int64_t strides = view.stride_batch | view.stride_token | (view.heads > 1 ? view.stride_head : 0);
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && strides * element % 16 == 0;
}

void launch(CudaDevice &device, const AttendArgs &args, const char *image, const std::string &name) {
  Recorder &recorder = *device.recorder;
  AttendParams80 p{};
  std::vector<AttendSequence> sequences;
  int64_t items = 0, longest = 1;
  for (const Sequence &s : args.sequences) {
    const int64_t own = checked_mul(args.q.heads, ceil_div(s.q_len, kAttendRows));
    if (own == 0) continue;
    sequences.push_back({.batch = int32_t(s.batch),
                         .q_begin = int32_t(s.q_begin),
                         .q_len = int32_t(s.q_len),
                         .k_begin = int32_t(s.k_begin),
                         .k_len = int32_t(s.k_len),
                         .mask_row = int32_t(s.mask_row),
                         .first_item = int32_t(items),
                         .items = int32_t(own)});
    items += own;
    SEER_REQUIRE(items <= INT32_MAX, Status::unsupported, "the call has %lld work items; a launch has at most %d",
                 (long long)items, INT32_MAX);
    longest = std::max(longest, s.k_len);
  }
  if (items == 0) return;
  p.q = args.q.data;
  p.k = args.k.data;
  p.v = args.v.data;
  p.out = args.out.data;
  p.q_batch = args.q.stride_batch;
  p.q_token = args.q.stride_token;
  p.q_head = args.q.stride_head;
  p.k_batch = args.k.stride_batch;
  p.k_token = args.k.stride_token;
  p.k_head = args.k.stride_head;
  p.v_batch = args.v.stride_batch;
  p.v_token = args.v.stride_token;
  p.v_head = args.v.stride_head;
  p.out_batch = args.out.stride_batch;
  p.out_token = args.out.stride_token;
  p.out_head = args.out.stride_head;
  p.lse = args.lse.data;
  p.lse_batch = args.lse.stride_batch;
  p.lse_head = args.lse.stride_head;
  p.lse_token = args.lse.stride_token;
  p.mask = args.mask.words;
  p.mask_batch = args.mask.stride_batch;
  p.mask_head = args.mask.stride_head;
  p.mask_row = args.mask.stride_row;
  p.block_log2 = args.mask.words ? std::countr_zero(uint64_t(args.block)) : 6;
  p.scale_log2 = float(args.scale * kLog2e);
  p.dim = int32_t(args.q.dim);
  p.heads = int32_t(args.q.heads);
  p.group = int32_t(args.q.heads / args.k.heads);
  p.items = int32_t(items);
  p.sequences = int32_t(sequences.size());
  const int64_t head_bytes = longest * args.q.dim * 2 * element_size(args.k.dtype);
  p.section = int32_t(std::clamp<int64_t>(kSectionBytes / head_bytes, 1, args.k.heads));
  p.only = sequences.front();
  if (sequences.size() > 1) p.sequence = recorder.upload(std::span<const AttendSequence>(sequences));
  if (args.q_rope.inv_freq) {
    const RopePair tables = device.rope->get(args.q_rope, longest);
    p.coarse = tables.coarse;
    p.fine = tables.fine;
  }
  recorder.launch(device.kernel(image, name),
                  {.blocks = uint64_t(items),
                   .threads = uint32_t(device.gpu->constant(image, name + "_threads")),
                   .shared = uint64_t(device.gpu->constant(image, name + "_shared"))},
                  p);
}

}  // namespace

std::string attend_sm80_refusal(const AttendArgs &args) {
  if (args.q.dtype == DType::f32) return "its type is f32";
  if (args.q.dim > 256 || args.q.dim % 8 != 0) return "its head dim is " + std::to_string(args.q.dim);
  if (!rows_aligned(args.q)) return "rows of q are not aligned to 16 bytes";
  if (!rows_aligned(args.k)) return "rows of k are not aligned to 16 bytes";
  if (!rows_aligned(args.v)) return "rows of v are not aligned to 16 bytes";
  if (!rows_aligned(args.out)) return "rows of out are not aligned to 16 bytes";
  return {};
}

void attend_sm80(CudaDevice &device, const AttendArgs &args) {
  const int64_t dim = kernel_dim(args.q.dim, {64, 96, 128, 256});
  launch(device, args, "attend_sm80",
         std::string("attend_sm80_") + dtype_name(args.q.dtype) + "_" + std::to_string(dim));
}

void attend_plain(CudaDevice &device, const AttendArgs &args) {
  const int64_t dim = kernel_dim(args.q.dim, {64, 128, 256});
  launch(device, args, "attend_plain",
         std::string("attend_plain_") + dtype_name(args.q.dtype) + "_" + std::to_string(dim));
}

}  // namespace seer::cuda
