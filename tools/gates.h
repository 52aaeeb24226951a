// Folders of gates, as `info`, `convert` and `gate-init` handle them: files only, no device.
#pragma once
#include <string>

#include "gate_load.h"

namespace seer::tool {

GateModel load_with_progress(const std::string &dir);
// Makes `dir` if it is missing, copies `config` there unless dir has a config.json (so that keys of the model that are
// none of ours stay), then saves. Throws if dir holds attn_gate_weights.safetensors already and force is false.
void save_to(const GateModel &model, const std::string &dir, const std::string &config, bool force);

uint64_t gate_bytes(const GateModel &model);      // of all weights
std::string gate_dtypes(const GateModel &model);  // "bf16"; "bf16 f32" where layers differ

}  // namespace seer::tool
