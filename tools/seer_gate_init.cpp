// seer gate-init: a gate that needs no training, for any model: averaged queries against averaged keys.
#include <optional>

#include "command.h"
#include "dtype.h"
#include "file.h"
#include "gate_config.h"
#include "gates.h"
#include "report.h"
#include "status.h"

namespace seer::tool {
namespace {

struct Options {
  std::string dir, config;
  std::optional<int> layers, q_heads, kv_heads, head_dim;
  std::optional<double> rope_theta, threshold, ratio;
  int block = 64;
  bool force = false;
};

GateConfig gate_config(const Options &o, const std::string &model_json) {
  GateConfig c;
  if (!o.config.empty()) c = parse_gate_config(model_json, o.config);
  if (o.layers) c.layers = *o.layers;
  if (o.q_heads) c.q_heads = *o.q_heads;
  if (o.kv_heads)
    c.kv_heads = *o.kv_heads;
  else if (o.config.empty())
    c.kv_heads = c.q_heads;
  if (o.head_dim) c.head_dim = *o.head_dim;
  if (o.rope_theta) {
    c.rope = {};
    c.rope.theta = *o.rope_theta;
  }
  c.q_pool = c.k_pool = pool_avg;
  c.gate_dim = c.head_dim;
  c.block_size = o.block;
  c.force_double = false;
  c.gate_rope = c.rope;
  c.select = {};
  c.select.keep_first = c.select.keep_diagonal = true;  // averages hide the sink, which is one token of the first block
  if (o.threshold) {
    c.select.threshold = *o.threshold;
  } else {
    c.select.method = SelectMethod::ratio;
    c.select.ratio = o.ratio.value_or(0.3);
  }
  c.validate();
  return c;
}

// One identity per query head: logits are <avg q, avg k> / sqrt(D) with RoPE at block positions.
void gate_init(const Options &o) {
  const std::string model_json = o.config.empty() ? "" : read_text(o.config, 16 << 20);
  GateModel model;
  model.config = gate_config(o, model_json);
  const int64_t heads = model.config.q_heads, dim = model.config.head_dim;
  auto weights = std::make_shared<std::vector<bf16>>(static_cast<size_t>(heads * dim * dim), bf16{0});
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t i = 0; i < dim; ++i) (*weights)[static_cast<size_t>((h * dim + i) * dim + i)] = from_f32<bf16>(1.0f);
  LayerGate layer;
  layer.wk = {DType::bf16, heads, dim, dim, weights->data()};
  model.layers.assign(static_cast<size_t>(model.config.layers), layer);
  model.storage.push_back(weights);
  save_to(model, o.dir, o.config, o.force);
  print(format("%s: training-free gates, %d layers, %d query heads on %d KV heads, dim %d, block %d", o.dir.c_str(),
               model.config.layers, model.config.q_heads, model.config.kv_heads, model.config.head_dim,
               model.config.block_size));
}

}  // namespace

void add_gate_init(CLI::App &app, int &) {
  auto *cmd = app.add_subcommand("gate-init", "Write a gate that needs no training, for any model");
  auto o = std::make_shared<Options>();
  cmd->add_option("DIR", o->dir, "Folder to write config.json and attn_gate_weights.safetensors to; made if missing")
      ->required();
  cmd->add_option("--config", o->config, "The model's config.json: layers, heads, dimension and RoPE come from it");
  cmd->add_option("--layers", o->layers, "Layers")->check(CLI::PositiveNumber);
  cmd->add_option("--q-heads", o->q_heads, "Query heads")->check(CLI::PositiveNumber);
  cmd->add_option("--kv-heads", o->kv_heads, "KV heads; default: as many as query heads")->check(CLI::PositiveNumber);
  cmd->add_option("--head-dim", o->head_dim, "Head dimension")->check(CLI::PositiveNumber);
  cmd->add_option("--rope-theta", o->rope_theta, "Plain RoPE of this base; default: the config's, else 10000")
      ->check(CLI::PositiveNumber);
  cmd->add_option("--block", o->block, "Block size")->check(CLI::IsMember({32, 64, 128}))->capture_default_str();
  cmd->add_flag("--force", o->force, "Replace gates that DIR holds already");
  auto *how = cmd->add_option_group("selection", "What the gate does unless told otherwise; default: --ratio 0.3");
  how->add_option("--threshold", o->threshold, "Keep blocks of gate probability above this");
  how->add_option("--ratio", o->ratio, "Keep this share of the causal triangle");
  how->require_option(0, 1);
  cmd->footer(
      "The gate scores a block by the product of its averaged queries and averaged keys (type Qavg_Kavg, identity "
      "weights).\n"
      "Averages hide single tokens, so it is told to keep the first block (attention sinks live there) and the "
      "diagonal.\n"
      "What to expect: heads that look nearby or follow a theme come out well. A head that looks for one far token "
      "does\n"
      "not: averaging hides that token, as a trained gate does not. Use it to try things out, as a baseline and as a "
      "start\n"
      "for training; seer prefill --compare-dense measures what it loses.\n"
      "\nExamples:\n"
      "  seer gate-init gates/ --config SmolLM2-135M/config.json\n"
      "  seer gate-init gates/ --layers 32 --q-heads 32 --kv-heads 8 --head-dim 128 --rope-theta 500000 --threshold "
      "0.002");
  cmd->callback([o] {
    if (o->config.empty() && !(o->layers && o->q_heads && o->head_dim))
      throw CLI::RequiredError("--config, or --layers, --q-heads and --head-dim");
    gate_init(*o);
  });
}

}  // namespace seer::tool
