#include "handles.h"

#include <cstdio>

namespace seer::capi {
namespace {

// Not a std::string: running out of memory is one of the things to be told.
thread_local char error_text[1024];

}  // namespace

seer_status report(Status status, const char *text) noexcept {
  std::snprintf(error_text, sizeof error_text, "%s", text);
  return static_cast<seer_status>(status);
}

seer_status report_current_exception() noexcept {
  try {
    throw;
  } catch (const Error &error) {
    return report(error.status(), error.what());
  } catch (...) {
    const Outcome outcome = current_failure();
    return report(outcome.status, outcome.message.empty() ? status_name(outcome.status) : outcome.message.c_str());
  }
}

const char *last_error() noexcept { return error_text; }

void finish(Context &context, uint64_t ticket) {
  context.queue().wait(ticket, Queue::kForever);
  Outcome outcome = context.queue().outcome(ticket);
  if (outcome.status != Status::ok) throw Error(outcome.status, std::move(outcome.message));
}

}  // namespace seer::capi
