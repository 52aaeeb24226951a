#include "gate_save.h"

#include "atomic_file.h"
#include "file.h"
#include "gate_config.h"
#include "gate_load.h"
#include "json.h"
#include "safetensors.h"
#include "status.h"

namespace seer {

void save_gates_dir(const GateModel &model, const std::string &dir) {
  std::vector<SafetensorsItem> items;
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const int32_t layer = model.first_layer + static_cast<int32_t>(i);
    const LayerGate &gate = model.layers[i];
    const auto add = [&](char which, const GateMatrix &m) {
      items.push_back({gate_weight_name(layer, which), m.dtype, {m.heads, m.in, m.out}, m.data});
    };
    SEER_REQUIRE(gate.wk.present() && gate.wq.present() != model.config.single(), Status::invalid_argument,
                 "layer %d: the matrices that are there do not fit the configuration", layer);
    if (gate.wq.present()) add('q', gate.wq);
    add('k', gate.wk);
  }
  const std::string path = dir + "/config.json";
  const std::string existing = file_exists(path) ? read_text(path, JsonLimits{}.max_bytes) : "";
  const std::string json = gate_config_json(model.config, existing, path);

  AtomicFile weights(dir + "/attn_gate_weights.safetensors"), config(path);
  write_safetensors(weights, items, {{"format", "pt"}});
  config.write(json);
  weights.finish();
  config.finish();
  weights.commit();
  config.commit();
}

}  // namespace seer
