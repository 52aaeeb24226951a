/* client: a program of one version's header with another version's library. It sets every field of every struct to a
 * value of its own, and checks what comes of it against golden values, so that a field that moved shows. usage: client
 * LIBRARY GOLDEN_FOLDER SCRATCH_FOLDER */
#include "client.h"

#include <dlfcn.h>

struct library lib;

char *read_file(const char *folder, const char *name, uint64_t *size) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "rb");
  CHECK(file && fseek(file, 0, SEEK_END) == 0);
  *size = (uint64_t)ftell(file);
  char *bytes = calloc(*size + 1, 1);
  rewind(file);
  CHECK(bytes && fread(bytes, 1, *size, file) == *size);
  fclose(file);
  return bytes;
}

seer_tensor host_tensor(void *data, seer_dtype dtype, int64_t a, int64_t b, int64_t c, int64_t d) {
  const uint64_t element = dtype == SEER_U8 ? 1 : dtype == SEER_BF16 || dtype == SEER_F16 ? 2 : 4;
  seer_tensor t = {.mem = SEER_MEM_HOST, .dtype = dtype, .ndim = 4, .data = data, .shape = {a, b, c, d}};
  t.size = (uint64_t)(a * b * c * d) * element;
  return t;
}

int main(int argc, char **argv) {
  if (argc != 4) return fputs("usage: client LIBRARY GOLDEN_FOLDER SCRATCH_FOLDER\n", stderr), 2;
  void *handle = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!handle) return fprintf(stderr, "%s\n", dlerror()), 1;
#define LOAD(name)                                             \
  *(void **)&lib.name = dlvsym(handle, #name, "SEERATTN_0.1"); \
  if (!lib.name) return fprintf(stderr, "%s\n", dlerror()), 1;
  CALLS(LOAD)
  printf("header %x, library %x\n", SEER_VERSION, lib.seer_version());

  check_devices_and_contexts();
  GUARDED(seer_context_params, params);
  params.s.backend = SEER_BACKEND_CPU;
  params.s.threads = 2;
  seer_context *ctx = NULL;
  OK(lib.seer_context_create(&params.s, &ctx));
  UNTOUCHED(params);
  check_models(ctx, argv[3]);
  check_golden(ctx, argv[2]);
  check_parts(ctx);
#ifdef NEXT
  check_next(ctx, argv[2]);
#endif
  lib.seer_context_release(ctx);
  return 0;
}
