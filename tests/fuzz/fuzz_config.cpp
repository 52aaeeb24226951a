// Any bytes as config.json: refused, or what is written of it, alone and over itself, is read back as the same.
#include <cstdlib>

#include "gate_config.h"
#include "status.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const std::string_view text(reinterpret_cast<const char *>(data), size);
  seer::GateConfig config;
  try {
    config = seer::parse_gate_config(text, "f");
  } catch (const seer::Error &error) {
    const auto status = error.status();
    if (status != seer::Status::format && status != seer::Status::model_mismatch && status != seer::Status::unsupported)
      std::abort();
    return 0;
  }
  std::string written;
  try {
    written = seer::gate_config_json(config);
  } catch (const seer::Error &error) {
    if (error.status() != seer::Status::invalid_argument) std::abort();  // an inverse frequency beyond f32
    return 0;
  }
  if (seer::gate_config_json(seer::parse_gate_config(written, "written")) != written) std::abort();
  const std::string merged = seer::gate_config_json(config, text, "f");
  if (seer::gate_config_json(seer::parse_gate_config(merged, "merged")) != written) std::abort();
  return 0;
}
