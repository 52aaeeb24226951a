// Device memory. Every allocation gets a range of addresses from a space of its own that nothing maps: the core adds
// offsets to them as to any pointer, and kernels' arguments are resolved from them to a buffer and an offset.
#pragma once
#include <cstdint>
#include <map>
#include <shared_mutex>

#include "../backend.h"
#include "caps.h"

namespace seer::vulkan {

struct Gpu;

// Where an address lies.
struct Place {
  VkBuffer buffer = VK_NULL_HANDLE;
  uint64_t offset = 0, size = 0;  // of the address in the buffer; size of the buffer
  void *mapped = nullptr;         // host address of that byte, or null
  bool cached = false;            // the host reads it at full speed
};

// Thread-safe.
class MemoryMap {
public:
  explicit MemoryMap(Gpu &device) : device_(device) {}
  ~MemoryMap();

  Memory alloc(uint64_t bytes);  // throws device_out_of_memory
  void free(const Memory &memory) noexcept;
  // Throws internal unless [address, address + bytes) lies within one allocation.
  Place find(const void *address, uint64_t bytes) const;

private:
  struct Block {
    VkBuffer buffer;
    VkDeviceMemory memory;
    uint64_t size;
    void *mapped;
    bool cached;
  };
  Gpu &device_;
  mutable std::shared_mutex mutex_;
  std::map<uintptr_t, Block> blocks_;
  uintptr_t next_ = uintptr_t{1} << 44;
};

// A buffer that the host fills or reads, always mapped.
struct HostBuffer {
  VkBuffer buffer = VK_NULL_HANDLE;
  VkDeviceMemory memory = VK_NULL_HANDLE;
  uint64_t size = 0;
  char *mapped = nullptr;
};
HostBuffer make_host_buffer(Gpu &device, uint64_t bytes, bool read_back);
void free_host_buffer(Gpu &device, HostBuffer &buffer) noexcept;

}  // namespace seer::vulkan
