// Entry points: gate caches and the compute calls.
#include <seerattn/seerattn.h>

#include "convert.h"
#include "handles.h"

using namespace seer;
using namespace seer::capi;

namespace {

struct Submission {
  SubmitOptions options;
  bool blocking = true;
};

Submission submission(const seer_submit *submit, const Context &context) {
  Submission s;
  if (!submit) return s;
  const seer_submit in = read_struct(submit, "submit");
  check_flags(in.flags, SEER_SUBMIT_BLOCKING | SEER_SUBMIT_USE_STREAM, "submit");
  s.blocking = (in.flags & SEER_SUBMIT_BLOCKING) != 0;
  if (in.flags & SEER_SUBMIT_USE_STREAM) {
    SEER_REQUIRE(context.device().info.backend == BackendKind::cuda, Status::unsupported,
                 "submit.flags has USE_STREAM, but backend %s has no streams", context.device().fns->name);
    s.options.stream = in.cuda_stream;
    s.options.caller_stream = true;
  } else {
    SEER_REQUIRE(!in.cuda_stream, Status::invalid_argument, "submit.cuda_stream is set, but USE_STREAM is not");
  }
  if (in.cancel) s.options.cancel = get(in.cancel, "submit.cancel");
  s.options.progress = in.progress;
  s.options.progress_user = in.progress_user;
  return s;
}

// Submits by `start`, which returns the ticket, and waits if so wanted.
template <class Start>
seer_status compute(seer_context *ctx, const seer_submit *submit, seer_ticket *ticket, Start start) {
  return entry([&] {
    const auto context = usable(ctx);
    Submission s = submission(submit, *context);
    const uint64_t number = start(*context, std::move(s.options));
    if (s.blocking) finish(*context, number);
    if (ticket) *ticket = number;
  });
}

}  // namespace

extern "C" {

seer_status seer_gate_cache_create(seer_context *ctx, const seer_model *model, const seer_gate_cache_params *params,
                                   seer_gate_cache **out) {
  if (out) *out = nullptr;
  return entry([&] {
    SEER_REQUIRE(out, Status::invalid_argument, "out is NULL");
    const auto context = usable(ctx);
    const auto gates = get(model, "model");
    SEER_REQUIRE(gates->context().same_device(*context), Status::bad_handle, "model belongs to another device");
    const seer_gate_cache_params in = read_struct(params, "params");
    const int32_t sequences = in.sequences ? in.sequences : 1;
    *out = make_handle<seer_gate_cache>(std::make_shared<ChunkCache>(context, gates, sequences, in.max_tokens));
  });
}

seer_status seer_gate_cache_length(const seer_gate_cache *cache, int32_t layer, int32_t sequence, int64_t *tokens) {
  return entry([&] {
    SEER_REQUIRE(tokens, Status::invalid_argument, "tokens is NULL");
    const auto object = get(cache, "cache");
    object->context().check_usable();
    *tokens = object->length(layer, sequence);
  });
}

seer_status seer_gate_cache_truncate(seer_gate_cache *cache, int32_t sequence, int64_t tokens) {
  return entry([&] {
    const auto object = get(cache, "cache");
    object->context().check_usable();
    ChunkCache::truncate(object, sequence, tokens);
  });
}

void seer_gate_cache_release(seer_gate_cache *cache) { release(cache); }

seer_status seer_prefill(seer_context *ctx, const seer_model *model, int32_t layer, const seer_prefill_desc *desc,
                         const seer_submit *submit, seer_ticket *ticket) {
  return compute(ctx, submit, ticket, [&](Context &context, SubmitOptions options) {
    const auto gates = get(model, "model");
    const seer_prefill_desc in = read_struct(desc, "desc");
    Context::Pins pins;
    const PrefillDesc d = prefill_desc(in, context, pins);
    return context.prefill(gates, layer, d, cache_of(in), std::move(pins), std::move(options));
  });
}

seer_status seer_gate(seer_context *ctx, const seer_model *model, int32_t layer, const seer_gate_desc *desc,
                      const seer_submit *submit, seer_ticket *ticket) {
  return compute(ctx, submit, ticket, [&](Context &context, SubmitOptions options) {
    const auto gates = get(model, "model");
    const seer_gate_desc in = read_struct(desc, "desc");
    Context::Pins pins;
    const GateDesc d = gate_desc(in, context, pins);
    return context.gate(gates, layer, d, cache_of(in), std::move(pins), std::move(options));
  });
}

seer_status seer_select(seer_context *ctx, const seer_select_desc *desc, const seer_submit *submit,
                        seer_ticket *ticket) {
  return compute(ctx, submit, ticket, [&](Context &context, SubmitOptions options) {
    const seer_select_desc in = read_struct(desc, "desc");
    Context::Pins pins;
    const SelectDesc d = select_desc(in, context, pins);
    return context.select(d, std::move(pins), std::move(options));
  });
}

seer_status seer_attention(seer_context *ctx, const seer_attention_desc *desc, const seer_submit *submit,
                           seer_ticket *ticket) {
  return compute(ctx, submit, ticket, [&](Context &context, SubmitOptions options) {
    const seer_attention_desc in = read_struct(desc, "desc");
    Context::Pins pins;
    const AttentionDesc d = attention_desc(in, context, pins);
    return context.attention(d, std::move(pins), std::move(options));
  });
}

seer_status seer_prefill_workspace(seer_context *ctx, const seer_model *model, const seer_prefill_desc *desc,
                                   uint64_t *bytes) {
  return entry([&] {
    SEER_REQUIRE(bytes, Status::invalid_argument, "bytes is NULL");
    const auto context = usable(ctx);
    const auto gates = get(model, "model");
    const seer_prefill_desc in = read_struct(desc, "desc");
    Context::Pins pins;
    const PrefillDesc d = prefill_desc(in, *context, pins);
    *bytes = context->prefill_workspace(*gates, d, cache_of(in).get());
  });
}

}  // extern "C"
