#include "gates.h"

#include <filesystem>

#include "atomic_file.h"
#include "file.h"
#include "gate_save.h"
#include "progress.h"
#include "status.h"

namespace seer::tool {

namespace fs = std::filesystem;

GateModel load_with_progress(const std::string &dir) {
  Progress progress("reading gates");
  LoadOptions options;
  options.progress = [&](uint64_t done, uint64_t total) { progress.update(done, total); };
  return load_gates_dir(dir, options);
}

void save_to(const GateModel &model, const std::string &dir, const std::string &config, bool force) {
  const fs::path target(dir), own_config = target / "config.json";
  SEER_REQUIRE(force || !fs::exists(target / "attn_gate_weights.safetensors"), Status::invalid_argument,
               "%s: holds attn_gate_weights.safetensors already; --force replaces it", dir.c_str());
  std::error_code error;
  fs::create_directories(target, error);
  SEER_REQUIRE(!error, Status::io, "%s: cannot make the folder: %s", dir.c_str(), error.message().c_str());
  if (!config.empty() && (force || !fs::exists(own_config)) && !fs::equivalent(fs::path(config), own_config, error)) {
    AtomicFile copy(own_config.string());
    copy.write(read_text(config, 16 << 20));
    copy.commit();
  }
  save_gates_dir(model, dir);
}

uint64_t gate_bytes(const GateModel &model) {
  uint64_t bytes = 0;
  for (const LayerGate &layer : model.layers) bytes += static_cast<uint64_t>(layer.wq.bytes() + layer.wk.bytes());
  return bytes;
}

std::string gate_dtypes(const GateModel &model) {
  std::string text;
  const auto add = [&](DType t) {
    const std::string name = dtype_name(t);
    if (t == DType::none || text.find(name) != std::string::npos) return;
    if (!text.empty()) text += ' ';
    text += name;
  };
  for (const LayerGate &layer : model.layers) {
    add(layer.wq.dtype);
    add(layer.wk.dtype);
  }
  return text;
}

}  // namespace seer::tool
