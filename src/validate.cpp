#include "validate.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <string>

#include "checked.h"
#include "views.h"

namespace seer {
namespace {

using ll = long long;

constexpr int64_t kMaxExtent = INT32_MAX;  // of B, H, S and every other extent

std::string list_text(const int64_t *values, int n) {
  std::string text = "[";
  for (int i = 0; i < n; i++) text += (i ? ", " : "") + std::to_string(values[i]);
  return text + "]";
}

enum class Check { everything, sizes };

class TensorCheck {
public:
  TensorCheck(const Device &device, Check check) : TensorCheck(device, check, device_memory(device)) {}
  TensorCheck(const Device &device, Check check, Mem expected) : device_(device), check_(check), expected_(expected) {}

  // Everything that can be said about a tensor alone. Leaves it with strides.
  void operator()(Tensor &t, const char *name, int ndim) const {
    SEER_REQUIRE(t.present(), Status::invalid_argument, "%s is absent; it is required", name);
    SEER_REQUIRE(t.ndim >= 1 && t.ndim <= 4, Status::shape, "%s.ndim is %d; expected 1 to 4", name, t.ndim);
    SEER_REQUIRE(t.ndim == ndim, Status::shape, "%s has %d dimensions; expected %d", name, t.ndim, ndim);
    for (int d = 0; d < ndim; d++) {
      SEER_REQUIRE(t.shape[d] >= 0 && t.shape[d] <= kMaxExtent, Status::shape,
                   "%s.shape[%d] is %lld; expected 0 to 2147483647", name, d, ll(t.shape[d]));
      SEER_REQUIRE(t.stride[d] >= 0, Status::stride, "%s.stride[%d] is %lld; expected at least 0", name, d,
                   ll(t.stride[d]));
    }
    pack_strides(t);
    SEER_REQUIRE(t.stride[ndim - 1] == 1 || t.shape[ndim - 1] <= 1, Status::stride,
                 "%s.stride[%d] is %lld; the innermost stride must be 1", name, ndim - 1, ll(t.stride[ndim - 1]));
    if (check_ == Check::everything) memory(t, name);
  }

  // q, k, v, out
  void tokens(Tensor &t, const char *name, int ndim, const Tensor &like) const {
    (*this)(t, name, ndim);
    SEER_REQUIRE(is_float(t.dtype), Status::dtype, "%s.dtype is %s; expected f32, f16 or bf16", name,
                 dtype_name(t.dtype));
    SEER_REQUIRE(device_.info.dtype_bits >> int(t.dtype) & 1, Status::dtype,
                 "%s.dtype is %s, which this device does not compute", name, dtype_name(t.dtype));
    SEER_REQUIRE(t.dtype == like.dtype, Status::dtype, "%s.dtype is %s but that of q is %s; they must be the same",
                 name, dtype_name(t.dtype), dtype_name(like.dtype));
  }

  void floats(Tensor &t, const char *name, int ndim) const {
    (*this)(t, name, ndim);
    SEER_REQUIRE(t.dtype == DType::f32, Status::dtype, "%s.dtype is %s; expected f32", name, dtype_name(t.dtype));
  }

  void mask(Tensor &t, const char *name, int ndim) const {
    (*this)(t, name, ndim);
    SEER_REQUIRE(t.dtype == DType::u8 || t.dtype == DType::b32, Status::dtype, "%s.dtype is %s; expected u8 or b32",
                 name, dtype_name(t.dtype));
  }

  // Outputs against themselves, the inputs and each other. Absent tensors overlap nothing.
  void overlap(std::initializer_list<std::pair<const char *, const Tensor *>> inputs,
               std::initializer_list<std::pair<const char *, const Tensor *>> outputs) const {
    for (auto out = outputs.begin(); out != outputs.end(); ++out) {
      const auto &[name, t] = *out;
      if (!t->present()) continue;
      SEER_REQUIRE(!may_self_overlap(*t), Status::stride, "%s overlaps itself: shape %s, strides %s", name,
                   list_text(t->shape, t->ndim).c_str(), list_text(t->stride, t->ndim).c_str());
      if (check_ == Check::sizes) continue;
      for (const auto &[other_name, other] : inputs)
        SEER_REQUIRE(!may_overlap(*t, *other), Status::stride, "%s overlaps the input %s", name, other_name);
      for (auto other = outputs.begin(); other != out; ++other)
        SEER_REQUIRE(!may_overlap(*t, *other->second), Status::stride, "%s overlaps %s", name, other->first);
    }
  }

private:
  static Mem device_memory(const Device &device) {
    switch (device.info.backend) {
      case BackendKind::cuda: return Mem::cuda;
      case BackendKind::vulkan: return Mem::vulkan;
      default: return Mem::host;
    }
  }

  void memory(const Tensor &t, const char *name) const {
    SEER_REQUIRE(t.mem == expected_ || t.mem == Mem::host, Status::memory_kind,
                 "%s.mem is %d; this call on backend %s takes host memory (1)%s, and buffers", name, int(t.mem),
                 device_.fns->name, expected_ == Mem::cuda ? ", device memory (2)" : "");
    auto bytes = static_cast<uint64_t>(t.extent_bytes());
    if (bytes == 0) return;
    if (t.mem == Mem::vulkan && !t.data) {
      SEER_REQUIRE(t.handle, Status::invalid_argument, "%s.vk_buffer is 0", name);
      fail(Status::unsupported, "%s is a VkBuffer, but the context made a VkDevice of its own, which cannot use it",
           name);
    } else {
      const auto address = reinterpret_cast<uintptr_t>(t.data);
      SEER_REQUIRE(address, Status::invalid_argument, "%s.data is NULL", name);
      SEER_REQUIRE(address % uint64_t(element_size(t.dtype)) == 0, Status::stride,
                   "%s starts at address %p, which is no multiple of its element's %lld bytes", name, t.data,
                   ll(element_size(t.dtype)));
      SEER_REQUIRE(bytes <= UINT64_MAX - address, Status::out_of_bounds, "%s reaches beyond the address space", name);
      // Kernels see whole words; the library's own buffers end on one.
      if (t.handle) bytes = (bytes + 3) / 4 * 4;
    }
    SEER_REQUIRE(bytes <= t.size || (t.mem == Mem::cuda && t.size == 0), Status::out_of_bounds,
                 "%s reaches over %llu bytes from its first element; its memory has %llu", name,
                 (unsigned long long)bytes, (unsigned long long)t.size);
    if (t.mem == Mem::cuda && device_.fns->reachable) {
      const uint64_t size = device_.fns->reachable(device_, t.data, bytes);
      SEER_REQUIRE(size > 0, Status::memory_kind, "%s starts at %p, which is no memory that %s device %d (%s) can use",
                   name, t.data, device_.fns->name, int(device_.info.ordinal), device_.info.name.c_str());
      SEER_REQUIRE(bytes <= size, Status::out_of_bounds,
                   "%s reaches over %llu bytes from its first element; the driver knows of %llu", name,
                   (unsigned long long)bytes, (unsigned long long)size);
    }
  }

  const Device &device_;
  Check check_;
  Mem expected_;
};

void expect_shape(const Tensor &t, const char *name, const char *meaning, std::initializer_list<int64_t> expected) {
  SEER_REQUIRE(std::equal(expected.begin(), expected.end(), t.shape), Status::shape,
               "%s has shape %s; expected %s = %s", name, list_text(t.shape, t.ndim).c_str(), meaning,
               list_text(expected.begin(), int(expected.size())).c_str());
}

// The token layout of a call: its sequences and what follows from them.
struct Tokens {
  bool packed = false;
  int64_t batch = 0;     // not packed
  int64_t rows = 0;      // block rows: nQ, or over all sequences if packed
  int64_t cols = 0;      // nK of the longest sequence
  int64_t q_tokens = 0;  // over all sequences
  std::vector<Sequence> sequences;
};

void check_offsets(const int32_t *offsets, const char *name, int32_t count, int64_t tokens) {
  SEER_REQUIRE(offsets[0] == 0, Status::shape, "%s[0] is %d; expected 0", name, int(offsets[0]));
  for (int32_t i = 0; i < count; i++)
    SEER_REQUIRE(offsets[i + 1] >= offsets[i], Status::shape, "%s[%d] is %d after %d; offsets must not fall", name,
                 i + 1, int(offsets[i + 1]), int(offsets[i]));
  SEER_REQUIRE(tokens < 0 || offsets[count] == tokens, Status::shape,
               "%s[%d] is %d; the last offset must be the number of tokens, %lld", name, int(count),
               int(offsets[count]), ll(tokens));
}

bool is_packed(const SequenceSpec &spec) {
  SEER_REQUIRE(spec.count >= 0, Status::invalid_argument, "sequences.count is %d; expected at least 0",
               int(spec.count));
  SEER_REQUIRE(spec.count > 0 || (!spec.q && !spec.k), Status::invalid_argument,
               "sequences.count is 0 but its offsets are given");
  SEER_REQUIRE(spec.count == 0 || spec.q, Status::invalid_argument, "sequences.q is NULL; expected %d offsets",
               int(spec.count) + 1);
  return spec.count > 0;
}

void check_sequence(const Sequence &s, int64_t index, int64_t aligned_to) {
  SEER_REQUIRE(s.k_len >= s.q_len, Status::shape,
               "sequence %lld has %lld keys for %lld queries; every query needs its own key", ll(index), ll(s.k_len),
               ll(s.q_len));
  SEER_REQUIRE(aligned_to == 0 || s.offset() % aligned_to == 0, Status::shape,
               "sequence %lld starts %lld tokens into its prompt (L - S); the gate needs chunks that start at a "
               "multiple of the block size, %lld",
               ll(index), ll(s.offset()), ll(aligned_to));
  SEER_REQUIRE(s.total_len >= s.k_len, Status::invalid_argument,
               "total_len is %lld, less than the %lld keys of sequence %lld", ll(s.total_len), ll(s.k_len), ll(index));
}

// q_tokens and k_tokens: S and L of a dense batch, T and TK of a packed one (-1: not known, any will do). aligned_to:
// what chunk starts must be a multiple of, 0 = nothing.
Tokens make_tokens(const SequenceSpec &spec, int64_t batch, int64_t q_tokens, int64_t k_tokens, int64_t total_len,
                   int64_t block, int64_t aligned_to) {
  SEER_REQUIRE(total_len >= 0 && total_len <= kMaxExtent, Status::invalid_argument,
               "total_len is %lld; expected 0 to 2147483647", ll(total_len));
  Tokens tokens;
  tokens.packed = spec.count > 0;
  if (!tokens.packed) {
    Sequence s;
    s.q_len = q_tokens;
    s.k_len = k_tokens;
    s.total_len = total_len ? total_len : k_tokens;
    check_sequence(s, 0, aligned_to);
    tokens.batch = batch;
    tokens.rows = s.q_blocks(block);
    tokens.cols = s.k_blocks(block);
    tokens.q_tokens = batch ? q_tokens : 0;  // zero or not is all that counts
    return tokens;
  }
  const int32_t *k = spec.k ? spec.k : spec.q;
  check_offsets(spec.q, "sequences.q", spec.count, q_tokens);
  check_offsets(k, spec.k ? "sequences.k" : "sequences.q (used for k)", spec.count, k_tokens);
  tokens.sequences.resize(size_t(spec.count));
  for (int32_t i = 0; i < spec.count; i++) {
    Sequence &s = tokens.sequences[size_t(i)];
    s.q_begin = spec.q[i];
    s.q_len = int64_t{spec.q[i + 1]} - spec.q[i];
    s.k_begin = k[i];
    s.k_len = int64_t{k[i + 1]} - k[i];
    s.total_len = total_len ? total_len : s.k_len;
    s.mask_row = tokens.rows;
    check_sequence(s, i, aligned_to);
    tokens.rows += s.q_blocks(block);
    tokens.cols = std::max(tokens.cols, s.k_blocks(block));
    tokens.q_tokens += s.q_len;
  }
  return tokens;
}

// Once everything else was checked, so that extents are backed by memory before as many sequences are made.
void make_sequences(Tokens &tokens, int64_t q_len, int64_t k_len, int64_t total_len, bool feeds_cache) {
  if (tokens.q_tokens == 0 && !feeds_cache) {
    tokens.sequences.clear();
  } else if (!tokens.packed) {
    tokens.sequences.resize(size_t(tokens.batch));
    for (int64_t b = 0; b < tokens.batch; b++) {
      Sequence &s = tokens.sequences[size_t(b)];
      s.batch = b;
      s.q_len = q_len;
      s.k_len = k_len;
      s.total_len = total_len ? total_len : k_len;
    }
  }
}

struct Heads {
  int64_t q = 0, kv = 0, dim = 0;
};

// q and k of every call that has them: dtype, shapes, the batch. Returns their heads.
Heads check_q_k(const TensorCheck &check, Tensor &q, Tensor &k, bool packed) {
  const int ndim = packed ? 3 : 4;
  check.tokens(q, "q", ndim, q);
  check.tokens(k, "k", ndim, q);
  const int64_t *qs = q.shape + ndim - 2, *ks = k.shape + ndim - 2;
  const Heads heads{.q = qs[0], .kv = ks[0], .dim = qs[1]};
  SEER_REQUIRE(heads.q > 0 && heads.kv > 0 && heads.dim > 0, Status::shape,
               "q has %lld heads of %lld channels and k %lld heads; they may not be 0", ll(heads.q), ll(heads.dim),
               ll(heads.kv));
  SEER_REQUIRE(heads.q % heads.kv == 0, Status::shape, "q has %lld heads, no multiple of the %lld of k", ll(heads.q),
               ll(heads.kv));
  SEER_REQUIRE(ks[1] == heads.dim, Status::shape, "k has %lld channels a head; q has %lld", ll(ks[1]), ll(heads.dim));
  SEER_REQUIRE(packed || k.shape[0] == q.shape[0], Status::shape, "k has batch %lld; q has %lld", ll(k.shape[0]),
               ll(q.shape[0]));
  return heads;
}

// v like k, out like q, lse.
void check_v_out_lse(const TensorCheck &check, const Tensor &q, const Tensor &k, Tensor &v, Tensor &out, Tensor &lse,
                     bool packed) {
  const int ndim = packed ? 3 : 4;
  check.tokens(v, "v", ndim, q);
  check.tokens(out, "out", ndim, q);
  if (packed) {
    expect_shape(v, "v", "that of k", {k.shape[0], k.shape[1], k.shape[2]});
    expect_shape(out, "out", "that of q", {q.shape[0], q.shape[1], q.shape[2]});
  } else {
    expect_shape(v, "v", "that of k", {k.shape[0], k.shape[1], k.shape[2], k.shape[3]});
    expect_shape(out, "out", "that of q", {q.shape[0], q.shape[1], q.shape[2], q.shape[3]});
  }
  if (!lse.present()) return;
  check.floats(lse, "lse", ndim - 1);
  if (packed)
    expect_shape(lse, "lse", "[Hq, T]", {q.shape[1], q.shape[0]});
  else
    expect_shape(lse, "lse", "[B, Hq, S]", {q.shape[0], q.shape[2], q.shape[1]});
}

void check_scores(const TensorCheck &check, Tensor &t, const Tokens &tokens, int64_t heads) {
  if (!t.present()) return;
  check.floats(t, "scores", tokens.packed ? 3 : 4);
  if (tokens.packed)
    expect_shape(t, "scores", "[Hq, R, nK]", {heads, tokens.rows, tokens.cols});
  else
    expect_shape(t, "scores", "[B, Hq, nQ, nK]", {tokens.batch, heads, tokens.rows, tokens.cols});
}

void check_mask(const TensorCheck &check, Tensor &t, const Tokens &tokens, int64_t heads) {
  if (!t.present()) return;
  check.mask(t, "mask", tokens.packed ? 3 : 4);
  const bool bits = t.dtype == DType::b32;
  const int64_t width = bits ? mask_words(tokens.cols) : tokens.cols;
  if (tokens.packed)
    expect_shape(t, "mask", bits ? "[Hq, R, W]" : "[Hq, R, nK]", {heads, tokens.rows, width});
  else
    expect_shape(t, "mask", bits ? "[B, Hq, nQ, W]" : "[B, Hq, nQ, nK]", {tokens.batch, heads, tokens.rows, width});
}

// The tensors that need a copy on the device. Absent and empty ones do not.
void list_host(const Device &device, std::initializer_list<HostTensor::Ref> all, std::vector<HostTensor> &host) {
  if (device.info.backend == BackendKind::cpu) return;
  for (const HostTensor::Ref &ref : all)
    if (ref.tensor->mem == Mem::host && ref.tensor->extent_bytes() > 0)
      host.push_back({.role = ref.role, .tensor = *ref.tensor, .output = ref.output});
}

double softmax_scale(double wanted, int64_t dim) {
  SEER_REQUIRE(wanted >= 0 && std::isfinite(wanted), Status::invalid_argument,
               "softmax_scale is %g; expected a positive number, or 0 for 1/sqrt(D)", wanted);
  return wanted > 0 ? wanted : 1.0 / std::sqrt(double(dim));
}

int64_t block_size(int32_t wanted) {
  SEER_REQUIRE(wanted == 0 || wanted == 32 || wanted == 64 || wanted == 128, Status::invalid_argument,
               "block_size is %d; expected 32, 64, 128, or 0 for 64", int(wanted));
  return wanted ? wanted : 64;
}

void check_head_dim(const Device &device, int64_t dim) {
  SEER_REQUIRE(dim <= device.limits.max_head_dim, Status::unsupported,
               "q has %lld channels a head; this device takes %lld", ll(dim), ll(device.limits.max_head_dim));
}

void check_model_heads(const GateConfig &config, const Heads &heads) {
  SEER_REQUIRE(heads.q == config.q_heads && heads.kv == config.kv_heads, Status::model_mismatch,
               "q and k have %lld and %lld heads; the model has %d and %d", ll(heads.q), ll(heads.kv), config.q_heads,
               config.kv_heads);
  SEER_REQUIRE(heads.dim == config.head_dim, Status::model_mismatch,
               "q and k have %lld channels a head; the model has %d", ll(heads.dim), config.head_dim);
}

// Scores rank blocks for ratio and budget; the threshold is on probabilities.
bool ranks_logits(SelectMethod method) { return method == SelectMethod::ratio || method == SelectMethod::budget; }

PrefillCall prefill_call(const Device &device, const GateConfig &config, PrefillDesc &d, bool feeds_cache, Check what) {
  const TensorCheck check(device, what);
  const bool packed = is_packed(d.sequences);
  const Heads heads = check_q_k(check, d.q, d.k, packed);
  check_model_heads(config, heads);
  check_head_dim(device, heads.dim);
  check_v_out_lse(check, d.q, d.k, d.v, d.out, d.lse, packed);
  const int t = packed ? 0 : 1;  // the token dimension
  Tokens tokens = make_tokens(d.sequences, d.q.shape[0], d.q.shape[t], d.k.shape[t], d.total_len, config.block_size,
                              config.block_size);
  check_scores(check, d.scores, tokens, heads.q);
  check_mask(check, d.mask, tokens, heads.q);
  check.overlap({{"q", &d.q}, {"k", &d.k}, {"v", &d.v}},
                {{"out", &d.out}, {"lse", &d.lse}, {"scores", &d.scores}, {"mask", &d.mask}});

  PrefillCall call;
  call.gate.config = &config;
  call.gate.rule = select_rule(d.select, &config.select);
  SEER_REQUIRE(RopeSpecKind(d.rope.kind) != RopeSpecKind::inv_freq || config.gate_dim == config.head_dim,
               Status::unsupported,
               "rope.kind is INV_FREQ, one list for heads of %d channels and gates of %d; it must fit both",
               config.head_dim, config.gate_dim);
  call.gate.rope = rope_config(d.rope, config.gate_rope, config.gate_dim, "rope");
  call.attend.rope = rope_config(d.rope, config.rope, config.head_dim, "rope");
  call.attend.scale = softmax_scale(d.softmax_scale, heads.dim);
  call.attend.block = config.block_size;
  call.gate.q = call.attend.q = token_view(d.q);
  call.gate.k = call.attend.k = token_view(d.k);
  call.attend.v = token_view(d.v);
  call.attend.out = token_view(d.out);
  if (d.lse.present()) call.attend.lse = lse_view(d.lse);
  if (d.scores.present()) call.gate.scores = scores_view(d.scores);
  list_host(device,
            {{TensorRole::q, &d.q, false},
             {TensorRole::k, &d.k, false},
             {TensorRole::v, &d.v, false},
             {TensorRole::out, &d.out, true},
             {TensorRole::lse, &d.lse, true},
             {TensorRole::scores, &d.scores, true},
             {TensorRole::mask, &d.mask, true}},
            call.gate.host);
  call.gate.scores_cols = tokens.cols;
  call.gate.scores_are_logits = ranks_logits(call.gate.rule.method);
  set_mask(d.mask, call.gate.mask, call.gate.mask_bytes);
  make_sequences(tokens, d.q.shape[t], d.k.shape[t], d.total_len, feeds_cache);
  call.gate.sequences = std::move(tokens.sequences);
  return call;
}

}  // namespace

PrefillCall check_prefill(const Device &device, const GateConfig &config, PrefillDesc desc, bool feeds_cache) {
  return prefill_call(device, config, desc, feeds_cache, Check::everything);
}

PrefillCall check_prefill_sizes(const Device &device, const GateConfig &config, PrefillDesc desc, bool feeds_cache) {
  return prefill_call(device, config, desc, feeds_cache, Check::sizes);
}

GateCall check_gate(const Device &device, const GateConfig &config, GateDesc d, bool feeds_cache) {
  const TensorCheck check(device, Check::everything);
  const bool packed = is_packed(d.sequences);
  const Heads heads = check_q_k(check, d.q, d.k, packed);
  check_model_heads(config, heads);
  check_head_dim(device, heads.dim);
  SEER_REQUIRE(d.scores.present() || d.mask.present(), Status::invalid_argument,
               "scores and mask are both absent; one of them is required");
  const int t = packed ? 0 : 1;
  Tokens tokens = make_tokens(d.sequences, d.q.shape[0], d.q.shape[t], d.k.shape[t], d.total_len, config.block_size,
                              config.block_size);
  check_scores(check, d.scores, tokens, heads.q);
  check_mask(check, d.mask, tokens, heads.q);
  check.overlap({{"q", &d.q}, {"k", &d.k}}, {{"scores", &d.scores}, {"mask", &d.mask}});

  GateCall call;
  call.config = &config;
  call.rule = select_rule(d.select, &config.select);
  call.rope = rope_config(d.rope, config.gate_rope, config.gate_dim, "rope");
  call.q = token_view(d.q);
  call.k = token_view(d.k);
  if (d.scores.present()) call.scores = scores_view(d.scores);
  list_host(device,
            {{TensorRole::q, &d.q, false},
             {TensorRole::k, &d.k, false},
             {TensorRole::scores, &d.scores, true},
             {TensorRole::mask, &d.mask, true}},
            call.host);
  call.scores_cols = tokens.cols;
  call.scores_are_logits = d.logits || ranks_logits(call.rule.method);
  set_mask(d.mask, call.mask, call.mask_bytes);
  make_sequences(tokens, d.q.shape[t], d.k.shape[t], d.total_len, feeds_cache);
  call.sequences = std::move(tokens.sequences);
  return call;
}

SelectCall check_select(const Device &device, SelectDesc d) {
  const TensorCheck check(device, Check::everything);
  const bool packed = is_packed(d.sequences);
  SelectCall call;
  call.block = block_size(d.block_size);
  check.floats(d.scores, "scores", packed ? 3 : 4);
  const int row = packed ? 1 : 2;  // the dimension of block rows
  call.q_heads = d.scores.shape[row - 1];
  SEER_REQUIRE(call.q_heads > 0, Status::shape, "scores has no heads");
  int64_t q_len = -1, k_len = -1;
  if (packed) {
    SEER_REQUIRE(d.q_len == 0 && d.k_len == 0, Status::invalid_argument,
                 "q_len and k_len are %lld and %lld; with sequences they must be 0", ll(d.q_len), ll(d.k_len));
  } else {
    SEER_REQUIRE(d.q_len >= 0 && d.q_len <= kMaxExtent && d.k_len >= 0 && d.k_len <= kMaxExtent, Status::shape,
                 "q_len and k_len are %lld and %lld; expected 0 to 2147483647", ll(d.q_len), ll(d.k_len));
    q_len = d.q_len ? d.q_len : d.scores.shape[2] * call.block;
    k_len = d.k_len ? d.k_len : d.scores.shape[3] * call.block;
  }
  Tokens tokens = make_tokens(d.sequences, d.scores.shape[0], q_len, k_len, d.total_len, call.block, 0);
  check_scores(check, d.scores, tokens, call.q_heads);
  SEER_REQUIRE(d.mask.present(), Status::invalid_argument, "mask is absent; it is required");
  check_mask(check, d.mask, tokens, call.q_heads);
  check.overlap({{"scores", &d.scores}}, {{"mask", &d.mask}});
  SEER_REQUIRE(SelectMethod(d.select.method) != SelectMethod::model, Status::invalid_argument,
               "select.method is MODEL, but this call has no model");
  call.rule = select_rule(d.select, nullptr);
  call.scores = scores_view(d.scores);
  set_mask(d.mask, call.mask, call.mask_bytes);
  list_host(device, {{TensorRole::scores, &d.scores, false}, {TensorRole::mask, &d.mask, true}}, call.host);
  make_sequences(tokens, q_len, k_len, d.total_len, false);
  call.sequences = std::move(tokens.sequences);
  return call;
}

AttendCall check_attention(const Device &device, AttentionDesc d) {
  const TensorCheck check(device, Check::everything);
  const bool packed = is_packed(d.sequences);
  AttendCall call;
  call.block = block_size(d.block_size);
  const Heads heads = check_q_k(check, d.q, d.k, packed);
  check_head_dim(device, heads.dim);
  check_v_out_lse(check, d.q, d.k, d.v, d.out, d.lse, packed);
  const int t = packed ? 0 : 1;
  Tokens tokens = make_tokens(d.sequences, d.q.shape[0], d.q.shape[t], d.k.shape[t], 0, call.block, 0);
  check_mask(check, d.mask, tokens, heads.q);
  check.overlap({{"q", &d.q}, {"k", &d.k}, {"v", &d.v}, {"mask", &d.mask}}, {{"out", &d.out}, {"lse", &d.lse}});
  RopeConfig no_rope;
  no_rope.kind = RopeKind::none;
  call.rope = rope_config(d.rope, no_rope, heads.dim, "rope");
  call.scale = softmax_scale(d.softmax_scale, heads.dim);
  call.q = token_view(d.q);
  call.k = token_view(d.k);
  call.v = token_view(d.v);
  call.out = token_view(d.out);
  if (d.lse.present()) call.lse = lse_view(d.lse);
  set_mask(d.mask, call.mask, call.mask_bytes);
  list_host(device,
            {{TensorRole::q, &d.q, false},
             {TensorRole::k, &d.k, false},
             {TensorRole::v, &d.v, false},
             {TensorRole::out, &d.out, true},
             {TensorRole::lse, &d.lse, true},
             {TensorRole::mask, &d.mask, false}},
            call.host);
  make_sequences(tokens, d.q.shape[t], d.k.shape[t], 0, false);
  call.sequences = std::move(tokens.sequences);
  return call;
}

void check_weights(const Device &device, Tensor &t, const char *name) {
  TensorCheck(device, Check::everything, Mem::host)(t, name, 3);
}

SelectRule select_rule(const SelectSpec &spec, const SelectRule *model) {
  SEER_REQUIRE(spec.last_dense_rows >= -1, Status::invalid_argument,
               "select.last_dense_rows is %d; expected -1 for none, 0 for the default, or a number of rows",
               int(spec.last_dense_rows));
  SelectRule rule;
  if (model) rule = *model;
  if (spec.last_dense_rows != 0) rule.last_dense_rows = std::max(spec.last_dense_rows, 0);
  rule.keep_diagonal |= spec.keep_diagonal;
  rule.keep_first |= spec.keep_first;
  const auto method = static_cast<SelectMethod>(spec.method);
  switch (method) {
    case SelectMethod::model: return rule;
    case SelectMethod::threshold:
      SEER_REQUIRE(spec.threshold >= 0 && spec.threshold <= 1, Status::invalid_argument,
                   "select.threshold is %g; expected 0 to 1", spec.threshold);
      rule.threshold = spec.threshold;
      break;
    case SelectMethod::ratio:
      SEER_REQUIRE(spec.ratio > 0 && spec.ratio <= 1, Status::invalid_argument,
                   "select.ratio is %g; expected more than 0 and at most 1", spec.ratio);
      rule.ratio = spec.ratio;
      break;
    case SelectMethod::budget:
      SEER_REQUIRE(spec.token_budget >= 1, Status::invalid_argument, "select.token_budget is %lld; expected at least 1",
                   ll(spec.token_budget));
      rule.token_budget = spec.token_budget;
      break;
    case SelectMethod::all: break;
    default: fail(Status::invalid_argument, "select.method is %d; expected 0 to 4", int(spec.method));
  }
  rule.method = method;
  return rule;
}

RopeConfig rope_config(const RopeSpec &spec, const RopeConfig &standard, int64_t dim, const char *name) {
  SEER_REQUIRE(std::isfinite(spec.attention_scaling), Status::invalid_argument,
               "%s.attention_scaling is %g; expected a finite number, or 0 for 1", name, spec.attention_scaling);
  const double scaling = spec.attention_scaling != 0 ? spec.attention_scaling : 1.0;
  RopeConfig config;
  switch (static_cast<RopeSpecKind>(spec.kind)) {
    case RopeSpecKind::standard: return standard;
    case RopeSpecKind::none: config.kind = RopeKind::none; return config;
    case RopeSpecKind::theta:
      SEER_REQUIRE(spec.theta > 0 && std::isfinite(spec.theta), Status::invalid_argument,
                   "%s.theta is %g; expected a positive number", name, spec.theta);
      SEER_REQUIRE(dim % 2 == 0, Status::shape, "%s rotates pairs of channels, but there are %lld", name, ll(dim));
      config.kind = RopeKind::standard;
      config.theta = spec.theta;
      if (scaling != 1.0) {
        config.inv_freq = rope_freqs(config, dim, 0).inv_freq;
        config.kind = RopeKind::inv_freq;
        config.attention_scaling = scaling;
      }
      return config;
    case RopeSpecKind::inv_freq:
      SEER_REQUIRE(dim % 2 == 0, Status::shape, "%s rotates pairs of channels, but there are %lld", name, ll(dim));
      SEER_REQUIRE(spec.inv_freq, Status::invalid_argument, "%s.inv_freq is NULL", name);
      SEER_REQUIRE(spec.inv_freq_count == dim / 2, Status::shape, "%s.inv_freq_count is %u; expected %lld", name,
                   spec.inv_freq_count, ll(dim / 2));
      config.kind = RopeKind::inv_freq;
      config.inv_freq.assign(spec.inv_freq, spec.inv_freq + spec.inv_freq_count);
      for (size_t i = 0; i < config.inv_freq.size(); i++)
        SEER_REQUIRE(std::isfinite(config.inv_freq[i]), Status::invalid_argument,
                     "%s.inv_freq[%zu] is %g; expected a finite number", name, i, double(config.inv_freq[i]));
      config.attention_scaling = scaling;
      return config;
  }
  fail(Status::invalid_argument, "%s.kind is %d; expected 0 to 3", name, int(spec.kind));
}

}  // namespace seer
