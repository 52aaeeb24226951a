// Models from folders and memory: the golden cases through the C API, saving, ranges, cancelling.
#include <algorithm>
#include <fstream>
#include <iterator>

#include "../support/temp_dir.h"
#include "api.h"

using namespace api;

namespace {

std::string golden(const char *name) { return std::string(SEER_TEST_DATA "/golden/") + name; }

std::string read_file(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file.good());
  return {std::istreambuf_iterator<char>(file), {}};
}

Model load(seer_context *ctx, const std::string &dir, const seer_load_params *params = nullptr) {
  seer_model *model = nullptr;
  OK(seer_model_load_dir(ctx, dir.c_str(), params, &model));
  return Model(model);
}

seer_gate_config config_of(const Model &model) {
  seer_gate_config config = SEER_INIT(seer_gate_config);
  OK(seer_model_config(model.get(), &config));
  return config;
}

// The scores of a model's first layer for random q and k.
std::vector<float> scores_of(seer_context *ctx, const Model &model) {
  const seer_gate_config config = config_of(model);
  Shape shape;
  shape.q_heads = config.q_heads;
  shape.kv_heads = config.kv_heads;
  shape.dim = config.head_dim;
  shape.block = config.block_size;
  Batch x(1, 200, 200, shape);
  const seer_gate_desc desc = x.gate();
  OK(seer_gate(ctx, model.get(), config.first_layer, &desc, nullptr, nullptr));
  return x.scores;
}

}  // namespace

TEST_CASE("a folder loads, tells its configuration, saves, and loads again as the same") {
  const Context ctx = make_context();
  for (const char *name : {"llama-threshold", "double-gate", "qwen-yarn", "llama-nz-ratio"}) {
    CAPTURE(std::string(name));
    const Model model = load(ctx.get(), golden(name));
    const seer_gate_config config = config_of(model);
    CHECK(config.layers >= 1);
    CHECK(config.q_heads % config.kv_heads == 0);
    CHECK(config.rope.kind != SEER_ROPE_DEFAULT);
    CHECK(config.select.method != SEER_SELECT_MODEL);
    if (config.rope.kind == SEER_ROPE_INV_FREQ) CHECK(config.rope.inv_freq_count == uint32_t(config.head_dim / 2));

    const TempDir folder;
    OK(seer_model_save(model.get(), folder.str().c_str()));
    const Model again = load(ctx.get(), folder.str().c_str());
    const seer_gate_config copy = config_of(again);
    CHECK(copy.layers == config.layers);
    CHECK(copy.gate_dim == config.gate_dim);
    CHECK(copy.rope.kind == config.rope.kind);
    CHECK(copy.rope.attention_scaling == config.rope.attention_scaling);
    CHECK(copy.select.method == config.select.method);
    CHECK(copy.select.last_dense_rows == config.select.last_dense_rows);
    CHECK(copy.select.threshold == config.select.threshold);
    CHECK(copy.select.ratio == config.select.ratio);
    CHECK(copy.select.token_budget == config.select.token_budget);
    CHECK(copy.select.flags == config.select.flags);
    CHECK(scores_of(ctx.get(), model) == scores_of(ctx.get(), again));

    // The configuration can be passed back: a model of its own weights, made from what was told.
    if (config.rope.kind == SEER_ROPE_INV_FREQ)
      CHECK(std::all_of(config.rope.inv_freq, config.rope.inv_freq + config.rope.inv_freq_count,
                        [](float f) { return std::isfinite(f) && f > 0; }));
  }
}

TEST_CASE("from memory, as from the folder") {
  const Context ctx = make_context();
  const std::string dir = golden("double-gate"), json = read_file(dir + "/config.json"),
                    pth = read_file(dir + "/attn_gate_weights.pth");
  seer_model *raw = nullptr;
  OK(seer_model_load_memory(ctx.get(), json.data(), json.size(), pth.data(), pth.size(), nullptr, &raw));
  const Model model(raw);
  CHECK(scores_of(ctx.get(), model) == scores_of(ctx.get(), load(ctx.get(), dir)));
  seer_model *none = reinterpret_cast<seer_model *>(8);
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "config_json is NULL",
        seer_model_load_memory(ctx.get(), nullptr, 1, pth.data(), pth.size(), nullptr, &none));
  CHECK(none == nullptr);
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "weights is NULL",
        seer_model_load_memory(ctx.get(), json.data(), json.size(), nullptr, 5, nullptr, &none));
  FAILS(SEER_ERROR_FORMAT, "", seer_model_load_memory(ctx.get(), "{", 1, pth.data(), pth.size(), nullptr, &none));
  FAILS(SEER_ERROR_FORMAT, "",
        seer_model_load_memory(ctx.get(), json.data(), json.size(), pth.data(), pth.size() / 2, nullptr, &none));
}

TEST_CASE("a share of the heads, a range of layers, limits and flags") {
  const Context ctx = make_context();
  const std::string dir = golden("llama-threshold");
  const seer_gate_config whole = config_of(load(ctx.get(), dir));
  seer_load_params params = SEER_INIT(seer_load_params);
  params.kv_head_count = 1;
  const seer_gate_config share = config_of(load(ctx.get(), dir, &params));
  CHECK(share.kv_heads == 1);
  CHECK(share.q_heads == whole.q_heads / whole.kv_heads);

  seer_model *none = nullptr;
  params = SEER_INIT(seer_load_params);
  params.first_layer = -1;
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "first_layer", seer_model_load_dir(ctx.get(), dir.c_str(), &params, &none));
  params.first_layer = 0;
  params.kv_head_count = -1;
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "kv_head", seer_model_load_dir(ctx.get(), dir.c_str(), &params, &none));
  params.kv_head_count = 0;
  params.flags = 2;
  FAILS(SEER_ERROR_UNSUPPORTED, "flags", seer_model_load_dir(ctx.get(), dir.c_str(), &params, &none));
  params.flags = SEER_LOAD_SAFETENSORS_ONLY;
  CHECK(seer_model_load_dir(ctx.get(), golden("double-gate").c_str(), &params, &none) < 0);
  CHECK(none == nullptr);
  params.flags = 0;
  params.max_file_bytes = 64;
  CHECK(seer_model_load_dir(ctx.get(), dir.c_str(), &params, &none) < 0);
}

TEST_CASE("folders that are not there or hold rubbish") {
  const Context ctx = make_context();
  seer_model *none = nullptr;
  FAILS(SEER_ERROR_IO, "nowhere", seer_model_load_dir(ctx.get(), "/tmp/nowhere-at-all", nullptr, &none));
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "dir is NULL", seer_model_load_dir(ctx.get(), nullptr, nullptr, &none));
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "dir is empty", seer_model_load_dir(ctx.get(), "", nullptr, &none));
  const Model model = make_model(ctx.get());
  FAILS(SEER_ERROR_IO, "nowhere", seer_model_save(model.get(), "/tmp/nowhere-at-all"));
  const TempDir folder;
  // A pickle that would run a command.
  std::ofstream(folder / "config.json") << read_file(golden("double-gate") + "/config.json");
  std::ofstream(folder / "attn_gate_weights.pth") << "cos\nsystem\n(S'true'\ntR.";
  const seer_status status = seer_model_load_dir(ctx.get(), folder.str().c_str(), nullptr, &none);
  CHECK((status == SEER_ERROR_FORMAT || status == SEER_ERROR_UNSAFE_FILE));
  CHECK(none == nullptr);
}

TEST_CASE("loading can be watched and cancelled") {
  const Context ctx = make_context();
  struct Seen {
    uint64_t calls = 0, done = 0, total = 0;
    seer_status reentry = SEER_OK;
    seer_context *ctx = nullptr;
    int32_t answer = 0;
  } seen;
  seen.ctx = ctx.get();
  seer_load_params params = SEER_INIT(seer_load_params);
  params.progress_user = &seen;
  params.progress = [](void *user, uint64_t done, uint64_t total) -> int32_t {
    auto &s = *static_cast<Seen *>(user);
    s.calls++;
    s.done = done;
    s.total = total;
    s.reentry = seer_wait(s.ctx, 0, 0);
    return s.answer;
  };
  load(ctx.get(), golden("double-gate"), &params);
  CHECK(seen.calls > 1);
  CHECK(seen.done == seen.total);
  CHECK(seen.reentry == SEER_ERROR_BUSY);
  seen.answer = 1;
  seer_model *none = nullptr;
  FAILS(SEER_ERROR_CANCELLED, "cancelled",
        seer_model_load_dir(ctx.get(), golden("double-gate").c_str(), &params, &none));
  CHECK(none == nullptr);
  params = SEER_INIT(seer_load_params);
  OK(seer_cancel_create(&params.cancel));
  const Cancel cancel(params.cancel);
  seer_cancel_trigger(params.cancel);
  FAILS(SEER_ERROR_CANCELLED, "cancelled",
        seer_model_load_dir(ctx.get(), golden("double-gate").c_str(), &params, &none));
}

TEST_CASE("a double-form gate from arrays, with strided weights") {
  const Context ctx = make_context();
  Shape shape;
  shape.layers = 1;
  seer_gate_config config = gate_config(shape);
  config.q_pool = SEER_POOL_MAX | SEER_POOL_AVG;
  config.gate_dim = 8;
  std::vector<float> wq = random_floats(4 * 32 * 8, 7), wk = random_floats(2 * 48 * 8, 8), wide(2 * 48 * 12);
  for (int i = 0; i < 2 * 48; i++) std::copy_n(wk.begin() + i * 8, 8, wide.begin() + i * 12);
  seer_gate_weights weights = SEER_INIT(seer_gate_weights);
  weights.wq = f32(wq, {4, 32, 8});
  weights.wk = f32(wk, {2, 48, 8});
  const seer_gate_weights *layers[] = {&weights};
  seer_model *raw = nullptr;
  OK(seer_model_create(ctx.get(), &config, layers, &raw));
  const Model packed(raw);
  weights.wk = f32(wide, {2, 48, 8});
  const int64_t stride[4] = {48 * 12, 12, 1, 0};
  std::copy(stride, stride + 4, weights.wk.stride);
  OK(seer_model_create(ctx.get(), &config, layers, &raw));
  const Model strided(raw);
  CHECK(scores_of(ctx.get(), packed) == scores_of(ctx.get(), strided));

  // A frequency list for the heads does not fit gates of another size.
  std::vector<float> inv_freq(8, 0.5f);
  Batch x(1, 40, 40);
  seer_prefill_desc desc = x.prefill();
  desc.rope.kind = SEER_ROPE_INV_FREQ;
  desc.rope.inv_freq = inv_freq.data();
  desc.rope.inv_freq_count = 8;
  FAILS(SEER_ERROR_UNSUPPORTED, "16 channels and gates of 8",
        seer_prefill(ctx.get(), packed.get(), 4, &desc, nullptr, nullptr));
  config.rope = desc.rope;
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "gate_rope.kind is DEFAULT", seer_model_create(ctx.get(), &config, layers, &raw));
}
