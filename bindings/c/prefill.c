/* prefill: one layer's attention through its gate. usage: prefill GATE_FOLDER TENSORS.safetensors [LAYER] */
#include <seerattn/seerattn.h>
#include <stdlib.h>

#include "tensors.h"

static void check(seer_status status) {
  if (status >= 0) return;
  fprintf(stderr, "%s: %s\n", seer_status_name(status), seer_last_error());
  exit(1);
}

static char *read_file(const char *path, uint64_t *size) {
  FILE *file = fopen(path, "rb");
  if (!file || fseek(file, 0, SEEK_END)) {
    perror(path);
    exit(1);
  }
  *size = (uint64_t)ftell(file);
  char *bytes = calloc(*size + 1, 1);
  rewind(file);
  if (!bytes || fread(bytes, 1, *size, file) != *size) {
    perror(path);
    exit(1);
  }
  fclose(file);
  return bytes;
}

static seer_backend backend_named(const char *name) {
  if (!name || !strcmp(name, "auto")) return SEER_BACKEND_AUTO;
  if (!strcmp(name, "cuda")) return SEER_BACKEND_CUDA;
  if (!strcmp(name, "vulkan")) return SEER_BACKEND_VULKAN;
  return !strcmp(name, "cpu") ? SEER_BACKEND_CPU : -1; /* -1 is refused */
}

int main(int argc, char **argv) {
  if (argc < 3) return fputs("usage: prefill GATE_FOLDER TENSORS.safetensors [LAYER]\n", stderr), 2;
  uint64_t size;
  char *file = read_file(argv[2], &size);

  seer_context_params params = SEER_INIT(seer_context_params);
  params.backend = backend_named(getenv("SEER_BACKEND"));
  seer_context *ctx;
  seer_model *model;
  check(seer_context_create(&params, &ctx));
  check(seer_model_load_dir(ctx, argv[1], NULL, &model));

  /* Zero means default: selection, RoPE and scale are the model's. */
  seer_prefill_desc call = SEER_INIT(seer_prefill_desc);
  call.q = find_tensor(file, size, "q");
  call.k = find_tensor(file, size, "k");
  call.v = find_tensor(file, size, "v");
  if (!call.q.mem || !call.k.mem || !call.v.mem) return fprintf(stderr, "%s: no tensors q, k, v\n", argv[2]), 1;
  call.out = call.q; /* the same shape and type, memory of its own */
  call.out.data = malloc(call.q.size);

  seer_ticket ticket;
  check(seer_prefill(ctx, model, argc > 3 ? atoi(argv[3]) : 0, &call, NULL, &ticket));
  seer_stats stats = SEER_INIT(seer_stats);
  check(seer_ticket_stats(ctx, ticket, &stats));
  printf("density  %.1f %%\n", 100 * (double)stats.blocks_kept / (double)stats.blocks_causal);
  printf("time     %.2f ms\n", (double)stats.device_ns / 1e6);
  printf("checksum %08x\n", (unsigned)crc32_of(call.out.data, call.out.size));

  free(call.out.data);
  free(file);
  seer_model_release(model);
  seer_context_release(ctx);
  return 0;
}
