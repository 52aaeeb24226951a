#include "context.h"

#include <algorithm>

#include "staging.h"

#include "os.h"

namespace seer {
namespace {

using ll = long long;

// Cancellation and progress of one call; its stages report to it from many threads.
class Call {
public:
  Call(SubmitOptions options, uint64_t total) : options_(std::move(options)), total_(total) {}

  bool cancelled() const {
    return stopped_.load(std::memory_order_relaxed) || (options_.cancel && options_.cancel->triggered());
  }
  void step(uint64_t units) {
    const uint64_t before = done_.fetch_add(units, std::memory_order_relaxed);
    if (!options_.progress || before >= total_) return;
    // One report at a time, so that callers see rising numbers; who finds one under way leaves its news to the next.
    if (reporting_.test_and_set(std::memory_order_acquire)) return;
    report();
    reporting_.clear(std::memory_order_release);
  }
  void finish() {  // no step can come any more
    if (options_.progress && reported_ < total_) {
      done_.store(total_, std::memory_order_relaxed);
      report();
    }
  }
  // Where its work reports, and goes.
  void bind(Exec &exec) {
    exec.cancelled = [this] { return cancelled(); };
    exec.step = [this](uint64_t n) { step(n); };
    exec.stream = options_.stream;
    exec.caller_stream = options_.caller_stream;
  }

private:
  void report() {
    const CallbackScope scope;
    reported_ = std::min(done_.load(std::memory_order_relaxed), total_);
    if (options_.progress(options_.progress_user, reported_, total_) != 0)
      stopped_.store(true, std::memory_order_relaxed);
  }

  const SubmitOptions options_;
  const uint64_t total_;
  std::atomic<uint64_t> done_{0};
  std::atomic<bool> stopped_{false};
  std::atomic_flag reporting_ = ATOMIC_FLAG_INIT;
  uint64_t reported_ = 0;  // by whoever holds reporting_
};

// The caller's callbacks behind functions that mark the calls.
struct Wrapped {
  static void *alloc(void *user, uint64_t size, uint64_t align) {
    const CallbackScope scope;
    const auto &a = *static_cast<const HostAllocator *>(user);
    return a.alloc(a.user, size, align);
  }
  static void free(void *user, void *ptr, uint64_t size) {
    const CallbackScope scope;
    const auto &a = *static_cast<const HostAllocator *>(user);
    a.free(a.user, ptr, size);
  }
  static void *device_alloc(void *user, uint64_t size, void *stream) {
    const CallbackScope scope;
    const auto &a = *static_cast<const HostAllocator *>(user);
    return a.device_alloc(a.user, size, stream);
  }
  static void device_free(void *user, void *ptr, uint64_t size, void *stream) {
    const CallbackScope scope;
    const auto &a = *static_cast<const HostAllocator *>(user);
    a.device_free(a.user, ptr, size, stream);
  }
  static void log(void *user, int32_t level, const char *message, size_t length) {
    const CallbackScope scope;
    const auto &l = *static_cast<const Log *>(user);
    l.fn(l.user, level, message, length);
  }
};

}  // namespace

Context::Callbacks::~Callbacks() {
  const CallbackScope scope;
  if (allocator_release) allocator_release(user_allocator.user);
  if (log_release) log_release(user_log.user);
  if (vulkan_release) vulkan_release(vulkan_user);
}

std::shared_ptr<Context> Context::create(const ContextParams &params) {
  SEER_REQUIRE(params.threads >= 0 && params.threads <= 4096, Status::invalid_argument,
               "threads is %d; expected 0 to 4096", params.threads);
  SEER_REQUIRE(params.ordinal >= 0, Status::invalid_argument, "device is %d; expected at least 0", params.ordinal);
  SEER_REQUIRE(!params.reference || params.backend == BackendKind::cpu, Status::unsupported,
               "the reference kernels run on backend cpu only");
  // Not make_shared: the constructor is private.
  std::shared_ptr<Context> context(new Context);
  Callbacks &c = context->callbacks_;
  c.user_allocator = params.allocator;
  c.allocator.user = &c.user_allocator;
  if (params.allocator.alloc) {
    c.allocator.alloc = Wrapped::alloc;
    c.allocator.free = Wrapped::free;
  }
  if (params.allocator.device_alloc) {
    c.allocator.device_alloc = Wrapped::device_alloc;
    c.allocator.device_free = Wrapped::device_free;
  }
  c.user_log = c.log = params.log;
  if (params.log.fn) {
    c.log.fn = Wrapped::log;
    c.log.user = &c.user_log;
  }
  context->process_ = os::process_id();
  DeviceParams device;
  device.ordinal = params.ordinal;
  device.threads = params.threads;
  device.reference = params.reference;
  device.allocator = c.allocator;
  device.log = c.log;
  device.vulkan = params.vulkan;
  context->device_ = create_device(params.backend, device);
  context->pipeline_ = std::make_unique<Pipeline>(*context->device_, params.workspace_limit);
  const DeviceInfo &info = context->device_->info;
  c.log(LogLevel::info, "context on %s device %d: %s (%s)", context->device_->fns->name, int(info.ordinal),
        info.name.c_str(), info.detail.c_str());
  // Last: a context that was not made leaves the caller's data to the caller.
  c.allocator_release = params.allocator_release;
  c.log_release = params.log_release;
  c.vulkan_release = params.vulkan_release;
  c.vulkan_user = params.vulkan_user;
  return context;
}

Context::~Context() = default;

bool Context::same_device(const Context &other) const { return device_->shares_memory(*other.device_); }

bool Context::forked() const noexcept { return os::process_id() != process_; }

void Context::check_usable() const {
  SEER_REQUIRE(!forked(), Status::device_lost,
               "the context was made before fork() by process %llu; in this child it cannot be used",
               (unsigned long long)process_);
  SEER_REQUIRE(!lost_.load(std::memory_order_relaxed), Status::device_lost, "the device was lost; the context is dead");
}

uint64_t Context::submit(Job job, uint64_t units, SubmitOptions options) {
  if (options.caller_stream) return record(std::move(job), units, std::move(options));
  auto call = std::make_shared<Call>(std::move(options), units);
  std::lock_guard order(order_mutex_);
  return queued_ = queue_.submit([self = shared_from_this(), job = std::move(job), call](CallStats &stats) {
    Device &device = *self->device_;
    Exec exec;
    call->bind(exec);
    try {
      exec.check_cancelled();
      job(*self->pipeline_, exec, stats);
      if (exec.pending)
        stats.set(exec.pending->wait());
      else if (device.fns->record)
        device.fns->fence_wait(device, device.fns->record(device, exec.stream), Queue::kForever);
    } catch (const Error &error) {
      if (error.status() == Status::device_lost)
        self->lost_.store(true, std::memory_order_relaxed);
      else
        complete(device, exec.stream);  // the caller may free what the work that was recorded still uses
      throw;
    }
    call->finish();
  });
}

uint64_t Context::record(Job job, uint64_t units, SubmitOptions options) {
  const auto mark_lost = [this](const Error &error) {
    if (error.status() == Status::device_lost) lost_.store(true, std::memory_order_relaxed);
  };
  Call call(std::move(options), units);
  std::lock_guard order(order_mutex_);
  queue_.wait(queued_, Queue::kForever);  // calls before this one that are not on the device yet
  Exec exec;
  call.bind(exec);
  CallStats recorded;
  try {
    exec.check_cancelled();
    job(*pipeline_, exec, recorded);
  } catch (const Error &error) {
    mark_lost(error);
    throw;  // exec.pending waits for what was recorded until then
  }
  call.finish();
  // The job keeps what the work uses.
  return queue_.submit([self = shared_from_this(), job = std::move(job), recorded, mark_lost,
                        pending = std::shared_ptr<PendingCall>(std::move(exec.pending))](CallStats &stats) {
    stats = recorded;
    try {
      if (pending) stats.set(pending->wait());
    } catch (const Error &error) {
      mark_lost(error);
      throw;
    }
  });
}

namespace {

// Gives a gate call its weights and its cache.
void attach(GateCall &call, const Model &model, int32_t index, GateCache *cache) {
  call.weights = &model.layer(index);
  call.cache = cache;
  call.cache_layer = index;
}

void check_device(const Context &context, const Context &other, const char *name) {
  SEER_REQUIRE(context.same_device(other), Status::bad_handle, "%s belongs to another device", name);
}

void check_host(const SubmitOptions &options, const std::vector<HostTensor> &host) {
  SEER_REQUIRE(!options.caller_stream || host.empty(), Status::memory_kind,
               "a call on a CUDA stream takes device memory (2) and buffers; %zu of its tensors are in host memory",
               host.size());
}

}  // namespace

uint64_t Context::prefill(const std::shared_ptr<const Model> &model, int32_t layer, const PrefillDesc &desc,
                          const std::shared_ptr<ChunkCache> &cache, Pins pins, SubmitOptions options) {
  check_device(*this, model->context(), "model");
  if (cache) cache->check_owners(*this, *model);
  const int32_t index = model->index(layer);
  auto call = std::make_shared<PrefillCall>(check_prefill(*device_, model->gates().config, desc, cache != nullptr));
  check_host(options, call->gate.host);
  attach(call->gate, *model, index, cache ? &cache->cache_ : nullptr);
  const uint64_t units = Pipeline::prefill_units(call->gate, call->attend);
  return submit_gated(
      call->gate, cache,
      [this, call, model, pins = std::move(pins)](Pipeline &pipeline, Exec &exec, CallStats &stats) {
        Staging staging(*device_, exec, call->gate.host);
        staging.place(call->gate);
        staging.place(call->attend);
        pipeline.prefill(exec, call->gate, call->attend, stats);
        staging.finish();
      },
      units, std::move(options));
}

uint64_t Context::gate(const std::shared_ptr<const Model> &model, int32_t layer, const GateDesc &desc,
                       const std::shared_ptr<ChunkCache> &cache, Pins pins, SubmitOptions options) {
  check_device(*this, model->context(), "model");
  if (cache) cache->check_owners(*this, *model);
  const int32_t index = model->index(layer);
  auto call = std::make_shared<GateCall>(check_gate(*device_, model->gates().config, desc, cache != nullptr));
  check_host(options, call->host);
  attach(*call, *model, index, cache ? &cache->cache_ : nullptr);
  const uint64_t units = Pipeline::gate_units(*call);
  return submit_gated(
      *call, cache,
      [this, call, model, pins = std::move(pins)](Pipeline &pipeline, Exec &exec, CallStats &stats) {
        Staging staging(*device_, exec, call->host);
        staging.place(*call);
        pipeline.gate(exec, *call, stats);
        staging.finish();
      },
      units, std::move(options));
}

// Tells the cache that a call which was promised to it has ended, however it did: lives in the call's closure.
struct ChunkCache::InFlight {
  explicit InFlight(const std::shared_ptr<ChunkCache> &c) : cache(c) {}
  InFlight(const InFlight &) = delete;
  InFlight &operator=(const InFlight &) = delete;
  ~InFlight() { cache->settle(promised); }
  const std::shared_ptr<ChunkCache> cache;
  bool promised = false;  // under the cache's mutex
};

uint64_t Context::submit_gated(const GateCall &call, const std::shared_ptr<ChunkCache> &cache, Job job, uint64_t units,
                               SubmitOptions options) {
  if (!cache) return submit(std::move(job), units, std::move(options));
  const auto in_flight = std::make_shared<ChunkCache::InFlight>(cache);  // goes after the lock
  std::lock_guard order(order_mutex_);
  if (options.caller_stream) queue_.wait(queued_, Queue::kForever);  // here: the end of such work takes the mutex below
  std::lock_guard lock(cache->mutex_);
  cache->check(call);
  const uint64_t ticket = submit([in_flight, job = std::move(job)](Pipeline &pipeline, Exec &exec,
                                                                   CallStats &stats) { job(pipeline, exec, stats); },
                                 units, std::move(options));
  cache->promise(call);
  in_flight->promised = true;
  return ticket;
}

uint64_t Context::select(const SelectDesc &desc, Pins pins, SubmitOptions options) {
  auto call = std::make_shared<SelectCall>(check_select(*device_, desc));
  check_host(options, call->host);
  const uint64_t units = Pipeline::select_units(*call);
  return submit(
      [this, call, pins = std::move(pins)](Pipeline &pipeline, Exec &exec, CallStats &stats) {
        Staging staging(*device_, exec, call->host);
        staging.place(*call);
        pipeline.select(exec, *call, stats);
        staging.finish();
      },
      units, std::move(options));
}

uint64_t Context::attention(const AttentionDesc &desc, Pins pins, SubmitOptions options) {
  auto call = std::make_shared<AttendCall>(check_attention(*device_, desc));
  check_host(options, call->host);
  const uint64_t units = Pipeline::attend_units(*call);
  return submit(
      [this, call, pins = std::move(pins)](Pipeline &pipeline, Exec &exec, CallStats &stats) {
        Staging staging(*device_, exec, call->host);
        staging.place(*call);
        pipeline.attend(exec, *call, stats);
        staging.finish();
      },
      units, std::move(options));
}

uint64_t Context::prefill_workspace(const Model &model, const PrefillDesc &desc, ChunkCache *cache) const {
  check_device(*this, model.context(), "model");
  if (cache) cache->check_owners(*this, model);
  PrefillCall call = check_prefill_sizes(*device_, model.gates().config, desc, cache != nullptr);
  if (cache) {
    std::lock_guard lock(cache->mutex_);
    cache->check_sequences(call.gate);
    // Any layer will do: what the cache covers already only makes the call smaller.
    call.gate.cache = &cache->cache_;
  }
  return Pipeline::prefill_workspace(*device_, call.gate, call.attend);
}

Model::Model(std::shared_ptr<Context> context, GateModel model)
    : context_(std::move(context)), gates_(std::move(model)), on_device_(gates_.layers) {
  const GateConfig &config = gates_.config;
  const auto frequencies = [](const RopeConfig &rope, int64_t dim) {
    return rope.kind == RopeKind::none ? RopeFreqs{} : rope_freqs(rope, dim, rope.max_position_embeddings);
  };
  rope_ = frequencies(config.rope, config.head_dim);
  gate_rope_ = frequencies(config.gate_rope, config.gate_dim);
  if (context_->device().info.backend == BackendKind::cpu) return;  // host memory is device memory
  try {
    for (LayerGate &layer : on_device_) {
      upload(layer.wq);
      upload(layer.wk);
    }
  } catch (...) {
    free_uploads();
    throw;
  }
}

Model::~Model() { free_uploads(); }

void Model::upload(GateMatrix &matrix) {
  if (!matrix.present()) return;
  Device &device = context_->device();
  const auto bytes = static_cast<uint64_t>(matrix.bytes());
  uploads_.reserve(uploads_.size() + 1);
  uploads_.push_back(device.fns->alloc(device, bytes));
  // In the queue's order, as a write is not to run beside a stage.
  Context &context = *context_;
  const uint64_t ticket =
      context.submit([memory = uploads_.back(), data = matrix.data, bytes, &device](
                         Pipeline &, Exec &, CallStats &) { device.fns->write(device, memory, 0, data, bytes); },
                     0, {});
  context.queue().wait(ticket, Queue::kForever);
  const Outcome outcome = context.queue().outcome(ticket);
  if (outcome.status != Status::ok) throw Error(outcome.status, outcome.message);
  matrix.data = uploads_.back().address;
}

void Model::free_uploads() noexcept {
  Device &device = context_->device();
  for (const Memory &memory : uploads_) device.fns->free(device, memory);
}

int32_t Model::index(int32_t layer) const {
  const int64_t first = gates_.first_layer, count = int64_t(gates_.layers.size());
  SEER_REQUIRE(layer >= first && layer < first + count, Status::invalid_argument,
               "layer is %d; the model has layers %lld to %lld", int(layer), ll(first), ll(first + count - 1));
  return static_cast<int32_t>(layer - first);
}

Buffer::Buffer(std::shared_ptr<Context> context, uint64_t size) : context_(std::move(context)) {
  // An allocator that rounds up, as libstdc++'s aligned operator new does, would wrap around and give a few bytes.
  SEER_REQUIRE(size <= INT64_MAX, Status::out_of_memory, "size is %llu, more than any memory",
               (unsigned long long)size);
  Device &device = context_->device();
  memory_ = device.fns->alloc(device, size);
}

Buffer::Buffer(std::shared_ptr<Context> context, const Memory &memory)
    : context_(std::move(context)), memory_(memory) {}

Buffer::~Buffer() {
  Device &device = context_->device();
  device.fns->free(device, memory_);
}

namespace {

void check_range(const Buffer &buffer, uint64_t offset, uint64_t size) {
  const uint64_t whole = buffer.memory().size;
  SEER_REQUIRE(offset <= whole && size <= whole - offset, Status::out_of_bounds,
               "offset %llu and size %llu reach beyond the buffer's %llu bytes", (unsigned long long)offset,
               (unsigned long long)size, (unsigned long long)whole);
}

}  // namespace

uint64_t Buffer::write(const std::shared_ptr<const Buffer> &self, uint64_t offset, const void *src, uint64_t size) {
  check_range(*self, offset, size);
  SEER_REQUIRE(src || size == 0, Status::invalid_argument, "src is NULL");
  return self->context().submit(
      [self, offset, src, size](Pipeline &, Exec &, CallStats &) {
        Device &device = self->context().device();
        device.fns->write(device, self->memory(), offset, src, size);
      },
      0, {});
}

uint64_t Buffer::read(const std::shared_ptr<const Buffer> &self, uint64_t offset, void *dst, uint64_t size) {
  check_range(*self, offset, size);
  SEER_REQUIRE(dst || size == 0, Status::invalid_argument, "dst is NULL");
  return self->context().submit(
      [self, offset, dst, size](Pipeline &, Exec &, CallStats &) {
        Device &device = self->context().device();
        device.fns->read(device, self->memory(), offset, dst, size);
      },
      0, {});
}

namespace {

int64_t check_cache_sizes(int32_t sequences, int64_t max_tokens) {
  SEER_REQUIRE(sequences > 0 && sequences <= 1 << 20, Status::invalid_argument,
               "sequences is %d; expected 1 to 1048576, or 0 for 1", int(sequences));
  SEER_REQUIRE(max_tokens > 0 && max_tokens <= INT32_MAX, Status::invalid_argument,
               "max_tokens is %lld; expected 1 to 2147483647", ll(max_tokens));
  return max_tokens;
}

}  // namespace

ChunkCache::ChunkCache(std::shared_ptr<Context> context, std::shared_ptr<const Model> model, int32_t sequences,
                       int64_t max_tokens)
    : context_(std::move(context)),
      model_(std::move(model)),
      block_(model_->gates().config.block_size),
      max_tokens_(check_cache_sizes(sequences, max_tokens)),
      cache_(context_->device(), model_->gates().config, int32_t(model_->gates().layers.size()), sequences, max_tokens),
      promised_(model_->gates().layers.size(), std::vector<int64_t>(size_t(sequences))) {}

int64_t ChunkCache::length(int32_t layer, int32_t sequence) const {
  const int32_t index = model_->index(layer);
  SEER_REQUIRE(sequence >= 0 && sequence < cache_.sequences(), Status::invalid_argument,
               "sequence is %d; the cache has sequences 0 to %d", int(sequence), int(cache_.sequences()) - 1);
  std::lock_guard lock(mutex_);
  return promised_[size_t(index)][size_t(sequence)] * block_;
}

void ChunkCache::check_sequence_index(int32_t sequence) const {
  SEER_REQUIRE(sequence >= -1 && sequence < cache_.sequences(), Status::invalid_argument,
               "sequence is %d; expected -1 for all, or 0 to %d", int(sequence), int(cache_.sequences()) - 1);
}

// The cache's own lengths when the queue comes to it, the promised ones now.
void ChunkCache::change(const std::shared_ptr<ChunkCache> &self, const GateCache::Change &wanted) {
  const auto in_flight = std::make_shared<InFlight>(self);  // goes after the lock
  std::lock_guard order(self->context_->order_mutex_);
  std::lock_guard lock(self->mutex_);
  self->context_->submit(
      [in_flight, wanted](Pipeline &, Exec &, CallStats &) { in_flight->cache->cache_.change(wanted); }, 0, {});
  wanted(self->promised_);
  self->in_flight_++;
  in_flight->promised = true;
}

void ChunkCache::truncate(const std::shared_ptr<ChunkCache> &self, int32_t sequence, int64_t tokens) {
  self->check_sequence_index(sequence);
  SEER_REQUIRE(tokens >= 0, Status::invalid_argument, "tokens is %lld; expected at least 0", ll(tokens));
  change(self, [sequence, blocks = tokens / self->block_](GateCache::Lengths &lengths) {
    for (auto &layer : lengths)
      for (size_t s = 0; s < layer.size(); s++)
        if (sequence < 0 || size_t(sequence) == s) layer[s] = std::min(layer[s], blocks);
  });
}

void ChunkCache::extend(const std::shared_ptr<ChunkCache> &self, int32_t layer, int32_t sequence, int64_t tokens) {
  const auto index = size_t(self->model_->index(layer));
  self->check_sequence_index(sequence);
  SEER_REQUIRE(tokens >= 0, Status::invalid_argument, "tokens is %lld; expected at least 0", ll(tokens));
  SEER_REQUIRE(tokens <= self->max_tokens_, Status::cache_state, "tokens is %lld; the cache was made for %lld",
               ll(tokens), ll(self->max_tokens_));
  change(self, [index, sequence, blocks = tokens / self->block_](GateCache::Lengths &lengths) {
    std::vector<int64_t> &of_layer = lengths[index];
    for (size_t s = 0; s < of_layer.size(); s++)
      if (sequence < 0 || size_t(sequence) == s) of_layer[s] = std::max(of_layer[s], blocks);
  });
}

void ChunkCache::check_owners(const Context &context, const Model &model) const {
  // A cache's calls are ordered by one queue, and its vectors are those of one model's weights.
  SEER_REQUIRE(context_.get() == &context, Status::bad_handle, "cache belongs to another context");
  SEER_REQUIRE(model_.get() == &model, Status::bad_handle, "cache was made for another model");
}

void ChunkCache::serve_recorded(GateCall &call, int32_t layer_index) {
  check_sequences(call);
  call.cache = &cache_;
  call.cache_layer = layer_index;
  call.recorded = true;
}

void ChunkCache::check_sequences(const GateCall &call) const {
  SEER_REQUIRE(call.sequences.size() == size_t(cache_.sequences()), Status::cache_state,
               "the call has %zu sequences; the cache was made for %d", call.sequences.size(), int(cache_.sequences()));
  for (size_t i = 0; i < call.sequences.size(); i++)
    SEER_REQUIRE(call.sequences[i].k_len <= max_tokens_, Status::cache_state,
                 "sequence %zu has %lld keys; the cache was made for %lld", i, ll(call.sequences[i].k_len),
                 ll(max_tokens_));
}

void ChunkCache::check(const GateCall &call) const {
  check_sequences(call);
  for (size_t i = 0; i < call.sequences.size(); i++) {
    const int64_t covered = promised_[size_t(call.cache_layer)][i] * block_, start = call.sequences[i].offset();
    // Keys that come again may have changed: what they left in the cache would silently be wrong.
    SEER_REQUIRE(covered <= start, Status::cache_state,
                 "the cache covers %lld tokens of sequence %zu, but this chunk starts at %lld (L - S): truncate it "
                 "first",
                 ll(covered), i, ll(start));
  }
}

void ChunkCache::promise(const GateCall &call) noexcept {
  for (size_t i = 0; i < call.sequences.size(); i++)
    promised_[size_t(call.cache_layer)][i] = call.sequences[i].k_len / block_;
  in_flight_++;
}

void ChunkCache::settle(const bool &promised) noexcept {
  std::lock_guard lock(mutex_);
  if (!promised || --in_flight_ > 0) return;
  for (size_t layer = 0; layer < promised_.size(); layer++)
    for (size_t s = 0; s < promised_[layer].size(); s++)
      promised_[layer][s] = cache_.blocks(int32_t(layer), int32_t(s));
}

}  // namespace seer
