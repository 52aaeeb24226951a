// Part of seerattn.hpp: what a context runs. Shapes, layouts and defaults are those of the C structs of the same names.
#pragma once

#include "model.hpp"

namespace seerattn {

namespace detail {

// Fills what the descriptors share. The sequences can be wrong in a way that only C++ sees.
template <class Desc, class Call>
Result<void> with_sequences(Desc &desc, const Sequences &sequences, Call call) {
  Result<seer_sequences> checked = sequences.get();
  if (!checked) return std::move(checked).failure();
  desc.sequences = *checked;
  return result(call(&desc));
}

}  // namespace detail

// All five stages. Tensors are [B, S, H, D], or [T, H, D] with sequences.
struct Prefill {
  Model model = {};
  std::int32_t layer = 0;
  Input q = {};  // before RoPE
  Input k = {};  // before RoPE
  Input v = {};
  Output out = {};
  Output lse = {};     // optional
  Output scores = {};  // optional
  Output mask = {};    // optional
  Sequences sequences = {};
  Selection select = {};
  Rope rope = {};
  double softmax_scale = 0;
  const GateCache *cache = nullptr;
  std::int64_t total_len = 0;

  Result<void> call(seer_context *ctx, const seer_submit *submit, seer_ticket *ticket) const {
    seer_prefill_desc d = desc();
    return detail::with_sequences(d, sequences, [&](const seer_prefill_desc *filled) {
      return seer_prefill(ctx, model.get(), layer, filled, submit, ticket);
    });
  }
  // Bytes that it takes beyond its tensors. Nothing is run.
  std::uint64_t workspace(const Context &context) const {
    seer_prefill_desc d = desc();
    std::uint64_t bytes = 0;
    detail::with_sequences(d, sequences, [&](const seer_prefill_desc *filled) {
      return seer_prefill_workspace(context.get(), model.get(), filled, &bytes);
    }).value();
    return bytes;
  }

private:
  seer_prefill_desc desc() const {
    seer_prefill_desc d = SEER_INIT(seer_prefill_desc);
    d.q = q.get();
    d.k = k.get();
    d.v = v.get();
    d.out = out.get();
    d.lse = lse.get();
    d.scores = scores.get();
    d.mask = mask.get();
    d.select = select.get();
    d.rope = rope.get();
    d.softmax_scale = softmax_scale;
    d.cache = cache ? cache->get() : nullptr;
    d.total_len = total_len;
    return d;
  }
};

// Pool, project, score and, if a mask is wanted, select.
struct Gate {
  Model model = {};
  std::int32_t layer = 0;
  Input q = {};  // before RoPE
  Input k = {};  // before RoPE
  Output scores = {};  // one of scores and mask must be there
  Output mask = {};
  Sequences sequences = {};
  Selection select = {};
  Rope rope = {};
  const GateCache *cache = nullptr;
  std::int64_t total_len = 0;
  bool logits = false;

  Result<void> call(seer_context *ctx, const seer_submit *submit, seer_ticket *ticket) const {
    seer_gate_desc d = SEER_INIT(seer_gate_desc);
    if (logits) d.flags |= SEER_GATE_LOGITS;
    d.q = q.get();
    d.k = k.get();
    d.scores = scores.get();
    d.mask = mask.get();
    d.select = select.get();
    d.rope = rope.get();
    d.cache = cache ? cache->get() : nullptr;
    d.total_len = total_len;
    return detail::with_sequences(d, sequences, [&](const seer_gate_desc *filled) {
      return seer_gate(ctx, model.get(), layer, filled, submit, ticket);
    });
  }
};

// Scores to a mask.
struct Select {
  Input scores = {};
  Output mask = {};
  Sequences sequences = {};
  std::int64_t q_len = 0;
  std::int64_t k_len = 0;
  std::int32_t block_size = 0;
  Selection select = {};
  std::int64_t total_len = 0;

  Result<void> call(seer_context *ctx, const seer_submit *submit, seer_ticket *ticket) const {
    seer_select_desc d = SEER_INIT(seer_select_desc);
    d.scores = scores.get();
    d.mask = mask.get();
    d.q_len = q_len;
    d.k_len = k_len;
    d.block_size = block_size;
    d.select = select.get();
    d.total_len = total_len;
    return detail::with_sequences(
        d, sequences, [&](const seer_select_desc *filled) { return seer_select(ctx, filled, submit, ticket); });
  }
};

// Attention under a mask of blocks, or dense without one.
struct Attention {
  Input q = {};
  Input k = {};
  Input v = {};
  Output out = {};
  Output lse = {};  // optional
  Input mask = {};  // absent = dense
  Sequences sequences = {};
  Rope rope = {};
  double softmax_scale = 0;
  std::int32_t block_size = 0;

  Result<void> call(seer_context *ctx, const seer_submit *submit, seer_ticket *ticket) const {
    seer_attention_desc d = SEER_INIT(seer_attention_desc);
    d.q = q.get();
    d.k = k.get();
    d.v = v.get();
    d.out = out.get();
    d.lse = lse.get();
    d.mask = mask.get();
    d.rope = rope.get();
    d.softmax_scale = softmax_scale;
    d.block_size = block_size;
    return detail::with_sequences(
        d, sequences, [&](const seer_attention_desc *filled) { return seer_attention(ctx, filled, submit, ticket); });
  }
};

}  // namespace seerattn
