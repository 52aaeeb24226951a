// seer info: the gates of a folder.
#include "command.h"
#include "gates.h"
#include "report.h"

namespace seer::tool {
namespace {

const char *rope_name(RopeKind kind) {
  switch (kind) {
    case RopeKind::none: return "none";
    case RopeKind::standard: return "default";
    case RopeKind::linear: return "linear";
    case RopeKind::dynamic: return "dynamic";
    case RopeKind::llama3: return "llama3";
    case RopeKind::yarn: return "yarn";
    case RopeKind::longrope: return "longrope";
    case RopeKind::inv_freq: return "given frequencies";
  }
  return "unknown";
}

std::string rope_text(const RopeConfig &rope) {
  std::string text = format("%s, theta %g", rope_name(rope.kind), rope.theta);
  if (rope.kind != RopeKind::standard && rope.kind != RopeKind::none) text += format(", factor %g", rope.factor);
  return text;
}

seer_select_spec select_spec(const SelectRule &rule) {
  seer_select_spec s = {};
  s.method = static_cast<seer_select_method>(rule.method);
  s.last_dense_rows = static_cast<int32_t>(rule.last_dense_rows);
  s.threshold = rule.threshold;
  s.ratio = rule.ratio;
  s.token_budget = rule.token_budget;
  if (rule.keep_first) s.flags |= SEER_SELECT_KEEP_FIRST;
  if (rule.keep_diagonal) s.flags |= SEER_SELECT_KEEP_DIAGONAL;
  return s;
}

void info(const std::string &dir, bool json) {
  const GateModel model = load_with_progress(dir);
  const GateConfig &c = model.config;
  const std::string type = gate_type_name(c.q_pool, c.k_pool);
  const seer_select_spec select = select_spec(c.select);
  if (json) {
    print_json({{"dir", dir},
                {"base_model", c.base_model},
                {"model_type", c.model_type},
                {"layers", c.layers},
                {"q_heads", c.q_heads},
                {"kv_heads", c.kv_heads},
                {"head_dim", c.head_dim},
                {"gate_dim", c.gate_dim},
                {"block", c.block_size},
                {"gate_type", type},
                {"form", c.single() ? "single" : "double"},
                {"dtype", gate_dtypes(model)},
                {"bytes", gate_bytes(model)},
                {"rope", rope_name(c.rope.kind)},
                {"rope_theta", c.rope.theta},
                {"select", select_json(select)}});
    return;
  }
  const auto line = [](const char *name, const std::string &value) { print(format("%-10s %s", name, value.c_str())); };
  if (!c.base_model.empty()) line("model", c.base_model + (c.model_type.empty() ? "" : " (" + c.model_type + ")"));
  line("layers", std::to_string(c.layers));
  line("heads", format("%d query, %d KV, dim %d", c.q_heads, c.kv_heads, c.head_dim));
  line("gate",
       format("%s, %s, dim %d, block %d", type.c_str(),
              c.single() ? "single form (a matrix per query head, on K)" : "double form (matrices on Q and on K)",
              c.gate_dim, c.block_size));
  line("weights", format("%s, %s", gate_dtypes(model).c_str(), human_bytes(gate_bytes(model)).c_str()));
  line("rope", rope_text(c.rope));
  line("selects", human_select(select));
}

}  // namespace

void add_info(CLI::App &app, int &) {
  auto *cmd = app.add_subcommand("info", "Describe the gates of a folder");
  auto dir = std::make_shared<std::string>();
  auto json = std::make_shared<bool>(false);
  cmd->add_option("DIR", *dir, "Folder with config.json and gate weights")->required();
  cmd->add_flag("--json", *json, "Print JSON");
  cmd->footer(
      "The weights are the first of these that the folder has: attn_gate_weights.safetensors, attn_gate_weights.pth, "
      "the\n"
      "model's own .safetensors shards with the gates inside. A .pth is parsed, never executed.\n"
      "\nExample:\n  seer info SeerAttention-Llama-3.1-8B-AttnGates/");
  cmd->callback([dir, json] { info(*dir, *json); });
}

}  // namespace seer::tool
