/* The life of every handle, in C99: a caller that knows nothing but seerattn.h. */
#include <seerattn/seerattn.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../support/aligned.h"

#define CHECK(condition)                                                                                          \
  do {                                                                                                            \
    if (!(condition)) {                                                                                           \
      fprintf(stderr, "%s:%d: %s is false; last error: %s\n", __FILE__, __LINE__, #condition, seer_last_error()); \
      exit(1);                                                                                                    \
    }                                                                                                             \
  } while (0)

enum { S = 70, HQ = 2, HKV = 1, D = 8, BLOCK = 32, NQ = 3 };

static seer_tensor floats(float *data, uint64_t count, int32_t ndim, int64_t a, int64_t b, int64_t c, int64_t d) {
  seer_tensor t;
  memset(&t, 0, sizeof t);
  t.mem = SEER_MEM_HOST;
  t.dtype = SEER_F32;
  t.ndim = ndim;
  t.data = data;
  t.size = count * sizeof(float);
  t.shape[0] = a;
  t.shape[1] = b;
  t.shape[2] = c;
  t.shape[3] = d;
  return t;
}

static void fill(float *data, int count, int seed) {
  for (int i = 0; i < count; i++) data[i] = (float)((i * 7919 + seed * 104729) % 2001 - 1000) / 1000.0f;
}

static int allocations, logged;
static void *SEER_CALL count_alloc(void *user, uint64_t size, uint64_t align) {
  void *p = aligned_get(size, align);
  (void)user;
  if (!p) return NULL;
  __sync_fetch_and_add(&allocations, 1);
  return p;
}
static void SEER_CALL count_free(void *user, void *ptr, uint64_t size) {
  (void)user;
  (void)size;
  __sync_fetch_and_sub(&allocations, 1);
  aligned_put(ptr);
}
static void SEER_CALL count_release(void *user) { __sync_fetch_and_add((int *)user, 1); }
static void SEER_CALL count_log(void *user, seer_log_level level, const char *message, size_t length) {
  (void)user;
  (void)level;
  if (strlen(message) == length) __sync_fetch_and_add(&logged, 1);
}

int main(void) {
  static float q[S * HQ * D], k[S * HKV * D], v[S * HKV * D], out[S * HQ * D], again[S * HQ * D], wk[HQ * 3 * D * D];
  fill(q, S * HQ * D, 1);
  fill(k, S * HKV * D, 2);
  fill(v, S * HKV * D, 3);
  fill(wk, HQ * 3 * D * D, 4);

  CHECK(seer_version() == SEER_VERSION);
  int32_t count = -1;
  CHECK(seer_device_count(SEER_BACKEND_CPU, &count) == SEER_OK && count >= 1);

  /* A context with an allocator and a log of its own. */
  int allocator_releases = 0, log_releases = 0;
  seer_allocator allocator = SEER_INIT(seer_allocator);
  allocator.host_alloc = count_alloc;
  allocator.host_free = count_free;
  allocator.user = &allocator_releases;
  allocator.release = count_release;
  seer_context_params params = SEER_INIT(seer_context_params);
  params.backend = SEER_BACKEND_CPU;
  params.threads = 1;
  params.allocator = &allocator;
  params.log = count_log;
  params.log_user = &log_releases;
  params.log_release = count_release;
  params.log_level = SEER_LOG_DEBUG;
  seer_context *ctx = NULL;
  CHECK(seer_context_create(&params, &ctx) == SEER_OK);
  memset(&allocator, 0xee, sizeof allocator); /* inputs are read only during the call */
  memset(&params, 0xee, sizeof params);
  seer_device_info info = SEER_INIT(seer_device_info);
  CHECK(seer_context_info(ctx, &info) == SEER_OK && info.backend == SEER_BACKEND_CPU);
  CHECK(logged > 0);

  seer_gate_config config = SEER_INIT(seer_gate_config);
  config.layers = 1;
  config.q_heads = HQ;
  config.kv_heads = HKV;
  config.head_dim = config.gate_dim = D;
  config.block_size = BLOCK;
  config.q_pool = SEER_POOL_AVG;
  config.k_pool = SEER_POOL_MAX | SEER_POOL_MIN | SEER_POOL_AVG;
  config.rope.kind = SEER_ROPE_THETA;
  config.rope.theta = 10000.0;
  seer_gate_weights weights = SEER_INIT(seer_gate_weights);
  weights.wk = floats(wk, HQ * 3 * D * D, 3, HQ, 3 * D, D, 0);
  const seer_gate_weights *layers[1] = {&weights};
  seer_model *model = NULL;
  CHECK(seer_model_create(ctx, &config, layers, &model) == SEER_OK);
  memset(wk, 0, sizeof wk); /* weights were copied */

  seer_prefill_desc desc = SEER_INIT(seer_prefill_desc);
  desc.q = floats(q, S * HQ * D, 4, 1, S, HQ, D);
  desc.k = floats(k, S * HKV * D, 4, 1, S, HKV, D);
  desc.v = floats(v, S * HKV * D, 4, 1, S, HKV, D);
  desc.out = floats(out, S * HQ * D, 4, 1, S, HQ, D);
  CHECK(seer_prefill(ctx, model, 0, &desc, NULL, NULL) == SEER_OK);

  /* Children keep their parents: everything works after the context's handle is gone. */
  seer_buffer *buffer = NULL;
  seer_gate_cache *cache = NULL;
  seer_gate_cache_params cache_params = SEER_INIT(seer_gate_cache_params);
  cache_params.max_tokens = 128;
  CHECK(seer_buffer_create(ctx, sizeof q, 0, &buffer) == SEER_OK);
  CHECK(seer_gate_cache_create(ctx, model, &cache_params, &cache) == SEER_OK);
  seer_context_retain(ctx);
  seer_context_release(ctx);
  desc.out = floats(again, S * HQ * D, 4, 1, S, HQ, D);
  CHECK(seer_prefill(ctx, model, 0, &desc, NULL, NULL) == SEER_OK);
  CHECK(memcmp(out, again, sizeof out) == 0);
  seer_context_release(ctx);
  CHECK(seer_buffer_write(buffer, 0, q, sizeof q) == SEER_OK);
  memset(again, 0, sizeof again);
  CHECK(seer_buffer_read(buffer, 0, again, sizeof q) == SEER_OK);
  CHECK(memcmp(q, again, sizeof q) == 0);
  CHECK(allocator_releases == 0);

  /* Any order. The last one takes the context along, and with it the allocator and the log. */
  seer_model_retain(model);
  seer_model_release(model);
  seer_model_release(model);
  int64_t tokens = -1;
  CHECK(seer_gate_cache_length(cache, 0, 0, &tokens) == SEER_OK && tokens == 0);
  seer_buffer_retain(buffer);
  seer_buffer_release(buffer);
  seer_buffer_release(buffer);
  CHECK(allocator_releases == 0 && allocations > 0);
  seer_gate_cache_release(cache);
  CHECK(allocations == 0);
  CHECK(allocator_releases == 1 && log_releases == 1);

  /* A context that could not be made leaves the callbacks' data to the caller. */
  seer_context_params bad = SEER_INIT(seer_context_params);
  seer_allocator fresh = SEER_INIT(seer_allocator);
  fresh.user = &allocator_releases;
  fresh.release = count_release;
  bad.allocator = &fresh;
  bad.backend = SEER_BACKEND_CPU;
  bad.device = 99;
  CHECK(seer_context_create(&bad, &ctx) == SEER_ERROR_INVALID_ARGUMENT && ctx == NULL);
  CHECK(allocator_releases == 1);
  CHECK(strstr(seer_last_error(), "99") != NULL);

  seer_cancel *cancel = NULL;
  CHECK(seer_cancel_create(&cancel) == SEER_OK);
  seer_cancel_trigger(cancel);
  seer_cancel_release(cancel);
  return 0;
}
