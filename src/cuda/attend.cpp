// attend: chooses a kernel, and plans the launch of Hopper's. See cuda/attend_sm90.cu; for the others, attend_sm80.cpp.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "../../cuda/launch.h"
#include "../checked.h"
#include "attend_sm80.h"
#include "kernels.h"

namespace seer::cuda {
namespace {

constexpr double kLog2e = 1.4426950408889634;
constexpr int64_t kRows = 64;      // of a row group, and keys of a tile
constexpr int64_t kRowGroups = 3;  // of a work item
constexpr uint32_t kThreads = 128 * (kRowGroups + 1);
constexpr int64_t kSectionBytes = int64_t{34} << 20;  // K and V of interleaved heads: what stays in L2
constexpr double kLeastScale = 1e-30;                 // in place of 0: -inf * 0 is no mask

// A dimension that nothing steps over may have any stride.
bool steps_aligned(int64_t stride, int64_t extent, int64_t element) {
  return extent <= 1 || stride * element % 16 == 0;
}

// What of the list the kernels get, and what is left out: sequences without queries.
struct Work {
  std::vector<AttendSequence> sequences;
  int64_t items = 0, longest = 0, batches = 0, q_tokens = 0, k_tokens = 0;
};

Work plan_work(const AttendArgs &args) {
  Work work;
  for (const Sequence &s : args.sequences) {
    const int64_t items = args.q.heads * ceil_div(ceil_div(s.q_len, kRows), kRowGroups);
    if (items == 0) continue;
    work.sequences.push_back({.batch = int32_t(s.batch),
                              .q_begin = int32_t(s.q_begin),
                              .q_len = int32_t(s.q_len),
                              .k_begin = int32_t(s.k_begin),
                              .k_len = int32_t(s.k_len),
                              .mask_row = int32_t(s.mask_row),
                              .first_item = int32_t(work.items),
                              .items = int32_t(items)});
    work.items += items;
    work.longest = std::max(work.longest, s.k_len);
    work.batches = std::max(work.batches, s.batch + 1);
    work.q_tokens = std::max(work.q_tokens, s.q_begin + s.q_len);
    work.k_tokens = std::max(work.k_tokens, s.k_begin + s.k_len);
  }
  SEER_REQUIRE(work.items <= INT32_MAX, Status::unsupported, "the call has %lld work items; a launch has at most %d",
               (long long)work.items, INT32_MAX);
  return work;
}

// Why TMA cannot read a tensor; empty: it can.
std::string map_refusal(const TokenView &view, const char *name, int64_t tokens, int64_t batches) {
  const int64_t element = element_size(view.dtype);
  if (reinterpret_cast<uintptr_t>(view.data) % 16 != 0) return std::string(name) + " does not start at 16 bytes";
  const bool aligned = steps_aligned(view.stride_token, tokens, element) &&
                       steps_aligned(view.stride_head, view.heads, element) &&
                       steps_aligned(view.stride_batch, batches, element);
  if (!aligned) return std::string(name) + " has strides that are not multiples of 16 bytes";
  constexpr int64_t limit = int64_t{1} << 40;
  if (std::max({view.stride_token, view.stride_head, view.stride_batch}) * element >= limit)
    return std::string(name) + " has strides of a terabyte";
  return {};
}

const Kernel &hopper_kernel(CudaDevice &device, const AttendArgs &args) {
  return device.kernel("attend_sm90",
                       std::string("attend_") + dtype_name(args.q.dtype) + "_" + std::to_string(args.q.dim));
}

int64_t list_words(const Work &work) { return ceil_div(ceil_div(work.longest, kRows), 32); }
uint64_t hopper_shared(const Kernel &kernel, const Work &work) {
  return uint64_t(kernel.shared) + 4 * (2 * (kRowGroups + 1) * uint64_t(list_words(work)) + 1);
}

// Why the Hopper kernel cannot run a call; empty: it can.
std::string hopper_refusal(CudaDevice &device, const AttendArgs &args, const Work &work) {
  if (device.caps.sm != 90) return "the device is not of compute capability 9.0";
  if (args.q.dtype == DType::f32) return "its type is f32";
  if (args.q.dim != 64 && args.q.dim != 128) return "its head dim is " + std::to_string(args.q.dim);
  if (args.mask.words && args.block != 64 && args.block != 128) return "its blocks are of 32";
  if (args.scale < 0) return "its scale is negative";
  if (std::string why = map_refusal(args.q, "q", work.q_tokens, work.batches); !why.empty()) return why;
  if (std::string why = map_refusal(args.k, "k", work.k_tokens, work.batches); !why.empty()) return why;
  if (std::string why = map_refusal(args.v, "v", work.k_tokens, work.batches); !why.empty()) return why;
  if (std::string why = map_refusal(args.out, "out", work.q_tokens, work.batches); !why.empty()) return why;
  const Kernel &kernel = hopper_kernel(device, args);
  if (hopper_shared(kernel, work) > uint64_t(kernel.max_shared)) return "its lists do not fit in shared memory";
  return {};
}

// Dimensions (64, tokens, dim / 64, heads, batch), boxes of (64, 64, dim / 64, 1, 1).
CUtensorMap encode_map(CudaDevice &device, const TokenView &view, int64_t tokens, int64_t batches) {
  const int64_t element = element_size(view.dtype), chunks = view.dim / 64;
  const std::array<uint64_t, 5> extent = {64, uint64_t(tokens), uint64_t(chunks), uint64_t(view.heads),
                                          uint64_t(batches)};
  const auto step = [&](int64_t stride, uint64_t n) { return n > 1 ? uint64_t(stride * element) : uint64_t{128}; };
  const std::array<uint64_t, 4> strides = {step(view.stride_token, extent[1]), 128, step(view.stride_head, extent[3]),
                                           step(view.stride_batch, extent[4])};
  const std::array<uint32_t, 5> box = {64, uint32_t(kRows), uint32_t(chunks), 1, 1}, ones = {1, 1, 1, 1, 1};
  CUtensorMap map{};
  const CUresult result = device.fn.cuTensorMapEncodeTiled(
      &map, view.dtype == DType::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 5,
      view.data, extent.data(), strides.data(), box.data(), ones.data(), CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  device.check(result, "cuTensorMapEncodeTiled");
  return map;
}

void attend_hopper(CudaDevice &device, const AttendArgs &args, const Work &work) {
  Recorder &recorder = *device.recorder;
  AttendParams p{};
  p.out = args.out.data;
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
  p.mask_shift = args.mask.words && args.block == 128 ? 1 : 0;
  p.scale_log2 = float(std::max(args.scale * kLog2e, kLeastScale));
  p.heads = int32_t(args.q.heads);
  p.group = int32_t(args.q.heads / args.k.heads);
  p.list_words = int32_t(list_words(work));
  p.items = int32_t(work.items);
  p.sequences = int32_t(work.sequences.size());
  p.section = int32_t(std::clamp<int64_t>(kSectionBytes / (work.longest * args.q.dim * 4), 1, args.k.heads));
  p.only = work.sequences.front();
  if (work.sequences.size() > 1) p.sequence = recorder.upload(std::span<const AttendSequence>(work.sequences));
  p.counter = device.counter;
  if (recorder.capturing()) {  // a graph may run beside this context's other calls
    constexpr uint32_t zeros[2] = {};
    p.counter = const_cast<uint32_t *>(recorder.upload(std::span<const uint32_t>(zeros)));
  }
  p.clocks = recorder.clocks();
  const CUtensorMap q = encode_map(device, args.q, work.q_tokens, work.batches);
  const CUtensorMap k = encode_map(device, args.k, work.k_tokens, work.batches);
  const CUtensorMap v = encode_map(device, args.v, work.k_tokens, work.batches);
  const Kernel &kernel = hopper_kernel(device, args);
  recorder.launch(kernel,
                  {.blocks = uint64_t(std::min<int64_t>(device.caps.multiprocessors, work.items)),
                   .threads = kThreads,
                   .shared = hopper_shared(kernel, work),
                   .overlap = true},
                  q, k, v, p);
}

// The best kernel that may be used; SEER_CUDA_TIER names it.
enum class Tier { plain, sm80, sm90 };

Tier best_tier() {
  const char *name = std::getenv("SEER_CUDA_TIER");
  if (!name || !*name || !std::strcmp(name, "sm90")) return Tier::sm90;
  if (!std::strcmp(name, "sm80")) return Tier::sm80;
  SEER_REQUIRE(!std::strcmp(name, "plain"), Status::invalid_argument,
               "SEER_CUDA_TIER is %s; expected sm90, sm80 or plain", name);
  return Tier::plain;
}

}  // namespace

uint64_t attend_scratch(const CudaDevice &, const AttendArgs &) { return 0; }

void attend(CudaDevice &device, Exec &exec, const AttendArgs &args) {
  device.recorder->stage(exec);
  const Work work = plan_work(args);
  if (work.items == 0) return;
  const Tier tier = best_tier();
  if (tier == Tier::sm90 && hopper_refusal(device, args, work).empty())
    attend_hopper(device, args, work);
  else if (tier != Tier::plain && attend_sm80_refusal(args).empty())
    attend_sm80(device, args);
  else
    attend_plain(device, args);
}

}  // namespace seer::cuda
