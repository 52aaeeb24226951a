// What took how long, for a line of the log.
#pragma once
#include <chrono>
#include <cstdio>
#include <string>

namespace seer::vulkan {

class Stopwatch {
public:
  // The time since the last lap, under a name.
  void lap(const char *what) {
    const Clock::time_point now = Clock::now();
    add(what, now - lap_);
    lap_ = now;
  }
  double total_ms() const { return std::chrono::duration<double, std::milli>(Clock::now() - start_).count(); }
  // "device 66.1, self-test 0.2 = 66.3 ms"
  std::string text() const {
    char total[32];
    std::snprintf(total, sizeof total, " = %.1f ms", std::chrono::duration<double, std::milli>(lap_ - start_).count());
    return laps_ + total;
  }

private:
  using Clock = std::chrono::steady_clock;
  void add(const char *what, Clock::duration took) {
    char time[32];
    std::snprintf(time, sizeof time, " %.1f", std::chrono::duration<double, std::milli>(took).count());
    laps_ += (laps_.empty() ? "" : ", ") + std::string(what) + time;
  }

  const Clock::time_point start_ = Clock::now();
  Clock::time_point lap_ = start_;
  std::string laps_;
};

}  // namespace seer::vulkan
