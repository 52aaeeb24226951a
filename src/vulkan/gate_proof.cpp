#include "gate_proof.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "../../shaders/args.h"
#include "../select_rule.h"
#include "../status.h"
#include "scoped_memory.h"
#include "score_coopmat.h"

namespace seer::vulkan {
namespace {

template <class Test>
bool proven(VulkanDevice &device, const KernelKey &key, const char *stage, Test test) {
  Pipelines &pipelines = *device.gpu->pipelines;
  if (pipelines.failed(key)) return false;
  try {
    if (!pipelines.judged(key)) {
      if (device.collects()) return true;  // tried once it is compiled, beside what else the call takes
      if (device.collects()) return true;  // tried once it is compiled, beside what else the call takes
      pipelines.get(key);
      pipelines.judge(key, test(device.tester()));
      pipelines.get(key);
    }
    return true;
  } catch (const Error &error) {
    if (error.status() != Status::unsupported) throw;
    device.log(LogLevel::warn, "%s does without one of its kernels: %s", stage, error.what());
    return false;
  }
}

std::vector<float> values(size_t count, std::minstd_rand &random) {
  std::vector<float> x(count);
  for (float &v : x) v = float(random() % 4001) / 1000.0f - 2.0f;
  return x;
}

// Rows of two heads that see different numbers of key blocks, more than one item of them and the last one cut short.
// Row kEqual has no preference; the vectors of head 1 are as large as those that it compares them with are small, and
// one has an infinity.
struct Gate {
  static constexpr int64_t kHeads = 2, kBlock = 64, kBefore = 7, kEqual = 42;

  Gate(const SelectTile &tile) : dim(tile.dim), rows(tile.rows() + 43), cols(rows + kBefore), infinite(rows - 2) {
    std::minstd_rand random(1);
    q = values(size_t(rows * kHeads * dim), random);
    k = values(size_t(cols * kHeads * dim), random);
    for (int64_t d = 0; d < dim; d++) {
      q[size_t(kEqual * kHeads * dim + d)] = 0;
      for (int64_t r = 0; r < rows; r++) q[size_t((r * kHeads + 1) * dim + d)] *= 0x1p30f;
      for (int64_t c = 0; c < cols; c++) k[size_t((c * kHeads + 1) * dim + d)] *= 0x1p-30f;
    }
    q[size_t((infinite * kHeads + 1) * dim)] = HUGE_VALF;
    sequence.q_len = rows * kBlock;
    sequence.k_len = sequence.total_len = cols * kBlock;
  }

  double scale() const { return 2 / std::sqrt(double(dim)); }
  GateVectors vectors(const ScopedMemory &on_q, const ScopedMemory &on_k) const {
    return {on_q.as<float>(), on_k.as<float>(), kHeads, kHeads, dim, scale()};
  }
  int64_t causal(int64_t row) const { return row + kBefore + 1; }
  double logit(int64_t head, int64_t row, int64_t col) const {
    double dot = 0;
    for (int64_t d = 0; d < dim; d++)
      dot += double(q[size_t((row * kHeads + head) * dim + d)]) * double(k[size_t((col * kHeads + head) * dim + d)]);
    return dot * scale();
  }
  static std::string name(int64_t head, int64_t row, int64_t col) {
    return "block " + std::to_string(col) + " of row " + std::to_string(row) + " of head " + std::to_string(head);
  }

  const int64_t dim, rows, cols, infinite;
  std::vector<float> q, k;
  Sequence sequence;
};

std::string select_fault(VulkanDevice &device, const SelectTile &tile) {
  const Gate gate(tile);
  const int64_t words = mask_words(gate.cols), vectors = gate.cols * Gate::kHeads;
  std::vector<uint32_t> mask(size_t(Gate::kHeads * gate.rows * words), 0xa5a5a5a5u);
  const ScopedMemory on_q(device, gate.q), on_k(device, gate.k), on_mask(device, mask);
  const ScopedMemory stats(device, std::vector<uint64_t>(3)), split(device, split_bytes(vectors, gate.dim));
  SelectArgs args{.sequences = {&gate.sequence, 1}, .block = Gate::kBlock, .q_heads = Gate::kHeads};
  args.gate = gate.vectors(on_q, on_k);
  args.rule.method = SelectMethod::threshold;
  args.rule.threshold = 1.0 / double(gate.causal(Gate::kEqual));
  args.mask = {
      .words = on_mask.as<uint32_t>(), .stride_batch = 0, .stride_head = gate.rows * words, .stride_row = words};
  args.mask_row_words = words;
  args.stats = stats.as<SelectStats>();
  Exec exec;
  record_split(device, exec, args.gate.k, vectors, gate.dim, split.as<void>(), false);
  record_select_split(
      device, exec, tile,
      {.args = args, .sequence = gate.sequence, .rows = gate.rows, .split_k = split.as<void>(), .k_vectors = vectors},
      false);
  on_mask.read(mask);
  std::vector<uint64_t> counted(3);
  stats.read(counted);

  const double threshold = double{float(args.rule.threshold)};
  uint64_t kept = 0, causal_all = 0;
  for (int64_t h = 0; h < Gate::kHeads; h++)
    for (int64_t r = 0; r < gate.rows; r++) {
      const int64_t causal = gate.causal(r);
      const uint32_t *row = &mask[size_t((h * gate.rows + r) * words)];
      std::vector<double> weights;
      for (int64_t c = 0; c < causal; c++) weights.push_back(gate.logit(h, r, c));
      const double most = *std::max_element(weights.begin(), weights.end());
      double sum = 0;
      for (double &w : weights) sum += w = std::exp(w - most);
      for (int64_t c = 0; c < 32 * words; c++) {
        const bool bit = mask_test(row, c),
                   last = c == causal - 1;  // the last is what rows keep that would keep nothing
        kept += bit;
        if (c >= causal && bit) return Gate::name(h, r, c);
        if (c >= causal || (h == 1 && r == gate.infinite)) continue;
        const double p = weights[size_t(c)] / sum;
        const bool clear = std::abs(p - threshold) > 1e-4 * threshold && !last;
        // Its probabilities are the threshold itself: none is above it.
        if (h == 0 && r == Gate::kEqual ? bit != last : clear && bit != (p > threshold)) return Gate::name(h, r, c);
      }
      causal_all += uint64_t(causal);
    }
  if (counted[0] != kept || counted[1] != causal_all) return "the number of blocks";
  return {};
}

// Two heads on one of pooled, a tile of rows cut short. The angles are none of RoPE's, the arithmetic is.
std::string project_fault(VulkanDevice &device, const ProjectTile &tile, bool rotates) {
  constexpr int64_t heads = 2, position = 3;
  const int64_t in = 3 * tile.depth, half = 2 * tile.pairs, out = 2 * half, rows = tile.rows + 9;
  std::minstd_rand random(1);
  const std::vector<float> pooled = values(size_t(rows * in), random);
  std::vector<uint16_t> weight;
  for (const float w : values(size_t(heads * in * out), random)) weight.push_back(from_f32<bf16>(w).bits);
  const std::vector<float> table =
      values(size_t((kRopeFineRows + (rows + position) / kRopeFineRows + 1) * half * 2), random);
  std::vector<float> gate(size_t(rows * heads * out), std::nanf(""));
  const ScopedMemory on_pooled(device, pooled), on_weight(device, weight), on_table(device, table),
      on_gate(device, gate);

  ProjectPush push{};
  push.rows = uint32_t(rows);
  push.pooled_heads = 1;
  push.gate_heads = heads;
  push.in_dim = uint32_t(in);
  push.out_dim = uint32_t(out);
  push.half_dim = uint32_t(half);
  push.position = position;
  push.row_tiles = 2;
  push.pair_tiles = uint32_t(half) / tile.pairs;
  Exec exec;
  device.recorder->dispatch(exec, device.kernel(tile.key(rotates)),
                            std::array{on_pooled.window(), on_weight.window(), on_gate.window(), on_table.window()},
                            push, {.items = uint64_t(heads) * push.row_tiles * push.pair_tiles, .flops = 1e6});
  on_gate.read(gate);

  for (int64_t r = 0; r < rows; r++)
    for (int64_t h = 0; h < heads; h++)
      for (int64_t pair = 0; pair < half; pair++) {
        double sums[2] = {}, sizes[2] = {};
        for (int64_t side = 0; side < 2; side++)
          for (int64_t i = 0; i < in; i++) {
            const double x = double{pooled[size_t(r * in + i)]} *
                             double{to_f32(bf16{weight[size_t((h * in + i) * out + side * half + pair)]})};
            sums[side] += x;
            sizes[side] += std::abs(x);
          }
        double turn[2] = {1, 0};
        if (rotates) {
          const int64_t at = r + position;
          const float *fine = &table[size_t((at % kRopeFineRows * half + pair) * 2)];
          const float *coarse = &table[size_t(((kRopeFineRows + at / kRopeFineRows) * half + pair) * 2)];
          turn[0] = double{coarse[0]} * fine[0] - double{coarse[1]} * fine[1];
          turn[1] = double{coarse[1]} * fine[0] + double{coarse[0]} * fine[1];
        }
        const double expected[2] = {sums[0] * turn[0] - sums[1] * turn[1], sums[1] * turn[0] + sums[0] * turn[1]};
        const double allowed = 2e-6 * (sizes[0] + sizes[1]) * (std::abs(turn[0]) + std::abs(turn[1]));
        for (int64_t side = 0; side < 2; side++) {
          const double got = gate[size_t((r * heads + h) * out + side * half + pair)];
          if (!(std::abs(got - expected[side]) <= allowed))
            return "channel " + std::to_string(side * half + pair) + " of row " + std::to_string(r) + " is " +
                   std::to_string(got) + ", expected " + std::to_string(expected[side]);
        }
      }
  return {};
}

}  // namespace

bool select_proven(VulkanDevice &device, const SelectTile &tile) {
  return proven(device, tile.key(), "select", [&](VulkanDevice &on) { return select_fault(on, tile); });
}

bool project_proven(VulkanDevice &device, const ProjectTile &tile, bool rotates) {
  return proven(device, tile.key(rotates), "project",
                [&](VulkanDevice &on) { return project_fault(on, tile, rotates); });
}

}  // namespace seer::vulkan
