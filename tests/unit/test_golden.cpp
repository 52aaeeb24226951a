// The golden cases, computed in double by the original, through the five reference stages.
#include <cmath>
#include <filesystem>

#include "cpu/kernels.h"
#include "file.h"
#include "files.h"
#include "gate_load.h"
#include "json.h"
#include "rope.h"
#include "safetensors.h"
#include "support/compare.h"
#include "support/image.h"

using namespace seer;
using namespace seer::test;

namespace {

struct Case {
  std::string dir;
  Json json;
  JsonObject settings;
  Safetensors file;
  GateModel model;

  explicit Case(const std::string &path)
      : dir(path),
        json(parse_json(read_text(path + "/case.json", 1 << 20), path + "/case.json")),
        settings(json, path + "/case.json"),
        file(Safetensors::open(path + "/case.safetensors")),
        model(load_gates_dir(path)) {}

  template <class T>
  std::vector<T> read(const std::string &name) const {
    const SafetensorsTensor &tensor = file.at(name);
    std::vector<T> values(tensor.bytes() / sizeof(T));
    file.read(tensor, values.data());
    return values;
  }
  std::vector<double> doubles(const std::string &name) const {
    const auto values = read<float>(name);
    return {values.begin(), values.end()};
  }
  Image image(const std::string &name) const {
    const auto &shape = file.at(name).shape;
    const auto values = read<bf16>(name);
    Image image(DType::f32, {shape[0], shape[1], shape[2], shape[3]});
    size_t i = 0;
    image.fill([&](auto...) { return to_f32(values[i++]); });
    return image;
  }
};

std::vector<std::string> golden_dirs() {
  std::vector<std::string> dirs;
  for (const auto &entry : std::filesystem::directory_iterator(SEER_TEST_DATA "/golden"))
    if (entry.is_directory()) dirs.push_back(entry.path().string());
  std::sort(dirs.begin(), dirs.end());
  return dirs;
}

// Frobenius error relative to the truth, over values where the truth is finite.
double relative(const std::vector<double> &truth, const std::vector<double> &got) {
  REQUIRE(truth.size() == got.size());
  double error = 0, norm = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    if (!std::isfinite(truth[i])) continue;
    error += (truth[i] - got[i]) * (truth[i] - got[i]);
    norm += truth[i] * truth[i];
  }
  return std::sqrt(error / norm);
}

struct Rope {
  RopeFreqs freqs;
  RopeTableCache cache;
  std::shared_ptr<const RopeTables> tables;
  RopeView view;
  Rope(const RopeConfig &config, int64_t dim, int64_t length, int64_t positions, int64_t step)
      : freqs(rope_freqs(config, dim, length)), tables(cache.get(freqs, positions, step)) {
    view = {freqs.inv_freq.data(), freqs.attention_scaling, dim / 2, tables->cos.data(), tables->sin.data()};
  }
};

void check_freqs(const RopeFreqs &freqs, const std::vector<float> &expected, double scaling) {
  CHECK(freqs.attention_scaling == scaling);
  REQUIRE(freqs.inv_freq.size() == expected.size());
  for (size_t d = 0; d < expected.size(); ++d)  // 2 ulp
    CHECK(std::abs(freqs.inv_freq[d] - expected[d]) <= 2.4e-7f * expected[d]);
}

void check_case(const Case &c) {
  const GateConfig &gate = c.model.config;
  const int64_t layer = c.settings.integer("layer", 0, gate.layers - 1);
  const LayerGate &weights = c.model.layers[size_t(layer)];
  Image q = c.image("q"), k = c.image("k"), v = c.image("v");
  const int64_t batches = q.shape()[0], length = q.shape()[1], block = gate.block_size, dim = gate.head_dim;
  const Batch batch = make_batch(std::vector<Lengths>(size_t(batches), {length, length}), block, false);
  const int64_t rows = batch.mask_rows;
  const Rope rope(gate.rope, dim, length, length, 1), gate_rope(gate.gate_rope, gate.gate_dim, length, rows, block);
  check_freqs(rope.freqs, c.read<float>("inv_freq"), c.settings.number("rope_attention_scaling"));
  check_freqs(gate_rope.freqs, c.read<float>("gate_inv_freq"), c.settings.number("gate_rope_attention_scaling"));

  ThreadPool pool(1);
  Exec exec;
  cpu::Workers workers{pool, exec};

  // pool and project, of q and of k
  std::vector<float> gates[2];
  for (Side side : {Side::q, Side::k}) {
    const bool is_q = side == Side::q;
    const uint32_t bits = is_q ? gate.q_pool : gate.k_pool;
    const GateMatrix &matrix = is_q ? weights.wq : weights.wk;
    const int64_t heads = is_q ? gate.q_heads : gate.kv_heads, in = pool_count(bits) * dim;
    const int64_t gate_heads = matrix.present() ? matrix.heads : heads;
    std::vector<float> pooled(size_t(batch.q_rows * heads * in));
    cpu::pool_ref(workers, {.sequences = batch.sequences,
                            .side = side,
                            .block = block,
                            .x = (is_q ? q : k).tokens(),
                            .pool_bits = bits,
                            .pooled = pooled.data()});
    gates[is_q ? 0 : 1].resize(size_t(batch.q_rows * gate_heads * gate.gate_dim));
    cpu::project_ref(workers, {.sequences = batch.sequences,
                               .side = side,
                               .block = block,
                               .pooled = pooled.data(),
                               .pooled_heads = heads,
                               .gate_heads = gate_heads,
                               .in = in,
                               .out = gate.gate_dim,
                               .weight = matrix,
                               .rope = gate_rope.view,
                               .gate = gates[is_q ? 0 : 1].data()});
  }

  // score
  const GateVectors vectors{.q = gates[0].data(),
                            .k = gates[1].data(),
                            .q_heads = gate.q_heads,
                            .k_heads = gate.k_weight_heads(),
                            .dim = gate.gate_dim,
                            .scale = 1 / std::sqrt(double(gate.gate_dim))};
  const auto score = [&](bool softmax) {
    Image scores(DType::f32, {batches, gate.q_heads, rows, rows});
    ScoreArgs args{.sequences = batch.sequences, .block = block, .gate = vectors, .softmax = softmax, .cols = rows};
    args.scores = scores.floats();
    cpu::score_ref(workers, args);
    std::vector<double> values;
    for (int64_t b = 0; b < batches; ++b)
      for (int64_t h = 0; h < gate.q_heads; ++h)
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t j = 0; j < rows; ++j) values.push_back(scores.get(b, h, r, j));
    return values;
  };
  auto logits = c.doubles("gate_logits");
  const auto probs = c.doubles("gate_probs");
  for (size_t i = 0; i < logits.size(); ++i)  // the original's are finite above the triangle
    if (int64_t(i) % rows > int64_t(i) / rows % rows) logits[i] = -HUGE_VAL;
  CHECK(relative(logits, score(false)) < 1e-5);
  CHECK(relative(probs, score(true)) < 1e-5);

  // select: equal where the score is not within rounding of the cut. No golden case has a score so near.
  const auto expected_mask = c.read<uint8_t>("block_mask");
  Image mask(DType::b32, {batches, gate.q_heads, rows, mask_words(rows)});
  SelectStats stats;
  cpu::select_ref(workers, {.sequences = batch.sequences,
                            .block = block,
                            .q_heads = gate.q_heads,
                            .gate = vectors,
                            .rule = gate.select,
                            .mask = mask.mask(),
                            .mask_row_words = mask_words(rows),
                            .stats = &stats});
  int64_t wrong = 0;
  uint64_t empty_rows = 0;
  size_t at = 0;
  for (int64_t b = 0; b < batches; ++b)
    for (int64_t h = 0; h < gate.q_heads; ++h)
      for (int64_t r = 0; r < rows; ++r) {
        const uint8_t *row = &expected_mask[at];
        const bool empty = std::count(row, row + rows, 0) == rows;
        empty_rows += empty;
        for (int64_t j = 0; j < rows; ++j, ++at)
          wrong += mask_test(mask.mask().row(b, h, r), j) != (empty ? j == r : row[j] != 0);
      }
  CHECK(wrong == 0);
  CHECK(stats.fallback_rows == empty_rows);
  CHECK(empty_rows * uint64_t(block) == uint64_t(c.settings.integer("empty_query_rows", 0, 1 << 20)));

  // attend. Rows that fell back are NaN in the original and left out by relative().
  Image out(DType::f32, q.shape()), lse(DType::f32, {batches, gate.q_heads, length, 1});
  cpu::attend_ref(workers, {.sequences = batch.sequences,
                            .block = block,
                            .q = q.tokens(),
                            .k = k.tokens(),
                            .v = v.tokens(),
                            .out = out.tokens(),
                            .lse = lse.floats(),
                            .mask = mask.mask(),
                            .scale = 1 / std::sqrt(double(dim)),
                            .q_rope = rope.view,
                            .k_rope = rope.view});
  std::vector<double> got_out, got_lse;
  const auto out_rows = c.read<int32_t>("out_rows");
  for (int64_t b = 0; b < batches; ++b)
    for (int32_t t : out_rows)
      for (int64_t h = 0; h < gate.q_heads; ++h)
        for (int64_t d = 0; d < dim; ++d) got_out.push_back(out.get(b, t, h, d));
  for (int64_t b = 0; b < batches; ++b)
    for (int64_t h = 0; h < gate.q_heads; ++h)
      for (int64_t t = 0; t < length; ++t) got_lse.push_back(lse.get(b, h, t, 0));
  CHECK(relative(c.doubles("out"), got_out) < 1e-5);
  CHECK(relative(c.doubles("lse"), got_lse) < 1e-5);
  for (double x : got_out) REQUIRE(std::isfinite(x));
}

}  // namespace

TEST_CASE("golden cases through the reference stages") {
  const auto dirs = golden_dirs();
  CHECK(dirs.size() == 10);
  for (const std::string &dir : dirs) {
    CAPTURE(dir);
    check_case(Case(dir));
  }
}
