// What the tests of the host on the fake driver share: contexts, attention over the fake's memory, what was launched.
#pragma once
#include <doctest/doctest.h>
#include <seerattn/seerattn.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "fake.h"

struct Release {
  void operator()(seer_context *c) const { seer_context_release(c); }
  void operator()(seer_model *m) const { seer_model_release(m); }
  void operator()(seer_gate_cache *c) const { seer_gate_cache_release(c); }
};
using ContextHandle = std::unique_ptr<seer_context, Release>;
using ModelHandle = std::unique_ptr<seer_model, Release>;

inline ContextHandle make_context(const seer_allocator *allocator = nullptr, int32_t device = 0) {
  seer_context_params params = SEER_INIT(seer_context_params);
  params.backend = SEER_BACKEND_CUDA;
  params.device = device;
  params.allocator = allocator;
  seer_context *made = nullptr;
  REQUIRE_MESSAGE(seer_context_create(&params, &made) == SEER_OK, seer_last_error());
  return ContextHandle(made);
}

inline seer_tensor tensor(void *data, uint64_t size, seer_dtype dtype, std::initializer_list<int64_t> shape) {
  seer_tensor t{};
  t.mem = SEER_MEM_CUDA;
  t.dtype = dtype;
  t.ndim = int32_t(shape.size());
  t.data = data;
  t.size = size;
  std::copy(shape.begin(), shape.end(), t.shape);
  return t;
}

// One layer, gates of the published form.
inline ModelHandle make_model(const ContextHandle &context, int32_t heads, int32_t kv_heads, int32_t dim) {
  seer_gate_config config = SEER_INIT(seer_gate_config);
  config.layers = 1;
  config.q_heads = heads;
  config.kv_heads = kv_heads;
  config.head_dim = config.gate_dim = dim;
  config.block_size = 64;
  config.q_pool = SEER_POOL_AVG;
  config.k_pool = SEER_POOL_MAX | SEER_POOL_MIN | SEER_POOL_AVG;
  config.rope.kind = SEER_ROPE_THETA;
  config.rope.theta = 500000;
  std::vector<uint16_t> matrix(size_t(heads) * 3 * size_t(dim) * size_t(dim));
  seer_gate_weights layer = SEER_INIT(seer_gate_weights);
  layer.wk = tensor(matrix.data(), matrix.size() * 2, SEER_BF16, {heads, 3 * dim, dim});
  layer.wk.mem = SEER_MEM_HOST;
  const seer_gate_weights *layers[] = {&layer};
  seer_model *made = nullptr;
  REQUIRE_MESSAGE(seer_model_create(context.get(), &config, layers, &made) == SEER_OK, seer_last_error());
  return ModelHandle(made);
}

// Attention over tensors in the fake's memory.
struct Attention {
  int64_t batch, queries, keys, heads, kv_heads, dim;
  fake::Memory q, k, v, out, lse, mask;
  seer_attention_desc desc = SEER_INIT(seer_attention_desc);

  explicit Attention(int64_t b = 1, int64_t s = 200, int64_t l = 200, int64_t h = 4, int64_t hkv = 2, int64_t d = 128,
                     int device = 0)
      : batch(b),
        queries(s),
        keys(l),
        heads(h),
        kv_heads(hkv),
        dim(d),
        q(uint64_t(b * s * h * d * 2), device),
        k(uint64_t(b * l * hkv * d * 2), device),
        v(k.size, device),
        out(q.size, device),
        lse(uint64_t(b * h * s * 4), device),
        mask(uint64_t(b * h * ((s + 63) / 64) * ((l + 2047) / 2048) * 4), device) {
    desc.q = tensor(q.address, 0, SEER_BF16, {b, s, h, d});
    desc.k = tensor(k.address, 0, SEER_BF16, {b, l, hkv, d});
    desc.v = tensor(v.address, 0, SEER_BF16, {b, l, hkv, d});
    desc.out = tensor(out.address, 0, SEER_BF16, {b, s, h, d});
    desc.lse = tensor(lse.address, 0, SEER_F32, {b, h, s});
    desc.mask = tensor(mask.address, 0, SEER_B32, {b, h, (s + 63) / 64, (l + 2047) / 2048});
  }
};

// Rotation by the library, so that calls have a workspace, pool and tables.
inline void rotate(seer_attention_desc &desc, double theta = 10000) {
  desc.rope.kind = SEER_ROPE_THETA;
  desc.rope.theta = theta;
}

// A prefill of the same tensors; the mask is not asked for.
inline seer_prefill_desc prefill_of(const Attention &a, seer_select_method method) {
  seer_prefill_desc desc = SEER_INIT(seer_prefill_desc);
  desc.q = a.desc.q;
  desc.k = a.desc.k;
  desc.v = a.desc.v;
  desc.out = a.desc.out;
  desc.select.method = method;
  desc.select.threshold = 0.01;
  desc.select.ratio = 0.3;
  return desc;
}

// On the caller's stream, or on the context's until it is done.
inline seer_submit submit_to(void *const *stream) {
  seer_submit submit = SEER_INIT(seer_submit);
  submit.flags = stream ? SEER_SUBMIT_USE_STREAM : SEER_SUBMIT_BLOCKING;
  if (stream) submit.cuda_stream = *stream;
  return submit;
}

inline seer_status run(const ContextHandle &context, const seer_attention_desc &desc, void *const *stream = nullptr,
                       seer_ticket *ticket = nullptr, uint32_t flags = 0) {
  seer_submit submit = submit_to(stream);
  submit.flags |= flags;
  return seer_attention(context.get(), &desc, &submit, ticket);
}

// A caller's allocator: what it was told, and an arena that it serves from, as frameworks' caches do.
struct Arena {
  explicit Arena(uint64_t bytes) : memory(bytes) {}
  fake::Memory memory;
  uint64_t used = 0;
  int64_t live = 0;
  std::vector<void *> allocated_on, freed_on;
  int refused = 0;           // the how manieth allocation from now on is; 0: none
  void *watched = nullptr;   // a stream
  uint64_t freed_early = 0;  // while that one had work left
  seer_allocator allocator() {
    seer_allocator a = SEER_INIT(seer_allocator);
    a.user = this;
    a.device_alloc = [](void *user, uint64_t size, void *stream) -> void * {
      auto &self = *static_cast<Arena *>(user);
      if (self.refused > 0 && --self.refused == 0) return nullptr;
      if (self.used + size > self.memory.size) return nullptr;
      char *at = static_cast<char *>(self.memory.address) + self.used;
      self.used += (size + 255) / 256 * 256;
      self.live++;
      self.allocated_on.push_back(stream);
      return at;
    };
    a.device_free = [](void *user, void *, uint64_t, void *stream) {
      auto &self = *static_cast<Arena *>(user);
      self.live--;
      self.freed_on.push_back(stream);
      if (self.watched && fake::control().left(self.watched) > 0) self.freed_early++;
    };
    return a;
  }
};

inline std::vector<fake::Launch> launches(const char *prefix) {
  std::vector<fake::Launch> found;
  for (const fake::Launch &l : fake::control().launches())
    if (l.kernel.rfind(prefix, 0) == 0) found.push_back(l);
  return found;
}

// Nothing that a real driver would not bear, in any test.
struct Clean {
  Clean() { fake::control().reset(); }
  ~Clean() {
    fake::control().run_all();
    for (const std::string &what : fake::control().violations()) FAIL_CHECK(what);
    fake::control().reset();
  }
};
