#include "dispatch.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "device.h"

namespace seer::cuda {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kStagingBlock = uint64_t{16} << 10;
constexpr uint64_t kStagedWrite = uint64_t{4}
                                  << 20;  // beyond it a write waits instead of being copied to pinned memory
constexpr uint64_t kAlignment = 256;      // of uploads
constexpr unsigned kPortable = 1;         // CU_MEMHOSTALLOC_PORTABLE
constexpr auto kSpin = std::chrono::milliseconds(1);  // a wait this long polls, for a short call's latency

CUdeviceptr pointer(const void *address) { return reinterpret_cast<CUdeviceptr>(address); }

// As the driver takes it.
struct LaunchConfig {
  CUlaunchAttribute attributes[2] = {};
  CUlaunchConfig config{};

  LaunchConfig(const Launch &launch, CUstream stream) {
    config = {.gridDimX = uint32_t(launch.blocks),
              .gridDimY = launch.blocks_y,
              .gridDimZ = launch.blocks_z,
              .blockDimX = launch.threads,
              .blockDimY = 1,
              .blockDimZ = 1,
              .sharedMemBytes = uint32_t(launch.shared),
              .hStream = stream,
              .attrs = attributes,
              .numAttrs = 0};
    if (launch.overlap) {
      CUlaunchAttribute &attribute = attributes[config.numAttrs++];
      attribute.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
      attribute.value.programmaticStreamSerializationAllowed = 1;
    }
    if (launch.cluster > 1) {
      CUlaunchAttribute &attribute = attributes[config.numAttrs++];
      attribute.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
      attribute.value.clusterDim = {launch.cluster, 1, 1};
    }
  }
  LaunchConfig(const LaunchConfig &) = delete;
  LaunchConfig &operator=(const LaunchConfig &) = delete;
};

}  // namespace

// A call's end.
class Recorder::Wait : public PendingCall {
public:
  Wait(Recorder &recorder, std::unique_ptr<Call> call) : recorder_(recorder), call_(std::move(call)) {}
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
  if (call_) abandon();
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
  call->marks.clear();
  call->stages.clear();
  call->events_used = call->block = 0;
  call->first = call->last = nullptr;
  call->measured = call->has_stats = false;
  std::lock_guard lock(mutex_);
  idle_.push_back(std::move(call));
}

CUevent Recorder::event(Call &call) {
  if (call.events_used == call.events.size()) {
    CUevent made = nullptr;
    device_.check(fn_.cuEventCreate(&made, CU_EVENT_BLOCKING_SYNC), "cuEventCreate");
    call.events.push_back(made);
  }
  CUevent event = call.events[call.events_used++];
  device_.check(fn_.cuEventRecord(event, call.stream), "cuEventRecord");
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
  if (!captured) {
    device_.check(fn_.cuStreamGetId(stream, &id), "cuStreamGetId");
    if (chained_ && last_stream_ != id) device_.check(fn_.cuStreamWaitEvent(stream, chain_, 0), "cuStreamWaitEvent");
  }
  auto call = take_call();
  call->stream = stream;
  call->stream_id = id;
  call->implicit = implicit;
  call->captured = captured;
  stream_ = stream;
  thread_ = std::this_thread::get_id();
  call_ = std::move(call);
  if (call_->captured) graphs_ = true;
}

void Recorder::begin(const Exec &exec) {
  if (call_ && call_->implicit) end(nullptr);  // a stage has opened it
  open(exec.caller_stream ? static_cast<CUstream>(exec.stream) : own_, false);
  if (call_->captured) return;
  try {
    call_->measured = true;
    if (detailed()) fill_zero(device_.clocks, sizeof Call::Told::clocks);
    call_->first = event(*call_);
  } catch (...) {
    abandon();
    throw;
  }
}

void Recorder::stage(const Exec &exec) {
  if (!call_) open(exec.caller_stream ? static_cast<CUstream>(exec.stream) : own_, true);
}

bool Recorder::detailed() const { return device_.log.fn && device_.log.level >= LogLevel::debug; }

void Recorder::stage_done(const char *name) {
  if (!detailed() || !call_ || !call_->measured) return;
  CUevent made = event(*call_);
  call_->stages.emplace_back(name, made);
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
  if (!made) made = event(*call_);
  marks.emplace_back(mark, made);
}

void Recorder::abandon() noexcept {
  const std::unique_ptr<Call> call = std::move(call_);
  stream_ = own_;
  thread_ = std::thread::id();
  if (!call->captured) fn_.cuStreamSynchronize(call->stream);  // its memory may be in use
  destroy(*call);
}

std::unique_ptr<PendingCall> Recorder::end(const SelectStats *stats) {
  SEER_REQUIRE(call_, Status::internal, "no call is open");
  // Whatever fails from here on, the call is over.
  std::unique_ptr<Call> call = std::move(call_);
  stream_ = own_;
  thread_ = std::thread::id();
  auto pending = std::make_unique<Wait>(*this, std::move(call));
  Call &c = *pending->call();
  if (c.captured) return pending;
  try {
    if (!c.told) {
      void *host = nullptr;
      device_.check(fn_.cuMemHostAlloc(&host, sizeof *c.told, kPortable), "cuMemHostAlloc");
      c.told = static_cast<Call::Told *>(host);
    }
    const auto tell = [&](void *to, const void *from, uint64_t bytes) {
      device_.check(fn_.cuMemcpyDtoHAsync(to, pointer(from), bytes, c.stream), "cuMemcpyDtoHAsync");
    };
    if (stats) tell(&c.told->stats, stats, sizeof *stats);
    c.has_stats = stats != nullptr;
    if (!c.stages.empty()) tell(c.told->clocks, device_.clocks, sizeof c.told->clocks);
    c.last = event(c);
    if (!chain_) device_.check(fn_.cuEventCreate(&chain_, CU_EVENT_DISABLE_TIMING), "cuEventCreate");
    device_.check(fn_.cuEventRecord(chain_, c.stream), "cuEventRecord");
    chained_ = true;
    last_stream_ = c.stream_id;
  } catch (...) {
    fn_.cuStreamSynchronize(c.stream);  // its memory may be in use
    c.last = nullptr;
    c.measured = c.has_stats = false;
    c.stages.clear();
    throw;
  }
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
  const LaunchConfig config(launch, stream());
  // An error here is an answer: the size of the cluster is none of this device's.
  if (fn_.cuOccupancyMaxActiveClusters(&count, kernel.function, &config.config) != CUDA_SUCCESS) count = 0;
  clusters_.emplace(key, count);
  return count;
}

void Recorder::launch_pointers(const Kernel &kernel, const Launch &launch, void **params) {
  if (launch.blocks == 0) return;
  SEER_REQUIRE(launch.blocks <= INT32_MAX && launch.blocks_y <= 65535 && launch.blocks_z <= 65535, Status::unsupported,
               "a call of this size needs %llu blocks of threads of %s; a launch has at most 2147483647",
               (unsigned long long)launch.blocks, kernel.name.c_str());
  SEER_REQUIRE(launch.shared <= uint64_t(kernel.max_shared), Status::unsupported,
               "a call of this size needs %llu bytes of shared memory in %s; the device has %d",
               (unsigned long long)launch.shared, kernel.name.c_str(), int(kernel.max_shared));
  const LaunchConfig config(launch, stream());
  device_.check(fn_.cuLaunchKernelEx(&config.config, kernel.function, params, nullptr), kernel.name.c_str());
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

const void *Recorder::upload_bytes(const void *data, uint64_t bytes) {
  SEER_REQUIRE(call_ && bytes, Status::internal, "an upload outside of a call, or of nothing");
  if (call_->captured) {
    CUdeviceptr made = 0;
    device_.check(fn_.cuMemAlloc(&made, bytes), "cuMemAlloc");
    const Memory memory{.address = reinterpret_cast<void *>(made), .handle = kDriverMemory, .size = bytes};
    keep(memory);
    write_aside(made, data, bytes);
    return memory.address;
  }
  Staging &s = room(bytes);
  const uint64_t at = s.used;
  s.used = std::min(s.size, (at + bytes + kAlignment - 1) / kAlignment * kAlignment);
  std::memcpy(s.host + at, data, bytes);
  device_.check(fn_.cuMemcpyHtoDAsync(s.device + at, s.host + at, bytes, call_->stream), "cuMemcpyHtoDAsync");
  return reinterpret_cast<const void *>(s.device + at);
}

void Recorder::write_aside(CUdeviceptr dst, const void *src, uint64_t bytes) {
  if (!aside_) device_.check(fn_.cuStreamCreate(&aside_, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
  device_.check(fn_.cuMemcpyHtoDAsync(dst, src, bytes, aside_), "cuMemcpyHtoDAsync");
  device_.check(fn_.cuStreamSynchronize(aside_), "cuStreamSynchronize");
}

void Recorder::write(void *dst, const void *src, uint64_t bytes) {
  if (bytes == 0) return;
  if (capturing()) return write_aside(pointer(dst), src, bytes);
  if (call_ && bytes <= kStagedWrite) {
    Staging &s = room(bytes);
    const uint64_t at = s.used;
    s.used = std::min(s.size, (at + bytes + kAlignment - 1) / kAlignment * kAlignment);
    std::memcpy(s.host + at, src, bytes);
    device_.check(fn_.cuMemcpyHtoDAsync(pointer(dst), s.host + at, bytes, call_->stream), "cuMemcpyHtoDAsync");
    return;
  }
  device_.check(fn_.cuMemcpyHtoDAsync(pointer(dst), src, bytes, stream()), "cuMemcpyHtoDAsync");
  device_.check(fn_.cuStreamSynchronize(stream()), "cuStreamSynchronize");
}

void Recorder::fill_zero(void *dst, uint64_t bytes) {
  if (bytes) device_.check(fn_.cuMemsetD8Async(pointer(dst), 0, bytes, stream()), "cuMemsetD8Async");
}

void Recorder::read(const void *src, void *dst, uint64_t bytes) {
  SEER_REQUIRE(!capturing(), Status::unsupported, "what a captured call computes cannot be read before it runs");
  if (call_ && call_->implicit) end(nullptr);  // its end waits
  if (bytes == 0) return;
  device_.check(fn_.cuMemcpyDtoHAsync(dst, pointer(src), bytes, stream()), "cuMemcpyDtoHAsync");
  device_.check(fn_.cuStreamSynchronize(stream()), "cuStreamSynchronize");
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
    auto call = take_call();
    call->stream = stream();
    call->captured = capturing();
    auto wait = std::make_unique<Wait>(*this, std::move(call));
    if (!wait->call()->captured) wait->call()->last = event(*wait->call());
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
