#include "status.h"

#include <cstdarg>
#include <cstdio>

namespace seer {

const char *status_name(Status status) {
  switch (status) {
    case Status::ok: return "SEER_OK";
    case Status::not_ready: return "SEER_NOT_READY";
    case Status::timeout: return "SEER_TIMEOUT";
    case Status::invalid_argument: return "SEER_ERROR_INVALID_ARGUMENT";
    case Status::bad_struct: return "SEER_ERROR_STRUCT";
    case Status::bad_handle: return "SEER_ERROR_HANDLE";
    case Status::shape: return "SEER_ERROR_SHAPE";
    case Status::dtype: return "SEER_ERROR_DTYPE";
    case Status::stride: return "SEER_ERROR_STRIDE";
    case Status::memory_kind: return "SEER_ERROR_MEMORY_KIND";
    case Status::out_of_bounds: return "SEER_ERROR_OUT_OF_BOUNDS";
    case Status::unsupported: return "SEER_ERROR_UNSUPPORTED";
    case Status::out_of_memory: return "SEER_ERROR_OUT_OF_MEMORY";
    case Status::device_out_of_memory: return "SEER_ERROR_DEVICE_OUT_OF_MEMORY";
    case Status::device_lost: return "SEER_ERROR_DEVICE_LOST";
    case Status::cancelled: return "SEER_ERROR_CANCELLED";
    case Status::io: return "SEER_ERROR_IO";
    case Status::format: return "SEER_ERROR_FORMAT";
    case Status::unsafe_file: return "SEER_ERROR_UNSAFE_FILE";
    case Status::model_mismatch: return "SEER_ERROR_MODEL_MISMATCH";
    case Status::cache_state: return "SEER_ERROR_CACHE_STATE";
    case Status::busy: return "SEER_ERROR_BUSY";
    case Status::internal: return "SEER_ERROR_INTERNAL";
  }
  return "SEER_ERROR_UNKNOWN";
}

void fail(Status status, const char *format, ...) {
  va_list args, again;
  va_start(args, format);
  va_copy(again, args);
  const int length = std::vsnprintf(nullptr, 0, format, args);
  va_end(args);
  std::string message(static_cast<size_t>(length > 0 ? length : 0), '\0');
  std::vsnprintf(message.data(), message.size() + 1, format, again);
  va_end(again);
  throw Error(status, std::move(message));
}

}  // namespace seer
