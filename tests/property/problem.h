// A random problem: shapes, dtype, gate and data, drawn by RapidCheck so that a failure shrinks to its smallest form.
// RC_PARAMS="seed=N" repeats a run; the seed is printed with every failure.
#pragma once
#include <rapidcheck.h>

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "api.h"
#include "dtype.h"

namespace property {

// Raw bytes of tokens in one of the three dtypes.
struct Array {
  seer_dtype dtype = SEER_F32;
  std::vector<uint8_t> bytes;

  Array() = default;
  Array(seer_dtype t, const std::vector<float> &values) : dtype(t), bytes(values.size() * size(t)) {
    for (size_t i = 0; i < values.size(); i++) set(i, values[i]);
  }
  static size_t size(seer_dtype t) { return t == SEER_F32 ? 4 : 2; }
  size_t count() const { return bytes.size() / size(dtype); }
  void set(size_t i, float x) {
    if (dtype == SEER_F32) std::memcpy(&bytes[i * 4], &x, 4);
    if (dtype == SEER_F16) {
      const auto y = seer::from_f32<seer::f16>(x);
      std::memcpy(&bytes[i * 2], &y, 2);
    }
    if (dtype == SEER_BF16) {
      const auto y = seer::from_f32<seer::bf16>(x);
      std::memcpy(&bytes[i * 2], &y, 2);
    }
  }
  float get(size_t i) const {
    if (dtype == SEER_F32) {
      float x;
      std::memcpy(&x, &bytes[i * 4], 4);
      return x;
    }
    uint16_t bits;
    std::memcpy(&bits, &bytes[i * 2], 2);
    return dtype == SEER_F16 ? seer::to_f32(seer::f16{bits}) : seer::to_f32(seer::bf16{bits});
  }
  std::vector<float> floats() const {
    std::vector<float> values(count());
    for (size_t i = 0; i < values.size(); i++) values[i] = get(i);
    return values;
  }
  seer_tensor tensor(std::initializer_list<int64_t> shape) {
    seer_tensor t = api::host(bytes.data(), bytes.size(), dtype, shape);
    return t;
  }
};

struct Problem {
  int32_t batch, q_heads, kv_heads, dim, gate_dim, block, q_pool, k_pool;
  int64_t s, l;
  seer_dtype dtype;
  uint32_t seed;
  float scale;  // standard deviation of q and k
  seer_select_spec select;
  std::vector<std::vector<float>> weights;
  Array q, k, v, out;
  std::vector<float> lse;
  std::vector<uint32_t> mask;
  std::vector<float> scores;
  seer_stats stats = SEER_INIT(seer_stats);

  int64_t nq() const { return (s + block - 1) / block; }
  int64_t nk() const { return (l + block - 1) / block; }
  int64_t words() const { return (nk() + 31) / 32; }
  bool single() const { return gate_dim == dim && std::popcount(uint32_t(q_pool)) == 1; }

  // offset 0: a whole prompt; else queries are the last of `offset_blocks` blocks more keys.
  static Problem draw(int64_t max_tokens, bool chunk = false) {
    Problem p;
    p.batch = *rc::gen::inRange(1, 4);
    p.kv_heads = *rc::gen::inRange(1, 4);
    p.q_heads = p.kv_heads * *rc::gen::inRange(1, 9 / p.kv_heads + 1);
    p.dim = *rc::gen::element(16, 32, 64, 80, 96, 128);
    p.block = *rc::gen::element(32, 64, 128);
    p.gate_dim = *rc::gen::element(p.dim, p.dim, 32);
    p.q_pool = *rc::gen::inRange(1, 8);
    p.k_pool = *rc::gen::inRange(1, 8);
    p.s = *rc::gen::inRange<int64_t>(1, max_tokens + 1);
    p.l = p.s + (chunk ? p.block * *rc::gen::inRange(0, 5) : 0);
    p.dtype = *rc::gen::element<seer_dtype>(SEER_F32, SEER_F16, SEER_BF16);
    p.seed = *rc::gen::inRange<uint32_t>(0, 1000000);
    p.select = {};
    p.select.method = *rc::gen::element<seer_select_method>(SEER_SELECT_THRESHOLD, SEER_SELECT_THRESHOLD,
                                                            SEER_SELECT_RATIO, SEER_SELECT_BUDGET, SEER_SELECT_ALL);
    p.select.last_dense_rows = *rc::gen::inRange(-1, 4);
    p.select.threshold = *rc::gen::element(0.0, 0.02, 0.1, 0.3, 0.99, 1.0);
    p.select.ratio = *rc::gen::element(0.01, 0.3, 0.5, 1.0);
    p.select.token_budget = *rc::gen::inRange<int64_t>(1, 400);
    p.select.flags = *rc::gen::inRange<uint32_t>(0, 4);
    p.fill();
    return p;
  }

  void fill() {
    scale = *rc::gen::element(0.05f, 1.0f, 4.0f);
    q = Array(dtype, api::random_floats(size_t(batch * s * q_heads * dim), seed, scale));
    k = Array(dtype, api::random_floats(size_t(batch * l * kv_heads * dim), seed + 1, scale));
    v = Array(dtype, api::random_floats(size_t(batch * l * kv_heads * dim), seed + 2));
    const int64_t kw_heads = single() ? q_heads : kv_heads;
    weights.clear();
    weights.push_back(
        api::random_floats(size_t(kw_heads * dim * std::popcount(uint32_t(k_pool)) * gate_dim), seed + 3, 0.2f));
    if (!single())
      weights.push_back(
          api::random_floats(size_t(q_heads * dim * std::popcount(uint32_t(q_pool)) * gate_dim), seed + 4, 0.2f));
    clear();
  }
  void clear() {
    out = Array(dtype, std::vector<float>(q.count(), -77.0f));
    lse.assign(size_t(batch * q_heads * s), -77.0f);
    mask.assign(size_t(batch * q_heads * nq() * words()), 0xdeadbeefu);
    scores.assign(size_t(batch * q_heads * nq() * nk()), -77.0f);
  }

  api::Model model(seer_context *ctx) {
    seer_gate_config config = SEER_INIT(seer_gate_config);
    config.layers = 1;
    config.q_heads = q_heads;
    config.kv_heads = kv_heads;
    config.head_dim = dim;
    config.gate_dim = gate_dim;
    config.block_size = block;
    config.q_pool = q_pool;
    config.k_pool = k_pool;
    config.rope.kind = SEER_ROPE_THETA;
    config.rope.theta = 10000.0;
    seer_gate_weights w = SEER_INIT(seer_gate_weights);
    const int64_t kw_heads = single() ? q_heads : kv_heads;
    w.wk = api::f32(weights[0], {kw_heads, dim * std::popcount(uint32_t(k_pool)), gate_dim});
    if (!single()) w.wq = api::f32(weights[1], {q_heads, dim * std::popcount(uint32_t(q_pool)), gate_dim});
    const seer_gate_weights *layers[] = {&w};
    seer_model *model = nullptr;
    OK(seer_model_create(ctx, &config, layers, &model));
    return api::Model(model);
  }

  seer_prefill_desc prefill() {
    seer_prefill_desc desc = SEER_INIT(seer_prefill_desc);
    desc.q = q.tensor({batch, s, q_heads, dim});
    desc.k = k.tensor({batch, l, kv_heads, dim});
    desc.v = v.tensor({batch, l, kv_heads, dim});
    desc.out = out.tensor({batch, s, q_heads, dim});
    desc.lse = api::f32(lse, {batch, q_heads, s});
    desc.mask = api::b32(mask, {batch, q_heads, nq(), words()});
    desc.select = select;
    return desc;
  }
  seer_attention_desc attention() {
    seer_attention_desc desc = SEER_INIT(seer_attention_desc);
    desc.q = q.tensor({batch, s, q_heads, dim});
    desc.k = k.tensor({batch, l, kv_heads, dim});
    desc.v = v.tensor({batch, l, kv_heads, dim});
    desc.out = out.tensor({batch, s, q_heads, dim});
    desc.lse = api::f32(lse, {batch, q_heads, s});
    desc.mask = api::b32(mask, {batch, q_heads, nq(), words()});
    desc.block_size = block;
    return desc;
  }

  void run_prefill(seer_context *ctx) {
    const api::Model m = model(ctx);
    const seer_prefill_desc desc = prefill();
    seer_ticket ticket = 0;
    OK(seer_prefill(ctx, m.get(), 0, &desc, nullptr, &ticket));
    OK(seer_ticket_stats(ctx, ticket, &stats));
  }
  void run_attention(seer_context *ctx) {
    const seer_attention_desc desc = attention();
    OK(seer_attention(ctx, &desc, nullptr, nullptr));
  }

  bool kept(int64_t b, int64_t h, int64_t i, int64_t j) const {
    return mask[size_t(((b * q_heads + h) * nq() + i) * words() + j / 32)] >> (j % 32) & 1u;
  }
  // Key blocks that block row i may see.
  int64_t causal(int64_t i) const { return (l - s + std::min((i + 1) * block, s) + block - 1) / block; }

  // What rounding may do to the output, as relative Frobenius error: f32 arithmetic, or operands of the small dtype. A
  // score is as large as scale^2 and so is the error that rounding its operands leaves in it, before exp.
  double tolerance() const {
    const double one = dtype == SEER_F32 ? 2e-5 : dtype == SEER_F16 ? 2e-3 : 1.2e-2;
    return one * std::max(1.0, double(scale) * scale);
  }
};

inline double relative_error(const std::vector<float> &got, const std::vector<float> &want) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < got.size(); i++) {
    if (got[i] == want[i]) continue;
    error += (double(got[i]) - want[i]) * (double(got[i]) - want[i]);  // NaN stays
  }
  for (float x : want) norm += std::isfinite(x) ? double(x) * x : 0.0;
  return std::sqrt(error / std::max(norm, 1e-30));
}

// SEER_TEST_BACKEND=vulkan or cuda: that one in place of the CPU's fast kernels.
inline seer_backend backend_under_test() {
  const char *name = std::getenv("SEER_TEST_BACKEND");
  if (!name) return SEER_BACKEND_CPU;
  return std::strcmp(name, "vulkan") == 0 ? SEER_BACKEND_VULKAN : SEER_BACKEND_CUDA;
}

inline seer_context *shared_context(uint64_t flags) {
  static const api::Context fast = [] {
    seer_context_params params = api::cpu_params();
    if (backend_under_test() != SEER_BACKEND_CPU) params.backend = backend_under_test();
    return api::make_context(params);
  }();
  static const api::Context reference = [] {
    seer_context_params params = api::cpu_params();
    params.flags = SEER_CONTEXT_REFERENCE;
    return api::make_context(params);
  }();
  return (flags & SEER_CONTEXT_REFERENCE ? reference : fast).get();
}
inline seer_context *fast() { return shared_context(0); }
inline seer_context *reference() { return shared_context(SEER_CONTEXT_REFERENCE); }

}  // namespace property
