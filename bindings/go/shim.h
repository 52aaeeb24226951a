/* shim.h: what the Go package calls. Each function makes one call of the library and, if that failed, fetches its text
 * before returning: seer_last_error() belongs to a thread, and a goroutine may run on another one next. */
#ifndef SEERATTN_GO_SHIM_H
#define SEERATTN_GO_SHIM_H

#include "seerattn.h"

typedef struct {
  seer_status status;
  char *detail;   /* of a failure: malloc'd, the caller frees it; NULL otherwise, or if there was no memory */
  void *handle;   /* what a create call made */
  uint64_t value; /* a ticket, a length, a number of bytes */
} seer_go_result;

/* What every compute call takes besides its desc. */
typedef struct {
  seer_cancel *cancel;
  uintptr_t progress; /* a cgo.Handle, 0 = none */
  uintptr_t stream;   /* a CUDA stream */
  uint32_t use_stream;
} seer_go_submit;

seer_go_result seer_go_device_count(seer_backend backend);
seer_go_result seer_go_device_get(seer_backend backend, int32_t ordinal, seer_device_info *info);

/* log: a cgo.Handle, 0 = silent. It belongs to the context if there is one afterwards. */
seer_go_result seer_go_context_create(const seer_context_params *params, uintptr_t log);
seer_go_result seer_go_context_info(seer_context *ctx, seer_device_info *info);

seer_go_result seer_go_model_load_dir(seer_context *ctx, const char *dir, const seer_load_params *params,
                                      uintptr_t progress);
seer_go_result seer_go_model_load_memory(seer_context *ctx, const uint8_t *config, uint64_t config_size,
                                         const uint8_t *weights, uint64_t weights_size, const seer_load_params *params,
                                         uintptr_t progress);
/* layers: config->layers of them, one behind the other. */
seer_go_result seer_go_model_create(seer_context *ctx, const seer_gate_config *config, const seer_gate_weights *layers);
seer_go_result seer_go_model_save(seer_model *model, const char *dir);
seer_go_result seer_go_model_config(seer_model *model, seer_gate_config *out);

seer_go_result seer_go_buffer_create(seer_context *ctx, uint64_t size);
seer_go_result seer_go_buffer_address(seer_buffer *buffer);
seer_go_result seer_go_buffer_write(seer_buffer *buffer, uint64_t offset, const uint8_t *src, uint64_t size);
seer_go_result seer_go_buffer_read(seer_buffer *buffer, uint64_t offset, uint8_t *dst, uint64_t size);

seer_go_result seer_go_cancel_create(void);

seer_go_result seer_go_gate_cache_create(seer_context *ctx, seer_model *model, const seer_gate_cache_params *params);
seer_go_result seer_go_gate_cache_length(seer_gate_cache *cache, int32_t layer, int32_t sequence);
seer_go_result seer_go_gate_cache_truncate(seer_gate_cache *cache, int32_t sequence, int64_t tokens);

/* These submit and do not wait. */
seer_go_result seer_go_prefill(seer_context *ctx, seer_model *model, int32_t layer, const seer_prefill_desc *desc,
                               seer_go_submit submit);
seer_go_result seer_go_gate(seer_context *ctx, seer_model *model, int32_t layer, const seer_gate_desc *desc,
                            seer_go_submit submit);
seer_go_result seer_go_select(seer_context *ctx, const seer_select_desc *desc, seer_go_submit submit);
seer_go_result seer_go_attention(seer_context *ctx, const seer_attention_desc *desc, seer_go_submit submit);
seer_go_result seer_go_prefill_workspace(seer_context *ctx, seer_model *model, const seer_prefill_desc *desc);

/* Waits for the ticket; its outcome, and its statistics if that was OK. */
seer_go_result seer_go_finish(seer_context *ctx, seer_ticket ticket, seer_stats *stats);
/* Calls seerattnGoDone with the handle. */
seer_go_result seer_go_on_done(seer_context *ctx, seer_ticket ticket, uintptr_t handle);

/* A device address as a pointer: numbers from elsewhere, that no Go object lies at. */
void *seer_go_pointer(uintptr_t address);

#endif
