// What the handles of the C API stand for: a context (a device, its pipeline and its queue), models, buffers, caches.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "backend.h"
#include "gate.h"
#include "pipeline.h"
#include "queue.h"
#include "tensor.h"
#include "validate.h"

namespace seer {

class CancelFlag {
public:
  void trigger() noexcept { set_.store(true, std::memory_order_relaxed); }  // lock-free: fit for signal handlers
  bool triggered() const noexcept { return set_.load(std::memory_order_relaxed); }

private:
  std::atomic<bool> set_{false};
  static_assert(std::atomic<bool>::is_always_lock_free);
};

struct ContextParams {
  BackendKind backend = BackendKind::automatic;
  int32_t ordinal = 0, threads = 0;
  bool reference = false;
  HostAllocator allocator;
  void (*allocator_release)(void *user) = nullptr;
  Log log;
  void (*log_release)(void *user) = nullptr;
  uint64_t workspace_limit = 0;
  const VulkanImport *vulkan = nullptr;  // read while the context is created
  void (*vulkan_release)(void *user) = nullptr;
  void *vulkan_user = nullptr;
};

struct SubmitOptions {
  std::shared_ptr<const CancelFlag> cancel;
  int32_t (*progress)(void *user, uint64_t done, uint64_t total) = nullptr;  // non-zero cancels
  void *progress_user = nullptr;
  void *stream = nullptr;
  bool caller_stream = false;  // the work goes to `stream` before the call returns
};

class Model;
class ChunkCache;
class Buffer;

class Context : public std::enable_shared_from_this<Context> {
public:
  // If this throws, the release callbacks of `params` were not called.
  static std::shared_ptr<Context> create(const ContextParams &params);
  ~Context();

  Device &device() const { return *device_; }
  const HostAllocator &allocator() const { return callbacks_.allocator; }  // marks its calls as callbacks
  bool same_device(const Context &other) const;

  // Whether this process is a fork of the one that made the context: then its threads are not there.
  bool forked() const noexcept;
  void check_usable() const;  // throws device_lost

  // Each validates on the calling thread, then submits. pins keep memory alive until the call is done. Returns the
  // ticket.
  using Pins = std::vector<std::shared_ptr<const void>>;
  uint64_t prefill(const std::shared_ptr<const Model> &model, int32_t layer, const PrefillDesc &desc,
                   const std::shared_ptr<ChunkCache> &cache, Pins pins, SubmitOptions options);
  uint64_t gate(const std::shared_ptr<const Model> &model, int32_t layer, const GateDesc &desc,
                const std::shared_ptr<ChunkCache> &cache, Pins pins, SubmitOptions options);
  uint64_t select(const SelectDesc &desc, Pins pins, SubmitOptions options);
  uint64_t attention(const AttentionDesc &desc, Pins pins, SubmitOptions options);
  uint64_t prefill_workspace(const Model &model, const PrefillDesc &desc, ChunkCache *cache) const;

  // Any work in the queue's order. With caller_stream it is recorded here and now, so that what the caller puts on the
  // stream next comes after it; the queue then only waits for its end.
  using Job = std::function<void(Pipeline &, Exec &, CallStats &)>;
  uint64_t submit(Job job, uint64_t units, SubmitOptions options);

  const Queue &queue() const { return queue_; }
  Queue &queue() { return queue_; }

private:
  // The caller's callbacks, wrapped so that calls from inside them can be told. Outlives the device.
  struct Callbacks {
    HostAllocator user_allocator, allocator;
    Log user_log, log;
    void (*allocator_release)(void *user) = nullptr;
    void (*log_release)(void *user) = nullptr;
    void (*vulkan_release)(void *user) = nullptr;
    void *vulkan_user = nullptr;
    ~Callbacks();
  };

  Context() = default;
  friend class ChunkCache;
  uint64_t record(Job job, uint64_t units, SubmitOptions options);
  uint64_t submit_gated(const GateCall &call, const std::shared_ptr<ChunkCache> &cache, Job job, uint64_t units,
                        SubmitOptions options);

  Callbacks callbacks_;
  uint64_t process_ = 0;
  std::atomic<bool> lost_{false};
  std::unique_ptr<Device> device_;
  std::unique_ptr<Pipeline> pipeline_;
  // Held while work is submitted or recorded, and taken before a cache's mutex: who records waits for what the queue's
  // thread has yet to run, whose end takes that one.
  std::recursive_mutex order_mutex_;
  uint64_t queued_ = 0;  // the last ticket whose work the queue's thread runs
  Queue queue_;          // first to go
};

// Gates on a context's device.
class Model {
public:
  Model(std::shared_ptr<Context> context, GateModel model);
  ~Model();
  Model(const Model &) = delete;
  Model &operator=(const Model &) = delete;

  Context &context() const { return *context_; }
  const GateModel &gates() const { return gates_; }
  int32_t index(int32_t layer) const;  // into layers; throws if the layer was not loaded
  const LayerGate &layer(int32_t index) const { return on_device_[size_t(index)]; }
  // The model's RoPE as plain inverse frequencies, for callers.
  const RopeFreqs &rope_frequencies() const { return rope_; }
  const RopeFreqs &gate_rope_frequencies() const { return gate_rope_; }

private:
  void upload(GateMatrix &matrix);
  void free_uploads() noexcept;

  std::shared_ptr<Context> context_;
  GateModel gates_;
  std::vector<LayerGate> on_device_;
  std::vector<Memory> uploads_;
  RopeFreqs rope_, gate_rope_;
};

// Device memory that a caller asked for.
class Buffer {
public:
  Buffer(std::shared_ptr<Context> context, uint64_t size);
  Buffer(std::shared_ptr<Context> context, const Memory &memory);  // takes it over
  ~Buffer();
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;

  Context &context() const { return *context_; }
  const Memory &memory() const { return memory_; }
  // Queue-ordered; return the ticket, until which `self` keeps the buffer and the other memory is the caller's to keep.
  static uint64_t write(const std::shared_ptr<const Buffer> &self, uint64_t offset, const void *src, uint64_t size);
  static uint64_t read(const std::shared_ptr<const Buffer> &self, uint64_t offset, void *dst, uint64_t size);

private:
  std::shared_ptr<Context> context_;
  Memory memory_;
};

// A gate cache and the lengths that it will have when what was submitted is done. Work reads and moves the cache's own
// lengths when it runs; if some of it fails, the promised ones return to them once nothing is in flight.
class ChunkCache {
public:
  ChunkCache(std::shared_ptr<Context> context, std::shared_ptr<const Model> model, int32_t sequences,
             int64_t max_tokens);

  Context &context() const { return *context_; }
  const Model &model() const { return *model_; }
  int64_t length(int32_t layer, int32_t sequence) const;  // tokens; layer as the model numbers it
  // `self` keeps the cache until the queue has done it. Blocks that lie in the first `tokens` tokens, of a sequence or
  // (-1) of all: the others are forgotten, or these are there now, by work that was recorded.
  static void truncate(const std::shared_ptr<ChunkCache> &self, int32_t sequence, int64_t tokens);
  static void extend(const std::shared_ptr<ChunkCache> &self, int32_t layer, int32_t sequence, int64_t tokens);

  int32_t sequences() const { return cache_.sequences(); }
  int64_t max_tokens() const { return max_tokens_; }
  // Throws unless it serves calls of this context and model.
  void check_owners(const Context &context, const Model &model) const;
  // Gives the cache to a call that is recorded, whatever its lengths are. Throws if the call does not fit. Thread-safe.
  void serve_recorded(GateCall &call, int32_t layer_index);

private:
  friend class Context;
  struct InFlight;
  // The caller holds the mutex. check throws unless the call fits: its sequences, the room, and nothing of its chunk
  // covered already.
  void check(const GateCall &call) const;
  void check_sequences(const GateCall &call) const;
  void check_sequence_index(int32_t sequence) const;
  static void change(const std::shared_ptr<ChunkCache> &self, const GateCache::Change &wanted);
  void promise(const GateCall &call) noexcept;
  void settle(const bool &promised) noexcept;  // one call less in flight; takes the mutex, which guards `promised`

  std::shared_ptr<Context> context_;
  std::shared_ptr<const Model> model_;
  int64_t block_, max_tokens_;
  GateCache cache_;
  mutable std::mutex mutex_;  // held while a call is checked, submitted and promised, so that settle comes after
  GateCache::Lengths promised_;
  int64_t in_flight_ = 0;
};

}  // namespace seer
