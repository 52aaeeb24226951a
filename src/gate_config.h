// GateConfig <-> config.json.
#pragma once
#include <string>
#include <string_view>

#include "gate.h"

namespace seer {

// Keys of the model (num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim or hidden_size, rope_*) and
// seerattn_*; a seerattn key that is missing has upstream's default. `where` (the file's name) begins every error.
// Throws format on JSON that is malformed or has the wrong types, model_mismatch where validate() does.
GateConfig parse_gate_config(std::string_view json, const std::string &where);

// What parse_gate_config reads back equal. `existing`: a config.json whose other keys (architectures, vocab_size, ...)
// are kept; empty for none. Settings that upstream has no key for are written as seerattn_last_dense_rows,
// seerattn_keep_diagonal, seerattn_keep_first and seerattn_gate_rope, only where they differ from what it would do.
std::string gate_config_json(const GateConfig &config, std::string_view existing = {}, const std::string &where = {});

}  // namespace seer
