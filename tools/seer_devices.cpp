// seer devices: every backend, its devices or why it has none.
#include "api.h"
#include "command.h"
#include "dtype.h"
#include "report.h"

namespace seer::tool {
namespace {

std::string dtypes(uint64_t bits) {
  std::string text;
  for (uint32_t t = 1; t < 8; ++t)
    if (bits >> t & 1) text += (text.empty() ? "" : " ") + std::string(dtype_name(static_cast<DType>(t)));
  return text;
}

// Asking for a context tells why there is none.
std::string absence(seer_backend backend) {
  seer_context_params params = SEER_INIT(seer_context_params);
  params.backend = backend;
  seer_context *ctx = nullptr;
  if (seer_context_create(&params, &ctx) != SEER_OK) return seer_last_error();
  seer_context_release(ctx);
  return "no device is listed, though a context can be made";
}

void devices(bool json) {
  Json all = Json::array();
  for (seer_backend backend : {SEER_BACKEND_CUDA, SEER_BACKEND_VULKAN, SEER_BACKEND_CPU}) {
    const int32_t count = device_count(backend);
    Json entry = {{"backend", backend_label(backend)}, {"devices", Json::array()}};
    if (count == 0) {
      entry["reason"] = absence(backend);
      if (!json) print(format("%-7s none: %s", backend_label(backend), entry["reason"].get<std::string>().c_str()));
    }
    for (int32_t i = 0; i < count; ++i) {
      seer_device_info info = SEER_INIT(seer_device_info);
      require(seer_device_get(backend, i, &info), format("device %d of %s", i, backend_label(backend)));
      Json device = device_json(info);
      device["dtypes"] = dtypes(info.dtype_bits);
      entry["devices"].push_back(device);
      if (!json)
        print(format("%-7s %d: %s, %s, %s (%s)", backend_label(backend), i, info.name,
                     human_bytes(info.memory_bytes).c_str(), dtypes(info.dtype_bits).c_str(), info.detail));
    }
    all.push_back(entry);
  }
  if (json) print_json({{"build", build_json()}, {"backends", all}});
}

}  // namespace

void add_devices(CLI::App &app, int &) {
  auto *cmd = app.add_subcommand("devices", "List every backend and its devices, or why it has none");
  cmd->footer(
      "--backend auto takes the first that works, in the order shown.\n"
      "Beside these, --backend ref runs the CPU's plain reference kernels: slow, for checking.\n"
      "\nExample:\n  seer devices --json");
  auto json = std::make_shared<bool>(false);
  cmd->add_flag("--json", *json, "Print JSON");
  cmd->callback([json] { devices(*json); });
}

}  // namespace seer::tool
