#include "selftest.h"

#include <array>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "../status.h"
#include "kernels.h"
#include "score_coopmat.h"
#include "shaders.h"

namespace seer::vulkan {
namespace {

// Device memory for the life of a scope.
class Scratch {
public:
  Scratch(VulkanDevice &device, uint64_t bytes) : device_(device), memory_(device.memory->alloc(bytes)) {}
  ~Scratch() {
    try {
      device_.recorder->wait();
    } catch (const Error &) {  // said by who waited before
    }
    device_.memory->free(memory_);
  }
  Scratch(const Scratch &) = delete;
  Scratch &operator=(const Scratch &) = delete;
  void *address() const { return memory_.address; }

private:
  VulkanDevice &device_;
  Memory memory_;
};

bool subgroups_right(VulkanDevice &device) {
  const Caps &caps = device.caps;
  const uint32_t size = caps.subgroup_size;
  if (size < 4 || size > 128 || (size & (size - 1)) != 0) return size == 2 || size == 1;
  const bool sizes = caps.subgroup_size_control && caps.full_subgroups;
  struct {
    uint32_t first = 0, count = 0, size = 0;
  } push;
  push.size = size;
  const Kernel &kernel = device.kernel({.module = "selftest_subgroup",
                                        .constants = {},
                                        .bindings = 1,
                                        .push_bytes = sizeof push,
                                        .subgroup_size = sizes ? size : 0,
                                        .full_subgroups = sizes,
                                        .shared_bytes = 0});
  const Scratch result(device, 16);
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

template <class T>
double attend_error(VulkanDevice &device, DType dtype, int64_t dim) {
  const int64_t q_size = kTokens * kHeads * dim, k_size = kTokens * dim;
  std::vector<T> q(static_cast<size_t>(q_size)), k(static_cast<size_t>(k_size)), v = k, out = q;
  for (size_t i = 0; i < q.size(); i++) q[i] = from_f32<T>(2 * value(1, int64_t(i)));
  for (size_t i = 0; i < k.size(); i++) k[i] = from_f32<T>(2 * value(2, int64_t(i)));
  for (size_t i = 0; i < v.size(); i++) v[i] = from_f32<T>(value(3, int64_t(i)));
  const std::vector<uint32_t> mask = {1, 3, 5, 11, 1, 2, 0, 15};  // [head][row]; head 1, row 2 keeps nothing
  Sequence sequence;
  sequence.q_len = sequence.k_len = sequence.total_len = kTokens;

  const auto bytes = [](const auto &x) { return uint64_t(x.size() * sizeof x[0]); };
  const Scratch on_q(device, bytes(q)), on_k(device, bytes(k)), on_v(device, bytes(v)), on_out(device, bytes(out));
  const Scratch on_mask(device, bytes(mask));
  Recorder &recorder = *device.recorder;
  recorder.write(on_q.address(), q.data(), bytes(q));
  recorder.write(on_k.address(), k.data(), bytes(k));
  recorder.write(on_v.address(), v.data(), bytes(v));
  recorder.write(on_mask.address(), mask.data(), bytes(mask));
  const auto view = [&](void *data, int64_t heads) {
    return TokenView{.data = data,
                     .dtype = dtype,
                     .heads = heads,
                     .dim = dim,
                     .stride_batch = 0,
                     .stride_token = heads * dim,
                     .stride_head = dim};
  };
  AttendArgs args{.sequences = std::span(&sequence, 1), .block = kBlock};
  args.q = view(on_q.address(), kHeads);
  args.k = view(on_k.address(), 1);
  args.v = view(on_v.address(), 1);
  args.out = view(on_out.address(), kHeads);
  args.mask = {.words = static_cast<uint32_t *>(on_mask.address()), .stride_head = kRows, .stride_row = 1};
  args.scale = 1 / std::sqrt(double(dim));
  const Scratch scratch(device, std::max<uint64_t>(1, attend_scratch(device, args)));
  args.scratch = scratch.address();
  Exec exec;
  attend(device, exec, args);
  recorder.read(on_out.address(), out.data(), bytes(out));

  double worst = 0;
  for (int64_t h = 0; h < kHeads; h++)
    for (int64_t t = 0; t < kTokens; t++) {
      std::vector<double> sum(static_cast<size_t>(dim));
      double denominator = 0;
      const uint32_t kept = mask[size_t(h * kRows + t / kBlock)];
      for (int64_t j = 0; j <= t; j++) {
        if (!(kept >> (j / kBlock) & 1)) continue;
        double score = 0;
        for (int64_t d = 0; d < dim; d++)
          score += double(to_f32(q[size_t((t * kHeads + h) * dim + d)])) * to_f32(k[size_t(j * dim + d)]);
        const double weight = std::exp(score * args.scale);
        denominator += weight;
        for (int64_t d = 0; d < dim; d++) sum[size_t(d)] += weight * to_f32(v[size_t(j * dim + d)]);
      }
      for (int64_t d = 0; d < dim; d++) {
        const double expected = denominator > 0 ? sum[size_t(d)] / denominator : 0;
        const double error = std::abs(to_f32(out[size_t((t * kHeads + h) * dim + d)]) - expected);
        worst = error <= worst ? worst : error;  // NaN is the worst
      }
    }
  return worst;
}

// Logits on cooperative matrices against doubles, for vectors of all magnitudes and one with an infinity. The largest
// error, in units of |q| |k| scale.
double score_error(VulkanDevice &device, const ScoreTile &tile) {
  constexpr int64_t rows = 150, heads = 2, dim = 128;
  std::vector<float> q(size_t(rows * heads * dim)), k(size_t(rows * dim)), logits(size_t(heads * rows * rows));
  const auto vector = [&](std::vector<float> &x, uint32_t seed, int64_t v) {
    const float size = v % 7 == 3 ? 1e-12f : v % 7 == 5 ? 1e15f : v % 11 == 4 ? 0.0f : 1.0f;
    for (int64_t d = 0; d < dim; d++) x[size_t(v * dim + d)] = size * value(seed, v * dim + d);
  };
  for (int64_t v = 0; v < rows * heads; v++) vector(q, 4, v);
  for (int64_t v = 0; v < rows; v++) vector(k, 5, v);
  constexpr int64_t infinite = 140;  // a row of head 0
  q[size_t(infinite * heads * dim + 7)] = HUGE_VALF;
  const auto bytes = [](const auto &x) { return uint64_t(x.size() * sizeof x[0]); };
  const Scratch on_q(device, bytes(q)), on_k(device, bytes(k)), on_logits(device, bytes(logits));
  const Scratch split_q(device, split_bytes(rows * heads, dim)), split_k(device, split_bytes(rows, dim));
  Recorder &recorder = *device.recorder;
  recorder.write(on_q.address(), q.data(), bytes(q));
  recorder.write(on_k.address(), k.data(), bytes(k));
  Sequence sequence;
  sequence.q_len = sequence.k_len = sequence.total_len = rows * kBlock;
  const GateVectors gate{.q = static_cast<float *>(on_q.address()),
                         .k = static_cast<float *>(on_k.address()),
                         .q_heads = heads,
                         .k_heads = 1,
                         .dim = dim,
                         .scale = 0.25};
  Exec exec;
  record_split(device, exec, gate.q, rows * heads, dim, split_q.address(), false);
  record_split(device, exec, gate.k, rows, dim, split_k.address(), true);
  record_split_logits(
      device, exec, tile,
      {.gate = gate,
       .sequence = sequence,
       .block = kBlock,
       .rows = {0, rows, 0, heads},
       .cols = rows,
       .to = static_cast<float *>(on_logits.address()),
       .stride_head = rows * rows,
       .stride_row = rows},
      {.split_q = split_q.address(), .split_k = split_k.address(), .q_vectors = rows * heads, .k_vectors = rows},
      false);
  recorder.read(on_logits.address(), logits.data(), bytes(logits));

  double worst = 0;
  for (int64_t h = 0; h < heads; h++)
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j <= i; j++) {
        double dot = 0, of_q = 0, of_k = 0;
        for (int64_t d = 0; d < dim; d++) {
          const double x = q[size_t((i * heads + h) * dim + d)], y = k[size_t(j * dim + d)];
          dot += x * y;
          of_q += x * x;
          of_k += y * y;
        }
        const double got = logits[size_t((h * rows + i) * rows + j)];
        double error = std::abs(got - dot * gate.scale) / (std::sqrt(of_q * of_k) * gate.scale + 1e-300);
        if (!std::isfinite(dot)) error = std::isfinite(got) ? HUGE_VAL : 0;
        worst = error <= worst ? worst : error;
      }
  return worst;
}

// The first of the dtypes whose attention is wrong; none: all are right. Of drivers on the CPU, which compile slowly
// and compute in the same way whatever the type, only one is tried.
DType wrong_attention(VulkanDevice &device) {
  if (device.caps.software()) return attend_error<f16>(device, DType::f16, 64) < 5e-3 ? DType::none : DType::f16;
  for (int64_t dim : {64, 128}) {
    if (!(attend_error<f16>(device, DType::f16, dim) < 5e-3)) return DType::f16;
    if (!(attend_error<bf16>(device, DType::bf16, dim) < 2e-2)) return DType::bf16;
  }
  if (!(attend_error<float>(device, DType::f32, 64) < 1e-4)) return DType::f32;
  return DType::none;
}

// Of all that was tested: the shaders of this build and the features they may use.
uint64_t fingerprint(const Caps &caps) {
  uint64_t hash = 14695981039346656037u;  // FNV-1a, by words
  const auto add = [&](uint64_t x) { hash = (hash ^ x) * 1099511628211u; };
  for (const Shader &shader : shaders())
    for (size_t i = 0; i < shader.count; i++) add(shader.words[i]);
  for (bool feature :
       {caps.fp16, caps.storage16, caps.coopmat, caps.bf16_coopmat, caps.coopmat_score, caps.coopmat2_flexible,
        caps.coopmat2_workgroup, caps.coopmat2_tensor, caps.subgroup_size_control, caps.full_subgroups})
    add(feature);
  for (uint64_t limit : {caps.max_shared, caps.max_invocations, caps.subgroup_size, caps.subgroup_ops}) add(limit);
  return hash;
}

void test(VulkanDevice &device, Caps &caps) {
  const char *name = caps.name.c_str();
  bool right = false;
  try {
    right = caps.subgroup_ops == 0 || subgroups_right(device);
  } catch (const Error &error) {
    if (error.status() != Status::unsupported) throw;
    device.log(LogLevel::info, "%s: %s", name, error.what());
  }
  if (!right) {
    device.log(LogLevel::warn, "%s (%s): subgroups are not what the driver says; they are not used", name,
               caps.driver.c_str());
    caps.subgroup_ops = 0;
    take_coopmat_away(caps);
  }
  try {
    const std::optional<ScoreTile> tile = score_tile(caps, 128);
    if (tile && !(score_error(device, *tile) < 2e-6)) {
      device.log(LogLevel::warn, "%s (%s): scores on cooperative matrices are wrong; they are not used", name,
                 caps.driver.c_str());
      caps.coopmat_score = false;
    }
  } catch (const Error &error) {
    if (error.status() != Status::unsupported) throw;
    device.log(LogLevel::warn, "%s (%s): %s; scores do without cooperative matrices", name, caps.driver.c_str(),
               error.what());
    caps.coopmat_score = false;
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
    SEER_REQUIRE(caps.coopmat, Status::unsupported, "%s (%s) fails its self-test: %s", name, caps.driver.c_str(),
                 why.c_str());
    device.log(LogLevel::warn, "%s (%s): %s; cooperative matrices are not used", name, caps.driver.c_str(),
               why.c_str());
    take_coopmat_away(caps);
  }
}

}  // namespace

void self_test(VulkanDevice &device) {
  Gpu &gpu = *device.gpu;
  std::lock_guard lock(gpu.self_test_mutex);
  if (gpu.self_tested) return;
  const char *wanted = std::getenv("SEER_VK_SELFTEST");
  const uint64_t fingerprint_before = fingerprint(gpu.caps);
  if (!(wanted && std::atoi(wanted) == 0) && gpu.pipelines->passed() != fingerprint_before) {
    test(device, gpu.caps);
    if (fingerprint(gpu.caps) == fingerprint_before) gpu.pipelines->set_passed(fingerprint_before);
  }
  gpu.self_tested = true;
}

}  // namespace seer::vulkan
