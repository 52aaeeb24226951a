// Recording and submitting work. Stages record dispatches and return; nothing waits until somebody asks for the result.
//
// The conventions that every kernel keeps:
//  - Arguments are storage buffers at set 0. A binding starts at or up to offset_alignment - 1 bytes before the
//    argument's first byte: `skip` of its Window says how many, and goes to the shader as a push constant.
//  - Push constants begin with `uint first; uint count;`, which the recorder sets for each piece of the work: a
//    workgroup's index is w = gl_WorkGroupID.x + gl_WorkGroupID.y * gl_NumWorkGroups.x; if w >= count it returns, else
//    it computes item first + w. One workgroup is one item; items of one dispatch must not depend on each other.
#pragma once
#include <chrono>
#include <cstring>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "../backend.h"
#include "memory.h"
#include "pipelines.h"

namespace seer::vulkan {

struct Semaphore;  // interop.h

// Bytes of device memory as a kernel's argument. Made by Recorder::window, upload and absent.
struct Window {
  VkBuffer buffer = VK_NULL_HANDLE;
  VkDeviceSize offset = 0, range = 0;
  uint32_t skip = 0;  // bytes from the binding's start to the argument's first byte
};

struct Work {
  uint64_t items = 0;   // workgroups; 0 records nothing. Below 2^32
  double flops = 1e6;   // of an item, roughly (memory-bound kernels: bytes moved * 4): what chunks are cut by
  uint64_t units = 0;   // progress that the whole dispatch stands for, reported as it is submitted
  bool beside = false;  // independent of the dispatch before: no barrier between them
};

// The caller's command buffer instead of submissions. Work is cut into parts where it would be cut into submissions,
// and the parts asked for are recorded.
struct Target {
  VkCommandBuffer commands = VK_NULL_HANDLE;  // null: nothing is recorded, only counted
  VkBuffer absent = VK_NULL_HANDLE;           // of 16384 bytes
  VkDescriptorPool sets = VK_NULL_HANDLE;     // where the device has no push descriptors
  double part_flops = 0;                      // 0: no limit
  uint32_t first_part = 0, parts = 0;         // 0: all from the first
};

class Recorder {
public:
  explicit Recorder(Gpu &device);
  // One that allocates, submits and waits for nothing: reading, uploading and waiting are internal errors.
  Recorder(Gpu &device, const Target &target);
  ~Recorder();

  // Whether one binding can see that much.
  bool fits(const void *address, uint64_t bytes) const;
  // Throws unsupported if it cannot, internal if the memory is not the device's. 0 bytes: as absent().
  Window window(const void *address, uint64_t bytes) const;
  // For a binding that the kernel does not touch in this call.
  Window absent() const;
  // A copy of host data that work recorded from now on can read. Lives to the end of the
  // call (recycle).
  Window upload(const void *data, uint64_t bytes);
  template <class T>
  Window upload(std::span<const T> values) {
    return upload(values.data(), values.size_bytes());
  }

  // `push` is a struct that begins with `uint32_t first, count` (see above), of kernel.push_bytes. Work recorded
  // before is visible to it unless work.beside. Throws cancelled between chunks; what was recorded stays.
  template <class Push>
  void dispatch(Exec &exec, const Kernel &kernel, std::span<const Window> windows, Push push, const Work &work) {
    static_assert(std::is_trivially_copyable_v<Push> && sizeof(Push) >= 8 && sizeof(Push) % 4 == 0);
    dispatch_bytes(exec, kernel, windows, &push, sizeof push, work);
  }

  // For stages that need not wait for the one before: what the last dispatches were, if nothing came after them.
  enum class Mark { none, pooled_q, projected_q };
  void mark(Mark mark) { mark_ = mark; }
  bool marked(Mark mark) const { return mark_ == mark; }

  // Copies, in order with the dispatches (copies.cpp). write's source may be reused when it returns.
  void write(const void *address, const void *src, uint64_t bytes);
  void read(const void *address, void *dst, uint64_t bytes);  // waits
  void fill_zero(const void *address, uint64_t bytes);        // address and bytes multiples of 4
  void copy(const void *address, const Window &to, uint64_t bytes);

  // A call with its times and statistics (calls.cpp). What is recorded from begin to end is one; the one before has
  // been waited for.
  void begin_call();
  void stamp(seer::Mark mark);
  std::unique_ptr<PendingCall> end_call(const SelectStats *stats);

  uint64_t submit();                                    // what was recorded; returns a number for wait
  bool wait(uint64_t submission, uint64_t timeout_ns);  // false: timeout. Throws device_lost
  void wait();                                          // for everything
  // The next submission waits for these, and with it what follows.
  void wait_for(const std::vector<Semaphore> &list);
  void signal(const std::vector<Semaphore> &list);  // behind all that was recorded
  // Of a target: what was recorded or counted so far.
  uint32_t parts() const { return part_ + (recording_ >= 0 ? 1 : 0); }
  double flops() const { return flops_; }
  uint32_t sets() const { return sets_; }
  uint32_t bindings() const { return bindings_; }  // of all sets
  // Frees device memory when all work recorded so far is done.
  void free_later(const Memory &memory);
  // Between calls: if nothing is in flight, uploads are gone and what is to be freed is freed.
  void recycle();

private:
  struct Slot {  // a submission in the making, in flight, or free
    VkCommandPool pool = VK_NULL_HANDLE;
    VkCommandBuffer commands = VK_NULL_HANDLE;
    VkFence fence = VK_NULL_HANDLE;
    uint64_t id = 0;  // 0: free
    double flops = 0;
    std::chrono::steady_clock::time_point submitted;
    std::vector<VkDescriptorPool> descriptor_pools;
    size_t descriptor_pool = 0;  // in use
    uint32_t sets_left = 0;
  };
  struct Uploads {
    std::vector<HostBuffer> blocks;
    size_t block = 0;
    uint64_t used = 0;
  };
  // Two buffers between the host's memory and the device's, in turn: one is copied while the other is filled or read.
  struct Staging {
    struct Side {
      HostBuffer buffer;
      uint64_t used_by = 0;  // the last submission
    };
    Side sides[2];
    bool second = false;  // the next one
  };
  class PendingVulkan;
  // What was stamped of a call.
  struct CallTimes {
    enum class What { begin, gate_begin, gate_end, attend_begin, attend_end, end };
    std::vector<What> stamps;  // of the queries, in their order
    std::chrono::steady_clock::time_point start, marked;
    uint64_t gate_ns = 0, attend_ns = 0;  // so far
    uint64_t first = 0;                   // tick of `begin`
    uint64_t device_ns = 0;
  };

  void dispatch_bytes(Exec &exec, const Kernel &kernel, std::span<const Window> windows, void *push, size_t push_bytes,
                      const Work &work);
  Slot &current();  // begins one if need be
  VkDescriptorSet descriptor_set(Slot &slot, const Kernel &kernel);
  void bind(Slot &slot, const Kernel &kernel, std::span<const Window> windows);
  void barrier(Slot &slot);
  bool retire(Slot &slot, uint64_t timeout_ns);
  double budget() const;  // flops of a submission or part
  bool emits() const;     // whether this part is wanted
  void make_slot(Slot &slot);
  Staging::Side &staging(bool read_back, uint64_t bytes);
  void copy_buffer(VkBuffer from, uint64_t from_offset, VkBuffer to, uint64_t to_offset, uint64_t bytes);
  void stamp(CallTimes::What what);
  void collect_stamps();
  CallResult finish_call(uint64_t submission, bool stats);

  Gpu &device_;
  const bool external_ = false;
  const Target target_;
  uint32_t part_ = 0;
  double flops_ = 0;
  uint32_t sets_ = 0, bindings_ = 0;
  std::vector<Slot> slots_;
  int recording_ = -1;
  uint64_t next_id_ = 1, done_ = 0;
  Mark mark_ = Mark::none;
  bool pending_ = false;  // work before this point that later work may depend on
  Uploads uploads_;
  std::vector<Memory> to_free_;
  std::vector<VkSemaphore> waits_;  // of the next submission
  std::vector<uint64_t> wait_values_;
  HostBuffer absent_;
  Staging staging_[2];  // to the device, and back
  CallTimes times_;
  VkQueryPool queries_ = VK_NULL_HANDLE;
  HostBuffer stats_;
  double rate_ = 0;  // flops a second, measured; 0 = not yet
  std::chrono::steady_clock::time_point last_retired_;
};

// Cuts [0, n) into runs (first, count) such that bytes(first, count), a bound of what their bindings see, does not go
// beyond max_range: each run gets the body. Throws unsupported if a single one goes beyond it.
template <class Bytes, class Body>
void each_window(const Caps &caps, int64_t n, Bytes bytes, Body body) {
  const auto fits = [&](int64_t first, int64_t count) {
    return uint64_t(bytes(first, count)) + caps.offset_alignment <= caps.max_range;
  };
  for (int64_t first = 0, count; first < n; first += count) {
    count = n - first;
    if (!fits(first, count)) {
      int64_t low = 1;
      SEER_REQUIRE(fits(first, low), Status::unsupported,
                   "a row of a tensor takes more than the %llu bytes that a binding of this device sees",
                   (unsigned long long)caps.max_range);
      while (low + 1 < count) {  // the largest that fits: low does, count does not
        const int64_t middle = low + (count - low) / 2;
        (fits(first, middle) ? low : count) = middle;
      }
      count = low;
    }
    body(first, count);
  }
}

}  // namespace seer::vulkan
