// What bad input gets: the status, a message that names the argument, and nothing changed.
#if !defined(_WIN32)
#include <sys/wait.h>
#include <unistd.h>
#endif

#include <functional>
#include <limits>

#include <algorithm>

#include "api.h"

using namespace api;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();

template <class Desc>
struct Bad {
  seer_status status;
  const char *word;
  std::function<void(Desc &)> change;
};

// Changes a valid descriptor in one way each.
template <class Desc>
void check_all(const Desc &valid, const std::vector<Bad<Desc>> &cases,
               const std::function<seer_status(const Desc &)> &call) {
  REQUIRE(call(valid) == SEER_OK);
  for (const Bad<Desc> &bad : cases) {
    Desc desc = valid;
    bad.change(desc);
    CAPTURE(std::string(bad.word));
    FAILS(bad.status, bad.word, call(desc));
  }
  REQUIRE(call(valid) == SEER_OK);
}

const int32_t kFalling[] = {0, 30, 20, 40}, kLate[] = {1, 20, 30, 40}, kShort[] = {0, 10, 20, 39},
              kLong[] = {0, 10, 20, 41}, kPairs[] = {0, 32, 36, 40}, kFewer[] = {0, 31, 36, 40};

}  // namespace

TEST_CASE("prefill: every must of the header") {
  const Context ctx = make_context(), other = make_context();
  const Model model = make_model(ctx.get());
  Batch x(1, 40, 40);
  seer_prefill_desc valid = x.prefill();
  valid.lse = x.lse_();
  valid.scores = x.scores_();
  valid.mask = x.bits_();
  using D = seer_prefill_desc;
  const std::vector<Bad<D>> cases = {
      // Tensors on their own.
      {SEER_ERROR_INVALID_ARGUMENT, "q is absent", [](D &d) { d.q = seer_tensor{}; }},
      {SEER_ERROR_INVALID_ARGUMENT, "v is absent", [](D &d) { d.v = seer_tensor{}; }},
      {SEER_ERROR_INVALID_ARGUMENT, "lse.mem is NONE", [](D &d) { d.lse.mem = SEER_MEM_NONE; }},
      {SEER_ERROR_INVALID_ARGUMENT, "k.mem is 5", [](D &d) { d.k.mem = 5; }},
      {SEER_ERROR_INVALID_ARGUMENT, "k.mem is -1", [](D &d) { d.k.mem = -1; }},
      {SEER_ERROR_INVALID_ARGUMENT, "k.dtype is 8", [](D &d) { d.k.dtype = 8; }},
      {SEER_ERROR_DTYPE, "k.dtype is NONE", [](D &d) { d.k.dtype = SEER_DTYPE_NONE; }},
      {SEER_ERROR_INVALID_ARGUMENT, "out.data is NULL", [](D &d) { d.out.data = nullptr; }},
      {SEER_ERROR_INVALID_ARGUMENT, "q.vk_buffer", [](D &d) { d.q.vk_buffer = 1; }},
      {SEER_ERROR_INVALID_ARGUMENT, "q.buffer", [](D &d) { d.q.buffer = reinterpret_cast<seer_buffer *>(8); }},
      {SEER_ERROR_INVALID_ARGUMENT, "q.data is set", [](D &d) { d.q.mem = SEER_MEM_VULKAN; }},
      {SEER_ERROR_INVALID_ARGUMENT, "q is NULL",
       [](D &d) {
         d.q.mem = SEER_MEM_BUFFER;
         d.q.data = nullptr;
       }},
      {SEER_ERROR_SHAPE, "q.ndim is 0", [](D &d) { d.q.ndim = 0; }},
      {SEER_ERROR_SHAPE, "q.ndim is 5", [](D &d) { d.q.ndim = 5; }},
      {SEER_ERROR_SHAPE, "q has 3 dimensions", [](D &d) { d.q.ndim = 3; }},
      {SEER_ERROR_SHAPE, "v.shape[1] is -1", [](D &d) { d.v.shape[1] = -1; }},
      {SEER_ERROR_SHAPE, "v.shape[0] is 2147483648", [](D &d) { d.v.shape[0] = int64_t{1} << 31; }},
      {SEER_ERROR_STRIDE, "k.stride[0] is -1",
       [](D &d) {
         d.k.stride[0] = -1;
         d.k.stride[3] = 1;
       }},
      {SEER_ERROR_STRIDE, "innermost", [](D &d) { std::fill(d.q.stride, d.q.stride + 4, 2); }},
      {SEER_ERROR_STRIDE, "k.offset is 2", [](D &d) { d.k.offset = 2; }},
      {SEER_ERROR_STRIDE, "multiple", [](D &d) { d.v.data = static_cast<char *>(d.v.data) + 1; }},
      {SEER_ERROR_MEMORY_KIND, "k.mem", [](D &d) { d.k.mem = SEER_MEM_CUDA; }},
      {SEER_ERROR_OUT_OF_BOUNDS, "k reaches", [](D &d) { d.k.size -= 4; }},
      {SEER_ERROR_OUT_OF_BOUNDS, "k reaches", [](D &d) { d.k.size = 0; }},
      {SEER_ERROR_OUT_OF_BOUNDS, "k reaches", [](D &d) { d.k.offset = 4; }},
      {SEER_ERROR_OUT_OF_BOUNDS, "k.offset", [](D &d) { d.k.offset = UINT64_MAX - 3; }},
      {SEER_ERROR_OUT_OF_BOUNDS, "overflows",
       [](D &d) {
         const int64_t stride[4] = {1, INT64_MAX / 2, 16, 1};
         std::copy(stride, stride + 4, d.k.stride);
       }},
      {SEER_ERROR_OUT_OF_BOUNDS, "address space",
       [](D &d) {
         d.k.data = reinterpret_cast<void *>(UINT64_MAX - 15);
         d.k.size = 16;
         d.k.offset = 0;
       }},
      {SEER_ERROR_STRIDE, "out overlaps itself",
       [](D &d) {
         const int64_t stride[4] = {0, 8, 8, 1};
         std::copy(stride, stride + 4, d.out.stride);
       }},
      // Tensors together.
      {SEER_ERROR_DTYPE, "k.dtype is f16", [](D &d) { d.k.dtype = SEER_F16; }},
      {SEER_ERROR_DTYPE, "q.dtype is i32", [](D &d) { d.q.dtype = SEER_I32; }},
      {SEER_ERROR_DTYPE, "lse.dtype", [](D &d) { d.lse.dtype = SEER_I32; }},
      {SEER_ERROR_DTYPE, "mask.dtype", [](D &d) { d.mask.dtype = SEER_F32; }},
      {SEER_ERROR_SHAPE, "no multiple",
       [](D &d) {
         d.k.shape[2] = 3;
         d.k.shape[1] = 20;
       }},
      {SEER_ERROR_SHAPE, "may not be 0", [](D &d) { d.k.shape[2] = 0; }},
      {SEER_ERROR_SHAPE, "k has 8 channels", [](D &d) { d.k.shape[3] = 8; }},
      {SEER_ERROR_SHAPE, "k has batch 0", [](D &d) { d.k.shape[0] = 0; }},
      {SEER_ERROR_SHAPE, "39 keys for 40 queries", [](D &d) { d.k.shape[1] = d.v.shape[1] = 39; }},
      {SEER_ERROR_SHAPE, "v has shape", [](D &d) { d.v.shape[1] = 39; }},
      {SEER_ERROR_SHAPE, "out has shape", [](D &d) { d.out.shape[1] = 39; }},
      {SEER_ERROR_SHAPE, "lse has shape", [](D &d) { d.lse.shape[1] = 3; }},
      {SEER_ERROR_SHAPE, "scores has shape", [](D &d) { d.scores.shape[3] = 1; }},
      {SEER_ERROR_SHAPE, "mask has shape", [](D &d) { d.mask.shape[2] = 1; }},
      {SEER_ERROR_SHAPE, "block size", [](D &d) { d.q.shape[1] = d.out.shape[1] = d.lse.shape[2] = 39; }},
      {SEER_ERROR_STRIDE, "out overlaps the input q", [](D &d) { d.out.data = d.q.data; }},
      {SEER_ERROR_STRIDE, "mask overlaps lse",
       [](D &d) {
         d.mask.data = d.lse.data;
         d.mask.size = d.lse.size;
       }},
      {SEER_ERROR_MODEL_MISMATCH, "8 and 2 heads; the model has 4 and 2",
       [](D &d) {
         d.q.shape[2] = 8;
         d.q.shape[1] = 20;
         d.k.shape[1] = d.v.shape[1] = 20;
         d.out = d.q;
       }},
      // Sequences.
      {SEER_ERROR_INVALID_ARGUMENT, "sequences.count is -1", [](D &d) { d.sequences.count = -1; }},
      {SEER_ERROR_INVALID_ARGUMENT, "count is 0", [](D &d) { d.sequences.q = kFalling; }},
      {SEER_ERROR_INVALID_ARGUMENT, "sequences.q is NULL", [](D &d) { d.sequences.count = 3; }},
      // Settings.
      {SEER_ERROR_INVALID_ARGUMENT, "total_len is -1", [](D &d) { d.total_len = -1; }},
      {SEER_ERROR_INVALID_ARGUMENT, "total_len is 39", [](D &d) { d.total_len = 39; }},
      {SEER_ERROR_INVALID_ARGUMENT, "total_len is 9223372036854775807", [](D &d) { d.total_len = INT64_MAX; }},
      {SEER_ERROR_INVALID_ARGUMENT, "select.method is 5", [](D &d) { d.select.method = 5; }},
      {SEER_ERROR_INVALID_ARGUMENT, "select.method is -1", [](D &d) { d.select.method = -1; }},
      {SEER_ERROR_INVALID_ARGUMENT, "last_dense_rows is -2", [](D &d) { d.select.last_dense_rows = -2; }},
      {SEER_ERROR_INVALID_ARGUMENT, "threshold is nan",
       [](D &d) {
         d.select.method = SEER_SELECT_THRESHOLD;
         d.select.threshold = kNan;
       }},
      {SEER_ERROR_INVALID_ARGUMENT, "threshold is 1.5",
       [](D &d) {
         d.select.method = SEER_SELECT_THRESHOLD;
         d.select.threshold = 1.5;
       }},
      {SEER_ERROR_INVALID_ARGUMENT, "ratio is 0", [](D &d) { d.select.method = SEER_SELECT_RATIO; }},
      {SEER_ERROR_INVALID_ARGUMENT, "ratio is nan",
       [](D &d) {
         d.select.method = SEER_SELECT_RATIO;
         d.select.ratio = kNan;
       }},
      {SEER_ERROR_INVALID_ARGUMENT, "token_budget is 0", [](D &d) { d.select.method = SEER_SELECT_BUDGET; }},
      {SEER_ERROR_INVALID_ARGUMENT, "rope.kind is 4", [](D &d) { d.rope.kind = 4; }},
      {SEER_ERROR_INVALID_ARGUMENT, "theta is 0", [](D &d) { d.rope.kind = SEER_ROPE_THETA; }},
      {SEER_ERROR_INVALID_ARGUMENT, "theta is inf",
       [](D &d) {
         d.rope.kind = SEER_ROPE_THETA;
         d.rope.theta = kInf;
       }},
      {SEER_ERROR_INVALID_ARGUMENT, "attention_scaling is nan", [](D &d) { d.rope.attention_scaling = kNan; }},
      {SEER_ERROR_INVALID_ARGUMENT, "inv_freq is NULL", [](D &d) { d.rope.kind = SEER_ROPE_INV_FREQ; }},
      {SEER_ERROR_SHAPE, "inv_freq_count is 7",
       [](D &d) {
         static const float values[7] = {};
         d.rope.kind = SEER_ROPE_INV_FREQ;
         d.rope.inv_freq = values;
         d.rope.inv_freq_count = 7;
       }},
      {SEER_ERROR_INVALID_ARGUMENT, "inv_freq[1] is inf",
       [](D &d) {
         static const float values[8] = {1, INFINITY};
         d.rope.kind = SEER_ROPE_INV_FREQ;
         d.rope.inv_freq = values;
         d.rope.inv_freq_count = 8;
       }},
      {SEER_ERROR_INVALID_ARGUMENT, "softmax_scale is nan", [](D &d) { d.softmax_scale = kNan; }},
      {SEER_ERROR_INVALID_ARGUMENT, "softmax_scale is -1", [](D &d) { d.softmax_scale = -1; }},
  };
  const std::vector<float> untouched(x.out.size(), -7.0f);
  int calls = 0;
  check_all<D>(valid, cases, [&](const D &desc) {
    std::fill(x.out.begin(), x.out.end(), -7.0f);
    seer_ticket ticket = 77;
    const seer_status status = seer_prefill(ctx.get(), model.get(), 4, &desc, nullptr, &ticket);
    if (status != SEER_OK) {
      CHECK(ticket == 77);
      CHECK(x.out == untouched);
      calls++;
    }
    return status;
  });
  CHECK(calls == int(cases.size()));

  FAILS(SEER_ERROR_INVALID_ARGUMENT, "layer is 3", seer_prefill(ctx.get(), model.get(), 3, &valid, nullptr, nullptr));
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "layer is 6", seer_prefill(ctx.get(), model.get(), 6, &valid, nullptr, nullptr));
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "ctx is NULL", seer_prefill(nullptr, model.get(), 4, &valid, nullptr, nullptr));
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "model is NULL", seer_prefill(ctx.get(), nullptr, 4, &valid, nullptr, nullptr));
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "desc is NULL",
        seer_prefill(ctx.get(), model.get(), 4, nullptr, nullptr, nullptr));
  seer_submit submit = SEER_INIT(seer_submit);
  submit.flags = SEER_SUBMIT_USE_STREAM;
  FAILS(SEER_ERROR_UNSUPPORTED, "streams", seer_prefill(ctx.get(), model.get(), 4, &valid, &submit, nullptr));
  submit.flags = 0;
  submit.cuda_stream = &submit;
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "cuda_stream", seer_prefill(ctx.get(), model.get(), 4, &valid, &submit, nullptr));
  OK(seer_prefill(other.get(), model.get(), 4, &valid, nullptr, nullptr));  // another context of the same device
}

TEST_CASE("packed prefill: offsets") {
  const Context ctx = make_context();
  const Model model = make_model(ctx.get());
  Batch x(1, 40, 40);
  using D = seer_prefill_desc;
  D valid = x.prefill();
  valid.q = f32(x.q, {40, 4, 16});
  valid.k = f32(x.k, {40, 2, 16});
  valid.v = f32(x.v, {40, 2, 16});
  valid.out = f32(x.out, {40, 4, 16});
  valid.sequences.q = kPairs;
  valid.sequences.count = 3;
  check_all<D>(valid,
               {
                   {SEER_ERROR_SHAPE, "[2] is 20 after 30", [](D &d) { d.sequences.q = kFalling; }},
                   {SEER_ERROR_SHAPE, "[0] is 1", [](D &d) { d.sequences.q = kLate; }},
                   {SEER_ERROR_SHAPE, "[3] is 39", [](D &d) { d.sequences.q = kShort; }},
                   {SEER_ERROR_SHAPE, "[3] is 41", [](D &d) { d.sequences.q = kLong; }},
                   {SEER_ERROR_SHAPE, "31 keys for 32 queries", [](D &d) { d.sequences.k = kFewer; }},
                   {SEER_ERROR_SHAPE, "block size",
                    [](D &d) {
                      d.sequences.q = kFewer;
                      d.sequences.k = kPairs;
                    }},
                   {SEER_ERROR_SHAPE, "sequences.k[0]", [](D &d) { d.sequences.k = kLate; }},
                   {SEER_ERROR_SHAPE, "q has 3 dimensions", [](D &d) { d.sequences = seer_sequences{}; }},
                   {SEER_ERROR_INVALID_ARGUMENT, "total_len is 31", [](D &d) { d.total_len = 31; }},
               },
               [&](const D &desc) { return seer_prefill(ctx.get(), model.get(), 4, &desc, nullptr, nullptr); });
}

TEST_CASE("gate, select and attention: what is theirs alone") {
  const Context ctx = make_context();
  const Model model = make_model(ctx.get());
  Batch x(1, 40, 40);
  check_all<seer_gate_desc>(
      x.gate(),
      {{SEER_ERROR_INVALID_ARGUMENT, "scores and mask are both absent",
        [](auto &d) {
          d.scores = seer_tensor{};
          d.mask = seer_tensor{};
        }},
       {SEER_ERROR_STRIDE, "scores overlaps the input k", [](auto &d) { d.scores.data = d.k.data; }},
       {SEER_ERROR_SHAPE, "block size", [](auto &d) { d.q.shape[1] = 39; }}},
      [&](const seer_gate_desc &desc) { return seer_gate(ctx.get(), model.get(), 4, &desc, nullptr, nullptr); });
  check_all<seer_select_desc>(
      x.select(),
      {{SEER_ERROR_INVALID_ARGUMENT, "MODEL", [](auto &d) { d.select.method = SEER_SELECT_MODEL; }},
       {SEER_ERROR_INVALID_ARGUMENT, "scores is absent", [](auto &d) { d.scores = seer_tensor{}; }},
       {SEER_ERROR_INVALID_ARGUMENT, "mask is absent", [](auto &d) { d.mask = seer_tensor{}; }},
       {SEER_ERROR_INVALID_ARGUMENT, "block_size is 16", [](auto &d) { d.block_size = 16; }},
       {SEER_ERROR_SHAPE, "q_len and k_len are -1", [](auto &d) { d.q_len = -1; }},
       {SEER_ERROR_SHAPE, "scores has shape", [](auto &d) { d.q_len = d.k_len = 30; }},
       {SEER_ERROR_SHAPE, "40 keys for 41 queries", [](auto &d) { d.q_len = 41; }},
       {SEER_ERROR_INVALID_ARGUMENT, "total_len", [](auto &d) { d.total_len = 3; }},
       {SEER_ERROR_DTYPE, "scores.dtype", [](auto &d) { d.scores.dtype = SEER_I32; }},
       {SEER_ERROR_STRIDE, "mask overlaps the input scores",
        [](auto &d) {
          d.mask.data = d.scores.data;
          d.mask.size = d.scores.size;
        }}},
      [&](const seer_select_desc &desc) { return seer_select(ctx.get(), &desc, nullptr, nullptr); });
  seer_attention_desc attention = x.attention();
  std::fill(x.bits.begin(), x.bits.end(), 0xffffffffu);
  attention.mask = x.bits_();
  check_all<seer_attention_desc>(
      attention,
      {{SEER_ERROR_INVALID_ARGUMENT, "block_size is 65", [](auto &d) { d.block_size = 65; }},
       {SEER_ERROR_SHAPE, "mask has shape", [](auto &d) { d.block_size = 64; }},
       {SEER_ERROR_STRIDE, "lse overlaps the input mask",
        [](auto &d) {
          d.mask.data = d.lse.data;
          d.mask.size = d.lse.size;
        }},
       {SEER_ERROR_UNSUPPORTED, "channels a head; this device takes",
        [](auto &d) {
          const int64_t shape[4] = {1, 0, 1, 1 << 20};
          for (seer_tensor *t : {&d.q, &d.k, &d.v, &d.out}) std::copy(shape, shape + 4, t->shape);
        }}},
      [&](const seer_attention_desc &desc) { return seer_attention(ctx.get(), &desc, nullptr, nullptr); });
  // Attention alone takes chunks that start anywhere.
  Batch chunk(1, 5, 40);
  const seer_attention_desc desc = chunk.attention();
  OK(seer_attention(ctx.get(), &desc, nullptr, nullptr));
}

TEST_CASE("gate cache: room, sequences, order, and whose it is") {
  const Context ctx = make_context(), other = make_context();
  const Model model = make_model(ctx.get()), same = make_model(ctx.get());
  seer_gate_cache_params params = SEER_INIT(seer_gate_cache_params);
  seer_gate_cache *raw = nullptr;
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "max_tokens is 0", seer_gate_cache_create(ctx.get(), model.get(), &params, &raw));
  params.max_tokens = 100;
  params.sequences = -1;
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "sequences is -1", seer_gate_cache_create(ctx.get(), model.get(), &params, &raw));
  params.sequences = INT32_MAX;
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "sequences is 2147483647",
        seer_gate_cache_create(ctx.get(), model.get(), &params, &raw));
  params.sequences = 0;
  OK(seer_gate_cache_create(ctx.get(), model.get(), &params, &raw));
  const Cache cache(raw);

  const auto gate = [&](Batch x, seer_context *c, const seer_model *m) {
    seer_gate_desc desc = x.gate();
    desc.cache = raw;
    return seer_gate(c, m, 4, &desc, nullptr, nullptr);
  };
  FAILS(SEER_ERROR_CACHE_STATE, "128 keys", gate(Batch(1, 128, 128), ctx.get(), model.get()));
  FAILS(SEER_ERROR_CACHE_STATE, "2 sequences", gate(Batch(2, 32, 32), ctx.get(), model.get()));
  FAILS(SEER_ERROR_HANDLE, "another context", gate(Batch(1, 32, 32), other.get(), model.get()));
  FAILS(SEER_ERROR_HANDLE, "another model", gate(Batch(1, 32, 32), ctx.get(), same.get()));
  OK(gate(Batch(1, 64, 64), ctx.get(), model.get()));
  FAILS(SEER_ERROR_CACHE_STATE, "covers 64 tokens", gate(Batch(1, 64, 64), ctx.get(), model.get()));
  int64_t tokens = 5;
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "layer is 0", seer_gate_cache_length(raw, 0, 0, &tokens));
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "sequence is 1", seer_gate_cache_length(raw, 4, 1, &tokens));
  CHECK(tokens == 5);
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "sequence is -2", seer_gate_cache_truncate(raw, -2, 0));
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "tokens is -1", seer_gate_cache_truncate(raw, 0, -1));
  OK(seer_gate_cache_truncate(raw, 0, 1000));
  OK(seer_gate_cache_length(raw, 4, 0, &tokens));
  CHECK(tokens == 64);
}

TEST_CASE("contexts, devices, buffers: bad arguments") {
  seer_context *ctx = reinterpret_cast<seer_context *>(8);
  seer_context_params params = cpu_params();
  params.backend = 4;
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "backend is 4", seer_context_create(&params, &ctx));
  CHECK(ctx == nullptr);
  params = cpu_params();
  params.device = 1;
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "device is 1", seer_context_create(&params, &ctx));
  params.device = -1;
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "device is -1", seer_context_create(&params, &ctx));
  params = cpu_params();
  params.threads = -1;
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "threads is -1", seer_context_create(&params, &ctx));
  params = cpu_params();
  params.log_level = 5;
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "log_level is 5", seer_context_create(&params, &ctx));
  params = cpu_params();
  params.backend = SEER_BACKEND_AUTO;
  params.flags = SEER_CONTEXT_REFERENCE;
  FAILS(SEER_ERROR_UNSUPPORTED, "reference", seer_context_create(&params, &ctx));
  seer_allocator allocator = SEER_INIT(seer_allocator);
  allocator.host_free = [](void *, void *, uint64_t) {};
  params = cpu_params();
  params.allocator = &allocator;
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "host_alloc", seer_context_create(&params, &ctx));
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "out is NULL", seer_context_create(nullptr, nullptr));

  int32_t count = 9;
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "backend is 0", seer_device_count(SEER_BACKEND_AUTO, &count));
  CHECK(count == 9);
  OK(seer_device_count(SEER_BACKEND_CPU, &count));
  CHECK(count == 1);
  seer_device_info info = SEER_INIT(seer_device_info);
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "ordinal is 1", seer_device_get(SEER_BACKEND_CPU, 1, &info));
  OK(seer_device_get(SEER_BACKEND_CPU, 0, &info));
  CHECK(info.name[0] != 0);
  CHECK((info.dtype_bits >> SEER_BF16 & 1) == 1);

  const Context good = make_context();
  seer_buffer *buffer = nullptr;
  FAILS(SEER_ERROR_UNSUPPORTED, "flags", seer_buffer_create(good.get(), 8, 1, &buffer));
  FAILS(SEER_ERROR_OUT_OF_MEMORY, "bytes", seer_buffer_create(good.get(), uint64_t{1} << 60, 0, &buffer));
  FAILS(SEER_ERROR_OUT_OF_MEMORY, "size is", seer_buffer_create(good.get(), UINT64_MAX, 0, &buffer));
  OK(seer_buffer_create(good.get(), 8, 0, &buffer));
  const Buffer keep(buffer);
  char bytes[16] = {};
  FAILS(SEER_ERROR_OUT_OF_BOUNDS, "offset 1", seer_buffer_write(buffer, 1, bytes, 8));
  FAILS(SEER_ERROR_OUT_OF_BOUNDS, "offset 18446744073709551615", seer_buffer_read(buffer, UINT64_MAX, bytes, 2));
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "src is NULL", seer_buffer_write(buffer, 0, nullptr, 8));
  OK(seer_buffer_write(buffer, 8, nullptr, 0));
  Batch x(1, 40, 40);
  seer_attention_desc desc = x.attention();
  desc.q.mem = SEER_MEM_BUFFER;
  desc.q.data = nullptr;
  desc.q.buffer = buffer;
  FAILS(SEER_ERROR_OUT_OF_BOUNDS, "q.size", seer_attention(good.get(), &desc, nullptr, nullptr));
  desc.q.size = 0;
  FAILS(SEER_ERROR_OUT_OF_BOUNDS, "q reaches", seer_attention(good.get(), &desc, nullptr, nullptr));
}

TEST_CASE("handles of another type are told") {
  const Context ctx = make_context();
  const Model model = make_model(ctx.get());
  Batch x(1, 40, 40);
  const seer_prefill_desc desc = x.prefill();
  FAILS(SEER_ERROR_HANDLE, "ctx is no live handle",
        seer_prefill(reinterpret_cast<seer_context *>(model.get()), model.get(), 4, &desc, nullptr, nullptr));
  FAILS(SEER_ERROR_HANDLE, "model is no live handle",
        seer_prefill(ctx.get(), reinterpret_cast<const seer_model *>(ctx.get()), 4, &desc, nullptr, nullptr));
  alignas(16) char rubbish[64] = {};
  FAILS(SEER_ERROR_HANDLE, "ctx", seer_wait(reinterpret_cast<seer_context *>(rubbish), 0, 0));
  FAILS(SEER_ERROR_HANDLE, "ctx", seer_wait(reinterpret_cast<seer_context *>(rubbish + 1), 0, 0));
  seer_context_release(reinterpret_cast<seer_context *>(rubbish));  // nothing happens
  seer_context_release(nullptr);
  seer_model_release(nullptr);
  seer_buffer_release(nullptr);
  seer_gate_cache_release(nullptr);
  seer_cancel_release(nullptr);
  seer_cancel_trigger(nullptr);
  seer_context_retain(nullptr);
}

TEST_CASE("models: bad configurations and weights") {
  const Context ctx = make_context();
  const Weights weights;
  seer_model *model = nullptr;
  using D = seer_gate_config;
  check_all<D>(gate_config(),
               {{SEER_ERROR_INVALID_ARGUMENT, "layers", [](D &d) { d.layers = 0; }},
                {SEER_ERROR_INVALID_ARGUMENT, "layers", [](D &d) { d.first_layer = INT32_MAX; }},
                {SEER_ERROR_MODEL_MISMATCH, "heads", [](D &d) { d.kv_heads = 3; }},
                {SEER_ERROR_MODEL_MISMATCH, "heads", [](D &d) { d.q_heads = 0; }},
                {SEER_ERROR_MODEL_MISMATCH, "block", [](D &d) { d.block_size = 48; }},
                {SEER_ERROR_INVALID_ARGUMENT, "q_pool is 0", [](D &d) { d.q_pool = 0; }},
                {SEER_ERROR_INVALID_ARGUMENT, "k_pool is 8", [](D &d) { d.k_pool = 8; }},
                {SEER_ERROR_INVALID_ARGUMENT, "force_double", [](D &d) { d.force_double = 2; }},
                {SEER_ERROR_INVALID_ARGUMENT, "rope.kind is DEFAULT", [](D &d) { d.rope.kind = SEER_ROPE_DEFAULT; }},
                {SEER_ERROR_INVALID_ARGUMENT, "ratio", [](D &d) { d.select.method = SEER_SELECT_RATIO; }},
                {SEER_ERROR_MODEL_MISMATCH, "wq", [](D &d) { d.force_double = 1; }}},
               [&](const D &config) {
                 seer_model_release(model);
                 model = reinterpret_cast<seer_model *>(8);
                 const seer_status status = seer_model_create(ctx.get(), &config, weights.pointers.data(), &model);
                 if (status != SEER_OK) CHECK(model == nullptr);
                 return status;
               });
  seer_model_release(model);
  const D config = gate_config();
  const auto with = [&](const std::function<void(seer_gate_weights &)> &change) {
    seer_gate_weights layer = weights.layers[1];
    change(layer);
    const seer_gate_weights *layers[] = {weights.pointers[0], &layer};
    return seer_model_create(ctx.get(), &config, layers, &model);
  };
  FAILS(SEER_ERROR_MODEL_MISMATCH, "layers[1].wk", with([](auto &w) { w.wk = seer_tensor{}; }));
  FAILS(SEER_ERROR_SHAPE, "layers[1].wk", with([](auto &w) { w.wk.shape[0] = 2; }));
  FAILS(SEER_ERROR_DTYPE, "layers[1].wk", with([](auto &w) { w.wk.dtype = SEER_I32; }));
  FAILS(SEER_ERROR_OUT_OF_BOUNDS, "layers[1].wk", with([](auto &w) { w.wk.size -= 1; }));
  FAILS(SEER_ERROR_MODEL_MISMATCH, "layers[1].wq", with([](auto &w) { w.wq = w.wk; }));
  const seer_gate_weights *missing[] = {weights.pointers[0], nullptr};
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "layers[1] is NULL", seer_model_create(ctx.get(), &config, missing, &model));
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "layers is NULL", seer_model_create(ctx.get(), &config, nullptr, &model));
}

TEST_CASE("names of statuses; the text of the last error stays until the next one and is this thread's own") {
  CHECK(std::string(seer_status_name(SEER_OK)) == "SEER_OK");
  CHECK(std::string(seer_status_name(SEER_ERROR_CACHE_STATE)) == "SEER_ERROR_CACHE_STATE");
  CHECK(std::string(seer_status_name(12345)) == "SEER_ERROR_UNKNOWN");
  CHECK(seer_version() == SEER_VERSION);
  int32_t count = 0;
  CHECK(seer_device_count(77, &count) == SEER_ERROR_INVALID_ARGUMENT);
  OK(seer_device_count(SEER_BACKEND_CPU, &count));
  CHECK(std::string(seer_last_error()).find("77") != std::string::npos);
}

#if !defined(_WIN32)
TEST_CASE("after fork the child's calls say that the device is lost, and releasing is harmless") {
  Context ctx = make_context();
  Model model = make_model(ctx.get());
  Batch x(1, 40, 40);
  const seer_prefill_desc desc = x.prefill();
  OK(seer_prefill(ctx.get(), model.get(), 4, &desc, nullptr, nullptr));
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    bool good = seer_prefill(ctx.get(), model.get(), 4, &desc, nullptr, nullptr) == SEER_ERROR_DEVICE_LOST;
    good &= std::strstr(seer_last_error(), "fork") != nullptr;
    good &= seer_wait(ctx.get(), SEER_TICKET_ALL, UINT64_MAX) == SEER_ERROR_DEVICE_LOST;
    seer_gate_config config = SEER_INIT(seer_gate_config);
    good &= seer_model_config(model.get(), &config) == SEER_ERROR_DEVICE_LOST;
    model.reset();
    ctx.reset();
#if !defined(__SANITIZE_THREAD__)  // it allows no threads in the child of a process that has some
    seer_context *own = nullptr;
    good &= seer_context_create(nullptr, &own) == SEER_OK;
    seer_context_release(own);
#endif
    _exit(good ? 0 : 1);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  OK(seer_prefill(ctx.get(), model.get(), 4, &desc, nullptr, nullptr));
}
#endif
