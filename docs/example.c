/* example.c: the attention of one layer through its gate. usage: example [FOLDER_WITH_GATES]
 * Built outside the tree: cc example.c $(pkg-config --cflags --libs seerattn) -o example */
#include <seerattn/seerattn.h>
#include <stdio.h>
#include <stdlib.h>

static void check(seer_status status) {
  if (status >= 0) return;
  fprintf(stderr, "%s: %s\n", seer_status_name(status), seer_last_error());
  exit(1);
}

/* [1, tokens, heads, dim] floats, packed; a real program points `data` at what its projections wrote. */
static seer_tensor noise(int64_t tokens, int64_t heads, int64_t dim) {
  seer_tensor t = {.mem = SEER_MEM_HOST, .dtype = SEER_F32, .ndim = 4, .shape = {1, tokens, heads, dim}};
  const size_t count = (size_t)(tokens * heads * dim);
  float *x = malloc(t.size = count * sizeof *x);
  if (!x) exit(1);
  for (size_t i = 0; i < count; i++) x[i] = (float)rand() / (float)RAND_MAX - 0.5f;
  t.data = x;
  return t;
}

int main(int argc, char **argv) {
  seer_context *ctx; /* the best device there is */
  seer_model *model; /* the gates of every layer */
  check(seer_context_create(NULL, &ctx));
  check(seer_model_load_dir(ctx, argc > 1 ? argv[1] : "tests/golden/llama-threshold", NULL, &model));
  seer_gate_config gates = SEER_INIT(seer_gate_config);
  check(seer_model_config(model, &gates));

  seer_prefill_desc call = SEER_INIT(seer_prefill_desc); /* zero means default: RoPE and scale are the model's */
  const int64_t tokens = 2000;
  call.q = noise(tokens, gates.q_heads, gates.head_dim);
  call.k = noise(tokens, gates.kv_heads, gates.head_dim);
  call.v = noise(tokens, gates.kv_heads, gates.head_dim);
  call.out = noise(tokens, gates.q_heads, gates.head_dim); /* overwritten */
  call.select.method = SEER_SELECT_BUDGET;                 /* or leave it 0: as the model's config.json says */
  call.select.token_budget = 512;

  seer_submit submit = SEER_INIT(seer_submit);
  submit.flags = SEER_SUBMIT_BLOCKING; /* without it the call returns at once and seer_wait(ticket) tells the outcome */
  seer_ticket ticket;
  check(seer_prefill(ctx, model, 0, &call, &submit, &ticket));

  seer_stats stats = SEER_INIT(seer_stats);
  check(seer_ticket_stats(ctx, ticket, &stats));
  const double density = (double)stats.blocks_kept / (double)stats.blocks_causal;
  printf("attended to %.1f %% of the blocks in %.2f ms\n", 100 * density, (double)stats.device_ns / 1e6);

  free(call.q.data), free(call.k.data), free(call.v.data), free(call.out.data);
  seer_model_release(model);
  seer_context_release(ctx);
  return density < 1 ? 0 : 1;
}
