/* client.h: what the parts of the ABI client share: the library that they opened, structs with guard bytes, checks.
 * Compiled with the header of one version, run with the library of another. */
#ifndef ABI_CLIENT_H
#define ABI_CLIENT_H
#include <math.h>
#include <seerattn/seerattn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/c/tensors.h"

/* The calls of version 0.1, by pointers into the library under test. */
/* clang-format off */
#define CALLS(X) \
  X(seer_version) X(seer_status_name) X(seer_last_error) X(seer_device_count) X(seer_device_get) \
  X(seer_context_create) X(seer_context_info) X(seer_context_retain) X(seer_context_release) \
  X(seer_model_load_dir) X(seer_model_load_memory) X(seer_model_create) X(seer_model_save) X(seer_model_config) \
  X(seer_model_retain) X(seer_model_release) X(seer_buffer_create) X(seer_buffer_address) X(seer_buffer_write) \
  X(seer_buffer_read) X(seer_buffer_retain) X(seer_buffer_release) X(seer_cancel_create) X(seer_cancel_trigger) \
  X(seer_cancel_release) X(seer_gate_cache_create) X(seer_gate_cache_length) X(seer_gate_cache_truncate) \
  X(seer_gate_cache_release) X(seer_prefill) X(seer_gate) X(seer_select) X(seer_attention) \
  X(seer_prefill_workspace) X(seer_wait) X(seer_on_done) X(seer_ticket_stats)
/* clang-format on */
#define DECLARE(name) __typeof__(&name) name;
struct library {
  CALLS(DECLARE)
};
extern struct library lib;

/* A failed check says where and with which words of the library, and ends the program: 1. */
#define CHECK(condition)                                                                                            \
  do {                                                                                                              \
    if (condition) break;                                                                                           \
    fprintf(stderr, "%s:%d: not so: %s (last error: %s)\n", __FILE__, __LINE__, #condition, lib.seer_last_error()); \
    exit(1);                                                                                                        \
  } while (0)
#define OK(call) CHECK((call) == SEER_OK)
/* The status expected, and a text that names what is wrong. */
#define FAILS(status, word, call)                         \
  do {                                                    \
    CHECK((call) == (status));                            \
    CHECK(strstr(lib.seer_last_error(), (word)) != NULL); \
  } while (0)

/* A struct with 64 guard bytes behind it. GUARDED zeroes it and sets struct_size; UNTOUCHED checks what lies behind. */
#define GUARDED(type, name)                      \
  struct {                                       \
    type s;                                      \
    unsigned char guard[64];                     \
  } name = {.s = SEER_INIT(type), .guard = {0}}; \
  memset(name.guard, 0xa5, sizeof name.guard)
#define UNTOUCHED(name) CHECK(all_bytes(name.guard, 0xa5, sizeof name.guard))
/* As an output struct arrives: rubbish behind struct_size. */
#define SPOIL(name) memset((unsigned char *)&name.s + 4, 0xee, sizeof name.s - 4)

static inline int all_bytes(const void *memory, unsigned char value, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (((const unsigned char *)memory)[i] != value) return 0;
  return 1;
}

/* A file read whole, with a NUL behind it. */
char *read_file(const char *folder, const char *name, uint64_t *size);
/* A packed host tensor over `data`. */
seer_tensor host_tensor(void *data, seer_dtype dtype, int64_t a, int64_t b, int64_t c, int64_t d);

void check_devices_and_contexts(void);
void check_models(seer_context *ctx, const char *scratch);
void check_golden(seer_context *ctx, const char *folder);
void check_parts(seer_context *ctx);
/* With NEXT: the structs of this header have a field `next` more than the library may know. */
void check_next(seer_context *ctx, const char *folder);

#endif
