#include "api.h"

#include "status.h"

namespace seer::tool {

void require(seer_status status, const std::string &what) {
  if (status == SEER_OK) return;
  const char *detail = seer_last_error();
  throw Error(static_cast<Status>(status),
              what + ": " + (*detail ? detail : "no detail") + " (" + seer_status_name(status) + ")");
}

BackendName parse_backend(const std::string &name) {
  if (name == "auto") return {SEER_BACKEND_AUTO, false};
  if (name == "cuda") return {SEER_BACKEND_CUDA, false};
  if (name == "vulkan") return {SEER_BACKEND_VULKAN, false};
  if (name == "cpu") return {SEER_BACKEND_CPU, false};
  if (name == "ref") return {SEER_BACKEND_CPU, true};
  fail(Status::invalid_argument, "--backend %s: expected auto, cuda, vulkan, cpu or ref", name.c_str());
}

const char *backend_label(seer_backend backend) {
  switch (backend) {
    case SEER_BACKEND_CUDA: return "cuda";
    case SEER_BACKEND_VULKAN: return "vulkan";
    case SEER_BACKEND_CPU: return "cpu";
    default: return "auto";
  }
}

int32_t device_count(seer_backend backend) {
  int32_t count = 0;
  require(seer_device_count(backend, &count), std::string("counting the devices of ") + backend_label(backend));
  return count;
}

std::vector<std::string> present_backends() {
  std::vector<std::string> names;
  for (seer_backend b : {SEER_BACKEND_CUDA, SEER_BACKEND_VULKAN, SEER_BACKEND_CPU})
    if (device_count(b) > 0) names.push_back(backend_label(b));
  names.push_back("ref");
  return names;
}

Context open_context(const ContextChoice &choice) {
  const BackendName name = parse_backend(choice.backend);
  seer_context_params params = SEER_INIT(seer_context_params);
  params.backend = name.backend;
  params.device = choice.device;
  params.threads = choice.threads;
  if (name.reference) params.flags = SEER_CONTEXT_REFERENCE;
  params.log = choice.log;
  params.log_user = choice.log_user;
  if (choice.log) params.log_level = SEER_LOG_DEBUG;
  seer_context *ctx = nullptr;
  require(seer_context_create(&params, &ctx), "--backend " + choice.backend);
  return Context(ctx);
}

seer_device_info context_info(const seer_context *ctx) {
  seer_device_info info = SEER_INIT(seer_device_info);
  require(seer_context_info(ctx, &info), "asking the device");
  return info;
}

Model load_model(seer_context *ctx, const std::string &dir, int layer, Progress *progress) {
  seer_load_params params = SEER_INIT(seer_load_params);
  if (layer >= 0) {
    params.first_layer = layer;
    params.layer_count = 1;
  }
  if (progress) {
    params.progress = Progress::callback;
    params.progress_user = progress;
  }
  seer_model *model = nullptr;
  require(seer_model_load_dir(ctx, dir.c_str(), &params, &model), dir);
  return Model(model);
}

seer_gate_config model_config(const seer_model *model) {
  seer_gate_config config = SEER_INIT(seer_gate_config);
  require(seer_model_config(model, &config), "asking the model");
  return config;
}

}  // namespace seer::tool
