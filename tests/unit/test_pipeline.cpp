// The pipeline against itself on the reference kernels: the two ways of rotating, masks of bits and bytes, chunks with
// a cache, sequences alone and packed, failure and progress. What the stages compute is tested elsewhere.
#include "pipeline.h"

#include <doctest/doctest.h>

#include <cmath>
#include <random>

using namespace seer;

namespace {

constexpr int64_t kHeads = 4, kKvHeads = 2, kDim = 32, kBlock = 32;

struct Model {
  GateConfig config;
  LayerGate layer;
  std::vector<float> wk;

  explicit Model(uint32_t seed) : wk(size_t(kHeads * 3 * kDim * kDim)) {
    config.layers = 1;
    config.q_heads = kHeads;
    config.kv_heads = kKvHeads;
    config.head_dim = config.gate_dim = kDim;
    config.block_size = kBlock;
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal(0.0f, 0.2f);
    for (float &w : wk) w = normal(rng);
    layer.wk = {.dtype = DType::f32, .heads = kHeads, .in = 3 * kDim, .out = kDim, .data = wk.data()};
  }
};

struct Tokens {
  std::vector<float> data;
  int64_t heads;
  Tokens(int64_t tokens, int64_t h, uint32_t seed) : data(size_t(tokens * h * kDim)), heads(h) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    for (float &x : data) x = normal(rng);
  }
  TokenView view(int64_t first = 0) {
    return {.data = data.data() + first * heads * kDim,
            .dtype = DType::f32,
            .heads = heads,
            .dim = kDim,
            .stride_batch = 0,
            .stride_token = heads * kDim,
            .stride_head = kDim};
  }
};

// The CPU's reference device, but one that wants rotated copies, of q and k or of k alone, as GPUs do.
struct CopyingDevice {
  std::unique_ptr<Device> device;
  explicit CopyingDevice(bool attend_rotates = true) : CopyingDevice(attend_rotates, attend_rotates) {}
  CopyingDevice(bool rotates_q, bool rotates_k) {
    DeviceParams params;
    params.reference = true;
    device = create_device(BackendKind::cpu, params);
    device->limits.attend_rotates_q = rotates_q;
    device->limits.attend_rotates_k = rotates_k;
  }
};

struct Result {
  std::vector<float> out, lse;
  std::vector<uint32_t> mask;
  CallStats stats;
};

Sequence sequence(int64_t q_len, int64_t k_len) {
  Sequence s;
  s.q_len = q_len;
  s.k_len = s.total_len = k_len;
  return s;
}

// One prefill over packed sequences. q tokens start at q_first of q.
Result prefill(Pipeline &pipeline, const Model &model, Tokens &q, Tokens &k, Tokens &v, std::vector<Sequence> sequences,
               SelectRule rule, RopeConfig rope = {}, int64_t q_first = 0, GateCache *cache = nullptr,
               Exec *exec = nullptr) {
  int64_t tokens = 0, rows = 0, cols = 0;
  for (Sequence &s : sequences) {
    s.mask_row = rows;
    tokens += s.q_len;
    rows += s.q_blocks(kBlock);
    cols = std::max(cols, s.k_blocks(kBlock));
  }
  Result r;
  r.out.assign(size_t(tokens * kHeads * kDim), NAN);
  r.lse.assign(size_t(tokens * kHeads), NAN);
  r.mask.assign(size_t(kHeads * rows * mask_words(cols)), 0xffffffffu);
  GateCall gate;
  gate.config = &model.config;
  gate.weights = &model.layer;
  gate.sequences = sequences;
  gate.q = q.view(q_first);
  gate.k = k.view();
  gate.rule = rule;
  gate.rope = rope;
  gate.cache = cache;
  gate.mask = {.words = r.mask.data(), .stride_head = rows * mask_words(cols), .stride_row = mask_words(cols)};
  AttendCall attend;
  attend.block = kBlock;
  attend.q = gate.q;
  attend.k = gate.k;
  attend.v = v.view();
  attend.out = gate.q;
  attend.out.data = r.out.data();
  attend.lse = {.data = r.lse.data(), .stride_head = tokens};
  attend.scale = 1.0 / std::sqrt(double(kDim));
  attend.rope = rope;
  Exec plain;
  pipeline.prefill(exec ? *exec : plain, gate, attend, r.stats);
  return r;
}

SelectRule threshold(double t, int64_t last = 0) {
  SelectRule rule;
  rule.threshold = t;
  rule.last_dense_rows = last;
  return rule;
}

double distance(const std::vector<float> &a, const std::vector<float> &b) {
  REQUIRE(a.size() == b.size());
  double error = 0, norm = 1e-30;
  for (size_t i = 0; i < a.size(); i++) {
    error += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
    norm += double(b[i]) * b[i];
  }
  return std::sqrt(error / norm);
}

}  // namespace

TEST_CASE("pipeline: rotating inside attend equals rotated copies made by pool") {
  Model model(1);
  Tokens q(300, kHeads, 2), k(300, kKvHeads, 3), v(300, kKvHeads, 4);
  const std::vector<Sequence> one = {sequence(300, 300)};
  CopyingDevice rotates(true), copies(false), copies_k(true, false);
  Pipeline a(*rotates.device), b(*copies.device), c(*copies_k.device);
  const Result x = prefill(a, model, q, k, v, one, threshold(0.1));
  const Result y = prefill(b, model, q, k, v, one, threshold(0.1));
  const Result z = prefill(c, model, q, k, v, one, threshold(0.1));
  CHECK(x.mask == y.mask);
  CHECK(x.mask == z.mask);
  CHECK(distance(x.out, y.out) < 1e-6);
  CHECK(distance(x.out, z.out) < 1e-6);
  CHECK(y.stats.workspace_bytes - z.stats.workspace_bytes >= 300 * kHeads * kDim * sizeof(float));
  CHECK(z.stats.workspace_bytes - x.stats.workspace_bytes >= 300 * kKvHeads * kDim * sizeof(float));
  CHECK(x.stats.select.blocks_causal == uint64_t(kHeads * 10 * 11 / 2));
  CHECK(x.stats.select.blocks_kept < x.stats.select.blocks_causal);
  CHECK(x.stats.select.blocks_kept > 0);
}

TEST_CASE("pipeline: a gate computed in passes over the heads equals one computed at once") {
  CopyingDevice whole(false), passes(false);
  passes.device->limits.gate_bytes = 1;  // a pass for each KV head
  Pipeline one(*whole.device), many(*passes.device);
  Model model(3);
  Tokens q(200, kHeads, 4), k(230, kKvHeads, 5), v(230, kKvHeads, 6);
  uint64_t done = 0, total = 0;
  Exec exec;
  exec.step = [&](uint64_t n) { done += n; };
  const Result a = prefill(one, model, q, k, v, {sequence(200, 200)}, threshold(0.2, 1));
  const Result b = prefill(many, model, q, k, v, {sequence(200, 200)}, threshold(0.2, 1), {}, 0, nullptr, &exec);
  CHECK(a.out == b.out);
  CHECK(a.mask == b.mask);
  CHECK(a.stats.select.blocks_kept == b.stats.select.blocks_kept);
  CHECK(a.stats.select.blocks_causal == b.stats.select.blocks_causal);
  CHECK(b.stats.workspace_bytes < a.stats.workspace_bytes);
  GateCall gate;
  gate.config = &model.config;
  gate.q.heads = kHeads;
  gate.sequences = {sequence(200, 200)};
  total = Pipeline::prefill_units(gate, {});
  CHECK(done == total);
}

TEST_CASE("pipeline: packed sequences equal each alone, for length-dependent RoPE too") {
  Model model(5);
  RopeConfig dynamic;
  dynamic.kind = RopeKind::dynamic;
  dynamic.factor = 4.0;
  dynamic.max_position_embeddings = 64;
  for (const RopeConfig &rope : {RopeConfig{}, dynamic}) {
    const int64_t lengths[] = {100, 0, 1, 230};
    Tokens q(331, kHeads, 6), k(331, kKvHeads, 7), v(331, kKvHeads, 8);
    std::vector<Sequence> packed;
    int64_t begin = 0;
    for (int64_t n : lengths) {
      Sequence s = sequence(n, n);
      s.q_begin = s.k_begin = begin;
      begin += n;
      packed.push_back(s);
    }
    for (bool rotates : {true, false}) {
      CopyingDevice device(rotates);
      Pipeline pipeline(*device.device);
      const Result all = prefill(pipeline, model, q, k, v, packed, threshold(0.1), rope);
      for (const Sequence &s : packed) {
        if (s.q_len == 0) continue;
        Tokens q1(s.q_len, kHeads, 0), k1(s.q_len, kKvHeads, 0), v1(s.q_len, kKvHeads, 0);
        std::copy_n(q.data.begin() + s.q_begin * kHeads * kDim, q1.data.size(), q1.data.begin());
        std::copy_n(k.data.begin() + s.k_begin * kKvHeads * kDim, k1.data.size(), k1.data.begin());
        std::copy_n(v.data.begin() + s.k_begin * kKvHeads * kDim, v1.data.size(), v1.data.begin());
        const Result alone = prefill(pipeline, model, q1, k1, v1, {sequence(s.q_len, s.q_len)}, threshold(0.1), rope);
        const auto first = all.out.begin() + s.q_begin * kHeads * kDim;
        CHECK(std::vector<float>(first, first + std::ptrdiff_t(alone.out.size())) == alone.out);
      }
    }
  }
}

TEST_CASE("pipeline: chunks through a gate cache equal one call, and the cache is not read beyond what it holds") {
  Model model(9);
  Tokens q(250, kHeads, 10), k(250, kKvHeads, 11), v(250, kKvHeads, 12);
  CopyingDevice device;
  Pipeline pipeline(*device.device);
  const Result whole = prefill(pipeline, model, q, k, v, {sequence(250, 250)}, threshold(0.1));
  GateCache cache(*device.device, model.config, 1, 1, 256);
  std::vector<float> out;
  for (const auto &[first, last] : {std::pair{0, 96}, {96, 128}, {128, 250}}) {
    const Result part =
        prefill(pipeline, model, q, k, v, {sequence(last - first, last)}, threshold(0.1), {}, first, &cache);
    out.insert(out.end(), part.out.begin(), part.out.end());
    CHECK(cache.blocks(0, 0) == last / kBlock);
  }
  CHECK(out == whole.out);

  cache.set_blocks(0, 0, 2);  // forget, then ask again: pooled anew
  const Result again = prefill(pipeline, model, q, k, v, {sequence(122, 250)}, threshold(0.1), {}, 128, &cache);
  CHECK(std::equal(again.out.begin(), again.out.end(), whole.out.begin() + 128 * kHeads * kDim));

  GateCache small(*device.device, model.config, 1, 1, 64);
  CHECK_THROWS_AS(prefill(pipeline, model, q, k, v, {sequence(250, 250)}, threshold(0.1), {}, 0, &small), Error);
  CHECK(small.blocks(0, 0) == 0);
}

TEST_CASE("pipeline: attend with byte masks equals bits, and ignores bits above the triangle") {
  Tokens q(200, kHeads, 13), k(200, kKvHeads, 14), v(200, kKvHeads, 15);
  BlockMask mask(kHeads, 7, 7);
  std::mt19937 rng(16);
  for (int64_t h = 0; h < kHeads; h++)
    for (int64_t i = 0; i < 7; i++)
      for (int64_t j = 0; j < 7; j++)
        if (j > i || rng() % 2) mask.set(h, i, j);
  std::vector<uint8_t> bytes = mask.to_bytes();
  for (bool rotates : {true, false}) {
    CopyingDevice device(rotates);
    Pipeline pipeline(*device.device);
    AttendCall call;
    call.sequences = {sequence(200, 200)};
    call.block = kBlock;
    call.q = q.view();
    call.k = k.view();
    call.v = v.view();
    call.scale = 0.2;
    std::vector<float> with_bits(q.data.size()), with_bytes(q.data.size());
    call.out = call.q;
    call.out.data = with_bits.data();
    call.mask = mask.view();
    Exec exec;
    CallStats stats;
    pipeline.attend(exec, call, stats);
    call.out.data = with_bytes.data();
    call.mask = {};
    call.mask_bytes = {.bytes = bytes.data(), .stride_batch = 0, .stride_head = 49, .stride_row = 7, .cols = 7};
    pipeline.attend(exec, call, stats);
    CHECK(with_bits == with_bytes);
  }
}

TEST_CASE("pipeline: progress adds up to what was announced; cancelling stops and commits nothing") {
  Model model(17);
  Tokens q(256, kHeads, 18), k(256, kKvHeads, 19), v(256, kKvHeads, 20);
  CopyingDevice device;
  Pipeline pipeline(*device.device);
  std::atomic<uint64_t> done{0};
  Exec exec;
  exec.step = [&](uint64_t n) { done += n; };
  prefill(pipeline, model, q, k, v, {sequence(256, 256)}, threshold(0.1), {}, 0, nullptr, &exec);
  GateCall announced;
  announced.config = &model.config;
  announced.sequences = {sequence(256, 256)};
  announced.q = q.view();
  CHECK(done == Pipeline::prefill_units(announced, {}));

  GateCache cache(*device.device, model.config, 1, 1, 256);
  for (uint64_t stop : {uint64_t{0}, uint64_t{3}, uint64_t{20}, uint64_t{50}}) {
    done = 0;
    exec.cancelled = [&] { return done >= stop; };
    try {
      prefill(pipeline, model, q, k, v, {sequence(256, 256)}, threshold(0.1), {}, 0, &cache, &exec);
      FAIL("was not cancelled");
    } catch (const Error &error) {
      CHECK(error.status() == Status::cancelled);
    }
    CHECK(cache.blocks(0, 0) == 0);
  }
}

TEST_CASE("pipeline: a workspace limit is kept, and the planner's figure is what a call reports") {
  Model model(21);
  Tokens q(256, kHeads, 22), k(256, kKvHeads, 23), v(256, kKvHeads, 24);
  CopyingDevice device;
  Pipeline free_pipeline(*device.device);
  const Result r = prefill(free_pipeline, model, q, k, v, {sequence(256, 256)}, threshold(0.1));
  Pipeline tight(*device.device, r.stats.workspace_bytes);
  CHECK_NOTHROW(prefill(tight, model, q, k, v, {sequence(256, 256)}, threshold(0.1)));
  Pipeline tighter(*device.device, r.stats.workspace_bytes - 1);
  CHECK_THROWS_AS(prefill(tighter, model, q, k, v, {sequence(256, 256)}, threshold(0.1)), Error);
}
