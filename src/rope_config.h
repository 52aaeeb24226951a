// The rope keys of a config.json: rope_theta with rope_scaling (transformers 4: rope_type, older: type) or
// rope_parameters (transformers 5), max_position_embeddings and its original, partial_rotary_factor.
#pragma once
#include <nlohmann/json_fwd.hpp>

#include "json.h"
#include "rope.h"

namespace seer {

// Absent numbers are left as RopeConfig says; whether the values make sense is for rope_freqs to judge. Throws format
// on a value of the wrong type, unsupported on a rope type it does not know.
RopeConfig parse_rope_config(const JsonObject &config);

// The same keys, which parse_rope_config reads back equal. The kinds none and inv_freq, which no transformers config
// has, are written as rope types of those names. Throws invalid_argument on a number that is not finite.
nlohmann::ordered_json rope_config_json(const RopeConfig &rope);

}  // namespace seer
