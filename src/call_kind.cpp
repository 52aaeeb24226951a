#include "call_kind.h"

#include <algorithm>
#include <bit>

namespace seer {
namespace {

int64_t size_kind(const std::vector<Sequence> &sequences) {
  int64_t rows = 0, keys = 0;
  for (const Sequence &s : sequences) {
    rows += s.q_len;
    keys = std::max(keys, s.k_len);
  }
  return std::bit_width(uint64_t(rows)) * 64 + std::bit_width(uint64_t(keys));
}

}  // namespace

CallKind gate_kind(const GateCall &call) {
  return {size_kind(call.sequences),
          int64_t(call.q.dtype),
          call.q.heads,
          call.k.heads,
          call.q.dim,
          call.config->gate_dim,
          call.config->block_size,
          call.config->q_pool,
          call.config->k_pool,
          call.config->force_double,
          int64_t(call.rope.kind),
          int64_t(call.rule.method),
          call.scores.data != nullptr,
          call.scores_are_logits,
          call.mask.words != nullptr,
          call.mask_bytes.bytes != nullptr,
          int64_t(call.weights->wq.dtype),
          int64_t(call.weights->wk.dtype)};
}

CallKind attend_kind(const AttendCall &call) {
  return {size_kind(call.sequences),
          int64_t(call.q.dtype),
          call.q.heads,
          call.k.heads,
          call.q.dim,
          call.block,
          call.mask.words || call.mask_bytes.bytes,
          call.lse.data != nullptr,
          int64_t(call.rope.kind)};
}

CallKind prefill_kind(const GateCall &gate, const AttendCall &attend) {
  CallKind kind = gate_kind(gate);
  const CallKind second = attend_kind(attend);
  kind.insert(kind.end(), second.begin(), second.end());
  return kind;
}

CallKind select_kind(const SelectCall &call) {
  return {int64_t(call.rule.method), size_kind(call.sequences), call.block, call.q_heads};
}

}  // namespace seer
