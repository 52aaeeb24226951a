// Part of seerattn.hpp: cancel flags, contexts, devices, tickets.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <vector>

#include "values.hpp"

namespace seerattn {

namespace detail {

// A reference-counted handle. A copy is another reference to the same object.
template <class C, auto kRetain, auto kRelease>
class Shared {
public:
  Shared() = default;
  explicit Shared(C *owned) noexcept : handle_(owned) {}
  Shared(const Shared &other) noexcept : handle_(other.handle_) { kRetain(handle_); }
  Shared(Shared &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Shared &operator=(Shared other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Shared() { kRelease(handle_); }
  // For calls of seerattn.h. The reference stays with this object.
  C *get() const noexcept { return handle_; }
  explicit operator bool() const noexcept { return handle_ != nullptr; }

private:
  C *handle_ = nullptr;
};

// What C calls for progress: the std::function, and what it threw.
class ProgressCall {
public:
  explicit ProgressCall(Progress progress) : progress_(std::move(progress)) {}
  static std::int32_t SEER_CALL call(void *user, std::uint64_t done, std::uint64_t total) noexcept {
    auto &self = *static_cast<ProgressCall *>(user);
#if defined(__cpp_exceptions)
    try {
      return self.progress_(done, total) ? 0 : 1;
    } catch (...) {
      const std::lock_guard lock(self.mutex_);
      if (!self.thrown_) self.thrown_ = std::current_exception();
      return 1;
    }
#else
    return self.progress_(done, total) ? 0 : 1;
#endif
  }
  std::exception_ptr thrown() {
    const std::lock_guard lock(mutex_);
    return thrown_;
  }

private:
  Progress progress_;
  std::mutex mutex_;
  std::exception_ptr thrown_;
};

}  // namespace detail

// Once triggered it stays so. trigger() may be called from any thread, in callbacks and in signal handlers.
class Cancel {
public:
  Cancel() : Cancel(try_create().value()) {}
  static Result<Cancel> try_create() {
    seer_cancel *handle = nullptr;
    const seer_status status = seer_cancel_create(&handle);
    if (status != SEER_OK) return detail::failure(status);
    return Cancel(std::shared_ptr<seer_cancel>(handle, seer_cancel_release));
  }
  void trigger() const noexcept { seer_cancel_trigger(handle_.get()); }
  seer_cancel *get() const noexcept { return handle_.get(); }

private:
  explicit Cancel(std::shared_ptr<seer_cancel> handle) : handle_(std::move(handle)) {}
  std::shared_ptr<seer_cancel> handle_;
};

// ---- Context --------------------------------------------------------------------------------------------------------

// seer_context_params.
struct ContextOptions {
  Backend backend = Backend::automatic;
  std::int32_t device = 0;
  std::int32_t threads = 0;
  bool reference = false;
  std::uint64_t workspace_limit = 0;
  const seer_allocator *allocator = nullptr;  // read during the call
  LogLevel log_level = LogLevel::warn;
  std::function<void(LogLevel, std::string_view)> log = {};  // on any thread, several at once
};

// seer_submit. Copies of the flag and of the callback are kept as long as the work needs them.
struct SubmitOptions {
  std::optional<Cancel> cancel = {};
  Progress progress = {};
  std::optional<void *> cuda_stream = {};  // used instead of the context's; nullptr is CUDA's default stream
};

// What a context runs: Prefill, Gate, Select, Attention (operations.hpp).
template <class T>
concept Operation = requires(const T &op, seer_context *ctx, const seer_submit *submit, seer_ticket *ticket) {
  { op.call(ctx, submit, ticket) } -> std::same_as<Result<void>>;
};

class Ticket;

// One device and its in-order queue.
class Context : public detail::Shared<seer_context, seer_context_retain, seer_context_release> {
public:
  using Shared::Shared;
  Context() = default;
  explicit Context(const ContextOptions &options) : Context(try_create(options).value()) {}
  static Result<Context> try_create(const ContextOptions &options) {
    seer_context_params params = SEER_INIT(seer_context_params);
    params.backend = static_cast<seer_backend>(options.backend);
    params.device = options.device;
    params.threads = options.threads;
    if (options.reference) params.flags |= SEER_CONTEXT_REFERENCE;
    params.workspace_limit = options.workspace_limit;
    params.allocator = options.allocator;
    params.log_level = static_cast<seer_log_level>(options.log_level);
    std::unique_ptr<LogFunction> log;
    if (options.log && options.log_level != LogLevel::off) {
      log = std::make_unique<LogFunction>(options.log);
      params.log = call_log;
      params.log_user = log.get();
      params.log_release = release_log;
    }
    seer_context *out = nullptr;
    const seer_status status = seer_context_create(&params, &out);
    if (status != SEER_OK) return detail::failure(status);
    static_cast<void>(log.release());  // release_log's now
    return Context(out);
  }

  seer_device_info info() const { return try_info().value(); }
  Result<seer_device_info> try_info() const {
    seer_device_info info = SEER_INIT(seer_device_info);
    const seer_status status = seer_context_info(get(), &info);
    return status == SEER_OK ? Result(info) : detail::failure(status);
  }

  // Runs an operation and waits for it.
  template <Operation Op>
  Stats run(const Op &op, const SubmitOptions &options = {}) const {
    return try_run(op, options).value();
  }
  template <Operation Op>
  Result<Stats> try_run(const Op &op, const SubmitOptions &options = {}) const;

  // Enqueues an operation. The memory of its tensors must live until the ticket was waited for or is destroyed.
  template <Operation Op>
  Ticket submit(const Op &op, const SubmitOptions &options = {}) const;
  template <Operation Op>
  Result<Ticket> try_submit(const Op &op, const SubmitOptions &options = {}) const;

  // Waits for everything submitted so far, however it ends.
  void wait_all() const { try_wait_all().value(); }
  Result<void> try_wait_all() const { return detail::result(seer_wait(get(), SEER_TICKET_ALL, UINT64_MAX)); }

private:
  using LogFunction = std::function<void(LogLevel, std::string_view)>;
  static void SEER_CALL call_log(void *user, seer_log_level level, const char *message, std::size_t size) noexcept {
    (*static_cast<LogFunction *>(user))(static_cast<LogLevel>(level), std::string_view(message, size));
  }
  static void SEER_CALL release_log(void *user) noexcept { delete static_cast<LogFunction *>(user); }
};

// The devices of a backend that is named: none where it is not built in or has no driver.
inline std::vector<seer_device_info> devices(Backend backend) {
  std::int32_t count = 0;
  detail::result(seer_device_count(static_cast<seer_backend>(backend), &count)).value();
  std::vector<seer_device_info> found(static_cast<std::size_t>(count), SEER_INIT(seer_device_info));
  for (std::int32_t i = 0; i < count; i++)
    detail::result(seer_device_get(static_cast<seer_backend>(backend), i, &found[static_cast<std::size_t>(i)])).value();
  return found;
}

// ---- Ticket ---------------------------------------------------------------------------------------------------------

// Work in flight. The destructor waits for it, so that an exception on the way never leaves the library writing to
// memory that is gone; detach() gives that up. Nothing can wait inside a callback: destroy no Ticket there.
class [[nodiscard]] Ticket {
public:
  Ticket() = default;  // nothing: complete
  Ticket(Ticket &&other) noexcept
      : context_(std::move(other.context_)), number_(std::exchange(other.number_, 0)), keep_(std::move(other.keep_)) {}
  Ticket &operator=(Ticket &&other) noexcept {
    if (this == &other) return *this;
    settle();
    context_ = std::move(other.context_);
    number_ = std::exchange(other.number_, 0);
    keep_ = std::move(other.keep_);
    return *this;
  }
  ~Ticket() { settle(); }

  // Waits; throws if the work failed or was cancelled.
  void wait() const { try_wait().value(); }
  Result<void> try_wait() const { return number_ == 0 ? Result<void>() : waited(UINT64_MAX); }
  // Whether it is done within this time; throws as wait() does if it failed.
  template <class Rep, class Period>
  bool wait_for(std::chrono::duration<Rep, Period> time) const {
    if (number_ == 0) return true;
    const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
    const Result<void> done = waited(ns > 0 ? static_cast<std::uint64_t>(ns) : 0);
    if (done.status() == Status::not_ready || done.status() == Status::timeout) return false;
    done.value();
    return true;
  }
  bool ready() const noexcept { return number_ == 0 || seer_wait(context_.get(), number_, 0) != SEER_NOT_READY; }

  // Waits first.
  Stats stats() const { return try_stats().value(); }
  Result<Stats> try_stats() const {
    if (Result<void> done = try_wait(); !done) return std::move(done).failure();
    return stats_of(context_.get(), number_);
  }

  // Calls fn once, on a thread of the library, when the work is done or if it already is.
  void on_done(std::function<void(Status)> fn) const { try_on_done(std::move(fn)).value(); }
  Result<void> try_on_done(std::function<void(Status)> fn) const {
    if (!fn) return Failure{Status::invalid_argument, "fn is empty"};
    auto owned = std::make_unique<DoneFunction>(std::move(fn));
    Result<void> accepted = detail::result(seer_on_done(context_.get(), number_, call_done, owned.get()));
    if (accepted) static_cast<void>(owned.release());  // call_done's now
    return accepted;
  }

  // From now on how long the tensors' memory lives is the caller's affair: returns what seer_wait takes.
  seer_ticket detach() {
    if (keep_) on_done([keep = keep_](Status) {});
    keep_.reset();
    return std::exchange(number_, 0);
  }

private:
  friend class Context;
  using DoneFunction = std::function<void(Status)>;
  // What must live until the work is done.
  struct Keep {
    std::optional<Cancel> cancel;
    std::optional<detail::ProgressCall> progress;
  };

  static void SEER_CALL call_done(void *user, seer_ticket, seer_status status) noexcept {
    const std::unique_ptr<DoneFunction> fn(static_cast<DoneFunction *>(user));
    (*fn)(static_cast<Status>(status));
  }
  static Result<Stats> stats_of(seer_context *context, seer_ticket number) {
    Stats stats = {};
    stats.struct_size = sizeof(seer_stats);
    const seer_status status = seer_ticket_stats(context, number, &stats);
    return status == SEER_OK ? Result(stats) : detail::failure(status);
  }
  Result<void> waited(std::uint64_t timeout_ns) const {
    return outcome(seer_wait(context_.get(), number_, timeout_ns));
  }
  Result<void> outcome(seer_status status) const {
    if (status == SEER_OK) return {};
    Failure failure = detail::failure(status);
    if (keep_ && keep_->progress) failure.exception = keep_->progress->thrown();
    return failure;
  }
  void settle() noexcept {
    if (number_ != 0) seer_wait(context_.get(), number_, UINT64_MAX);
  }
  // Fills `submit`, and keeps what it points to.
  void prepare(const SubmitOptions &options, seer_submit &submit) {
    if (options.cancel || options.progress) keep_ = std::make_shared<Keep>();
    if (options.cancel) submit.cancel = keep_->cancel.emplace(*options.cancel).get();
    if (options.progress) {
      submit.progress = detail::ProgressCall::call;
      submit.progress_user = &keep_->progress.emplace(options.progress);
    }
    if (options.cuda_stream) {
      submit.flags |= SEER_SUBMIT_USE_STREAM;
      submit.cuda_stream = *options.cuda_stream;
    }
  }

  Context context_;
  seer_ticket number_ = 0;
  std::shared_ptr<Keep> keep_;
};

template <Operation Op>
Result<Ticket> Context::try_submit(const Op &op, const SubmitOptions &options) const {
  Ticket ticket;
  seer_submit submit = SEER_INIT(seer_submit);
  ticket.prepare(options, submit);
  ticket.context_ = *this;
  if (Result<void> accepted = op.call(get(), &submit, &ticket.number_); !accepted) return std::move(accepted).failure();
  return ticket;
}

template <Operation Op>
Ticket Context::submit(const Op &op, const SubmitOptions &options) const {
  return try_submit(op, options).value();
}

template <Operation Op>
Result<Stats> Context::try_run(const Op &op, const SubmitOptions &options) const {
  Result<Ticket> ticket = try_submit(op, options);
  if (!ticket) return std::move(ticket).failure();
  return ticket->try_stats();
}

}  // namespace seerattn
