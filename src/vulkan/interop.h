// What seerattn_vulkan.h does beyond the backend's table, without Vulkan's headers, so that capi/ builds where the
// backend is a stub: contexts on the caller's device, the caller's buffers, semaphores and command buffers.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "../context.h"

namespace seer {

// seer_vulkan_import, checked as far as it can be without asking a driver.
struct VulkanImport {
  uint32_t api_version = 0;
  void *get_instance_proc_addr = nullptr, *instance = nullptr, *physical_device = nullptr, *device = nullptr;
  void *queue = nullptr;  // null: to be fetched by what follows
  uint32_t queue_family = 0, queue_index = 0, queue_flags = 0;
  std::vector<std::string> extensions;
  const void *features = nullptr;  // VkPhysicalDeviceFeatures2 and its chain; null: nothing is enabled
  void (*lock)(void *user) = nullptr;
  void (*unlock)(void *user) = nullptr;
  void *user = nullptr;
  const void *allocation_callbacks = nullptr;  // VkAllocationCallbacks; copied
  uint64_t pipeline_cache = 0;                 // VkPipelineCache, to be used and not destroyed
};

namespace vulkan {

// Extensions to enable on this physical device, and the features to enable set in the structures of `features`
// (VkPhysicalDeviceFeatures2 with a chain, or null). Both are what the backend can use and the device has.
std::vector<const char *> recommend(void *get_instance_proc_addr, void *instance, void *physical_device,
                                    uint32_t api_version, void *features);

// Whether the device is the caller's.
bool is_imported(const Device &device);

// The caller's VkBuffer as memory that stages take, for as long as the result lives. Null on devices that are not the
// caller's: whatever the handle names, it is not theirs.
std::shared_ptr<const Memory> borrow(Device &device, uint64_t buffer, uint64_t size);

struct BufferRange {
  uint64_t buffer = 0, offset = 0, size = 0;
};
// The VkBuffer behind the library's memory.
BufferRange range_of(const Device &device, const Memory &memory);

// Memory that other APIs and processes on the same device can have, too: an opaque file descriptor, on Windows an
// opaque handle, and what to know of it.
struct External {
  int fd = -1;
  void *handle = nullptr;
  uint64_t allocation_size = 0, size = 0;
  uint32_t memory_type = 0;
};
// Makes some; the descriptor or handle is the caller's.
Memory share_memory(Device &device, uint64_t bytes, External &external);
// Takes it; a descriptor is the driver's if this does not throw, a handle stays the caller's.
Memory take_memory(Device &device, const External &external);
// Host memory that stages use where it is, until it is freed.
Memory host_memory(Device &device, void *data, uint64_t bytes);

struct Semaphore {
  uint64_t handle = 0, value = 0;  // timeline
};
// Throw unsupported naming what the device lacks.
void check_semaphores(const Device &device);
// On the queue's thread. What is recorded from now on waits for them; what was recorded signals them at its end.
void wait_semaphores(Device &device, const std::vector<Semaphore> &list);
void signal_semaphores(Device &device, const std::vector<Semaphore> &list);

// ---- Calls recorded into the caller's command buffers
// -----------------------------------------------------------------

struct TensorSet {  // those that a call has
  Tensor q, k, v, out, lse, scores, mask;
};

struct Recording {
  void *commands = nullptr;  // VkCommandBuffer
  int32_t layer = 0;         // as the model numbers it
  TensorSet tensors;
  std::shared_ptr<ChunkCache> cache;  // of a plan with one
  BufferRange workspace, stats;
  uint64_t descriptor_pool = 0;        // VkDescriptorPool; where the device has no push descriptors
  uint32_t first_part = 0, parts = 0;  // 0 = all from the first
};

using PlannedDesc = std::variant<PrefillDesc, GateDesc, SelectDesc, AttentionDesc>;

// A call of given sizes with everything that recording it must not make: kernels, compiled, tested, and tables of RoPE.
// Thread-safe; recordings of one plan take turns. Used by command buffers, so it outlives their execution.
class Plan {
public:
  // Takes the sizes of the tensors and of the cache (null = none), not their memory. model null: of select and
  // attention. Blocks: submits a job to the context's queue. part_flops: what a part may have, 0 = all.
  static std::shared_ptr<Plan> make(std::shared_ptr<Context> context, std::shared_ptr<const Model> model,
                                    PlannedDesc desc, std::shared_ptr<ChunkCache> cache, double part_flops);
  virtual ~Plan() = default;

  virtual void record(const Recording &recording) = 0;
  Context &context() const { return *context_; }

  uint64_t workspace_bytes = 0, workspace_alignment = 0;
  uint32_t parts = 0;
  double flops = 0;
  uint32_t descriptor_sets = 0, descriptors = 0;  // that descriptor_pool must have room for; 0: none is needed

protected:
  explicit Plan(std::shared_ptr<Context> context) : context_(std::move(context)) {}
  const std::shared_ptr<Context> context_;
};

}  // namespace vulkan
}  // namespace seer
