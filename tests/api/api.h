// What the API tests share. They see the library as its users do: through seerattn.h and the shared object only.
#pragma once
#include <doctest/doctest.h>
#include <seerattn/seerattn.h>

#include <cmath>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

namespace api {

// Fails the test with the library's own words.
#define OK(call)                                         \
  do {                                                   \
    const seer_status ok_status_ = (call);               \
    INFO((std::string(#call ": ") + seer_last_error())); \
    REQUIRE(ok_status_ == SEER_OK);                      \
  } while (0)

// The status expected, and a message that names what is wrong.
#define FAILS(expected, word, call)                                                                   \
  do {                                                                                                \
    const seer_status fails_status_ = (call);                                                         \
    INFO((std::string(#call " gave ") + seer_status_name(fails_status_) + ": " + seer_last_error())); \
    CHECK(fails_status_ == (expected));                                                               \
    CHECK(std::string(seer_last_error()).find(word) != std::string::npos);                            \
  } while (0)

template <auto kRelease>
struct Release {
  template <class T>
  void operator()(T *handle) const {
    kRelease(handle);
  }
};
using Context = std::unique_ptr<seer_context, Release<seer_context_release>>;
using Model = std::unique_ptr<seer_model, Release<seer_model_release>>;
using Buffer = std::unique_ptr<seer_buffer, Release<seer_buffer_release>>;
using Cache = std::unique_ptr<seer_gate_cache, Release<seer_gate_cache_release>>;
using Cancel = std::unique_ptr<seer_cancel, Release<seer_cancel_release>>;

inline seer_context_params cpu_params() {
  seer_context_params params = SEER_INIT(seer_context_params);
  params.backend = SEER_BACKEND_CPU;
  params.threads = 2;
  return params;
}

inline Context make_context(const seer_context_params &params = cpu_params()) {
  seer_context *ctx = nullptr;
  OK(seer_context_create(&params, &ctx));
  return Context(ctx);
}

template <class T>
seer_tensor host(T *data, size_t count, seer_dtype dtype, std::initializer_list<int64_t> shape) {
  seer_tensor t = {};
  t.mem = SEER_MEM_HOST;
  t.dtype = dtype;
  t.ndim = static_cast<int32_t>(shape.size());
  t.data = const_cast<std::remove_const_t<T> *>(data);
  t.size = count * sizeof(T);
  int d = 0;
  for (const int64_t extent : shape) t.shape[d++] = extent;
  return t;
}
inline seer_tensor f32(std::vector<float> &v, std::initializer_list<int64_t> shape) {
  return host(v.data(), v.size(), SEER_F32, shape);
}
inline seer_tensor b32(std::vector<uint32_t> &v, std::initializer_list<int64_t> shape) {
  return host(v.data(), v.size(), SEER_B32, shape);
}
inline seer_tensor u8(std::vector<uint8_t> &v, std::initializer_list<int64_t> shape) {
  return host(v.data(), v.size(), SEER_U8, shape);
}

inline std::vector<float> random_floats(size_t n, uint32_t seed, float scale = 1.0f) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> v(n);
  for (float &x : v) x = normal(rng);
  return v;
}

// A single-form gate: layers 4 and 5 of a model with 4 query and 2 KV heads of 16 channels, block 32.
struct Shape {
  int32_t q_heads = 4, kv_heads = 2, dim = 16, block = 32, first_layer = 4, layers = 2;
};

inline seer_gate_config gate_config(const Shape &s = {}) {
  seer_gate_config config = SEER_INIT(seer_gate_config);
  config.layers = s.layers;
  config.first_layer = s.first_layer;
  config.q_heads = s.q_heads;
  config.kv_heads = s.kv_heads;
  config.head_dim = config.gate_dim = s.dim;
  config.block_size = s.block;
  config.q_pool = SEER_POOL_AVG;
  config.k_pool = SEER_POOL_MAX | SEER_POOL_MIN | SEER_POOL_AVG;
  config.rope.kind = SEER_ROPE_THETA;
  config.rope.theta = 10000.0;
  config.select.method = SEER_SELECT_THRESHOLD;
  config.select.threshold = 0.2;
  return config;
}

// The weights of gate_config's layers.
struct Weights {
  explicit Weights(const Shape &s = {}) {
    for (int32_t i = 0; i < s.layers; i++)
      wk.push_back(random_floats(size_t(s.q_heads) * size_t(s.dim) * 3 * size_t(s.dim), 100 + uint32_t(i), 0.3f));
    for (int32_t i = 0; i < s.layers; i++) {
      seer_gate_weights w = SEER_INIT(seer_gate_weights);
      w.wk = f32(wk[size_t(i)], {s.q_heads, 3 * s.dim, s.dim});
      layers.push_back(w);
    }
    for (const seer_gate_weights &w : layers) pointers.push_back(&w);
  }
  std::vector<std::vector<float>> wk;
  std::vector<seer_gate_weights> layers;
  std::vector<const seer_gate_weights *> pointers;
};

inline Model make_model(seer_context *ctx, const Shape &s = {}) {
  const Weights weights(s);
  const seer_gate_config config = gate_config(s);
  seer_model *model = nullptr;
  OK(seer_model_create(ctx, &config, weights.pointers.data(), &model));
  return Model(model);
}

// A batch of random q, k, v and room for every output.
struct Batch {
  int64_t b, s, l, hq, hkv, d, block, nq, nk, w;
  std::vector<float> q, k, v, out, lse, scores;
  std::vector<uint32_t> bits;
  std::vector<uint8_t> bytes;

  Batch(int64_t batch, int64_t queries, int64_t keys, const Shape &shape = {}, uint32_t seed = 1)
      : b(batch), s(queries), l(keys), hq(shape.q_heads), hkv(shape.kv_heads), d(shape.dim), block(shape.block) {
    nq = (s + block - 1) / block;
    nk = (l + block - 1) / block;
    w = (nk + 31) / 32;
    q = random_floats(size_t(b * s * hq * d), seed);
    k = random_floats(size_t(b * l * hkv * d), seed + 1);
    v = random_floats(size_t(b * l * hkv * d), seed + 2);
    out.assign(q.size(), -7.0f);
    lse.assign(size_t(b * hq * s), -7.0f);
    scores.assign(size_t(b * hq * nq * nk), -7.0f);
    bits.assign(size_t(b * hq * nq * w), 0xdeadbeefu);
    bytes.assign(size_t(b * hq * nq * nk), 9);
  }

  seer_tensor q_() { return f32(q, {b, s, hq, d}); }
  seer_tensor k_() { return f32(k, {b, l, hkv, d}); }
  seer_tensor v_() { return f32(v, {b, l, hkv, d}); }
  seer_tensor out_() { return f32(out, {b, s, hq, d}); }
  seer_tensor lse_() { return f32(lse, {b, hq, s}); }
  seer_tensor scores_() { return f32(scores, {b, hq, nq, nk}); }
  seer_tensor bits_() { return b32(bits, {b, hq, nq, w}); }
  seer_tensor bytes_() { return u8(bytes, {b, hq, nq, nk}); }

  seer_prefill_desc prefill() {
    seer_prefill_desc desc = SEER_INIT(seer_prefill_desc);
    desc.q = q_();
    desc.k = k_();
    desc.v = v_();
    desc.out = out_();
    return desc;
  }
  seer_gate_desc gate() {
    seer_gate_desc desc = SEER_INIT(seer_gate_desc);
    desc.q = q_();
    desc.k = k_();
    desc.scores = scores_();
    desc.mask = bits_();
    return desc;
  }
  seer_select_desc select() {
    seer_select_desc desc = SEER_INIT(seer_select_desc);
    desc.scores = scores_();
    desc.mask = bits_();
    desc.q_len = s;
    desc.k_len = l;
    desc.block_size = static_cast<int32_t>(block);
    desc.select.method = SEER_SELECT_THRESHOLD;
    desc.select.threshold = 0.2;
    return desc;
  }
  seer_attention_desc attention() {
    seer_attention_desc desc = SEER_INIT(seer_attention_desc);
    desc.q = q_();
    desc.k = k_();
    desc.v = v_();
    desc.out = out_();
    desc.lse = lse_();
    desc.block_size = static_cast<int32_t>(block);
    return desc;
  }
  bool kept(int64_t batch, int64_t head, int64_t row, int64_t col) const {
    return bits[size_t(((batch * hq + head) * nq + row) * w + col / 32)] >> (col % 32) & 1u;
  }
};

inline double distance(const std::vector<float> &a, const std::vector<float> &b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (size_t i = 0; i < a.size(); i++) {
    if (a[i] == b[i]) continue;  // infinities too
    const double difference = std::fabs(double(a[i]) - double(b[i]));
    if (!(difference <= worst)) worst = difference;  // NaN is the worst of all, and stays
    if (std::isnan(worst)) return worst;
  }
  return worst;
}

// A progress callback that holds the queue until it is opened: work behind it is in flight for certain.
class Gate {
public:
  static int32_t SEER_CALL wait(void *user, uint64_t, uint64_t) {
    auto &gate = *static_cast<Gate *>(user);
    std::unique_lock lock(gate.mutex_);
    gate.reached_ = true;
    gate.changed_.notify_all();
    gate.changed_.wait(lock, [&] { return gate.open_; });
    return gate.answer_;
  }
  void open(int32_t answer = 0) {
    const std::lock_guard lock(mutex_);
    open_ = true;
    answer_ = answer;
    changed_.notify_all();
  }
  void wait_until_reached() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return reached_; });
  }
  seer_submit submit() {
    seer_submit submit = SEER_INIT(seer_submit);
    submit.progress = wait;
    submit.progress_user = this;
    return submit;
  }

private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false, reached_ = false;
  int32_t answer_ = 0;
};

}  // namespace api
