// From the structs of the C API to those of the library: sizes, reserved fields, flags and handles are checked here,
// everything that a call means is checked in src/validate.
#pragma once
#include <cstring>

#include "first_sizes.h"
#include "handles.h"
#include "validate.h"

namespace seer::capi {

constexpr uint32_t kLongestStruct = 1 << 16;  // what a sane struct_size can be in any version to come

// Throws unless `size` is a struct_size: that of the first version or more.
void check_struct_size(uint32_t size, uint32_t first_size, const char *name);
// Throws if a caller newer than this library set a field that it does not know.
void check_unknown_tail(const void *in, uint32_t size, uint32_t known, const char *name);

// A growable input struct, whatever version the caller was compiled with.
template <class T>
T read_struct(const T *in, const char *name) {
  static_assert(kFirstSize<T> >= 8 && kFirstSize<T> <= sizeof(T));
  SEER_REQUIRE(in, Status::invalid_argument, "%s is NULL", name);
  uint32_t size;
  std::memcpy(&size, in, sizeof size);
  check_struct_size(size, kFirstSize<T>, name);
  check_unknown_tail(in, size, sizeof(T), name);
  T value = {};
  std::memcpy(&value, in, size < sizeof(T) ? size : sizeof(T));
  return value;
}

// A growable output struct: prepare before anything is done, write at the end.
template <class T>
void prepare_struct(const T *out, const char *name) {
  static_assert(kFirstSize<T> >= 8 && kFirstSize<T> <= sizeof(T));
  SEER_REQUIRE(out, Status::invalid_argument, "%s is NULL", name);
  uint32_t size;
  std::memcpy(&size, out, sizeof size);
  check_struct_size(size, kFirstSize<T>, name);
}
template <class T>
void write_struct(T *out, T value) {
  uint32_t size;
  std::memcpy(&size, out, sizeof size);
  value.struct_size = size;
  std::memcpy(out, &value, size < sizeof(T) ? size : sizeof(T));
  if (size > sizeof(T)) std::memset(reinterpret_cast<char *>(out) + sizeof(T), 0, size - sizeof(T));
}

void check_reserved(uint64_t value, const char *name, const char *field);
void check_flags(uint64_t flags, uint64_t known, const char *name);

Tensor tensor(const seer_tensor &in, const char *name, const Context &context, Context::Pins &pins);
SequenceSpec sequences(const seer_sequences &in);
SelectSpec select_spec(const seer_select_spec &in, const char *name);
RopeSpec rope_spec(const seer_rope &in, const char *name);

// The descriptions of calls. `pins` get what must live until the call is done.
PrefillDesc prefill_desc(const seer_prefill_desc &in, const Context &context, Context::Pins &pins);
GateDesc gate_desc(const seer_gate_desc &in, const Context &context, Context::Pins &pins);
SelectDesc select_desc(const seer_select_desc &in, const Context &context, Context::Pins &pins);
AttentionDesc attention_desc(const seer_attention_desc &in, const Context &context, Context::Pins &pins);

// The gate cache of one, or null.
template <class In>
std::shared_ptr<ChunkCache> cache_of(const In &in, const char *name = "desc.cache") {
  return in.cache ? get(in.cache, name) : nullptr;
}

HostAllocator host_allocator(const seer_allocator &in);
ContextParams context_params(const seer_context_params *params);  // NULL = defaults

}  // namespace seer::capi
