// The C API as the commands use it: handles that release themselves, statuses that become exceptions, and the choice of
// a backend by name.
#pragma once
#include <seerattn/seerattn.h>

#include <memory>
#include <string>
#include <vector>

#include "progress.h"

namespace seer::tool {

struct Release {
  void operator()(seer_context *p) const { seer_context_release(p); }
  void operator()(seer_model *p) const { seer_model_release(p); }
  void operator()(seer_buffer *p) const { seer_buffer_release(p); }
};
using Context = std::unique_ptr<seer_context, Release>;
using Model = std::unique_ptr<seer_model, Release>;
using Buffer = std::unique_ptr<seer_buffer, Release>;

// Throws Error with `what`, the status's name and seer_last_error() unless status is OK.
void require(seer_status status, const std::string &what);

// A backend by the name a person types: auto, cuda, vulkan, cpu, or ref (the CPU's plain reference kernels).
struct BackendName {
  seer_backend backend = SEER_BACKEND_AUTO;
  bool reference = false;
};
inline const std::vector<std::string> backend_names = {"auto", "cuda", "vulkan", "cpu", "ref"};
BackendName parse_backend(const std::string &name);
const char *backend_label(seer_backend backend);  // "cuda", ...
int32_t device_count(seer_backend backend);
// Names of all backends with a device here, best first; `ref` is the last.
std::vector<std::string> present_backends();

struct ContextChoice {
  std::string backend = "auto";
  int device = 0;
  int threads = 0;
  seer_log_fn log = nullptr;  // at level debug
  void *log_user = nullptr;
};
Context open_context(const ContextChoice &choice);
seer_device_info context_info(const seer_context *ctx);

// layer < 0: all layers; else only that one is read.
Model load_model(seer_context *ctx, const std::string &dir, int layer, Progress *progress = nullptr);
seer_gate_config model_config(const seer_model *model);
// Throws, naming both, unless the model holds this layer.
void require_layer(const seer_gate_config &config, const std::string &dir, int layer);

// One blocking call with progress and statistics: f(submit, ticket) -> seer_status.
template <class F>
seer_stats run(seer_context *ctx, const std::string &what, Progress *progress, F &&f) {
  seer_submit submit = SEER_INIT(seer_submit);
  submit.flags = SEER_SUBMIT_BLOCKING;
  if (progress) {
    submit.progress = Progress::callback;
    submit.progress_user = progress;
  }
  seer_ticket ticket = 0;
  require(f(&submit, &ticket), what);
  seer_stats stats = SEER_INIT(seer_stats);
  require(seer_ticket_stats(ctx, ticket, &stats), what);
  return stats;
}

}  // namespace seer::tool
