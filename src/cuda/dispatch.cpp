#include "dispatch.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "device.h"

namespace seer::cuda {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kStagingBlock = uint64_t{16} << 10;
constexpr uint64_t kStagedWrite = uint64_t{4} << 20;  // beyond it a write is not copied to pinned memory
constexpr uint64_t kAlignment = 256;                  // of uploads
constexpr unsigned kPortable = 1;                     // CU_MEMHOSTALLOC_PORTABLE
constexpr auto kSpin = std::chrono::milliseconds(1);  // a wait this long polls, for a short call's latency

CUdeviceptr pointer(const void *address) { return reinterpret_cast<CUdeviceptr>(address); }

}  // namespace

// A call's end.
class Recorder::Wait : public PendingCall {
public:
  explicit Wait(Recorder &recorder) : recorder_(recorder) {}
  void take(std::unique_ptr<Call> call) { call_ = std::move(call); }
  ~Wait() override {
    if (!call_) return;
    try {
      wait(UINT64_MAX);
    } catch (const Error &) {
      // a lost device: whoever uses the context is told
    }
  }
  bool wait(uint64_t timeout_ns, CallResult *result = nullptr) {
    const Current current(*recorder_.device_.gpu);
    CallResult found;
    if (!call_->captured) {
      bool done = false;
      try {
        recorder_.wait_event(call_->last, timeout_ns, done);
        if (!done) return false;
        found = recorder_.finish(*call_);
      } catch (...) {
        if (call_->last) recorder_.fn_.cuEventSynchronize(call_->last);  // its memory may be in use
        recorder_.recycle(std::move(call_));
        throw;
      }
    }
    recorder_.recycle(std::move(call_));
    if (result) *result = found;
    return true;
  }
  Call *call() { return call_.get(); }
  CallResult wait() override {
    CallResult result;
    if (call_) wait(UINT64_MAX, &result);
    return result;
  }

private:
  Recorder &recorder_;
  std::unique_ptr<Call> call_;
};

Recorder::Recorder(CudaDevice &device) : device_(device), fn_(device.fn) {
  // A stream that is ordered with the legacy default stream, where frameworks work unless told otherwise.
  device_.check(fn_.cuStreamCreate(&own_, CU_STREAM_DEFAULT), "cuStreamCreate");
  stream_ = own_;
}

Recorder::~Recorder() {
  if (call_) drop();
  fences_.clear();
  fn_.cuStreamSynchronize(own_);
  for (const auto &call : idle_) destroy(*call);
  for (const Memory &memory : kept_) free_now(device_, memory, own_);
  if (chain_) fn_.cuEventDestroy(chain_);
  if (aside_) fn_.cuStreamDestroy(aside_);
  fn_.cuStreamDestroy(own_);
}

void Recorder::destroy(Call &call) noexcept {
  for (const Memory &memory : call.to_free) free_now(device_, memory, own_);
  for (CUevent event : call.events) fn_.cuEventDestroy(event);
  for (const Staging &s : call.staging) {
    fn_.cuMemFreeHost(s.host);
    fn_.cuMemFree(s.device);
  }
  if (call.told) fn_.cuMemFreeHost(call.told);
}

std::unique_ptr<Recorder::Call> Recorder::take_call() {
  {
    std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      auto call = std::move(idle_.back());
      idle_.pop_back();
      return call;
    }
  }
  return std::make_unique<Call>();
}

void Recorder::recycle(std::unique_ptr<Call> call) noexcept {
  for (const Memory &memory : call->to_free) free_now(device_, memory, own_);
  call->to_free.clear();
  for (Staging &s : call->staging) s.used = 0;
  call->tape.clear();
  call->writes.clear();
  call->marks.clear();
  call->stages.clear();
  call->events_used = call->block = 0;
  call->first = call->last = nullptr;
  call->measured = call->has_stats = false;
  std::lock_guard lock(mutex_);
  idle_.push_back(std::move(call));
}

CUevent Recorder::make_event(Call &call) {
  if (call.events_used == call.events.size()) {
    CUevent made = nullptr;
    device_.check(fn_.cuEventCreate(&made, CU_EVENT_BLOCKING_SYNC), "cuEventCreate");
    call.events.push_back(made);
  }
  return call.events[call.events_used++];
}

CUevent Recorder::note_event() {
  CUevent event = make_event(*call_);
  call_->tape.record(event);
  return event;
}

void Recorder::check_stream(CUstream stream) {
  CUcontext context = nullptr;
  if (fn_.cuStreamGetCtx(stream, &context) != CUDA_SUCCESS || context == device_.gpu->context) return;
  // Another context of the same device may be a part of this one (a green context).
  CUdevice device = device_.caps.device;
  if (fn_.cuCtxPushCurrent(context) == CUDA_SUCCESS) {
    fn_.cuCtxGetDevice(&device);
    fn_.cuCtxPopCurrent(&context);
  }
  SEER_REQUIRE(device == device_.caps.device, Status::invalid_argument,
               "the stream is of CUDA device %d; the context is on device %d", int(device), int(device_.caps.device));
}

void Recorder::open(CUstream stream, bool implicit) {
  SEER_REQUIRE(!call_, Status::internal, "a call was begun inside another");
  if (stream != own_) check_stream(stream);
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  // Of the legacy default stream this fails while another stream is captured: a kernel there would spoil that capture.
  const CUresult result = fn_.cuStreamIsCapturing(stream, &status);
  SEER_REQUIRE(result == CUDA_SUCCESS || is_sticky(result), Status::invalid_argument,
               "the stream cannot be used: %s: %s", fn_.name(result), fn_.text(result));
  device_.check(result, "cuStreamIsCapturing");
  SEER_REQUIRE(status != CU_STREAM_CAPTURE_STATUS_INVALIDATED, Status::invalid_argument,
               "the stream's capture has failed already");
  const bool captured = status == CU_STREAM_CAPTURE_STATUS_ACTIVE;
  unsigned long long id = 0;
  if (!captured) device_.check(fn_.cuStreamGetId(stream, &id), "cuStreamGetId");
  auto call = take_call();
  call->stream = stream;
  call->stream_id = id;
  call->implicit = implicit;
  call->captured = captured;
  if (!captured && chained_ && last_stream_ != id) call->tape.wait(chain_);
  stream_ = stream;
  thread_ = std::this_thread::get_id();
  call_ = std::move(call);
}

void Recorder::begin(const Exec &exec) {
  if (call_ && call_->implicit) end(nullptr);  // a stage has opened it
  open(exec.caller_stream ? static_cast<CUstream>(exec.stream) : own_, false);
  if (call_->captured) return;
  try {
    call_->measured = true;
    if (detailed()) fill_zero(device_.clocks, sizeof Call::Told::clocks);
    call_->first = note_event();
  } catch (...) {
    drop();
    throw;
  }
}

void Recorder::stage(const Exec &exec) {
  if (!call_) open(exec.caller_stream ? static_cast<CUstream>(exec.stream) : own_, true);
}

bool Recorder::detailed() const { return device_.log.fn && device_.log.level >= LogLevel::debug; }

void Recorder::stage_done(const char *name) {
  if (!detailed() || !call_ || !call_->measured) return;
  call_->stages.emplace_back(name, note_event());
}

uint64_t *Recorder::clocks() const { return detailed() && call_ && call_->measured ? device_.clocks : nullptr; }

void Recorder::log_stages(const Call &call) const {
  std::string text = "stages:";
  CUevent from = call.first;
  for (const auto &[name, event] : call.stages) {
    float ms = 0;
    device_.check(fn_.cuEventElapsedTime(&ms, from, event), "cuEventElapsedTime");
    text += std::string(" ") + name + "=" + std::to_string(int64_t(double{ms} * 1e6));
    from = event;
  }
  const uint64_t *clocks = call.told->clocks;
  const uint64_t mhz = clocks[1] ? clocks[0] * 1000 / clocks[1] : 0;
  device_.log(LogLevel::debug, "%s ns, %llu MHz", text.c_str(), (unsigned long long)mhz);
}

void Recorder::mark(Mark mark) {
  if (!call_ || call_->captured) return;
  // An event takes the device a microsecond. What begins does so where the part before it ended, or with the call, but
  // for the clearing of statistics: that event will do.
  auto &marks = call_->marks;
  const bool begins = mark == Mark::gate_begin || mark == Mark::attend_begin;
  CUevent made = !begins ? nullptr : marks.empty() ? call_->first : marks.back().second;
  if (!made) made = note_event();
  marks.emplace_back(mark, made);
}

std::unique_ptr<Recorder::Call> Recorder::close() noexcept {
  stream_ = own_;
  thread_ = std::thread::id();
  return std::move(call_);
}

void Recorder::drop() noexcept {
  std::unique_ptr<Call> call = close();
  if (device_.rope) device_.rope->settle(false);
  // Calls before it may be using what it was to free; the last one's end is that of all.
  if (!call->to_free.empty() && chained_) fn_.cuEventSynchronize(chain_);
  for (const Memory &memory : call->uploads) free_now(device_, memory, own_);
  call->uploads.clear();
  recycle(std::move(call));
}

std::unique_ptr<PendingCall> Recorder::end(const SelectStats *stats) {
  SEER_REQUIRE(call_, Status::internal, "no call is open");
  std::unique_ptr<Wait> pending;
  try {
    pending = std::make_unique<Wait>(*this);
    Call &c = *call_;
    if (c.captured) {
      std::lock_guard lock(mutex_);
      kept_.insert(kept_.end(), c.uploads.begin(), c.uploads.end());
      c.uploads.clear();
    } else {
      if (!c.told) {
        void *host = nullptr;
        device_.check(fn_.cuMemHostAlloc(&host, sizeof *c.told, kPortable), "cuMemHostAlloc");
        c.told = static_cast<Call::Told *>(host);
      }
      if (stats) c.tape.copy_out(&c.told->stats, pointer(stats), sizeof *stats);
      c.has_stats = stats != nullptr;
      if (!c.stages.empty()) c.tape.copy_out(c.told->clocks, pointer(device_.clocks), sizeof c.told->clocks);
      c.last = note_event();
      if (!chain_) device_.check(fn_.cuEventCreate(&chain_, CU_EVENT_DISABLE_TIMING), "cuEventCreate");
      c.tape.record(chain_);
    }
  } catch (...) {
    drop();
    throw;
  }
  pending->take(close());
  Call &c = *pending->call();
  if (c.captured) graphs_ = true;
  try {
    c.tape.play(*device_.gpu, c.stream);
  } catch (...) {
    if (device_.rope) device_.rope->settle(false);
    if (!c.captured) fn_.cuStreamSynchronize(c.stream);  // its memory may be in use
    c.last = nullptr;
    c.measured = c.has_stats = false;
    c.stages.clear();
    throw;
  }
  if (device_.rope) device_.rope->settle(true);
  if (c.captured) return pending;
  chained_ = true;
  last_stream_ = c.stream_id;
  return pending;
}

void Recorder::wait_event(CUevent event, uint64_t timeout_ns, bool &done) const {
  done = true;
  if (!event) return;
  const auto start = Clock::now();
  for (;;) {
    const CUresult result = fn_.cuEventQuery(event);
    if (result != CUDA_ERROR_NOT_READY) return device_.gpu->check(result, "the call's work");
    const auto waited = Clock::now() - start;
    if (uint64_t(std::chrono::duration_cast<std::chrono::nanoseconds>(waited).count()) >= timeout_ns) {
      done = false;
      return;
    }
    if (waited < kSpin) {
      std::this_thread::yield();
    } else if (timeout_ns == UINT64_MAX) {
      return device_.gpu->check(fn_.cuEventSynchronize(event), "the call's work");
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }
}

CallResult Recorder::finish(Call &call) {
  CallResult result;
  const auto between = [&](CUevent from, CUevent to) {
    float ms = 0;
    device_.check(fn_.cuEventElapsedTime(&ms, from, to), "cuEventElapsedTime");
    return uint64_t(double{ms} * 1e6);
  };
  if (call.has_stats) result.select = call.told->stats;
  if (!call.measured) return result;
  if (!call.stages.empty()) log_stages(call);
  result.device_ns = between(call.first, call.last);
  CUevent gate = nullptr, attend = nullptr;
  for (const auto &[mark, event] : call.marks) switch (mark) {
      case Mark::gate_begin: gate = event; break;
      case Mark::gate_end: result.gate_ns += between(gate, event); break;
      case Mark::attend_begin: attend = event; break;
      case Mark::attend_end: result.attend_ns += between(attend, event); break;
    }
  return result;
}

int32_t Recorder::clusters_at_once(const Kernel &kernel, const Launch &launch) {
  const auto key = std::make_tuple(kernel.function, launch.cluster, launch.shared);
  if (const auto known = clusters_.find(key); known != clusters_.end()) return known->second;
  int32_t count = 0;
  // An error here is an answer: the size of the cluster is none of this device's.
  if (launch.cluster > 1) {
    const LaunchConfig config(launch, stream());
    if (fn_.cuOccupancyMaxActiveClusters(&count, kernel.function, &config.config) != CUDA_SUCCESS) count = 0;
  } else {  // of which the driver knows none
    if (fn_.cuOccupancyMaxActiveBlocksPerMultiprocessor(&count, kernel.function, int(launch.threads), launch.shared) !=
        CUDA_SUCCESS)
      count = 0;
    count *= device_.caps.multiprocessors;
  }
  clusters_.emplace(key, count);
  return count;
}

void Recorder::launch_bytes(const Kernel &kernel, const Launch &launch,
                            std::span<const std::span<const std::byte>> params) {
  SEER_REQUIRE(call_, Status::internal, "a launch outside of a call");
  if (launch.blocks == 0) return;
  SEER_REQUIRE(launch.blocks <= INT32_MAX && launch.blocks_y <= 65535 && launch.blocks_z <= 65535, Status::unsupported,
               "a call of this size needs %llu blocks of threads of %s; a launch has at most 2147483647",
               (unsigned long long)launch.blocks, kernel.name.c_str());
  SEER_REQUIRE(launch.shared <= uint64_t(kernel.max_shared), Status::unsupported,
               "a call of this size needs %llu bytes of shared memory in %s; the device has %d",
               (unsigned long long)launch.shared, kernel.name.c_str(), int(kernel.max_shared));
  call_->tape.launch(kernel, launch, params);
}

Recorder::Staging &Recorder::room(uint64_t bytes) {
  Call &call = *call_;
  for (; call.block < call.staging.size(); call.block++)
    if (call.staging[call.block].size - call.staging[call.block].used >= bytes) return call.staging[call.block];
  Staging made;
  made.size = std::max(kStagingBlock, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  void *host = nullptr;
  device_.check(fn_.cuMemHostAlloc(&host, made.size, kPortable), "cuMemHostAlloc");
  made.host = static_cast<char *>(host);
  const CUresult result = fn_.cuMemAlloc(&made.device, made.size);
  if (result != CUDA_SUCCESS) fn_.cuMemFreeHost(host);
  device_.check(result, "cuMemAlloc");
  call.staging.push_back(made);
  return call.staging.back();
}

Recorder::Staged Recorder::stage_bytes(const void *data, uint64_t bytes) {
  Staging &s = room(bytes);
  const Staged staged{s.host + s.used, s.device + s.used};
  std::memcpy(s.host + s.used, data, bytes);
  s.used = std::min(s.size, (s.used + bytes + kAlignment - 1) / kAlignment * kAlignment);
  return staged;
}

const void *Recorder::upload_bytes(const void *data, uint64_t bytes) {
  SEER_REQUIRE(call_ && bytes, Status::internal, "an upload outside of a call, or of nothing");
  if (call_->captured) {
    call_->uploads.reserve(call_->uploads.size() + 1);
    CUdeviceptr made = 0;
    device_.check(fn_.cuMemAlloc(&made, bytes), "cuMemAlloc");
    call_->uploads.push_back({.address = reinterpret_cast<void *>(made), .handle = kDriverMemory, .size = bytes});
    write_aside(made, data, bytes);
    return reinterpret_cast<const void *>(made);
  }
  const Staged staged = stage_bytes(data, bytes);
  call_->tape.copy_in(staged.device, staged.host, bytes);
  return reinterpret_cast<const void *>(staged.device);
}

void Recorder::write_aside(CUdeviceptr dst, const void *src, uint64_t bytes) {
  if (!aside_) device_.check(fn_.cuStreamCreate(&aside_, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
  device_.check(fn_.cuMemcpyHtoDAsync(dst, src, bytes, aside_), "cuMemcpyHtoDAsync");
  device_.check(fn_.cuStreamSynchronize(aside_), "cuStreamSynchronize");
}

void Recorder::write(void *dst, const void *src, uint64_t bytes) {
  if (bytes == 0) return;
  if (capturing()) return write_aside(pointer(dst), src, bytes);
  if (call_) {
    const void *kept = nullptr;
    if (bytes <= kStagedWrite) {
      kept = stage_bytes(src, bytes).host;
    } else {
      const char *from = static_cast<const char *>(src);
      kept = call_->writes.emplace_back(from, from + bytes).data();
    }
    return call_->tape.copy_in(pointer(dst), kept, bytes);
  }
  device_.check(fn_.cuMemcpyHtoDAsync(pointer(dst), src, bytes, own_), "cuMemcpyHtoDAsync");
  device_.check(fn_.cuStreamSynchronize(own_), "cuStreamSynchronize");
}

void Recorder::fill_zero(void *dst, uint64_t bytes) {
  if (bytes == 0) return;
  if (call_) return call_->tape.zero(pointer(dst), bytes);
  device_.check(fn_.cuMemsetD8Async(pointer(dst), 0, bytes, own_), "cuMemsetD8Async");
}

void Recorder::read(const void *src, void *dst, uint64_t bytes) {
  SEER_REQUIRE(!capturing(), Status::unsupported, "what a captured call computes cannot be read before it runs");
  if (call_ && call_->implicit) end(nullptr);  // its end waits
  SEER_REQUIRE(!call_, Status::internal, "a read inside a call");
  if (bytes == 0) return;
  device_.check(fn_.cuMemcpyDtoHAsync(dst, pointer(src), bytes, own_), "cuMemcpyDtoHAsync");
  device_.check(fn_.cuStreamSynchronize(own_), "cuStreamSynchronize");
}

void Recorder::free_later(const Memory &memory) {
  if (!call_) return free_now(device_, memory, own_);
  if (call_->captured) return keep(memory);
  call_->to_free.push_back(memory);
}

void Recorder::keep(const Memory &memory) {
  std::lock_guard lock(mutex_);
  kept_.push_back(memory);
}

uint64_t Recorder::record() {
  std::unique_ptr<PendingCall> pending;
  if (call_ && call_->implicit) {
    pending = end(nullptr);
  } else {
    SEER_REQUIRE(!call_, Status::internal, "a fence inside a call");
    auto wait = std::make_unique<Wait>(*this);
    wait->take(take_call());
    Call &call = *wait->call();
    call.stream = own_;
    call.captured = false;
    CUevent event = make_event(call);
    device_.check(fn_.cuEventRecord(event, own_), "cuEventRecord");
    call.last = event;
    pending = std::move(wait);
  }
  std::lock_guard lock(mutex_);
  fences_.emplace(next_fence_, std::move(pending));
  return next_fence_++;
}

bool Recorder::wait(uint64_t fence, uint64_t timeout_ns) {
  std::unique_ptr<PendingCall> pending;
  {
    std::lock_guard lock(mutex_);
    const auto found = fences_.find(fence);
    if (found == fences_.end()) return true;
    pending = std::move(found->second);
    fences_.erase(found);
  }
  if (static_cast<Wait &>(*pending).wait(timeout_ns)) return true;
  std::lock_guard lock(mutex_);
  fences_.emplace(fence, std::move(pending));
  return false;
}

}  // namespace seer::cuda
