// Handles of the C API and the frame of every entry point.
#pragma once
#include <seerattn/seerattn.h>

#include <atomic>
#include <memory>

#include "context.h"

namespace seer::capi {

// A handle keeps one reference to what it stands for; children of an object hold references of their own, so handles go
// in any order. The magic word tells, as far as can be known, a live handle of the right type.
template <class Object, uint64_t kMagic>
struct Handle {
  using object_type = Object;
  static constexpr uint64_t magic_alive = kMagic, magic_dead = ~kMagic;
  std::atomic<uint64_t> magic{magic_alive};
  std::atomic<uint64_t> references{1};
  std::shared_ptr<Object> object;
};

// Stores the text of this thread's last error and returns the status.
seer_status report(Status status, const char *text) noexcept;
seer_status report_current_exception() noexcept;
const char *last_error() noexcept;

// The frame of an entry point: nothing leaves it but a status.
template <class F>
seer_status entry(F &&body) noexcept {
  if (CallbackScope::active()) return report(Status::busy, "the library was called from inside a callback");
  try {
    body();
    return SEER_OK;
  } catch (...) {
    return report_current_exception();
  }
}

// The object behind a handle, kept by the caller of this: a callback may release the handle during the call. Throws on
// NULL and on what is no live handle of this type.
template <class H>
std::shared_ptr<typename H::object_type> get(const H *handle, const char *name) {
  SEER_REQUIRE(handle, Status::invalid_argument, "%s is NULL", name);
  SEER_REQUIRE(reinterpret_cast<uintptr_t>(handle) % alignof(H) == 0 &&
                   handle->magic.load(std::memory_order_relaxed) == H::magic_alive,
               Status::bad_handle, "%s is no live handle of its type: released already, or something else", name);
  return handle->object;
}

template <class H>
H *make_handle(std::shared_ptr<typename H::object_type> object) {
  auto handle = std::make_unique<H>();
  handle->object = std::move(object);
  return handle.release();
}

template <class H>
void retain(H *handle) noexcept {
  if (handle && handle->magic.load(std::memory_order_relaxed) == H::magic_alive)
    handle->references.fetch_add(1, std::memory_order_relaxed);
}

inline bool forked(const Context &context) noexcept { return context.forked(); }
inline bool forked(const CancelFlag &) noexcept { return false; }
template <class Child>
bool forked(const Child &child) noexcept {
  return child.context().forked();
}

template <class H>
void release(H *handle) noexcept {
  if (!handle || handle->magic.load(std::memory_order_relaxed) != H::magic_alive) return;
  if (handle->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  handle->magic.store(H::magic_dead, std::memory_order_relaxed);
  // In a forked child the context's threads are missing and its locks may be held for ever: leave it all.
  if (!forked(*handle->object)) delete handle;
}

}  // namespace seer::capi

struct seer_context : seer::capi::Handle<seer::Context, 0x7265657363747831> {};
struct seer_model : seer::capi::Handle<seer::Model, 0x726565736d646c31> {};
struct seer_buffer : seer::capi::Handle<seer::Buffer, 0x7265657362756631> {};
struct seer_gate_cache : seer::capi::Handle<seer::ChunkCache, 0x7265657363636831> {};
struct seer_cancel : seer::capi::Handle<seer::CancelFlag, 0x72656573636e6c31> {};

namespace seer::capi {

// The context of a call that needs its threads and its device.
inline std::shared_ptr<Context> usable(const seer_context *ctx) {
  std::shared_ptr<Context> context = get(ctx, "ctx");
  context->check_usable();
  return context;
}

// Waits for work that was just submitted; throws its error.
void finish(Context &context, uint64_t ticket);

}  // namespace seer::capi
