// Descriptors from bytes. A valid descriptor of one of the calls is changed in places that the input names, then its
// pointers are led back to memory that is there: what the caller must promise (sizes, live memory) holds, everything
// else may be nonsense. The call must refuse it with a status and a text, or run within the memory that it was shown.
#include <seerattn/seerattn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

constexpr int32_t kHeads = 2, kDim = 8, kBlock = 32, kLayers = 1;
constexpr uint64_t kArena = 1 << 16;

void must(bool ok) {
  if (!ok) std::abort();
}

// Reads the input; zeros behind its end.
struct Input {
  const uint8_t *data;
  size_t size, at = 0;
  bool more() const { return at < size; }
  uint64_t take(int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++, at++) value |= uint64_t{at < size ? data[at] : uint8_t{0}} << (8 * i);
    return value;
  }
};

struct World {
  seer_context *ctx = nullptr;
  seer_model *model = nullptr;
  seer_buffer *buffer = nullptr;
  seer_gate_cache *cache = nullptr;
  seer_cancel *cancelled = nullptr;
  std::vector<char> in = std::vector<char>(kArena), out = std::vector<char>(kArena);
  std::vector<float> inv_freq = std::vector<float>(1 << 16, 0.5f);
  alignas(16) char rubbish[256] = {};  // no live handle

  World() {
    for (size_t i = 0; i < kArena / 4; i++) {
      const float x = static_cast<float>(static_cast<int>(i * 7919 % 201) - 100) / 100.0f;
      std::memcpy(&in[4 * i], &x, 4);
    }
    seer_context_params params = SEER_INIT(seer_context_params);
    params.backend = SEER_BACKEND_CPU;
    params.threads = 1;
    params.workspace_limit = 1 << 22;
    must(seer_context_create(&params, &ctx) == SEER_OK);
    seer_gate_config config = valid_config();
    const seer_gate_weights weights = valid_weights();
    const seer_gate_weights *layers[] = {&weights};
    must(seer_model_create(ctx, &config, layers, &model) == SEER_OK);
    must(seer_buffer_create(ctx, kArena, 0, &buffer) == SEER_OK);
    seer_gate_cache_params cache_params = SEER_INIT(seer_gate_cache_params);
    cache_params.max_tokens = 256;
    must(seer_gate_cache_create(ctx, model, &cache_params, &cache) == SEER_OK);
    must(seer_cancel_create(&cancelled) == SEER_OK);
    seer_cancel_trigger(cancelled);
  }

  static seer_gate_config valid_config() {
    seer_gate_config config = SEER_INIT(seer_gate_config);
    config.layers = kLayers;
    config.q_heads = kHeads;
    config.kv_heads = 1;
    config.head_dim = config.gate_dim = kDim;
    config.block_size = kBlock;
    config.q_pool = SEER_POOL_AVG;
    config.k_pool = SEER_POOL_MAX | SEER_POOL_AVG;
    config.rope.kind = SEER_ROPE_THETA;
    config.rope.theta = 10000.0;
    return config;
  }
  seer_gate_weights valid_weights() {
    seer_gate_weights weights = SEER_INIT(seer_gate_weights);
    weights.wk = tensor(in.data(), SEER_F32, {kHeads, 2 * kDim, kDim});
    return weights;
  }
  static seer_tensor tensor(void *data, seer_dtype dtype, std::initializer_list<int64_t> shape) {
    seer_tensor t = {};
    t.mem = SEER_MEM_HOST;
    t.dtype = dtype;
    t.ndim = static_cast<int32_t>(shape.size());
    t.data = data;
    t.size = kArena / 8;
    std::copy(shape.begin(), shape.end(), t.shape);
    return t;
  }
};

World &world() {
  static World *w = new World;  // as long as the process
  return *w;
}

// Sets fields of a descriptor, four or eight bytes at a time, to small signed numbers or to any.
void change(Input &input, void *desc, size_t size) {
  for (int i = 0; i < 24 && input.more(); i++) {
    const uint64_t op = input.take(1), offset = input.take(2) % (size / 4) * 4;
    const bool wide = op & 1, any = op & 2;
    const auto byte = static_cast<int64_t>(any ? 0 : input.take(1));
    const int64_t small = byte < 128 ? byte : byte - 256;
    const uint64_t value = any ? input.take(wide ? 8 : 4) : static_cast<uint64_t>(small);
    const size_t bytes = wide && offset + 8 <= size ? 8 : 4;
    std::memcpy(static_cast<char *>(desc) + offset, &value, bytes);
  }
}

// Leads a tensor's pointers to `arena`, and says of its memory no more than there is. Returns whether its extents are
// small enough to compute with.
bool ground(seer_tensor &t, std::vector<char> &arena) {
  World &w = world();
  if (t.data) {
    const auto at = reinterpret_cast<uintptr_t>(t.data);
    const uint64_t start =
        at >= reinterpret_cast<uintptr_t>(arena.data()) && at < reinterpret_cast<uintptr_t>(arena.data()) + kArena
            ? at - reinterpret_cast<uintptr_t>(arena.data())
            : at % kArena;
    t.data = arena.data() + start;
    t.size = std::min(t.size, kArena - start);
  }
  if (t.buffer) {
    const auto choice = reinterpret_cast<uintptr_t>(t.buffer) % 3;
    t.buffer = choice == 0   ? w.buffer
               : choice == 1 ? reinterpret_cast<seer_buffer *>(w.rubbish)
                             : reinterpret_cast<seer_buffer *>(w.model);
  }
  double elements = 1;
  for (const int64_t extent : t.shape) elements *= static_cast<double>(std::max<int64_t>(extent, 1));
  return elements <= 1 << 16;
}

void ground(seer_rope &rope) {
  if (rope.inv_freq) rope.inv_freq = world().inv_freq.data();
  rope.inv_freq_count = std::min<uint32_t>(rope.inv_freq_count, 1 << 16);
}

// Offsets come from the input too.
struct Offsets {
  std::vector<int32_t> q, k;
  Offsets(Input &input, seer_sequences &s) {
    const int32_t count = s.count = std::min(s.count, 8);
    const auto make = [&](const int32_t *&pointer, std::vector<int32_t> &values) {
      if (!pointer) return;
      int32_t last = 0;
      for (int32_t i = 0; i <= std::max(count, 0); i++) {
        values.push_back(last);
        last += static_cast<int8_t>(input.take(1));
      }
      pointer = values.data();
    };
    make(s.q, q);
    make(s.k, k);
  }
};

void ground(seer_gate_cache *&cache) {
  World &w = world();
  if (cache)
    cache = reinterpret_cast<uintptr_t>(cache) % 4 == 3 ? reinterpret_cast<seer_gate_cache *>(w.rubbish) : w.cache;
}

// The descriptor in memory of the length that it claims.
template <class T, class Call>
void submit(const T &desc, bool small, Call call) {
  World &w = world();
  std::vector<char> memory(std::max<size_t>(sizeof(T), std::min<uint32_t>(desc.struct_size, 1 << 16)));
  std::memcpy(memory.data(), &desc, sizeof(T));
  const std::vector<char> inputs = w.in;
  seer_submit submit = SEER_INIT(seer_submit);
  submit.flags = SEER_SUBMIT_BLOCKING;
  if (!small) submit.cancel = w.cancelled;  // checked and accepted, but not run: it could take for ever
  const seer_status status = call(reinterpret_cast<const T *>(memory.data()), &submit);
  must(status <= 0 && status != SEER_ERROR_INTERNAL);
  must(status == SEER_OK || seer_last_error()[0] != 0);
  must(w.in == inputs);
  must(seer_wait(w.ctx, SEER_TICKET_ALL, UINT64_MAX) == SEER_OK);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  World &w = world();
  Input input{data, size};
  must(seer_gate_cache_truncate(w.cache, -1, 0) == SEER_OK);
  const uint64_t call = input.take(1) % 6;
  const int64_t s = static_cast<int64_t>(input.take(1) % 80), l = s + static_cast<int64_t>(input.take(1) % 80);
  const int64_t nq = (s + kBlock - 1) / kBlock, nk = (l + kBlock - 1) / kBlock;
  const auto at = [](std::vector<char> &arena, uint64_t eighth) { return arena.data() + eighth * (kArena / 8); };
  const seer_tensor q = World::tensor(at(w.in, 0), SEER_F32, {1, s, kHeads, kDim}),
                    k = World::tensor(at(w.in, 2), SEER_F32, {1, l, 1, kDim}),
                    v = World::tensor(at(w.in, 4), SEER_F32, {1, l, 1, kDim}),
                    out = World::tensor(at(w.out, 0), SEER_F32, {1, s, kHeads, kDim}),
                    lse = World::tensor(at(w.out, 2), SEER_F32, {1, kHeads, s}),
                    scores = World::tensor(at(w.out, 4), SEER_F32, {1, kHeads, nq, nk}),
                    mask = World::tensor(at(w.out, 6), SEER_B32, {1, kHeads, nq, (nk + 31) / 32});
  bool small = true;
  const auto lead = [&](seer_tensor &t, std::vector<char> &arena) { small &= ground(t, arena); };

  if (call == 0 || call == 1) {
    seer_prefill_desc desc = SEER_INIT(seer_prefill_desc);
    desc.q = q;
    desc.k = k;
    desc.v = v;
    desc.out = out;
    desc.lse = lse;
    desc.scores = scores;
    desc.mask = mask;
    change(input, &desc, sizeof desc);
    for (seer_tensor *t : {&desc.q, &desc.k, &desc.v}) lead(*t, w.in);
    for (seer_tensor *t : {&desc.out, &desc.lse, &desc.scores, &desc.mask}) lead(*t, w.out);
    const Offsets offsets(input, desc.sequences);
    ground(desc.rope);
    ground(desc.cache);
    submit(desc, small, [&](const seer_prefill_desc *d, const seer_submit *options) {
      uint64_t bytes = 0;
      if (call == 1) return seer_prefill_workspace(w.ctx, w.model, d, &bytes);
      return seer_prefill(w.ctx, w.model, 0, d, options, nullptr);
    });
  } else if (call == 2) {
    seer_gate_desc desc = SEER_INIT(seer_gate_desc);
    desc.q = q;
    desc.k = k;
    desc.scores = scores;
    desc.mask = mask;
    change(input, &desc, sizeof desc);
    for (seer_tensor *t : {&desc.q, &desc.k}) lead(*t, w.in);
    for (seer_tensor *t : {&desc.scores, &desc.mask}) lead(*t, w.out);
    const Offsets offsets(input, desc.sequences);
    ground(desc.rope);
    ground(desc.cache);
    submit(desc, small, [&](const seer_gate_desc *d, const seer_submit *options) {
      return seer_gate(w.ctx, w.model, 0, d, options, nullptr);
    });
  } else if (call == 3) {
    seer_select_desc desc = SEER_INIT(seer_select_desc);
    desc.scores = scores;
    desc.scores.data = at(w.in, 4);
    desc.mask = mask;
    desc.block_size = kBlock;
    desc.q_len = s;
    desc.k_len = l;
    desc.select.method = SEER_SELECT_THRESHOLD;
    desc.select.threshold = 0.25;
    change(input, &desc, sizeof desc);
    lead(desc.scores, w.in);
    lead(desc.mask, w.out);
    const Offsets offsets(input, desc.sequences);
    submit(desc, small, [&](const seer_select_desc *d, const seer_submit *options) {
      return seer_select(w.ctx, d, options, nullptr);
    });
  } else if (call == 4) {
    seer_attention_desc desc = SEER_INIT(seer_attention_desc);
    desc.q = q;
    desc.k = k;
    desc.v = v;
    desc.out = out;
    desc.lse = lse;
    desc.mask = mask;
    desc.mask.data = at(w.in, 6);
    desc.block_size = kBlock;
    change(input, &desc, sizeof desc);
    for (seer_tensor *t : {&desc.q, &desc.k, &desc.v, &desc.mask}) lead(*t, w.in);
    for (seer_tensor *t : {&desc.out, &desc.lse}) lead(*t, w.out);
    const Offsets offsets(input, desc.sequences);
    ground(desc.rope);
    submit(desc, small, [&](const seer_attention_desc *d, const seer_submit *options) {
      return seer_attention(w.ctx, d, options, nullptr);
    });
  } else {
    seer_gate_config config = World::valid_config();
    seer_gate_weights weights = w.valid_weights();
    change(input, &config, sizeof config);
    change(input, &weights, sizeof weights);
    if (config.layers > 1) config.layers = 2;
    ground(config.rope);
    ground(config.gate_rope);
    lead(weights.wq, w.in);
    lead(weights.wk, w.in);
    const seer_gate_weights *layers[] = {&weights, &weights};
    if (!small || weights.struct_size != sizeof weights) return 0;
    submit(config, true, [&](const seer_gate_config *c, const seer_submit *) {
      seer_model *model = nullptr;
      const seer_status status = seer_model_create(w.ctx, c, layers, &model);
      must((model == nullptr) == (status != SEER_OK));
      seer_model_release(model);
      return status;
    });
  }
  return 0;
}
