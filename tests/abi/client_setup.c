/* Devices, contexts and models: seer_device_info, seer_allocator, seer_context_params, seer_gate_config,
 * seer_gate_weights, seer_load_params. */
#include <math.h>
#include <unistd.h>

#include "client.h"

static int host_user, log_user, progress_user; /* only their addresses count */
static int allocated, freed, logged, log_released, allocator_released, progressed;
static seer_log_level most_verbose;

static void *host_alloc(void *user, uint64_t size, uint64_t align) {
  void *memory = NULL;
  CHECK(user == &host_user && (align & (align - 1)) == 0 && align <= 1 << 16);
  __atomic_add_fetch(&allocated, 1, __ATOMIC_RELAXED);
  return posix_memalign(&memory, align < sizeof(void *) ? sizeof(void *) : align, size) == 0 ? memory : NULL;
}
static void host_free(void *user, void *memory, uint64_t size) {
  CHECK(user == &host_user && size > 0);
  __atomic_add_fetch(&freed, 1, __ATOMIC_RELAXED);
  free(memory);
}
static void *device_alloc(void *user, uint64_t size, void *stream) {
  (void)user, (void)size, (void)stream;
  CHECK(!"a device allocation on the CPU");
  return NULL;
}
static void device_free(void *user, void *memory, uint64_t size, void *stream) {
  (void)user, (void)memory, (void)size, (void)stream;
  CHECK(!"a device deallocation on the CPU");
}
static void release_allocator(void *user) {
  CHECK(user == &host_user);
  allocator_released++;
}
static void log_line(void *user, seer_log_level level, const char *text, size_t size) {
  CHECK(user == &log_user && strlen(text) == size);
  if (level > most_verbose) most_verbose = level;
  __atomic_add_fetch(&logged, 1, __ATOMIC_RELAXED);
}
static void release_log(void *user) {
  CHECK(user == &log_user);
  log_released++;
}
static int32_t progress(void *user, uint64_t done, uint64_t total) {
  CHECK(user == &progress_user && done <= total);
  progressed++;
  return 0;
}

static void attend_zeros(seer_context *ctx, int64_t tokens, seer_status expected) {
  float *zeros = calloc((size_t)tokens * 32, sizeof *zeros), *out = calloc((size_t)tokens * 32, sizeof *out);
  GUARDED(seer_attention_desc, desc);
  desc.s.q = desc.s.k = desc.s.v = host_tensor(zeros, SEER_F32, 1, tokens, 2, 16);
  desc.s.out = host_tensor(out, SEER_F32, 1, tokens, 2, 16);
  CHECK(lib.seer_attention(ctx, &desc.s, NULL, NULL) == expected);
  free(zeros);
  free(out);
}

void check_devices_and_contexts(void) {
  int32_t count = 0;
  OK(lib.seer_device_count(SEER_BACKEND_CPU, &count));
  CHECK(count == 1);
  GUARDED(seer_device_info, info);
  SPOIL(info);
  OK(lib.seer_device_get(SEER_BACKEND_CPU, 0, &info.s));
  UNTOUCHED(info);
  CHECK(info.s.struct_size == sizeof info.s && info.s.backend == SEER_BACKEND_CPU && info.s.ordinal == 0 &&
        info.s.vendor_id == 0);
  CHECK(all_bytes(info.s.uuid, 0, sizeof info.s.uuid) && info.s.memory_bytes > 1 << 20);
  CHECK(info.s.dtype_bits == (1u << SEER_F32 | 1u << SEER_F16 | 1u << SEER_BF16));
  CHECK(info.s.name[0] && strstr(info.s.detail, "kernels") && !strstr(info.s.name, "kernels"));

  GUARDED(seer_allocator, allocator);
  allocator.s.host_alloc = host_alloc;
  allocator.s.host_free = host_free;
  allocator.s.device_alloc = device_alloc;
  allocator.s.device_free = device_free;
  allocator.s.user = &host_user;
  allocator.s.release = release_allocator;
  GUARDED(seer_context_params, params);
  params.s.backend = SEER_BACKEND_CPU;
  params.s.device = 0;
  params.s.threads = 5;
  params.s.flags = SEER_CONTEXT_REFERENCE;
  params.s.allocator = &allocator.s;
  params.s.log = log_line;
  params.s.log_user = &log_user;
  params.s.log_release = release_log;
  params.s.log_level = SEER_LOG_INFO;
  params.s.workspace_limit = UINT64_C(1) << 40;
  seer_context *ctx = NULL;
  OK(lib.seer_context_create(&params.s, &ctx));
  UNTOUCHED(params);
  UNTOUCHED(allocator);
  SPOIL(info);
  OK(lib.seer_context_info(ctx, &info.s));
  UNTOUCHED(info);
  CHECK(strstr(info.s.detail, "reference"));
  attend_zeros(ctx, 300, SEER_OK);
  seer_buffer *buffer = NULL;
  OK(lib.seer_buffer_create(ctx, 1000, 0, &buffer));
  lib.seer_buffer_release(buffer);
  CHECK(logged > 0 && most_verbose == SEER_LOG_INFO && allocated > 0);
  lib.seer_context_release(ctx);
  for (int i = 0; i < 2000 && !(allocator_released && log_released); i++) usleep(1000);
  CHECK(allocated == freed && allocator_released == 1 && log_released == 1);

  params.s.allocator = NULL;
  params.s.log = NULL;
  params.s.log_user = NULL;
  params.s.log_release = NULL;
  params.s.log_level = SEER_LOG_OFF;
  params.s.flags = 0;
  params.s.workspace_limit = 512;
  OK(lib.seer_context_create(&params.s, &ctx));
  OK(lib.seer_context_info(ctx, &info.s));
  CHECK(strstr(info.s.detail, "5 threads"));
  attend_zeros(ctx, 300, SEER_ERROR_OUT_OF_MEMORY);
  CHECK(strstr(lib.seer_last_error(), "512"));
  lib.seer_context_release(ctx);
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "7", (params.s.device = 7, lib.seer_context_create(&params.s, &ctx)));
}

static int same_rope(const seer_rope *a, const seer_rope *b) {
  return a->kind == b->kind && a->theta == b->theta && a->attention_scaling == b->attention_scaling &&
         a->inv_freq_count == b->inv_freq_count &&
         (a->inv_freq_count == 0 || !memcmp(a->inv_freq, b->inv_freq, a->inv_freq_count * sizeof(float)));
}

void check_models(seer_context *ctx, const char *scratch) {
  static float weights[6 * 16 * 2 * 64], frequencies[8], gate_frequencies[32];
  for (int i = 0; i < 8; i++) frequencies[i] = 1.0f / (float)(i + 1);
  for (int i = 0; i < 32; i++) gate_frequencies[i] = 0.5f / (float)(i + 1);
  GUARDED(seer_gate_config, config);
  config.s.layers = 5;
  config.s.q_heads = 6;
  config.s.kv_heads = 3;
  config.s.head_dim = 16;
  config.s.gate_dim = 64;
  config.s.block_size = 32;
  config.s.q_pool = SEER_POOL_AVG;
  config.s.k_pool = SEER_POOL_MAX | SEER_POOL_AVG;
  config.s.force_double = 1;
  config.s.first_layer = 7;
  config.s.rope =
      (seer_rope){.kind = SEER_ROPE_INV_FREQ, .inv_freq_count = 8, .attention_scaling = 1.25, .inv_freq = frequencies};
  config.s.gate_rope = (seer_rope){
      .kind = SEER_ROPE_INV_FREQ, .inv_freq_count = 32, .attention_scaling = 1.5, .inv_freq = gate_frequencies};
  config.s.select = (seer_select_spec){.method = SEER_SELECT_BUDGET, .last_dense_rows = 2, .token_budget = 96};
  GUARDED(seer_gate_weights, layer);
  layer.s.wq = host_tensor(weights, SEER_F32, 6, 16, 64, 1);
  layer.s.wk = host_tensor(weights, SEER_F32, 3, 32, 64, 1);
  layer.s.wq.ndim = layer.s.wk.ndim = 3;
  layer.s.wq.shape[3] = layer.s.wk.shape[3] = 0;
  const seer_gate_weights *layers[] = {&layer.s, &layer.s, &layer.s, &layer.s, &layer.s};
  seer_model *model = NULL;
  OK(lib.seer_model_create(ctx, &config.s, layers, &model));
  UNTOUCHED(config);
  UNTOUCHED(layer);

  GUARDED(seer_gate_config, back);
  SPOIL(back);
  OK(lib.seer_model_config(model, &back.s));
  UNTOUCHED(back);
  CHECK(back.s.struct_size == sizeof back.s && back.s.layers == 5 && back.s.q_heads == 6 && back.s.kv_heads == 3);
  CHECK(back.s.head_dim == 16 && back.s.gate_dim == 64 && back.s.block_size == 32 && back.s.force_double == 1);
  CHECK(back.s.q_pool == SEER_POOL_AVG && back.s.k_pool == (SEER_POOL_MAX | SEER_POOL_AVG) && back.s.first_layer == 7);
  CHECK(back.s.reserved == 0 && same_rope(&back.s.rope, &config.s.rope) &&
        same_rope(&back.s.gate_rope, &config.s.gate_rope));
  CHECK(back.s.select.method == SEER_SELECT_BUDGET && back.s.select.token_budget == 96 &&
        back.s.select.last_dense_rows == 2);
  lib.seer_model_release(model);

  /* Saved and loaded in part: ropes that a config.json can say. */
  config.s.first_layer = 0;
  config.s.rope = (seer_rope){.kind = SEER_ROPE_THETA, .theta = 5000};
  config.s.gate_rope = (seer_rope){.kind = SEER_ROPE_DEFAULT};
  config.s.select = (seer_select_spec){.method = SEER_SELECT_RATIO, .last_dense_rows = 2, .ratio = 0.375};
  OK(lib.seer_model_create(ctx, &config.s, layers, &model));
  OK(lib.seer_model_save(model, scratch));
  lib.seer_model_release(model);
  seer_cancel *cancel = NULL;
  OK(lib.seer_cancel_create(&cancel));
  GUARDED(seer_load_params, load);
  load.s.flags = SEER_LOAD_SAFETENSORS_ONLY;
  load.s.first_layer = 2;
  load.s.layer_count = 3;
  load.s.first_kv_head = 1;
  load.s.kv_head_count = 2;
  load.s.max_file_bytes = 1 << 20;
  load.s.cancel = cancel;
  load.s.progress = progress;
  load.s.progress_user = &progress_user;
  OK(lib.seer_model_load_dir(ctx, scratch, &load.s, &model));
  UNTOUCHED(load);
  CHECK(progressed > 0);
  SPOIL(back);
  OK(lib.seer_model_config(model, &back.s));
  CHECK(back.s.layers == 3 && back.s.first_layer == 2 && back.s.kv_heads == 2 && back.s.q_heads == 4);
  CHECK(back.s.rope.kind == SEER_ROPE_THETA && back.s.rope.theta == 5000 && back.s.select.ratio == 0.375);
  lib.seer_model_release(model);
  load.s.max_file_bytes = 1000;
  CHECK(lib.seer_model_load_dir(ctx, scratch, &load.s, &model) < 0 && strstr(lib.seer_last_error(), "1000"));
  load.s.max_file_bytes = 1 << 20;
  lib.seer_cancel_trigger(cancel);
  CHECK(lib.seer_model_load_dir(ctx, scratch, &load.s, &model) == SEER_ERROR_CANCELLED);
  lib.seer_cancel_release(cancel);
}
