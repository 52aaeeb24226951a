// Times the gate's stages one by one on a backend, where `seer bench` times the whole gate.
//
//   ninja -C build tests/vulkan/gate-stages
//   build/tests/vulkan/gate-stages vulkan 8192 32768 131072
//
// 32 query heads on 8 KV heads, dim 128, bf16, blocks of 64, the published gates' form (Qavg_Kmaxminavg). "each" is the
// time of one of ten that were recorded together, which is the device's; "alone" that of one call with its submission
// and the wait for it. Medians.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "backend.h"
#include "rope.h"

using namespace seer;

namespace {

constexpr int64_t kQHeads = 32, kKvHeads = 8, kDim = 128, kBlock = 64;
constexpr int kTogether = 10, kRounds = 7;

class Buffer {
public:
  Buffer(Device &device, int64_t bytes) : device_(device), memory_(device.fns->alloc(device, uint64_t(bytes))) {}
  ~Buffer() { device_.fns->free(device_, memory_); }
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;

  template <class T>
  T *as() const {
    return static_cast<T *>(memory_.address);
  }
  // bf16 values in [-2, 2).
  void fill(std::minstd_rand &random) {
    std::vector<uint16_t> part(size_t{8} << 20);
    for (uint64_t at = 0; at < memory_.size; at += part.size() * 2) {
      for (uint16_t &x : part) {
        const float value = float(random() & 0xffff) / 16384.0f - 2.0f;
        uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        x = uint16_t(bits >> 16);
      }
      device_.fns->write(device_, memory_, at, part.data(), std::min<uint64_t>(memory_.size - at, part.size() * 2));
    }
  }

private:
  Device &device_;
  Memory memory_;
};

struct Rope {
  RopeFreqs freqs;
  std::shared_ptr<const RopeTables> tables;
  Rope(int64_t positions, int64_t step) : freqs(rope_freqs({}, kDim, positions * step)) {
    static RopeTableCache cache;
    tables = cache.get(freqs, positions, step);
  }
  RopeView view() const {
    return {.inv_freq = freqs.inv_freq.data(),
            .attention_scaling = freqs.attention_scaling,
            .half = tables->half,
            .cos = tables->cos.data(),
            .sin = tables->sin.data(),
            .step = tables->step};
  }
};

double median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + std::ptrdiff_t(x.size() / 2), x.end());
  return x[x.size() / 2];
}

template <class F>
void time_stage(Device &device, int64_t tokens, const char *name, F stage) {
  using Clock = std::chrono::steady_clock;
  const auto round = [&](int times) {
    const auto start = Clock::now();
    for (int i = 0; i < times; i++) stage();
    complete(device, nullptr);
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count() / times;
  };
  round(1);
  round(3);
  std::vector<double> each, alone;
  for (int i = 0; i < kRounds; i++) each.push_back(round(kTogether));
  for (int i = 0; i < kRounds; i++) alone.push_back(round(1));
  std::printf("%8lld  %-14s %9.4f ms each  %9.4f ms alone\n", static_cast<long long>(tokens), name, median(each),
              median(alone));
  std::fflush(stdout);
}

void run(Device &device, int64_t tokens) {
  const BackendFns &fns = *device.fns;
  const int64_t n = (tokens + kBlock - 1) / kBlock, words = mask_words(n);
  std::minstd_rand random(1);
  Buffer q(device, tokens * kQHeads * kDim * 2), k(device, tokens * kKvHeads * kDim * 2);
  Buffer weight(device, kQHeads * 3 * kDim * kDim * 2);
  for (Buffer *x : {&q, &k, &weight}) x->fill(random);
  Buffer pooled_q(device, n * kQHeads * kDim * 4), pooled_k(device, n * kKvHeads * 3 * kDim * 4);
  Buffer gate_q(device, n * kQHeads * kDim * 4), gate_k(device, n * kQHeads * kDim * 4);
  Buffer mask(device, kQHeads * n * words * 4), stats(device, sizeof(SelectStats));
  Sequence sequence;
  sequence.q_len = sequence.k_len = sequence.total_len = tokens;
  const Rope rope(n, kBlock);

  const auto view = [&](const Buffer &x, int64_t heads) {
    return TokenView{.data = x.as<void>(),
                     .dtype = DType::bf16,
                     .heads = heads,
                     .dim = kDim,
                     .stride_batch = tokens * heads * kDim,
                     .stride_token = heads * kDim,
                     .stride_head = kDim};
  };
  PoolArgs of_q{.sequences = {&sequence, 1}, .side = Side::q, .block = kBlock, .x = view(q, kQHeads)};
  of_q.pool_bits = pool_avg;
  of_q.pooled = pooled_q.as<float>();
  PoolArgs of_k{.sequences = {&sequence, 1}, .side = Side::k, .block = kBlock, .x = view(k, kKvHeads)};
  of_k.pool_bits = pool_max | pool_min | pool_avg;
  of_k.pooled = pooled_k.as<float>();

  ProjectArgs to_q{.sequences = {&sequence, 1}, .side = Side::q, .block = kBlock, .pooled = pooled_q.as<float>()};
  to_q.pooled_heads = to_q.gate_heads = kQHeads;
  to_q.in = to_q.out = kDim;
  to_q.rope = rope.view();
  to_q.gate = gate_q.as<float>();
  ProjectArgs to_k = to_q;
  to_k.side = Side::k;
  to_k.pooled = pooled_k.as<float>();
  to_k.pooled_heads = kKvHeads;
  to_k.in = 3 * kDim;
  to_k.weight = {DType::bf16, kQHeads, 3 * kDim, kDim, weight.as<void>()};
  to_k.gate = gate_k.as<float>();

  SelectArgs threshold{.sequences = {&sequence, 1}, .block = kBlock, .q_heads = kQHeads};
  threshold.gate = {gate_q.as<float>(), gate_k.as<float>(), kQHeads, kQHeads, kDim, 1 / std::sqrt(double(kDim))};
  threshold.rule.method = SelectMethod::threshold;
  threshold.rule.threshold = 1.0 / double(n);
  threshold.mask = {
      .words = mask.as<uint32_t>(), .stride_batch = kQHeads * n * words, .stride_head = n * words, .stride_row = words};
  threshold.mask_row_words = words;
  threshold.stats = stats.as<SelectStats>();
  SelectArgs ratio = threshold;
  ratio.rule.method = SelectMethod::ratio;
  ratio.rule.ratio = 0.1;
  const auto scratch_of = [&](const SelectArgs &args) {
    return fns.select_scratch ? fns.select_scratch(device, args) : 0;
  };
  Buffer scratch(device, int64_t(std::max(scratch_of(threshold), scratch_of(ratio))) + 16);
  threshold.scratch = ratio.scratch = scratch.as<void>();

  Exec exec;
  time_stage(device, tokens, "pool q", [&] { fns.pool(device, exec, of_q); });
  time_stage(device, tokens, "pool k", [&] { fns.pool(device, exec, of_k); });
  time_stage(device, tokens, "project q", [&] { fns.project(device, exec, to_q); });
  time_stage(device, tokens, "project k", [&] { fns.project(device, exec, to_k); });
  time_stage(device, tokens, "select p > t", [&] { fns.select(device, exec, threshold); });
  time_stage(device, tokens, "select ratio", [&] { fns.select(device, exec, ratio); });
  for (const SelectArgs *select : {&threshold, &ratio})
    time_stage(device, tokens, select == &ratio ? "gate ratio" : "gate p > t", [&] {
      fns.pool(device, exec, of_q);
      fns.pool(device, exec, of_k);
      fns.project(device, exec, to_q);
      fns.project(device, exec, to_k);
      fns.select(device, exec, *select);
    });
}

}  // namespace

int main(int argc, char **argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s cuda|vulkan|cpu TOKENS...\n", argv[0]);
    return 1;
  }
  try {
    for (const BackendFns *fns : backends()) {
      if (std::strcmp(fns->name, argv[1]) != 0) continue;
      const auto device = create_device(fns->kind, {});
      std::printf("%s (%s)\n", device->info.name.c_str(), device->info.detail.c_str());
      for (int i = 2; i < argc; i++) run(*device, std::max(1LL, std::atoll(argv[i])));
      return 0;
    }
    std::fprintf(stderr, "no backend %s\n", argv[1]);
  } catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  return 1;
}
