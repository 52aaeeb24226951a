// Recording and launching work. Stages note copies and kernels for the call's stream and return; nothing waits until
// somebody asks for the result.
//
// A call is what lies between begin() and end(), which enqueues all of it (tape.h), or drop(), after which nothing was
// enqueued. It has a stream: the caller's, or the context's own. Calls of one context use one workspace, so that a call
// on another stream than the one before first waits, on the device, for that one's end. Stages that are recorded
// outside of a call (tests do) open one, which record() or read() ends.
//
// If the stream is being captured into a CUDA graph, what is recorded must not depend on anything that will change:
// uploads are made at once, on a stream of the context's, into memory that is kept as long as the context; there are no
// times and no statistics; nothing that the call uses is ever freed or reused by later calls, other than the workspace,
// for whose sake a graph is to be replayed in order with the context's other calls.
#pragma once
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "../backend.h"
#include "loader.h"
#include "tape.h"

namespace seer::cuda {

struct CudaDevice;

class Recorder {
public:
  explicit Recorder(CudaDevice &device);
  ~Recorder();
  Recorder(const Recorder &) = delete;
  Recorder &operator=(const Recorder &) = delete;

  void begin(const Exec &exec);  // throws if a call is open
  void mark(Mark mark);
  // `stats`: device memory, read when the work is done. The result outlives anything but the recorder. However it ends,
  // no call is open any more; one that throws anything but the driver's refusal of work has enqueued nothing.
  std::unique_ptr<PendingCall> end(const SelectStats *stats);
  // Ends a call that could not be recorded. What it was to free may have to wait for the calls before it.
  void drop() noexcept;

  // For stages, before anything else: opens a call if none is.
  void stage(const Exec &exec);
  // Where the context logs at level debug, a call ends with a line of its stages' times and attend's clock:
  // "stages: pool=105216 pool=31744 ... attend=1490944 ns, 1552 MHz". What it takes is noted by these.
  void stage_done(const char *name);
  uint64_t *clocks() const;  // for AttendParams, or null
  CUstream stream() const { return stream_.load(std::memory_order_relaxed); }
  CUstream own_stream() const { return own_; }  // of calls that have none, and never captured
  bool capturing() const { return call_ && call_->captured; }
  bool recording_here() const { return thread_.load(std::memory_order_relaxed) == std::this_thread::get_id(); }
  bool graphs() const { return graphs_; }  // whether graphs may use what calls of this context have used

  // kernel(params...): each is copied now. Their types must be exactly the kernel's.
  template <class... Params>
  void launch(const Kernel &kernel, const Launch &launch, const Params &...params) {
    static_assert((std::is_trivially_copyable_v<Params> && ...));
    const std::span<const std::byte> bytes[] = {std::as_bytes(std::span(&params, 1))...};
    launch_bytes(kernel, launch, bytes);
  }

  // How many clusters of such a launch the device can hold at a time; 0: none, and it would fail.
  int32_t clusters_at_once(const Kernel &kernel, const Launch &launch);

  // Device memory with a copy of `values`, for the kernels of this call. At least one value.
  template <class T>
  const T *upload(std::span<const T> values) {
    return static_cast<const T *>(upload_bytes(values.data(), values.size_bytes()));
  }
  // Copies in order with the kernels. `src` may be reused at once.
  void write(void *dst, const void *src, uint64_t bytes);
  void fill_zero(void *dst, uint64_t bytes);
  void read(const void *src, void *dst, uint64_t bytes);  // waits

  // Frees memory when the work of the open call is done: never, if that goes into a graph.
  void free_later(const Memory &memory);
  // Keeps memory that graphs use until the device goes.
  void keep(const Memory &memory);

  uint64_t record();  // a fence after all work so far; ends a call that a stage has opened
  bool wait(uint64_t fence, uint64_t timeout_ns);

private:
  // Pinned host memory and as much of the device's.
  struct Staging {
    char *host = nullptr;
    CUdeviceptr device = 0;
    uint64_t size = 0, used = 0;
  };
  struct Staged {
    const char *host;
    CUdeviceptr device;
  };
  // What a call holds until its work is done; used again by later ones.
  struct Call {
    Tape tape;
    CUstream stream = nullptr;
    unsigned long long stream_id = 0;
    bool captured = false, implicit = false, measured = false, has_stats = false;
    std::vector<Staging> staging;
    size_t block = 0;                       // of staging, in use
    std::vector<std::vector<char>> writes;  // that staging is too small for
    std::vector<CUevent> events;
    size_t events_used = 0;
    std::vector<std::pair<Mark, CUevent>> marks;
    CUevent first = nullptr, last = nullptr;               // of the whole call
    std::vector<std::pair<const char *, CUevent>> stages;  // and their ends
    struct Told {
      SelectStats stats;
      uint64_t clocks[2];  // cycles and nanoseconds, see AttendParams
    };
    Told *told = nullptr;  // pinned
    std::vector<Memory> to_free;
    std::vector<Memory> uploads;  // captured: kept as long as the graph that it becomes part of
  };
  class Wait;

  std::unique_ptr<Call> take_call();
  void check_stream(CUstream stream);  // that it is of this device
  void open(CUstream stream, bool implicit);
  std::unique_ptr<Call> close() noexcept;  // the open call
  CUevent make_event(Call &call);
  CUevent note_event();                                  // in the open call
  Staging &room(uint64_t bytes);                         // in the open call, for that much more
  Staged stage_bytes(const void *data, uint64_t bytes);  // a copy, and as much of the device's
  void launch_bytes(const Kernel &kernel, const Launch &launch, std::span<const std::span<const std::byte>> params);
  const void *upload_bytes(const void *data, uint64_t bytes);
  void write_aside(CUdeviceptr dst, const void *src, uint64_t bytes);  // not part of a captured call
  void wait_event(CUevent event, uint64_t timeout_ns, bool &done) const;
  CallResult finish(Call &call);
  void log_stages(const Call &call) const;
  bool detailed() const;
  void recycle(std::unique_ptr<Call> call) noexcept;
  void destroy(Call &call) noexcept;

  CudaDevice &device_;
  const Driver &fn_;
  CUstream own_ = nullptr, aside_ = nullptr;
  std::atomic<CUstream> stream_{nullptr};                                   // of the open call, else own_
  std::atomic<std::thread::id> thread_{};                                   // that records a call
  std::unique_ptr<Call> call_;                                              // open
  bool graphs_ = false;                                                     // a call was captured
  std::map<std::tuple<CUfunction, uint32_t, uint64_t>, int32_t> clusters_;  // by kernel, cluster and shared memory
  // The end of the last call that was not captured, if there was one.
  unsigned long long last_stream_ = 0;  // by its id: handles are used again, and one of them is a stream a thread
  CUevent chain_ = nullptr;
  bool chained_ = false;

  std::mutex mutex_;  // guards what follows, which other threads touch as calls end
  std::vector<std::unique_ptr<Call>> idle_;
  std::vector<Memory> kept_;
  std::map<uint64_t, std::unique_ptr<PendingCall>> fences_;
  uint64_t next_fence_ = 1;
};

}  // namespace seer::cuda
