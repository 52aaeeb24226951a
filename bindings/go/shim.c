#include "shim.h"

#include <stdlib.h>
#include <string.h>

#include "_cgo_export.h"

static seer_go_result result(seer_status status) {
  seer_go_result r = {.status = status};
  if (status < 0) {
    const char *text = seer_last_error();
    const size_t size = strlen(text) + 1;
    r.detail = malloc(size);
    if (r.detail) memcpy(r.detail, text, size);
  }
  return r;
}

static seer_go_result made(seer_status status, void *handle) {
  seer_go_result r = result(status);
  r.handle = handle;
  return r;
}

static seer_go_result counted(seer_status status, uint64_t value) {
  seer_go_result r = result(status);
  r.value = value;
  return r;
}

/* ---- Callbacks: user data is a cgo.Handle, a number ---------------------------------------------------------------
 */

static void SEER_CALL on_log(void *user, seer_log_level level, const char *message, size_t length) {
  seerattnGoLog((uintptr_t)user, level, (char *)message, length);
}

static void SEER_CALL on_log_release(void *user) { seerattnGoLogRelease((uintptr_t)user); }

static int32_t SEER_CALL on_progress(void *user, uint64_t done, uint64_t total) {
  return seerattnGoProgress((uintptr_t)user, done, total);
}

static void SEER_CALL on_done(void *user, seer_ticket ticket, seer_status status) {
  (void)ticket;
  seerattnGoDone((uintptr_t)user, status);
}

/* ---- Calls
 * ----------------------------------------------------------------------------------------------------------- */

seer_go_result seer_go_device_count(seer_backend backend) {
  int32_t count = 0;
  const seer_status status = seer_device_count(backend, &count);
  return counted(status, (uint64_t)count);
}

seer_go_result seer_go_device_get(seer_backend backend, int32_t ordinal, seer_device_info *info) {
  return result(seer_device_get(backend, ordinal, info));
}

seer_go_result seer_go_context_create(const seer_context_params *params, uintptr_t log) {
  seer_context_params p = *params;
  if (log) {
    p.log = on_log;
    p.log_user = (void *)log;
    p.log_release = on_log_release;
  }
  seer_context *ctx = NULL;
  const seer_status status = seer_context_create(&p, &ctx);
  return made(status, ctx);
}

seer_go_result seer_go_context_info(seer_context *ctx, seer_device_info *info) {
  return result(seer_context_info(ctx, info));
}

static seer_load_params with_progress(const seer_load_params *params, uintptr_t progress) {
  seer_load_params p = *params;
  if (progress) {
    p.progress = on_progress;
    p.progress_user = (void *)progress;
  }
  return p;
}

seer_go_result seer_go_model_load_dir(seer_context *ctx, const char *dir, const seer_load_params *params,
                                      uintptr_t progress) {
  const seer_load_params p = with_progress(params, progress);
  seer_model *model = NULL;
  const seer_status status = seer_model_load_dir(ctx, dir, &p, &model);
  return made(status, model);
}

seer_go_result seer_go_model_load_memory(seer_context *ctx, const uint8_t *config, uint64_t config_size,
                                         const uint8_t *weights, uint64_t weights_size, const seer_load_params *params,
                                         uintptr_t progress) {
  const seer_load_params p = with_progress(params, progress);
  seer_model *model = NULL;
  const seer_status status =
      seer_model_load_memory(ctx, (const char *)config, config_size, weights, weights_size, &p, &model);
  return made(status, model);
}

seer_go_result seer_go_model_create(seer_context *ctx, const seer_gate_config *config,
                                    const seer_gate_weights *layers) {
  const size_t count = config->layers > 0 ? (size_t)config->layers : 0;
  const seer_gate_weights **each = malloc((count + 1) * sizeof *each);
  if (!each) return (seer_go_result){.status = SEER_ERROR_OUT_OF_MEMORY};
  for (size_t i = 0; i < count; i++) each[i] = layers + i;
  seer_model *model = NULL;
  const seer_status status = seer_model_create(ctx, config, each, &model);
  free(each);
  return made(status, model);
}

seer_go_result seer_go_model_save(seer_model *model, const char *dir) { return result(seer_model_save(model, dir)); }

seer_go_result seer_go_model_config(seer_model *model, seer_gate_config *out) {
  return result(seer_model_config(model, out));
}

seer_go_result seer_go_buffer_create(seer_context *ctx, uint64_t size) {
  seer_buffer *buffer = NULL;
  const seer_status status = seer_buffer_create(ctx, size, 0, &buffer);
  return made(status, buffer);
}

seer_go_result seer_go_buffer_address(seer_buffer *buffer) {
  void *address = NULL;
  const seer_status status = seer_buffer_address(buffer, &address);
  return made(status, address);
}

seer_go_result seer_go_buffer_write(seer_buffer *buffer, uint64_t offset, const uint8_t *src, uint64_t size) {
  return result(seer_buffer_write(buffer, offset, src, size));
}

seer_go_result seer_go_buffer_read(seer_buffer *buffer, uint64_t offset, uint8_t *dst, uint64_t size) {
  return result(seer_buffer_read(buffer, offset, dst, size));
}

seer_go_result seer_go_cancel_create(void) {
  seer_cancel *cancel = NULL;
  const seer_status status = seer_cancel_create(&cancel);
  return made(status, cancel);
}

seer_go_result seer_go_gate_cache_create(seer_context *ctx, seer_model *model, const seer_gate_cache_params *params) {
  seer_gate_cache *cache = NULL;
  const seer_status status = seer_gate_cache_create(ctx, model, params, &cache);
  return made(status, cache);
}

seer_go_result seer_go_gate_cache_length(seer_gate_cache *cache, int32_t layer, int32_t sequence) {
  int64_t tokens = 0;
  const seer_status status = seer_gate_cache_length(cache, layer, sequence, &tokens);
  return counted(status, (uint64_t)tokens);
}

seer_go_result seer_go_gate_cache_truncate(seer_gate_cache *cache, int32_t sequence, int64_t tokens) {
  return result(seer_gate_cache_truncate(cache, sequence, tokens));
}

static seer_submit submission(seer_go_submit in) {
  seer_submit s = SEER_INIT(seer_submit);
  s.cancel = in.cancel;
  if (in.progress) {
    s.progress = on_progress;
    s.progress_user = (void *)in.progress;
  }
  if (in.use_stream) {
    s.flags = SEER_SUBMIT_USE_STREAM;
    s.cuda_stream = (void *)in.stream;
  }
  return s;
}

seer_go_result seer_go_prefill(seer_context *ctx, seer_model *model, int32_t layer, const seer_prefill_desc *desc,
                               seer_go_submit submit) {
  const seer_submit s = submission(submit);
  seer_ticket ticket = 0;
  const seer_status status = seer_prefill(ctx, model, layer, desc, &s, &ticket);
  return counted(status, ticket);
}

seer_go_result seer_go_gate(seer_context *ctx, seer_model *model, int32_t layer, const seer_gate_desc *desc,
                            seer_go_submit submit) {
  const seer_submit s = submission(submit);
  seer_ticket ticket = 0;
  const seer_status status = seer_gate(ctx, model, layer, desc, &s, &ticket);
  return counted(status, ticket);
}

seer_go_result seer_go_select(seer_context *ctx, const seer_select_desc *desc, seer_go_submit submit) {
  const seer_submit s = submission(submit);
  seer_ticket ticket = 0;
  const seer_status status = seer_select(ctx, desc, &s, &ticket);
  return counted(status, ticket);
}

seer_go_result seer_go_attention(seer_context *ctx, const seer_attention_desc *desc, seer_go_submit submit) {
  const seer_submit s = submission(submit);
  seer_ticket ticket = 0;
  const seer_status status = seer_attention(ctx, desc, &s, &ticket);
  return counted(status, ticket);
}

seer_go_result seer_go_prefill_workspace(seer_context *ctx, seer_model *model, const seer_prefill_desc *desc) {
  uint64_t bytes = 0;
  const seer_status status = seer_prefill_workspace(ctx, model, desc, &bytes);
  return counted(status, bytes);
}

seer_go_result seer_go_finish(seer_context *ctx, seer_ticket ticket, seer_stats *stats) {
  seer_go_result r = result(seer_wait(ctx, ticket, UINT64_MAX));
  /* Ticket 0 has no statistics, nor have those whose outcome is no longer kept: that is no failure of the work. */
  *stats = SEER_INIT(seer_stats);
  if (r.status == SEER_OK && ticket != 0) (void)seer_ticket_stats(ctx, ticket, stats);
  return r;
}

seer_go_result seer_go_on_done(seer_context *ctx, seer_ticket ticket, uintptr_t handle) {
  return result(seer_on_done(ctx, ticket, on_done, (void *)handle));
}

void *seer_go_pointer(uintptr_t address) { return (void *)address; }
