// Status codes and the one exception type of the library. Everything below the C API reports errors by throwing Error;
// the C API turns it into a seer_status and the text of seer_last_error().
#pragma once
#include <cstdint>
#include <exception>
#include <string>

namespace seer {

// Same values as seer_status in seerattn.h; capi/ asserts it.
enum class Status : int32_t {
  ok = 0,
  not_ready = 1,
  timeout = 2,
  invalid_argument = -1,
  bad_struct = -2,
  bad_handle = -3,
  shape = -4,
  dtype = -5,
  stride = -6,
  memory_kind = -7,
  out_of_bounds = -8,
  unsupported = -9,
  out_of_memory = -10,
  device_out_of_memory = -11,
  device_lost = -12,
  cancelled = -13,
  io = -14,
  format = -15,
  unsafe_file = -16,
  model_mismatch = -17,
  cache_state = -18,
  busy = -19,
  internal = -99,
};

const char *status_name(Status status);  // "SEER_ERROR_SHAPE"; static

class Error : public std::exception {
public:
  Error(Status status, std::string message) : status_(status), message_(std::move(message)) {}
  Status status() const { return status_; }
  const char *what() const noexcept override { return message_.c_str(); }

private:
  Status status_;
  std::string message_;
};

// Throws Error. The message says which argument or file, what was found and what was expected.
[[noreturn]] void fail(Status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

// One line per documented "must".
#define SEER_REQUIRE(condition, status, ...)             \
  do {                                                   \
    if (!(condition)) ::seer::fail(status, __VA_ARGS__); \
  } while (0)

}  // namespace seer
