/* Prefill, gate, select and attention against the golden case: seer_tensor, seer_select_spec, seer_rope,
 * seer_sequences, the four descriptors, seer_gate_cache_params, seer_submit, seer_stats. */
#include "client.h"

enum { HEADS = 3, TOKENS = 512, DIM = 128, BLOCKS = 8, LAYER = 0, CUSHION = 64 };

static int progress_user, progressed; /* only its address counts */

static int32_t progress(void *user, uint64_t done, uint64_t total) {
  CHECK(user == &progress_user && done <= total);
  __atomic_add_fetch(&progressed, 1, __ATOMIC_RELAXED);
  return 0;
}

/* An output of `elements`, CUSHION bytes into memory of its own; the strides are written out, the memory ends with the
 * last element. */
static seer_tensor output(seer_dtype dtype, int64_t a, int64_t b, int64_t c, int64_t d) {
  seer_tensor t = host_tensor(NULL, dtype, a, b, c, d);
  t.offset = CUSHION;
  t.size += CUSHION;
  t.data = malloc(t.size + CUSHION);
  CHECK(t.data);
  memset(t.data, 0x5a, t.size + CUSHION);
  for (int i = 3; i >= 0; i--) t.stride[i] = i == 3 ? 1 : t.stride[i + 1] * t.shape[i + 1];
  return t;
}
static void *first_element(const seer_tensor *t) { return (char *)t->data + t->offset; }
/* The bytes around an output are as they were; frees it. */
static void drop(seer_tensor *t) {
  CHECK(all_bytes(t->data, 0x5a, CUSHION) && all_bytes((char *)t->data + t->size, 0x5a, CUSHION));
  free(t->data);
}

static int close_to(const float *got, const float *want, uint64_t count, float tolerance) {
  for (uint64_t i = 0; i < count; i++)
    if (!(fabsf(got[i] - want[i]) <= tolerance)) return 0;
  return 1;
}

static float bf16(const void *memory, int64_t index) {
  uint16_t half;
  memcpy(&half, (const char *)memory + 2 * index, 2);
  const uint32_t bits = (uint32_t)half << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

struct golden {
  char *file;
  uint64_t size;
  seer_tensor q, k, v, lse, out, probabilities, logits, frequencies;
  const unsigned char *mask; /* [3, 8, 8] */
  const int32_t *rows;       /* of `out`, out.shape[1] of them */
};

/* Tensors of integers, which find_tensor does not want to know. */
static const void *integers(char *file, uint64_t size, const char *name) {
  char key[64], copy[64];
  snprintf(key, sizeof key, "\"%s\":{", name);
  const char *object = strstr(file + 8, key);
  unsigned long long begin = 0, header = 0;
  CHECK(object);
  snprintf(copy, sizeof copy, "%s", json_value(object, "data_offsets"));
  memcpy(&header, file, 8);
  CHECK(sscanf(copy, "[%llu", &begin) == 1 && 8 + header + begin < size);
  return file + 8 + header + begin;
}

static struct golden read_golden(const char *folder) {
  struct golden g;
  g.file = read_file(folder, "case.safetensors", &g.size);
  g.q = find_tensor(g.file, g.size, "q");
  g.k = find_tensor(g.file, g.size, "k");
  g.v = find_tensor(g.file, g.size, "v");
  g.lse = find_tensor(g.file, g.size, "lse");
  g.out = find_tensor(g.file, g.size, "out");
  g.probabilities = find_tensor(g.file, g.size, "gate_probs");
  g.logits = find_tensor(g.file, g.size, "gate_logits");
  g.frequencies = find_tensor(g.file, g.size, "inv_freq");
  g.mask = integers(g.file, g.size, "block_mask");
  g.rows = integers(g.file, g.size, "out_rows");
  CHECK(g.q.shape[1] == TOKENS && g.q.shape[2] == HEADS && g.q.shape[3] == DIM && g.k.shape[2] == 1);
  CHECK(g.lse.mem && g.out.mem && g.probabilities.mem && g.logits.mem && g.frequencies.shape[0] == DIM / 2);
  return g;
}

static void check_out(const struct golden *g, const seer_tensor *out) {
  for (int64_t row = 0; row < g->out.shape[1]; row++)
    for (int64_t i = 0; i < HEADS * DIM; i++) {
      const float want = ((const float *)g->out.data)[row * HEADS * DIM + i];
      CHECK(fabsf(bf16(first_element(out), g->rows[row] * HEADS * DIM + i) - want) <= 0.1f);
    }
}

static seer_rope golden_rope(const struct golden *g) {
  const seer_rope rope = {.kind = SEER_ROPE_INV_FREQ,
                          .inv_freq_count = DIM / 2,
                          .attention_scaling = 1.138629436111989,
                          .inv_freq = g->frequencies.data};
  return rope;
}

static void check_prefill(seer_context *ctx, const seer_model *model, const struct golden *g) {
  seer_cancel *cancel = NULL;
  OK(lib.seer_cancel_create(&cancel));
  GUARDED(seer_submit, submit);
  submit.s.flags = SEER_SUBMIT_BLOCKING;
  submit.s.cancel = cancel;
  submit.s.progress = progress;
  submit.s.progress_user = &progress_user;

  GUARDED(seer_prefill_desc, desc);
  desc.s.q = g->q;
  desc.s.k = g->k;
  desc.s.v = g->v;
  desc.s.out = output(SEER_BF16, 1, TOKENS, HEADS, DIM);
  desc.s.lse = output(SEER_F32, 1, 1, HEADS, TOKENS);
  desc.s.lse.ndim = 3;
  for (int i = 0; i < 3; i++)
    desc.s.lse.shape[i] = desc.s.lse.shape[i + 1], desc.s.lse.stride[i] = desc.s.lse.stride[i + 1];
  desc.s.lse.shape[0] = 1;
  desc.s.lse.shape[3] = desc.s.lse.stride[3] = 0;
  desc.s.scores = output(SEER_F32, 1, HEADS, BLOCKS, BLOCKS);
  desc.s.mask = output(SEER_U8, 1, HEADS, BLOCKS, BLOCKS);
  desc.s.select.method = SEER_SELECT_THRESHOLD;
  desc.s.select.last_dense_rows = 2;
  desc.s.select.threshold = 0.15;
  desc.s.rope = golden_rope(g);
  desc.s.softmax_scale = 1 / sqrt((double)DIM);
  desc.s.total_len = TOKENS;
  uint64_t workspace = 0;
  OK(lib.seer_prefill_workspace(ctx, model, &desc.s, &workspace));
  seer_ticket ticket = 0;
  OK(lib.seer_prefill(ctx, model, LAYER, &desc.s, &submit.s, &ticket));
  UNTOUCHED(desc);
  UNTOUCHED(submit);
  CHECK(progressed > 0 && ticket > 0);
  check_out(g, &desc.s.out);
  CHECK(close_to(first_element(&desc.s.lse), g->lse.data, HEADS * TOKENS, 0.1f));
  CHECK(close_to(first_element(&desc.s.scores), g->probabilities.data, HEADS * BLOCKS * BLOCKS, 0.01f));
  CHECK(!memcmp(first_element(&desc.s.mask), g->mask, HEADS * BLOCKS * BLOCKS));

  uint64_t kept = 0;
  for (int i = 0; i < HEADS * BLOCKS * BLOCKS; i++) kept += g->mask[i];
  GUARDED(seer_stats, stats);
  SPOIL(stats);
  OK(lib.seer_ticket_stats(ctx, ticket, &stats.s));
  UNTOUCHED(stats);
  CHECK(stats.s.struct_size == sizeof stats.s && stats.s.reserved == 0 && stats.s.fallback_rows == 0);
  CHECK(stats.s.blocks_kept == kept && stats.s.blocks_causal == HEADS * BLOCKS * (BLOCKS + 1) / 2);
  CHECK(stats.s.workspace_bytes == workspace && stats.s.gate_ns > 0 && stats.s.attend_ns > 0);
  CHECK(stats.s.device_ns >= stats.s.gate_ns && stats.s.device_ns >= stats.s.attend_ns);

  /* The scale, and tokens to come after these: the last rows are no longer the prompt's, and drop blocks. */
  desc.s.softmax_scale = 0.5;
  OK(lib.seer_prefill(ctx, model, LAYER, &desc.s, NULL, NULL));
  CHECK(!close_to(first_element(&desc.s.lse), g->lse.data, HEADS * TOKENS, 0.1f));
  desc.s.total_len = 4 * TOKENS;
  OK(lib.seer_prefill(ctx, model, LAYER, &desc.s, NULL, &ticket));
  OK(lib.seer_ticket_stats(ctx, ticket, &stats.s));
  CHECK(stats.s.blocks_kept < kept);

  /* Work of attention only has no gate. A cancelled call ends as such. */
  submit.s.flags = 0;
  lib.seer_cancel_trigger(cancel);
  OK(lib.seer_prefill(ctx, model, LAYER, &desc.s, &submit.s, &ticket));
  CHECK(lib.seer_wait(ctx, ticket, UINT64_MAX) == SEER_ERROR_CANCELLED);
  lib.seer_cancel_release(cancel);
  submit.s.cancel = NULL;
  submit.s.cuda_stream = &submit;
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "cuda_stream", lib.seer_prefill(ctx, model, LAYER, &desc.s, &submit.s, &ticket));
  drop(&desc.s.out);
  drop(&desc.s.lse);
  drop(&desc.s.scores);
  drop(&desc.s.mask);
}

static void check_gate(seer_context *ctx, const seer_model *model, const struct golden *g) {
  GUARDED(seer_gate_cache_params, params);
  params.s.sequences = 2;
  params.s.max_tokens = TOKENS + 64;
  seer_gate_cache *cache = NULL;
  OK(lib.seer_gate_cache_create(ctx, model, &params.s, &cache));
  UNTOUCHED(params);
  int64_t length = -1;
  OK(lib.seer_gate_cache_length(cache, LAYER, 1, &length));
  CHECK(length == 0);
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "sequence", lib.seer_gate_cache_length(cache, LAYER, 2, &length));
  lib.seer_gate_cache_release(cache);
  params.s.sequences = 1;
  OK(lib.seer_gate_cache_create(ctx, model, &params.s, &cache));

  GUARDED(seer_gate_desc, desc);
  desc.s.flags = SEER_GATE_LOGITS;
  desc.s.q = g->q;
  desc.s.k = g->k;
  desc.s.scores = output(SEER_F32, 1, HEADS, BLOCKS, BLOCKS);
  desc.s.mask = output(SEER_B32, 1, HEADS, BLOCKS, 1);
  desc.s.select.method = SEER_SELECT_BUDGET;
  desc.s.select.last_dense_rows = -1;
  desc.s.select.token_budget = 130;
  desc.s.select.flags = SEER_SELECT_KEEP_FIRST;
  desc.s.rope = golden_rope(g);
  desc.s.cache = cache;
  desc.s.total_len = TOKENS + 1;
  OK(lib.seer_gate(ctx, model, LAYER, &desc.s, NULL, NULL));
  UNTOUCHED(desc);
  OK(lib.seer_gate_cache_length(cache, LAYER, 0, &length));
  CHECK(length == TOKENS);
  const float *logits = first_element(&desc.s.scores), *want = g->logits.data;
  const uint32_t *bits = first_element(&desc.s.mask);
  for (int h = 0; h < HEADS; h++)
    for (int i = 0; i < BLOCKS; i++) {
      CHECK(close_to(logits + (h * BLOCKS + i) * BLOCKS, want + (h * BLOCKS + i) * BLOCKS, (uint64_t)i + 1, 0.05f));
      const int count = __builtin_popcount(bits[h * BLOCKS + i]);
      CHECK((bits[h * BLOCKS + i] & 1) && count >= (i < 1 ? 1 : 2) && count <= 3);
    }
  desc.s.total_len = TOKENS - 1;
  CHECK(lib.seer_gate(ctx, model, LAYER, &desc.s, NULL, NULL) < 0 && strstr(lib.seer_last_error(), "total_len"));
  lib.seer_gate_cache_release(cache);
  drop(&desc.s.scores);
  drop(&desc.s.mask);
}

/* The last two block rows, as a chunk: 128 queries against 512 keys. */
static void check_select(seer_context *ctx, const struct golden *g) {
  GUARDED(seer_select_desc, desc);
  desc.s.scores = g->probabilities;
  desc.s.scores.shape[2] = 2;
  desc.s.scores.offset += (BLOCKS - 2) * BLOCKS * sizeof(float);
  const int64_t strides[4] = {HEADS * BLOCKS * BLOCKS, BLOCKS * BLOCKS, BLOCKS, 1};
  memcpy(desc.s.scores.stride, strides, sizeof strides);
  desc.s.mask = output(SEER_U8, 1, HEADS, 2, BLOCKS);
  desc.s.q_len = 128;
  desc.s.k_len = 512;
  desc.s.block_size = 64;
  desc.s.select.method = SEER_SELECT_THRESHOLD;
  desc.s.select.last_dense_rows = 1;
  desc.s.select.threshold = 0.15;
  desc.s.total_len = 576;
  OK(lib.seer_select(ctx, &desc.s, NULL, NULL));
  UNTOUCHED(desc);
  const unsigned char *mask = first_element(&desc.s.mask);
  const float *scores = g->probabilities.data;
  for (int h = 0; h < HEADS; h++)
    for (int i = 0; i < 2; i++)
      for (int j = 0; j < BLOCKS; j++) {
        const int row = BLOCKS - 2 + i;
        CHECK(mask[(h * 2 + i) * BLOCKS + j] == (j <= row && scores[(h * BLOCKS + row) * BLOCKS + j] > 0.15f));
      }
  /* With the prompt's end in sight its last row is dense; a ratio counts in the whole prompt; nothing kept falls back.
   */
  desc.s.total_len = 512;
  OK(lib.seer_select(ctx, &desc.s, NULL, NULL));
  for (int h = 0; h < HEADS; h++) CHECK(all_bytes(mask + (h * 2 + 1) * BLOCKS, 1, BLOCKS));
  desc.s.select.method = SEER_SELECT_RATIO;
  desc.s.select.last_dense_rows = -1;
  desc.s.select.ratio = 0.75; /* floor((1 - sqrt(0.25)) 8) = 4 */
  seer_ticket ticket = 0;
  OK(lib.seer_select(ctx, &desc.s, NULL, &ticket));
  GUARDED(seer_stats, stats);
  OK(lib.seer_ticket_stats(ctx, ticket, &stats.s));
  CHECK(stats.s.blocks_kept == 4 * 2 * HEADS && stats.s.fallback_rows == 0);
  desc.s.select.method = SEER_SELECT_THRESHOLD;
  desc.s.select.threshold = 1;
  OK(lib.seer_select(ctx, &desc.s, NULL, &ticket));
  OK(lib.seer_ticket_stats(ctx, ticket, &stats.s));
  CHECK(stats.s.blocks_kept == 2 * HEADS && stats.s.fallback_rows == 2 * HEADS && stats.s.blocks_causal == 15 * HEADS);
  desc.s.block_size = 48;
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "48", lib.seer_select(ctx, &desc.s, NULL, &ticket));
  drop(&desc.s.mask);
}

static void check_attention(seer_context *ctx, const struct golden *g) {
  GUARDED(seer_attention_desc, desc);
  desc.s.q = g->q;
  desc.s.k = g->k;
  desc.s.v = g->v;
  desc.s.out = output(SEER_BF16, 1, TOKENS, HEADS, DIM);
  desc.s.lse = output(SEER_F32, 1, HEADS, TOKENS, 1);
  desc.s.lse.ndim = 3;
  desc.s.lse.shape[3] = desc.s.lse.stride[3] = 0;
  desc.s.mask = host_tensor((void *)g->mask, SEER_U8, 1, HEADS, BLOCKS, BLOCKS);
  desc.s.rope = golden_rope(g);
  desc.s.softmax_scale = 1 / sqrt((double)DIM);
  desc.s.block_size = 64;
  seer_ticket ticket = 0;
  OK(lib.seer_attention(ctx, &desc.s, NULL, &ticket));
  UNTOUCHED(desc);
  check_out(g, &desc.s.out);
  CHECK(close_to(first_element(&desc.s.lse), g->lse.data, HEADS * TOKENS, 0.1f));
  GUARDED(seer_stats, stats);
  OK(lib.seer_ticket_stats(ctx, ticket, &stats.s));
  CHECK(stats.s.gate_ns == 0 && stats.s.attend_ns > 0 && stats.s.device_ns >= stats.s.attend_ns &&
        stats.s.blocks_causal == 0);
  drop(&desc.s.out);
  drop(&desc.s.lse);
}

void check_golden(seer_context *ctx, const char *folder) {
  struct golden g = read_golden(folder);
  seer_model *model = NULL;
  OK(lib.seer_model_load_dir(ctx, folder, NULL, &model));
  check_prefill(ctx, model, &g);
  check_gate(ctx, model, &g);
  check_select(ctx, &g);
  check_attention(ctx, &g);
  lib.seer_model_release(model);
  free(g.file);
}

/* Packed sequences whose offsets of q and k differ, with plain RoPE, q in a buffer, against each sequence alone. */
void check_parts(seer_context *ctx) {
  enum { QUERIES = 20, KEYS = 50, WIDTH = 16 };
  static float q[QUERIES * WIDTH], k[KEYS * WIDTH], v[KEYS * WIDTH], alone[QUERIES * WIDTH], packed[QUERIES * WIDTH];
  for (int i = 0; i < QUERIES * WIDTH; i++) q[i] = (float)((i * 37) % 101) / 50 - 1;
  for (int i = 0; i < KEYS * WIDTH; i++) k[i] = (float)((i * 53) % 97) / 48 - 1, v[i] = (float)((i * 29) % 89) / 44 - 1;
  static const int32_t q_offsets[] = {0, 5, QUERIES}, k_offsets[] = {0, 10, KEYS};
  seer_buffer *buffer = NULL;
  OK(lib.seer_buffer_create(ctx, sizeof q + 32, 0, &buffer));
  OK(lib.seer_buffer_write(buffer, 32, q, sizeof q));

  GUARDED(seer_attention_desc, desc);
  desc.s.q = host_tensor(NULL, SEER_F32, QUERIES, 1, WIDTH, 1);
  desc.s.q.mem = SEER_MEM_BUFFER;
  desc.s.q.buffer = buffer;
  desc.s.q.offset = 32;
  desc.s.q.size = 0;
  desc.s.k = host_tensor(k, SEER_F32, KEYS, 1, WIDTH, 1);
  desc.s.v = host_tensor(v, SEER_F32, KEYS, 1, WIDTH, 1);
  desc.s.out = host_tensor(packed, SEER_F32, QUERIES, 1, WIDTH, 1);
  seer_tensor *tensors[] = {&desc.s.q, &desc.s.k, &desc.s.v, &desc.s.out};
  for (int i = 0; i < 4; i++) tensors[i]->ndim = 3, tensors[i]->shape[3] = 0;
  desc.s.rope.kind = SEER_ROPE_THETA;
  desc.s.rope.theta = 100;
  desc.s.sequences.q = q_offsets;
  desc.s.sequences.k = k_offsets;
  desc.s.sequences.count = 2;
  OK(lib.seer_attention(ctx, &desc.s, NULL, NULL));
  UNTOUCHED(desc);
  for (int s = 0; s < 2; s++) {
    const int32_t rows = q_offsets[s + 1] - q_offsets[s], columns = k_offsets[s + 1] - k_offsets[s];
    GUARDED(seer_attention_desc, one);
    one.s.q = host_tensor(q + q_offsets[s] * WIDTH, SEER_F32, 1, rows, 1, WIDTH);
    one.s.k = host_tensor(k + k_offsets[s] * WIDTH, SEER_F32, 1, columns, 1, WIDTH);
    one.s.v = host_tensor(v + k_offsets[s] * WIDTH, SEER_F32, 1, columns, 1, WIDTH);
    one.s.out = host_tensor(alone + q_offsets[s] * WIDTH, SEER_F32, 1, rows, 1, WIDTH);
    one.s.rope = desc.s.rope;
    OK(lib.seer_attention(ctx, &one.s, NULL, NULL));
  }
  CHECK(close_to(packed, alone, QUERIES * WIDTH, 1e-5f));
  CHECK(!all_bytes(packed, 0, sizeof packed));
  lib.seer_buffer_release(buffer);
}
