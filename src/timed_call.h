// A call's times and its end.
#pragma once
#include <chrono>

#include "pipeline.h"

namespace seer {

// Where the backend records calls, marks are its own and the end is left to exec.pending; elsewhere a mark waits for
// all work so far, and a stage's outcome that comes late is thrown there.
class TimedCall {
public:
  TimedCall(Device &device, Exec &exec, CallStats &stats) : device_(device), exec_(exec), stats_(stats) {
    if (fns().begin) fns().begin(device_, exec_);
  }
  ~TimedCall() {
    if (ended_ || !fns().begin) return;
    try {  // a call that failed may have left work
      exec_.pending = fns().end(device_, nullptr);
    } catch (const std::exception &error) {
      device_.log(LogLevel::warn, "backend %s: %s", fns().name, error.what());
    }
  }
  TimedCall(const TimedCall &) = delete;
  TimedCall &operator=(const TimedCall &) = delete;

  void mark(Mark mark) {
    if (fns().begin) return fns().mark(device_, mark);
    if (mark == Mark::gate_begin || mark == Mark::attend_begin) {
      marked_ = Clock::now();
      return;
    }
    if (fns().record) fns().fence_wait(device_, fns().record(device_, exec_.stream), UINT64_MAX);
    (mark == Mark::gate_end ? stats_.gate_ns : stats_.attend_ns) += ns_since(marked_);
  }
  // `stats`: where in `memory` the device has left its SelectStats.
  void end(const Memory &memory, const Region &stats) {
    if (fns().begin) {
      ended_ = true;
      const char *at = static_cast<const char *>(memory.address) + stats.offset;
      exec_.pending = fns().end(device_, reinterpret_cast<const SelectStats *>(at));
      return;
    }
    fns().read(device_, memory, stats.offset, &stats_.select, sizeof stats_.select);
    stats_.device_ns = ns_since(start_);
  }

private:
  using Clock = std::chrono::steady_clock;
  static uint64_t ns_since(Clock::time_point start) {
    return uint64_t(std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count());
  }
  const BackendFns &fns() const { return *device_.fns; }

  Device &device_;
  Exec &exec_;
  CallStats &stats_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point marked_;
  bool ended_ = false;
};

}  // namespace seer
