#include "log.h"

#include <cstdarg>
#include <cstdio>
#include <string>

namespace seer {

void Log::operator()(LogLevel at, const char *format, ...) const {
  if (!fn || at > level) return;
  char text[1024];  // longer messages are cut
  va_list args;
  va_start(args, format);
  const int length = std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  if (length < 0) return;
  const auto n = static_cast<size_t>(length);
  fn(user, static_cast<int32_t>(at), text, n < sizeof text ? n : sizeof text - 1);
}

}  // namespace seer
