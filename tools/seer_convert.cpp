// seer convert: gates from any layout this library reads to one .safetensors and a config.json.
#include <filesystem>

#include "command.h"
#include "gates.h"
#include "report.h"

namespace seer::tool {
namespace {

void convert_gates(const std::string &source, const std::string &target, bool force) {
  const GateModel model = load_with_progress(source);
  save_to(model, target, (std::filesystem::path(source) / "config.json").string(), force);
  print(format("%s: %d layers, %s of %s",
               (std::filesystem::path(target) / "attn_gate_weights.safetensors").string().c_str(), model.config.layers,
               human_bytes(gate_bytes(model)).c_str(), gate_dtypes(model).c_str()));
}

}  // namespace

void add_convert(CLI::App &app, int &) {
  auto *cmd = app.add_subcommand("convert", "Write gates as one .safetensors: from .pth, or out of a model's shards");
  struct Options {
    std::string source, target;
    bool force = false;
  };
  auto o = std::make_shared<Options>();
  cmd->add_option("SRC", o->source,
                  "Folder with config.json and gates: .safetensors, .pth or a model's .safetensors shards")
      ->required();
  cmd->add_option("DST", o->target, "Folder to write to; made if missing, may be SRC")->required();
  cmd->add_flag("--force", o->force, "Replace gates that DST holds already");
  cmd->footer(
      "Weights keep their dtype and every bit. Both files appear whole or not at all, also if the machine stops "
      "halfway.\n"
      "Out of shards only the gates are taken: a few hundred MB of a model's many GB.\n"
      "\nExample:\n  seer convert SeerAttention-Llama-3.1-8B-AttnGates/ gates/");
  cmd->callback([o] { convert_gates(o->source, o->target, o->force); });
}

}  // namespace seer::tool
