// A progress bar on stderr, drawn only where a person sees it: stderr is a terminal and the work takes a moment.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

namespace seer::tool {

class Progress {
public:
  explicit Progress(std::string label);
  ~Progress();  // wipes the bar
  Progress(const Progress &) = delete;
  Progress &operator=(const Progress &) = delete;

  void update(uint64_t done, uint64_t total);  // thread-safe
  // A seer_progress_fn: user is a Progress. Never cancels.
  static int32_t callback(void *user, uint64_t done, uint64_t total);

private:
  using Clock = std::chrono::steady_clock;
  std::string label_;
  bool terminal_;
  std::mutex mutex_;
  Clock::time_point start_, drawn_;
  bool visible_ = false;
};

}  // namespace seer::tool
