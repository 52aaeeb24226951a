/* A client newer than its library: every growable struct of its header has a field `next` that the library does not
 * know. While it is 0 all is well (client.c has just run so); set, it is refused by name and place, and nothing was
 * done. */
#include "client.h"

/* The library reads structs up to its own size; `next` lies at the end of this header's, so its first byte that is set
 * is the offset that the text names. */
#define REFUSES(name, call)                                                                       \
  do {                                                                                            \
    char at[32];                                                                                  \
    name.s.next = 1;                                                                              \
    snprintf(at, sizeof at, "byte %zu is set", (size_t)((char *)&name.s.next - (char *)&name.s)); \
    FAILS(SEER_ERROR_UNSUPPORTED, at, call);                                                      \
    name.s.next = 0;                                                                              \
    UNTOUCHED(name);                                                                              \
  } while (0)

void check_next(seer_context *ctx, const char *folder) {
  seer_context *context = ctx;
  GUARDED(seer_context_params, params);
  REFUSES(params, lib.seer_context_create(&params.s, &context));
  CHECK(context == NULL);
  GUARDED(seer_allocator, allocator);
  params.s.allocator = &allocator.s;
  REFUSES(allocator, lib.seer_context_create(&params.s, &context));
  CHECK(context == NULL);

  seer_model *model = NULL, *loaded = NULL;
  OK(lib.seer_model_load_dir(ctx, folder, NULL, &loaded));
  GUARDED(seer_load_params, load);
  REFUSES(load, lib.seer_model_load_dir(ctx, folder, &load.s, &model));
  GUARDED(seer_gate_config, config);
  SPOIL(config);
  OK(lib.seer_model_config(loaded, &config.s));
  CHECK(config.s.next == 0); /* what the library does not know becomes 0 */
  GUARDED(seer_gate_weights, layer);
  const seer_gate_weights *layers[] = {&layer.s};
  REFUSES(config, lib.seer_model_create(ctx, &config.s, layers, &model));
  REFUSES(layer, lib.seer_model_create(ctx, &config.s, layers, &model));
  CHECK(model == NULL);

  seer_gate_cache *cache = NULL;
  GUARDED(seer_gate_cache_params, cache_params);
  cache_params.s.max_tokens = 64;
  REFUSES(cache_params, lib.seer_gate_cache_create(ctx, loaded, &cache_params.s, &cache));
  CHECK(cache == NULL);

  seer_ticket ticket = 77;
  GUARDED(seer_prefill_desc, prefill);
  REFUSES(prefill, lib.seer_prefill(ctx, loaded, 0, &prefill.s, NULL, &ticket));
  GUARDED(seer_gate_desc, gate);
  REFUSES(gate, lib.seer_gate(ctx, loaded, 0, &gate.s, NULL, &ticket));
  GUARDED(seer_select_desc, select);
  REFUSES(select, lib.seer_select(ctx, &select.s, NULL, &ticket));
  GUARDED(seer_attention_desc, attention);
  REFUSES(attention, lib.seer_attention(ctx, &attention.s, NULL, &ticket));
  GUARDED(seer_submit, submit);
  REFUSES(submit, lib.seer_attention(ctx, &attention.s, &submit.s, &ticket));
  CHECK(ticket == 77);

  GUARDED(seer_device_info, info);
  SPOIL(info);
  OK(lib.seer_device_get(SEER_BACKEND_CPU, 0, &info.s));
  CHECK(info.s.next == 0 && info.s.struct_size == sizeof info.s);
  UNTOUCHED(info);
  float zeros[16] = {0}, out[16];
  attention.s.q = attention.s.k = attention.s.v = host_tensor(zeros, SEER_F32, 1, 1, 1, 16);
  attention.s.out = host_tensor(out, SEER_F32, 1, 1, 1, 16);
  OK(lib.seer_attention(ctx, &attention.s, NULL, &ticket));
  GUARDED(seer_stats, stats);
  SPOIL(stats);
  OK(lib.seer_ticket_stats(ctx, ticket, &stats.s));
  CHECK(stats.s.next == 0 && stats.s.device_ns > 0);
  UNTOUCHED(stats);
  lib.seer_model_release(loaded);
}
