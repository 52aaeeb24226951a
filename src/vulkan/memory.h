// Device memory. Every allocation, and every buffer of the caller's while it is used, gets a range of addresses from a
// space of its own that nothing maps: the core adds offsets to them as to any pointer, and kernels' arguments are
// resolved from them to a buffer and an offset.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <shared_mutex>
#include <vector>

#include "../backend.h"
#include "caps.h"

namespace seer::vulkan {

struct Gpu;
struct External;  // interop.h

// Where an address lies.
struct Place {
  VkBuffer buffer = VK_NULL_HANDLE;
  uint64_t offset = 0;     // of the address in the buffer
  uint64_t end = 0;        // of what may be used of the buffer
  void *mapped = nullptr;  // host address of that byte, or null
  bool cached = false;     // the host reads it at full speed
};

// Thread-safe.
class MemoryMap {
public:
  explicit MemoryMap(Gpu &device) : device_(device) {}
  ~MemoryMap();

  Memory alloc(uint64_t bytes);  // throws device_out_of_memory
  // Memory that others can have by a file descriptor, and such memory of others. Throw unsupported where the device
  // does not do that.
  Memory share(uint64_t bytes, External &external);
  Memory take(const External &external);
  // Host memory in place: the pages that it lies in, which stay the caller's. Throws unsupported, naming what keeps the
  // device from it.
  Memory import_host(void *data, uint64_t bytes);
  // `size` bytes from `offset` on of a buffer that somebody else owns. A null buffer can be given an address, too, and
  // the buffer be named later. Ends with free().
  Memory borrow(VkBuffer buffer, uint64_t offset, uint64_t size);
  void rebind(const Memory &borrowed, VkBuffer buffer, uint64_t offset);
  void free(const Memory &memory) noexcept;
  // Throws internal unless [address, address + bytes) lies within one allocation.
  Place find(const void *address, uint64_t bytes) const;

private:
  struct Block {
    VkBuffer buffer = VK_NULL_HANDLE;
    VkDeviceMemory memory = VK_NULL_HANDLE;  // null: borrowed
    uint64_t offset = 0, size = 0;
    void *mapped = nullptr;
    bool cached = false;
  };
  void check_size(uint64_t bytes) const;
  Memory add(const Block &block, uint64_t bytes);
  void destroy(const Block &block) noexcept;

  Gpu &device_;
  mutable std::shared_mutex mutex_;
  std::map<uintptr_t, Block> blocks_;
  uintptr_t next_ = uintptr_t{1} << 44;
  // Addresses that borrowed buffers had, by the logarithm of their ranges: calls borrow again and again.
  std::array<std::vector<uintptr_t>, 64> spare_;
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
