// Gates to a folder.
#pragma once
#include <string>

#include "gate.h"

namespace seer {

// Writes dir/attn_gate_weights.safetensors, in the dtypes that the weights have, and dir/config.json, whose keys that
// are none of ours are kept if it is there already. load_gates_dir gives the same model back: if only some layers were
// loaded, with the same first_layer and layer_count; a share of heads becomes a checkpoint of that many heads.
//
// dir must exist. Each file is complete or as it was, whatever happens; both are on the disk before either is renamed.
// Weights must be in host memory. Throws io, or model_mismatch or invalid_argument on a model that is inconsistent.
void save_gates_dir(const GateModel &model, const std::string &dir);

}  // namespace seer
