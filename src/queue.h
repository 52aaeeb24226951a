// The in-order queue of a context: one thread runs what is submitted, in order; tickets name it; outcomes are kept.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "pipeline.h"
#include "status.h"

namespace seer {

// Marks this thread as being inside one of the caller's callbacks, from where the library may not be called.
class CallbackScope {
public:
  CallbackScope() { ++depth_; }
  ~CallbackScope() { --depth_; }
  CallbackScope(const CallbackScope &) = delete;
  CallbackScope &operator=(const CallbackScope &) = delete;
  static bool active() { return depth_ > 0; }

private:
  static inline thread_local int depth_ = 0;
};

struct Outcome {
  Status status = Status::ok;
  std::string message;  // empty where ok, or where there was no memory for a text
  CallStats stats;
};

// The outcome that the exception being handled stands for. To be called in a catch block.
Outcome current_failure() noexcept;

class Queue {
public:
  using Run = std::function<void(CallStats &stats)>;
  using Done = std::function<void(Status status)>;
  static constexpr uint64_t kKept = 4096;  // outcomes of as many tickets are kept
  static constexpr uint64_t kForever = UINT64_MAX;

  Queue();  // starts the thread
  // Only when nothing is left to run: whoever submits keeps the queue's owner alive in `run`. May be called on the
  // queue's own threads.
  ~Queue();
  Queue(const Queue &) = delete;
  Queue &operator=(const Queue &) = delete;

  // Tickets rise by one from 1. `run` is destroyed before the ticket counts as complete. Strong guarantee.
  uint64_t submit(Run run);
  uint64_t submitted() const;  // the last ticket

  // The following take tickets up to submitted(); 0 is complete.
  bool wait(uint64_t ticket, uint64_t timeout_ns) const;  // false: not complete in time
  Outcome outcome(uint64_t ticket) const;                 // of a completed one; ok for those no longer kept
  // Runs done once, on a second thread (started at first use), in the order of completion. Strong guarantee.
  void on_done(uint64_t ticket, Done done);

private:
  struct State;
  std::shared_ptr<State> state_;  // shared with the threads, which may outlive this object by a few instructions
};

}  // namespace seer
