// The validation layer: what the C API's descriptors become, and the one place that checks every documented "must" of
// seerattn.h before a call is enqueued. Backends and the pipeline may assume clean input.
#pragma once
#include <cstdint>

#include "backend.h"
#include "gate.h"
#include "pipeline.h"
#include "tensor.h"

namespace seer {

// A packed batch: host arrays of count + 1 offsets. count 0: not packed.
struct SequenceSpec {
  const int32_t *q = nullptr, *k = nullptr;
  int32_t count = 0;
};

struct SelectSpec {
  int32_t method = 0;  // SelectMethod
  int32_t last_dense_rows = 0;
  double threshold = 0, ratio = 0;
  int64_t token_budget = 0;
  bool keep_diagonal = false, keep_first = false;
};

// Same values as seer_rope_kind.
enum class RopeSpecKind : int32_t { standard = 0, none = 1, theta = 2, inv_freq = 3 };
struct RopeSpec {
  int32_t kind = 0;  // RopeSpecKind
  uint32_t inv_freq_count = 0;
  double theta = 0, attention_scaling = 0;
  const float *inv_freq = nullptr;
};

struct PrefillDesc {
  Tensor q, k, v, out, lse, scores, mask;
  SequenceSpec sequences;
  SelectSpec select;
  RopeSpec rope;
  double softmax_scale = 0;
  int64_t total_len = 0;
};

struct GateDesc {
  Tensor q, k, scores, mask;
  SequenceSpec sequences;
  SelectSpec select;
  RopeSpec rope;
  int64_t total_len = 0;
  bool logits = false;
};

struct SelectDesc {
  Tensor scores, mask;
  SequenceSpec sequences;
  int64_t q_len = 0, k_len = 0;
  int32_t block_size = 0;
  SelectSpec select;
  int64_t total_len = 0;
};

struct AttentionDesc {
  Tensor q, k, v, out, lse, mask;
  SequenceSpec sequences;
  RopeSpec rope;
  double softmax_scale = 0;
  int32_t block_size = 0;
};

struct PrefillCall {
  GateCall gate;
  AttendCall attend;
};

// Each throws, naming argument, found and expected, or returns a call without weights and cache. The config must live
// as long as the call. A call without query tokens has no sequences unless it feeds a cache.
PrefillCall check_prefill(const Device &device, const GateConfig &config, PrefillDesc desc, bool feeds_cache);
GateCall check_gate(const Device &device, const GateConfig &config, GateDesc desc, bool feeds_cache);
SelectCall check_select(const Device &device, SelectDesc desc);
AttendCall check_attention(const Device &device, AttentionDesc desc);
// As check_prefill, but for the sizes alone: memory and overlap are not looked at.
PrefillCall check_prefill_sizes(const Device &device, const GateConfig &config, PrefillDesc desc, bool feeds_cache);

// A gate's matrix in host memory, [heads, in, out], as far as it can be checked alone. Leaves it with strides.
void check_weights(const Device &device, Tensor &t, const char *name);

// For configurations: what a spec means. `model` null: there is no model to ask.
SelectRule select_rule(const SelectSpec &spec, const SelectRule *model);
// `standard` is what the default kind stands for; dim: the channels of what is rotated.
RopeConfig rope_config(const RopeSpec &spec, const RopeConfig &standard, int64_t dim, const char *name);

}  // namespace seer
