#include "selftest.h"

#include <array>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "../status.h"
#include "attend_layout.h"
#include "kernels.h"
#include "rehearsal.h"
#include "scoped_memory.h"
#include "score_coopmat.h"
#include "select_coopmat.h"
#include "shaders.h"

namespace seer::vulkan {
namespace {

KernelKey subgroup_kernel(const Caps &caps) {
  const bool sizes = caps.subgroup_size_control && caps.full_subgroups;
  return {.module = "selftest_subgroup",
          .constants = {},
          .bindings = 1,
          .push_bytes = 12,
          .subgroup_size = sizes ? caps.subgroup_size : 0,
          .full_subgroups = sizes,
          .shared_bytes = 0};
}

// Of sizes that can be tested; others are as good as none.
bool subgroups_testable(const Caps &caps) {
  const uint32_t size = caps.subgroup_size;
  return caps.subgroup_ops != 0 && size >= 4 && size <= 128 && (size & (size - 1)) == 0;
}

bool subgroups_right(VulkanDevice &device) {
  const Caps &caps = device.caps;
  if (caps.subgroup_ops == 0) return true;
  if (!subgroups_testable(caps)) return caps.subgroup_size == 2 || caps.subgroup_size == 1;
  struct {
    uint32_t first = 0, count = 0, size = 0;
  } push;
  push.size = caps.subgroup_size;
  const Kernel &kernel = device.kernel(subgroup_kernel(caps));
  const ScopedMemory result(device, 16);
  uint32_t wrong = 0;
  Exec exec;
  device.recorder->write(result.address(), &wrong, sizeof wrong);
  device.recorder->dispatch(exec, kernel, std::array{device.recorder->window(result.address(), 16)}, push,
                            {.items = 3, .flops = 1e3, .units = 0, .beside = false});
  device.recorder->read(result.address(), &wrong, sizeof wrong);
  return wrong == 0;
}

// Attention over uneven lists of blocks, one of them empty, with a tail, two heads on one of K and V.
constexpr int64_t kTokens = 200, kHeads = 2, kBlock = 64, kRows = 4;

float value(uint32_t seed, int64_t i) {  // some number in [-1, 1)
  auto x = uint32_t(i) * 2654435761u + seed * 40503u;
  x ^= x >> 15;
  x *= 2246822519u;
  x ^= x >> 13;
  return float(x >> 8) * 0x1p-23f - 1.0f;
}

uint64_t aligned(uint64_t bytes) { return (bytes + 255) / 256 * 256; }

template <class T>
std::span<const char> bytes_of(const std::vector<T> &x) {
  return {reinterpret_cast<const char *>(x.data()), x.size() * sizeof(T)};
}

// One behind the other in memory: q, k, v, mask, which are `input`, then out.
template <class T>
class AttendProblem {
public:
  AttendProblem(DType dtype, int64_t dim)
      : dtype_(dtype), dim_(dim), q_(size_t(kTokens * kHeads * dim)), k_(size_t(kTokens * dim)), v_(k_.size()) {
    for (size_t i = 0; i < q_.size(); i++) q_[i] = from_f32<T>(2 * value(1, int64_t(i)));
    for (size_t i = 0; i < k_.size(); i++) k_[i] = from_f32<T>(2 * value(2, int64_t(i)));
    for (size_t i = 0; i < v_.size(); i++) v_[i] = from_f32<T>(value(3, int64_t(i)));
    for (const auto part : {bytes_of(q_), bytes_of(k_), bytes_of(v_), bytes_of(mask_)}) {
      input_.insert(input_.end(), part.begin(), part.end());
      input_.resize(aligned(input_.size()));
    }
    sequence_.q_len = sequence_.k_len = sequence_.total_len = kTokens;
  }
  AttendProblem(const AttendProblem &) = delete;
  AttendProblem &operator=(const AttendProblem &) = delete;

  uint64_t bytes() const { return input_.size() + aligned(bytes_of(q_).size()); }
  AttendArgs args(char *base) const {
    const uint64_t q_bytes = aligned(bytes_of(q_).size()), k_bytes = aligned(bytes_of(k_).size());
    const auto view = [&](uint64_t begin, int64_t heads) {
      return TokenView{.data = base + begin,
                       .dtype = dtype_,
                       .heads = heads,
                       .dim = dim_,
                       .stride_batch = 0,
                       .stride_token = heads * dim_,
                       .stride_head = dim_};
    };
    AttendArgs args{.sequences = std::span(&sequence_, 1), .block = kBlock};
    args.q = view(0, kHeads);
    args.k = view(q_bytes, 1);
    args.v = view(q_bytes + k_bytes, 1);
    args.out = view(input_.size(), kHeads);
    args.mask = {
        .words = reinterpret_cast<uint32_t *>(base + q_bytes + 2 * k_bytes), .stride_head = kRows, .stride_row = 1};
    args.scale = 1 / std::sqrt(double(dim_));
    return args;
  }

  void rehearse(VulkanDevice &device) const {
    const Memory memory = device.memory->borrow(VK_NULL_HANDLE, 0, bytes());
    AttendArgs args = this->args(static_cast<char *>(memory.address));
    const Memory scratch =
        device.memory->borrow(VK_NULL_HANDLE, 0, std::max<uint64_t>(1, attend_scratch(device, args)));
    args.scratch = scratch.address;
    try {
      Exec exec;
      attend(device, exec, args);
    } catch (const Error &) {  // said when it is run in earnest
    }
    device.memory->free(scratch);
    device.memory->free(memory);
  }

  double error(VulkanDevice &device) const {
    const ScopedMemory memory(device, bytes());
    AttendArgs args = this->args(static_cast<char *>(memory.address()));
    Recorder &recorder = *device.recorder;
    recorder.write(memory.address(), input_.data(), input_.size());
    const ScopedMemory scratch(device, std::max<uint64_t>(1, attend_scratch(device, args)));
    args.scratch = scratch.address();
    Exec exec;
    attend(device, exec, args);
    std::vector<T> out(q_.size());
    recorder.read(args.out.data, out.data(), bytes_of(out).size());
    return worst(out, args.scale);
  }

private:
  double worst(const std::vector<T> &out, double scale) const {
    double worst = 0;
    for (int64_t h = 0; h < kHeads; h++)
      for (int64_t t = 0; t < kTokens; t++) {
        std::vector<double> sum(static_cast<size_t>(dim_));
        double denominator = 0;
        const uint32_t kept = mask_[size_t(h * kRows + t / kBlock)];
        for (int64_t j = 0; j <= t; j++) {
          if (!(kept >> (j / kBlock) & 1)) continue;
          double score = 0;
          for (int64_t d = 0; d < dim_; d++)
            score += double(to_f32(q_[size_t((t * kHeads + h) * dim_ + d)])) * to_f32(k_[size_t(j * dim_ + d)]);
          const double weight = std::exp(score * scale);
          denominator += weight;
          for (int64_t d = 0; d < dim_; d++) sum[size_t(d)] += weight * to_f32(v_[size_t(j * dim_ + d)]);
        }
        for (int64_t d = 0; d < dim_; d++) {
          const double expected = denominator > 0 ? sum[size_t(d)] / denominator : 0;
          const double error = std::abs(to_f32(out[size_t((t * kHeads + h) * dim_ + d)]) - expected);
          worst = error <= worst ? worst : error;  // NaN is the worst
        }
      }
    return worst;
  }

  const DType dtype_;
  const int64_t dim_;
  std::vector<T> q_, k_, v_;
  const std::vector<uint32_t> mask_ = {1, 3, 5, 11, 1, 2, 0, 15};  // [head][row]; head 1, row 2 keeps nothing
  std::vector<char> input_;
  Sequence sequence_;
};

// Logits on cooperative matrices against doubles, for vectors of all magnitudes and one with an infinity. In memory: q,
// k, then q and k taken apart, then the logits.
class ScoreProblem {
public:
  ScoreProblem() : q_(size_t(kVectors * kHeads * kDim)), k_(size_t(kVectors * kDim)) {
    const auto vector = [&](std::vector<float> &x, uint32_t seed, int64_t v) {
      const float size = v % 7 == 3 ? 1e-12f : v % 7 == 5 ? 1e15f : v % 11 == 4 ? 0.0f : 1.0f;
      for (int64_t d = 0; d < kDim; d++) x[size_t(v * kDim + d)] = size * value(seed, v * kDim + d);
    };
    for (int64_t v = 0; v < kVectors * kHeads; v++) vector(q_, 4, v);
    for (int64_t v = 0; v < kVectors; v++) vector(k_, 5, v);
    constexpr int64_t infinite = 140;  // a row of head 0
    q_[size_t(infinite * kHeads * kDim + 7)] = HUGE_VALF;
  }

  void rehearse(VulkanDevice &device, const ScoreTile &tile) const {
    const Memory memory = device.memory->borrow(VK_NULL_HANDLE, 0, at(5));
    try {
      record(device, tile, static_cast<char *>(memory.address));
    } catch (const Error &) {  // said when it is run in earnest
    }
    device.memory->free(memory);
  }

  // The largest, in units of |q| |k| scale.
  double error(VulkanDevice &device, const ScoreTile &tile) const {
    const ScopedMemory memory(device, at(5));
    auto *base = static_cast<char *>(memory.address());
    Recorder &recorder = *device.recorder;
    recorder.write(base, q_.data(), bytes_of(q_).size());
    recorder.write(base + at(1), k_.data(), bytes_of(k_).size());
    record(device, tile, base);
    std::vector<float> logits(size_t(kHeads * kVectors * kVectors));
    recorder.read(base + at(4), logits.data(), bytes_of(logits).size());
    double worst = 0;
    for (int64_t h = 0; h < kHeads; h++)
      for (int64_t i = 0; i < kVectors; i++)
        for (int64_t j = 0; j <= i; j++) {
          double dot = 0, of_q = 0, of_k = 0;
          for (int64_t d = 0; d < kDim; d++) {
            const double x = q_[size_t((i * kHeads + h) * kDim + d)], y = k_[size_t(j * kDim + d)];
            dot += x * y;
            of_q += x * x;
            of_k += y * y;
          }
          const double got = logits[size_t((h * kVectors + i) * kVectors + j)];
          double error = std::abs(got - dot * kScale) / (std::sqrt(of_q * of_k) * kScale + 1e-300);
          if (!std::isfinite(dot)) error = std::isfinite(got) ? HUGE_VAL : 0;
          worst = error <= worst ? worst : error;
        }
    return worst;
  }

private:
  static constexpr int64_t kVectors = 150, kDim = 128;
  static constexpr double kScale = 0.25;

  // Where the part begins; 5: the end.
  uint64_t at(int part) const {
    const uint64_t sizes[] = {bytes_of(q_).size(), bytes_of(k_).size(), split_bytes(kVectors * kHeads, kDim),
                              split_bytes(kVectors, kDim), uint64_t(kHeads * kVectors * kVectors) * sizeof(float)};
    uint64_t sum = 0;
    for (int i = 0; i < part; i++) sum += aligned(sizes[i]);
    return sum;
  }

  void record(VulkanDevice &device, const ScoreTile &tile, char *base) const {
    Sequence sequence;
    sequence.q_len = sequence.k_len = sequence.total_len = kVectors * kBlock;
    const GateVectors gate{.q = reinterpret_cast<float *>(base),
                           .k = reinterpret_cast<float *>(base + at(1)),
                           .q_heads = kHeads,
                           .k_heads = 1,
                           .dim = kDim,
                           .scale = kScale};
    Exec exec;
    record_split(device, exec, gate.q, kVectors * kHeads, kDim, base + at(2), false);
    record_split(device, exec, gate.k, kVectors, kDim, base + at(3), true);
    record_split_logits(
        device, exec, tile,
        {.gate = gate,
         .sequence = sequence,
         .block = kBlock,
         .rows = {0, kVectors, 0, kHeads},
         .cols = kVectors,
         .to = reinterpret_cast<float *>(base + at(4)),
         .stride_head = kVectors * kVectors,
         .stride_row = kVectors},
        {.split_q = base + at(2), .split_k = base + at(3), .q_vectors = kVectors * kHeads, .k_vectors = kVectors},
        false);
  }

  std::vector<float> q_, k_;
};

// Calls with(problem, its dtype, the largest error allowed) for each attention that is tried, until it returns false.
// Of drivers on the CPU, which compile slowly and compute in the same way whatever the type, only one is.
template <class With>
void each_attention(const Caps &caps, With with) {
  if (caps.software()) {
    with(AttendProblem<f16>(DType::f16, 64), DType::f16, 5e-3);
    return;
  }
  for (int64_t dim : {64, 128})
    if (!with(AttendProblem<f16>(DType::f16, dim), DType::f16, 5e-3) ||
        !with(AttendProblem<bf16>(DType::bf16, dim), DType::bf16, 2e-2))
      return;
  with(AttendProblem<float>(DType::f32, 64), DType::f32, 1e-4);
}

// The first of the dtypes whose attention is wrong; none: all are right.
DType wrong_attention(VulkanDevice &device) {
  DType wrong = DType::none;
  each_attention(device.caps, [&](const auto &problem, DType dtype, double allowed) {
    if (!(problem.error(device) < allowed)) wrong = dtype;
    return wrong == DType::none;
  });
  return wrong;
}

// Compiles what the test takes on all processors.
void make_kernels(VulkanDevice &device) {
  const Caps &caps = device.caps;
  Rehearsal rehearsal(device);
  if (subgroups_testable(caps)) rehearsal.kernel(subgroup_kernel(caps));
  if (const std::optional<ScoreTile> tile = score_tile(caps, 128)) ScoreProblem().rehearse(rehearsal, *tile);
  each_attention(caps, [&](const auto &problem, DType, double) {
    problem.rehearse(rehearsal);
    return true;
  });
  const Stopwatch watch;
  const size_t made = rehearsal.make_kernels();
  device.log(LogLevel::debug, "self-test: %zu kernels at once: %.1f ms", made, watch.total_ms());
}

// Of all that was tested: the shaders of this build and the features they may use.
uint64_t fingerprint(const Caps &caps) {
  uint64_t hash = 0;
  for (const Shader &shader : shaders()) hash = hash_values(std::span(shader.words, shader.count), hash);
  const uint64_t rest[] = {caps.fp16,
                           caps.storage16,
                           caps.coopmat,
                           caps.bf16_coopmat,
                           caps.coopmat_score,
                           caps.coopmat2_flexible,
                           caps.coopmat2_workgroup,
                           caps.coopmat2_tensor,
                           caps.subgroup_size_control,
                           caps.full_subgroups,
                           caps.max_shared,
                           caps.max_invocations,
                           caps.subgroup_size,
                           caps.subgroup_ops,
                           uint64_t(caps.tier)};
  return hash_values(std::span<const uint64_t>(rest), hash);
}

void take_away(VulkanDevice &device, uint32_t taken, const std::string &why) {
  Caps &caps = device.gpu->caps;
  device.log(LogLevel::warn, "%s (%s): %s", caps.name.c_str(), caps.driver.c_str(), why.c_str());
  if (taken & kTakenSubgroups) caps.subgroup_ops = 0;
  if (taken & (kTakenSubgroups | kTakenCoopmat)) take_coopmat_away(caps);
  if (taken & kTakenScore) caps.coopmat_score = false;
  device.gpu->taken |= taken;
}

void test(VulkanDevice &device) {
  const Caps &caps = device.caps;
  bool right = false;
  try {
    right = subgroups_right(device);
  } catch (const Error &error) {
    if (error.status() != Status::unsupported) throw;
    device.log(LogLevel::info, "%s: %s", caps.name.c_str(), error.what());
  }
  if (!right) take_away(device, kTakenSubgroups, "subgroups are not what the driver says; they are not used");
  try {
    const std::optional<ScoreTile> tile = score_tile(caps, 128);
    if (tile && !(ScoreProblem().error(device, *tile) < 2e-6))
      take_away(device, kTakenScore, "scores on cooperative matrices are wrong; they are not used");
  } catch (const Error &error) {
    if (error.status() != Status::unsupported) throw;
    take_away(device, kTakenScore, error.what() + std::string("; scores do without cooperative matrices"));
  }
  for (;;) {
    std::string why;
    try {
      const DType wrong = wrong_attention(device);
      if (wrong == DType::none) return;
      why = std::string("attention in ") + dtype_name(wrong) + " gives wrong numbers";
    } catch (const Error &error) {
      if (error.status() != Status::unsupported) throw;
      why = error.what();
    }
    SEER_REQUIRE(caps.coopmat, Status::unsupported, "%s (%s) fails its self-test: %s", caps.name.c_str(),
                 caps.driver.c_str(), why.c_str());
    take_away(device, kTakenCoopmat, why + "; cooperative matrices are not used");
  }
}

}  // namespace

void self_test(VulkanDevice &device) {
  Gpu &gpu = *device.gpu;
  std::lock_guard lock(gpu.self_test_mutex);
  if (gpu.self_tested) return;
  if (const char *wanted = std::getenv("SEER_VK_SELFTEST"); !wanted || std::atoi(wanted) != 0) {
    const uint64_t tested = fingerprint(gpu.caps);
    if (const std::optional<DeviceVerdict> known = gpu.verdicts.device(tested)) {
      if (known->taken) take_away(device, known->taken, "it failed a test when this build first used it");
      const std::lock_guard layouts(gpu.layouts_mutex);
      gpu.layouts = known->layouts;
    } else {
      make_kernels(device);
      test(device);
    }
    gpu.test_fingerprint = tested;
  }
  // What select goes by (select_coopmat.h).
  if (const std::optional<CoopShape> shape = select_shape(gpu.caps))
    coop_layout(device, *shape, gpu.caps.subgroup_size);
  gpu.self_tested = true;
}

}  // namespace seer::vulkan
