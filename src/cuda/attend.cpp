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
constexpr int64_t kRows = 64;  // of a row group, and keys of a tile
constexpr uint32_t kThreads = 128 * (kAttendGroups + 1);
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
  int64_t split = 1;  // see AttendParams
};

// In how many parts the last rows of each head may be walked, so that one that keeps every block, as many models have
// it, takes no more than about two fifths of the launch. A block that one group walks alone takes 1000 clocks, of the
// others three take 1700 together; a tenth of them is taken to be kept.
int64_t plan_split(const CudaDevice &device, int64_t heads, std::span<const Sequence> sequences) {
  const int64_t sms = device.caps.multiprocessors;
  int64_t pairs = 0, longest = 0, first_items = 0;
  for (const Sequence &s : sequences) {
    const int64_t rows = ceil_div(s.q_len, kRows), blocks = ceil_div(s.k_len, kRows);
    if (rows == 0) continue;
    pairs += heads * (rows * blocks - rows * rows / 2);
    longest = std::max(longest, blocks);
    first_items += heads;
  }
  if (first_items == 0 || kAttendGroups * first_items + 2 > kAttendCounters) return 1;
  const int64_t wanted = (longest * sms * 45 + pairs / 2) / std::max<int64_t>(pairs, 1);
  return std::clamp<int64_t>(std::min({wanted, sms / first_items, longest / 16}), 1, 16);
}

Work plan_work(const CudaDevice &device, const AttendArgs &args) {
  Work work;
  work.split = plan_split(device, args.q.heads, args.sequences);
  for (const Sequence &s : args.sequences) {
    const int64_t chunks = ceil_div(ceil_div(s.q_len, kRows), int64_t{kAttendGroups});
    if (chunks == 0) continue;
    const int64_t items = args.q.heads * (chunks + work.split - 1);
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
  return uint64_t(kernel.shared) + 4 * (2 * (kAttendGroups + 1) * uint64_t(list_words(work)) + 1);
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
  p.split = int32_t(work.split);
  p.partial = work.split > 1 ? static_cast<float *>(args.scratch) : nullptr;
  p.counter = device.counter;
  if (recorder.capturing()) {  // a graph may run beside this context's other calls
    constexpr uint32_t zeros[kAttendCounters] = {};
    p.counter = const_cast<uint32_t *>(recorder.upload(std::span<const uint32_t>(zeros)));
  }
  p.clocks = recorder.clocks();
  if (args.q_rope.inv_freq) {
    const RopePair tables = device.rope->get(args.q_rope, work.longest);
    p.coarse = tables.coarse;
    p.fine = tables.fine;
  }
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

uint64_t attend_scratch(const CudaDevice &device, const AttendArgs &args) {
  if (device.caps.sm != 90 || args.q.dtype == DType::f32 || (args.q.dim != 64 && args.q.dim != 128)) return 0;
  // Of several sequences any may be attended to without the others. What is split has one part to a multiprocessor at
  // the most.
  int64_t split = plan_split(device, args.q.heads, args.sequences);
  for (size_t i = 0; i < args.sequences.size(); i++)
    split = std::max(split, plan_split(device, args.q.heads, args.sequences.subspan(i, 1)));
  if (split == 1) return 0;
  const int64_t parts =
      std::min<int64_t>(device.caps.multiprocessors, args.q.heads * int64_t(args.sequences.size()) * split);
  return uint64_t(parts * kAttendGroups * kAttendPartial[args.q.dim == 128]) * sizeof(float);
}

void attend(CudaDevice &device, Exec &exec, const AttendArgs &args) {
  device.recorder->stage(exec);
  const Work work = plan_work(device, args);
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
