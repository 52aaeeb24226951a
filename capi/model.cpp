// Entry points: models.
#include <seerattn/seerattn.h>

#include <algorithm>
#include <string>

#include "convert.h"
#include "gate_load.h"
#include "gate_save.h"
#include "handles.h"

using namespace seer;
using namespace seer::capi;

namespace {

LoadOptions load_options(const seer_load_params *params, const Context &context) {
  LoadOptions options;
  options.allocator = context.allocator();
  if (!params) return options;
  const seer_load_params in = read_struct(params, "params");
  check_flags(in.flags, SEER_LOAD_SAFETENSORS_ONLY, "params");
  SEER_REQUIRE(in.first_layer >= 0 && in.layer_count >= 0, Status::invalid_argument,
               "params.first_layer and layer_count are %d and %d; expected at least 0", int(in.first_layer),
               int(in.layer_count));
  SEER_REQUIRE(in.first_kv_head >= 0 && in.kv_head_count >= 0, Status::invalid_argument,
               "params.first_kv_head and kv_head_count are %d and %d; expected at least 0", int(in.first_kv_head),
               int(in.kv_head_count));
  options.first_layer = in.first_layer;
  options.layer_count = in.layer_count;
  options.first_kv_head = in.first_kv_head;
  options.kv_head_count = in.kv_head_count;
  if (in.max_file_bytes) options.max_file_bytes = in.max_file_bytes;
  options.safetensors_only = (in.flags & SEER_LOAD_SAFETENSORS_ONLY) != 0;
  std::shared_ptr<const CancelFlag> cancel;
  if (in.cancel) cancel = get(in.cancel, "params.cancel");
  options.progress = [cancel, progress = in.progress, user = in.progress_user](uint64_t done, uint64_t total) {
    bool stop = cancel && cancel->triggered();
    if (progress) {
      const CallbackScope scope;
      stop |= progress(user, done, total) != 0;
    }
    SEER_REQUIRE(!stop, Status::cancelled, "loading was cancelled");
  };
  return options;
}

std::string text_argument(const char *text, const char *name) {
  SEER_REQUIRE(text, Status::invalid_argument, "%s is NULL", name);
  SEER_REQUIRE(*text, Status::invalid_argument, "%s is empty", name);
  return text;
}

RopeConfig model_rope(const seer_rope &in, int64_t dim, const char *name) {
  const RopeSpec spec = rope_spec(in, name);
  SEER_REQUIRE(in.kind != SEER_ROPE_DEFAULT, Status::invalid_argument,
               "%s.kind is DEFAULT; a model says what its own RoPE is: NONE, THETA or INV_FREQ", name);
  return rope_config(spec, {}, dim, name);
}

uint32_t pool_bits(int32_t bits, const char *name) {
  SEER_REQUIRE(bits >= 1 && bits <= 7, Status::invalid_argument, "%s is %d; expected a set of SEER_POOL_* bits, 1 to 7",
               name, int(bits));
  return static_cast<uint32_t>(bits);
}

GateConfig gate_config(const seer_gate_config &in) {
  check_reserved(in.reserved, "config", "reserved");
  SEER_REQUIRE(in.layers > 0 && in.first_layer >= 0 && in.first_layer <= INT32_MAX - in.layers,
               Status::invalid_argument, "config.layers and first_layer are %d and %d; expected at least 1 and 0",
               int(in.layers), int(in.first_layer));
  SEER_REQUIRE(in.force_double == 0 || in.force_double == 1, Status::invalid_argument,
               "config.force_double is %d; expected 0 or 1", int(in.force_double));
  GateConfig config;
  config.layers = in.first_layer + in.layers;
  config.q_heads = in.q_heads;
  config.kv_heads = in.kv_heads;
  config.head_dim = in.head_dim;
  config.gate_dim = in.gate_dim;
  config.block_size = in.block_size;
  config.q_pool = pool_bits(in.q_pool, "config.q_pool");
  config.k_pool = pool_bits(in.k_pool, "config.k_pool");
  config.force_double = in.force_double != 0;
  config.rope.kind = config.gate_rope.kind = RopeKind::none;
  config.validate();  // heads and dims, before anything is made of them
  config.rope = model_rope(in.rope, in.head_dim, "config.rope");
  if (in.gate_rope.kind != SEER_ROPE_DEFAULT) {
    config.gate_rope = model_rope(in.gate_rope, in.gate_dim, "config.gate_rope");
  } else {
    rope_spec(in.gate_rope, "config.gate_rope");
    SEER_REQUIRE(config.rope.kind != RopeKind::inv_freq || in.gate_dim == in.head_dim, Status::invalid_argument,
                 "config.gate_rope.kind is DEFAULT, that of the model, whose frequencies are for %d channels; the gate "
                 "has %d",
                 int(in.head_dim), int(in.gate_dim));
    config.gate_rope = config.rope;
  }
  SelectSpec select = select_spec(in.select, "config.select");
  if (select.method == SEER_SELECT_MODEL) select.method = SEER_SELECT_THRESHOLD;
  config.select = select_rule(select, nullptr);
  config.validate();
  return config;
}

// A caller's matrix, checked but for what make_gates knows better: whether it is to be there, and its shape.
GateArray gate_array(const seer_tensor &in, const std::string &name, const Context &context) {
  Context::Pins pins;
  Tensor t = tensor(in, name.c_str(), context, pins);
  if (!t.present()) return {};
  SEER_REQUIRE(in.mem == SEER_MEM_HOST, Status::memory_kind, "%s.mem is %d; expected HOST", name.c_str(), int(in.mem));
  check_weights(context.device(), t, name.c_str());
  GateArray array{.dtype = t.dtype, .shape = {}, .stride = {}, .data = t.data};
  std::copy_n(t.shape, 3, array.shape);
  std::copy_n(t.stride, 3, array.stride);
  return array;
}

// What a caller can pass back as it is. Scalings that depend on the length appear as at the model's trained length.
seer_rope c_rope(const RopeConfig &config, const RopeFreqs &frequencies) {
  seer_rope out = {};
  if (config.kind == RopeKind::none) {
    out.kind = SEER_ROPE_NONE;
  } else if (config.kind == RopeKind::standard) {
    out.kind = SEER_ROPE_THETA;
    out.theta = config.theta;
  } else {
    out.kind = SEER_ROPE_INV_FREQ;
    out.inv_freq = frequencies.inv_freq.data();
    out.inv_freq_count = static_cast<uint32_t>(frequencies.inv_freq.size());
    out.attention_scaling = frequencies.attention_scaling;
  }
  return out;
}

seer_select_spec c_select(const SelectRule &rule) {
  seer_select_spec out = {};
  out.method = static_cast<seer_select_method>(rule.method);
  out.last_dense_rows = rule.last_dense_rows ? static_cast<int32_t>(rule.last_dense_rows) : -1;
  out.threshold = rule.threshold;
  out.ratio = rule.ratio;
  out.token_budget = rule.token_budget;
  out.flags = (rule.keep_diagonal ? uint32_t{SEER_SELECT_KEEP_DIAGONAL} : 0) |
              (rule.keep_first ? uint32_t{SEER_SELECT_KEEP_FIRST} : 0);
  return out;
}

}  // namespace

extern "C" {

seer_status seer_model_create(seer_context *ctx, const seer_gate_config *config, const seer_gate_weights *const *layers,
                              seer_model **out) {
  if (out) *out = nullptr;
  return entry([&] {
    SEER_REQUIRE(out, Status::invalid_argument, "out is NULL");
    const auto context = usable(ctx);
    const seer_gate_config in = read_struct(config, "config");
    SEER_REQUIRE(layers, Status::invalid_argument, "layers is NULL");
    GateConfig whole = gate_config(in);
    std::vector<LayerArrays> arrays;
    for (int32_t i = 0; i < in.layers; i++) {
      const std::string name = "layers[" + std::to_string(i) + "]";
      const seer_gate_weights weights = read_struct(layers[i], name.c_str());
      check_reserved(weights.reserved, name.c_str(), "reserved");
      const bool single = whole.single(), has_wq = weights.wq.mem != SEER_MEM_NONE;
      SEER_REQUIRE(has_wq != single, Status::model_mismatch, "%s.wq is %s; this configuration has %s", name.c_str(),
                   has_wq ? "there" : "absent", single ? "none (the single form)" : "one (the double form)");
      SEER_REQUIRE(weights.wk.mem != SEER_MEM_NONE, Status::model_mismatch, "%s.wk is absent", name.c_str());
      arrays.push_back(
          {.wq = gate_array(weights.wq, name + ".wq", *context), .wk = gate_array(weights.wk, name + ".wk", *context)});
    }
    whole.layers = in.layers;
    GateModel model = make_gates(whole, arrays, context->allocator());
    model.first_layer = in.first_layer;
    model.config.layers = in.first_layer + in.layers;
    *out = make_handle<seer_model>(std::make_shared<Model>(context, std::move(model)));
  });
}

seer_status seer_model_load_dir(seer_context *ctx, const char *dir, const seer_load_params *params, seer_model **out) {
  if (out) *out = nullptr;
  return entry([&] {
    SEER_REQUIRE(out, Status::invalid_argument, "out is NULL");
    const auto context = usable(ctx);
    const LoadOptions options = load_options(params, *context);
    *out =
        make_handle<seer_model>(std::make_shared<Model>(context, load_gates_dir(text_argument(dir, "dir"), options)));
  });
}

seer_status seer_model_load_memory(seer_context *ctx, const char *config_json, uint64_t config_size,
                                   const void *weights, uint64_t weights_size, const seer_load_params *params,
                                   seer_model **out) {
  if (out) *out = nullptr;
  return entry([&] {
    SEER_REQUIRE(out, Status::invalid_argument, "out is NULL");
    const auto context = usable(ctx);
    SEER_REQUIRE(config_json, Status::invalid_argument, "config_json is NULL");
    SEER_REQUIRE(weights, Status::invalid_argument, "weights is NULL");
    const LoadOptions options = load_options(params, *context);
    GateModel model =
        load_gates_memory({config_json, config_size}, {static_cast<const std::byte *>(weights), weights_size}, options);
    *out = make_handle<seer_model>(std::make_shared<Model>(context, std::move(model)));
  });
}

seer_status seer_model_save(const seer_model *model, const char *dir) {
  return entry([&] {
    const auto object = get(model, "model");
    object->context().check_usable();
    save_gates_dir(object->gates(), text_argument(dir, "dir"));
  });
}

seer_status seer_model_config(const seer_model *model, seer_gate_config *out) {
  return entry([&] {
    const auto object = get(model, "model");
    object->context().check_usable();
    prepare_struct(out, "out");
    const GateConfig &config = object->gates().config;
    seer_gate_config value = {};
    value.layers = static_cast<int32_t>(object->gates().layers.size());
    value.q_heads = config.q_heads;
    value.kv_heads = config.kv_heads;
    value.head_dim = config.head_dim;
    value.gate_dim = config.gate_dim;
    value.block_size = config.block_size;
    value.q_pool = static_cast<int32_t>(config.q_pool);
    value.k_pool = static_cast<int32_t>(config.k_pool);
    value.force_double = config.force_double;
    value.first_layer = object->gates().first_layer;
    value.rope = c_rope(config.rope, object->rope_frequencies());
    value.gate_rope = c_rope(config.gate_rope, object->gate_rope_frequencies());
    value.select = c_select(config.select);
    write_struct(out, value);
  });
}

void seer_model_retain(seer_model *model) { retain(model); }
void seer_model_release(seer_model *model) { release(model); }

}  // extern "C"
