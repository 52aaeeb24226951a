// Progress and cancelling of one stage of a call.
#pragma once
#include <algorithm>
#include <atomic>

#include "backend.h"

namespace seer {

// Progress of one stage: forwards at most `units` steps while it runs, and what is missing at its end, so that a call's
// steps always add up to what was announced, whatever grain a kernel has.
class StageExec : public Exec {
public:
  StageExec(Exec &parent, uint64_t units) : parent_(parent), left_(units) {
    parent_.check_cancelled();
    cancelled = parent.cancelled;
    stream = parent.stream;
    caller_stream = parent.caller_stream;
    step = [this](uint64_t n) { take(n); };
  }
  // Whoever said stop, even at the very last step, gets a call that says it was stopped.
  void finish() {
    take(UINT64_MAX);
    parent_.check_cancelled();
  }

private:
  void take(uint64_t n) {
    uint64_t left = left_.load(std::memory_order_relaxed), taken;
    do taken = std::min(n, left);
    while (!left_.compare_exchange_weak(left, left - taken, std::memory_order_relaxed));
    if (taken) parent_.step(taken);
  }
  Exec &parent_;
  std::atomic<uint64_t> left_;
};

}  // namespace seer
