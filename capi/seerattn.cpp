// Entry points: errors, version, devices, contexts, buffers, cancelling, completion.
#include <seerattn/seerattn.h>

#include "convert.h"
#include "handles.h"

using namespace seer;
using namespace seer::capi;

namespace {

const BackendFns &checked_backend(seer_backend backend, const char *name) {
  SEER_REQUIRE(backend >= SEER_BACKEND_CUDA && backend <= SEER_BACKEND_CPU, Status::invalid_argument,
               "%s is %d; expected CUDA (1), VULKAN (2) or CPU (3)", name, int(backend));
  return seer::backend(static_cast<BackendKind>(backend));
}

void copy_text(char (&out)[256], const std::string &text) {
  size_t n = std::min(text.size(), sizeof out - 1);
  while (n > 0 && n < text.size() && (text[n] & 0xc0) == 0x80) n--;  // do not cut a UTF-8 character
  std::memcpy(out, text.data(), n);
}

seer_device_info c_info(const DeviceInfo &info) {
  seer_device_info out = {};
  out.backend = static_cast<seer_backend>(info.backend);
  out.ordinal = info.ordinal;
  out.vendor_id = info.vendor_id;
  std::memcpy(out.uuid, info.uuid, sizeof out.uuid);
  out.memory_bytes = info.memory_bytes;
  out.dtype_bits = info.dtype_bits;
  copy_text(out.name, info.name);
  copy_text(out.detail, info.detail);
  return out;
}

// A ticket of this context: ALL becomes the last one.
uint64_t checked_ticket(const Queue &queue, seer_ticket ticket) {
  const uint64_t last = queue.submitted();
  if (ticket == SEER_TICKET_ALL) return last;
  SEER_REQUIRE(ticket <= last, Status::invalid_argument, "ticket is %llu; this context's last one is %llu",
               static_cast<unsigned long long>(ticket), static_cast<unsigned long long>(last));
  return ticket;
}

}  // namespace

extern "C" {

uint32_t seer_version(void) { return SEER_VERSION; }

const char *seer_status_name(seer_status status) { return status_name(static_cast<Status>(status)); }

const char *seer_last_error(void) { return last_error(); }

seer_status seer_device_count(seer_backend backend, int32_t *count) {
  return entry([&] {
    SEER_REQUIRE(count, Status::invalid_argument, "count is NULL");
    *count = checked_backend(backend, "backend").device_count();
  });
}

seer_status seer_device_get(seer_backend backend, int32_t ordinal, seer_device_info *info) {
  return entry([&] {
    prepare_struct(info, "info");
    const BackendFns &fns = checked_backend(backend, "backend");
    const int32_t count = fns.device_count();
    SEER_REQUIRE(ordinal >= 0 && ordinal < count, Status::invalid_argument, "ordinal is %d; backend %s has %d devices",
                 int(ordinal), fns.name, int(count));
    write_struct(info, c_info(fns.device_info(ordinal)));
  });
}

seer_status seer_context_create(const seer_context_params *params, seer_context **out) {
  if (out) *out = nullptr;
  return entry([&] {
    SEER_REQUIRE(out, Status::invalid_argument, "out is NULL");
    auto handle = std::make_unique<seer_context>();
    handle->object = Context::create(context_params(params));
    *out = handle.release();
  });
}

seer_status seer_context_info(const seer_context *ctx, seer_device_info *info) {
  return entry([&] {
    const auto context = usable(ctx);
    prepare_struct(info, "info");
    write_struct(info, c_info(context->device().info));
  });
}

void seer_context_retain(seer_context *ctx) { retain(ctx); }
void seer_context_release(seer_context *ctx) { release(ctx); }

seer_status seer_buffer_create(seer_context *ctx, uint64_t size, uint32_t flags, seer_buffer **out) {
  if (out) *out = nullptr;
  return entry([&] {
    SEER_REQUIRE(out, Status::invalid_argument, "out is NULL");
    const auto context = usable(ctx);
    SEER_REQUIRE(flags == 0, Status::unsupported, "flags is 0x%x; this library knows none", flags);
    *out = make_handle<seer_buffer>(std::make_shared<Buffer>(context, size));
  });
}

seer_status seer_buffer_address(const seer_buffer *buffer, void **address) {
  return entry([&] {
    SEER_REQUIRE(address, Status::invalid_argument, "address is NULL");
    const auto object = get(buffer, "buffer");
    object->context().check_usable();
    SEER_REQUIRE(object->context().device().info.backend != BackendKind::vulkan, Status::unsupported,
                 "buffers of backend vulkan have no address that others can use");
    *address = object->memory().address;
  });
}

seer_status seer_buffer_write(seer_buffer *buffer, uint64_t offset, const void *src, uint64_t size) {
  return entry([&] {
    const auto object = get(buffer, "buffer");
    object->context().check_usable();
    finish(object->context(), Buffer::write(object, offset, src, size));
  });
}

seer_status seer_buffer_read(const seer_buffer *buffer, uint64_t offset, void *dst, uint64_t size) {
  return entry([&] {
    const auto object = get(buffer, "buffer");
    object->context().check_usable();
    finish(object->context(), Buffer::read(object, offset, dst, size));
  });
}

void seer_buffer_retain(seer_buffer *buffer) { retain(buffer); }
void seer_buffer_release(seer_buffer *buffer) { release(buffer); }

seer_status seer_cancel_create(seer_cancel **out) {
  if (out) *out = nullptr;
  return entry([&] {
    SEER_REQUIRE(out, Status::invalid_argument, "out is NULL");
    *out = make_handle<seer_cancel>(std::make_shared<CancelFlag>());
  });
}

void seer_cancel_trigger(seer_cancel *cancel) {
  // Not `entry`: callbacks and signal handlers may come here.
  if (cancel && cancel->magic.load(std::memory_order_relaxed) == seer_cancel::magic_alive) cancel->object->trigger();
}

void seer_cancel_release(seer_cancel *cancel) { release(cancel); }

seer_status seer_wait(seer_context *ctx, seer_ticket ticket, uint64_t timeout_ns) {
  seer_status status = SEER_OK;
  const seer_status failed = entry([&] {
    const auto context = usable(ctx);
    const Queue &queue = context->queue();
    const uint64_t until = checked_ticket(queue, ticket);
    if (!queue.wait(until, timeout_ns)) {
      status = timeout_ns == 0 ? SEER_NOT_READY : SEER_TIMEOUT;
      return;
    }
    if (ticket == SEER_TICKET_ALL) return;
    Outcome outcome = queue.outcome(until);
    if (outcome.status != Status::ok) throw Error(outcome.status, std::move(outcome.message));
  });
  return failed != SEER_OK ? failed : status;
}

seer_status seer_on_done(seer_context *ctx, seer_ticket ticket, seer_done_fn fn, void *user) {
  return entry([&] {
    const auto context = usable(ctx);
    SEER_REQUIRE(fn, Status::invalid_argument, "fn is NULL");
    Queue &queue = context->queue();
    const bool all = ticket == SEER_TICKET_ALL;
    // The callback keeps the context, so that it comes even if every handle goes first.
    queue.on_done(checked_ticket(queue, ticket), [context, fn, user, ticket, all](Status status) {
      const CallbackScope scope;
      fn(user, ticket, all ? SEER_OK : static_cast<seer_status>(status));
    });
  });
}

seer_status seer_ticket_stats(seer_context *ctx, seer_ticket ticket, seer_stats *out) {
  seer_status status = SEER_OK;
  const seer_status failed = entry([&] {
    const auto context = usable(ctx);
    prepare_struct(out, "out");
    SEER_REQUIRE(ticket != SEER_TICKET_ALL && ticket != 0, Status::invalid_argument,
                 "ticket names no single call; it has no statistics");
    const Queue &queue = context->queue();
    if (!queue.wait(checked_ticket(queue, ticket), 0)) {
      status = SEER_NOT_READY;
      return;
    }
    const CallStats stats = queue.outcome(ticket).stats;
    seer_stats value = {};
    value.blocks_kept = stats.select.blocks_kept;
    value.blocks_causal = stats.select.blocks_causal;
    value.fallback_rows = stats.select.fallback_rows;
    value.workspace_bytes = stats.workspace_bytes;
    value.device_ns = stats.device_ns;
    value.gate_ns = stats.gate_ns;
    value.attend_ns = stats.attend_ns;
    write_struct(out, value);
  });
  return failed != SEER_OK ? failed : status;
}

}  // extern "C"
