// Log messages go to the caller's callback or nowhere: the library never prints.
#pragma once
#include <cstddef>
#include <cstdint>

namespace seer {

enum class LogLevel : int32_t { off = 0, error = 1, warn = 2, info = 3, debug = 4 };

struct Log {
  void (*fn)(void *user, int32_t level, const char *message, size_t length) = nullptr;
  void *user = nullptr;
  LogLevel level = LogLevel::warn;

  void operator()(LogLevel at, const char *format, ...) const __attribute__((format(printf, 3, 4)));
};

}  // namespace seer
