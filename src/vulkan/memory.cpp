#include "memory.h"

#include <bit>
#include <mutex>

#include "device.h"

namespace seer::vulkan {
namespace {

constexpr uint64_t kPage = 4096;

// The best type for what is asked: all of `required`, as many of `wanted` as may be, in their order.
int32_t memory_type(const Gpu &device, uint32_t allowed, VkMemoryPropertyFlags required,
                    std::initializer_list<VkMemoryPropertyFlags> wanted, VkMemoryPropertyFlags unwanted = 0) {
  const auto &p = device.memory_properties;
  int32_t best = -1;
  int best_score = -1;
  for (uint32_t i = 0; i < p.memoryTypeCount; i++) {
    const VkMemoryPropertyFlags flags = p.memoryTypes[i].propertyFlags;
    // Device-coherent and protected memory cost speed or cannot be used.
    constexpr VkMemoryPropertyFlags odd = VK_MEMORY_PROPERTY_DEVICE_COHERENT_BIT_AMD |
                                          VK_MEMORY_PROPERTY_PROTECTED_BIT | VK_MEMORY_PROPERTY_LAZILY_ALLOCATED_BIT;
    if (!(allowed >> i & 1) || (flags & required) != required || (flags & odd)) continue;
    int score = 0;
    for (VkMemoryPropertyFlags w : wanted) score = 2 * score + ((flags & w) == w);
    score = 2 * score + !(flags & unwanted);
    if (score > best_score) {
      best = int32_t(i);
      best_score = score;
    }
  }
  return best;
}

constexpr VkMemoryPropertyFlags kHost = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
constexpr VkMemoryPropertyFlags kLocal = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
constexpr VkMemoryPropertyFlags kCached = VK_MEMORY_PROPERTY_HOST_CACHED_BIT;

VkBuffer make_buffer(Gpu &device, uint64_t size) {
  VkBufferCreateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO;
  info.size = size;
  info.usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT;
  VkBuffer buffer = VK_NULL_HANDLE;
  device.check(device.fn.vkCreateBuffer(device.handle, &info, device.allocation, &buffer), "vkCreateBuffer");
  return buffer;
}

struct Bound {
  VkDeviceMemory memory = VK_NULL_HANDLE;
  void *mapped = nullptr;
  VkMemoryPropertyFlags flags = 0;
};

// Memory of the type that `choose` picks, bound to the buffer and mapped where the host can see it.
template <class Choose>
Bound bind_memory(Gpu &device, VkBuffer buffer, bool map, Choose choose) {
  VkMemoryRequirements needs;
  device.fn.vkGetBufferMemoryRequirements(device.handle, buffer, &needs);
  const int32_t type = choose(needs.memoryTypeBits);
  SEER_REQUIRE(type >= 0, Status::device_out_of_memory, "the device has no memory of a fitting type");
  VkMemoryAllocateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO;
  info.allocationSize = needs.size;
  info.memoryTypeIndex = uint32_t(type);
  Bound bound;
  bound.flags = device.memory_properties.memoryTypes[type].propertyFlags;
  const VkResult result = device.fn.vkAllocateMemory(device.handle, &info, device.allocation, &bound.memory);
  if (result == VK_ERROR_OUT_OF_DEVICE_MEMORY || result == VK_ERROR_OUT_OF_HOST_MEMORY ||
      result == VK_ERROR_TOO_MANY_OBJECTS)
    fail(Status::device_out_of_memory, "%llu bytes of device memory cannot be had", (unsigned long long)needs.size);
  device.check(result, "vkAllocateMemory");
  try {
    device.check(device.fn.vkBindBufferMemory(device.handle, buffer, bound.memory, 0), "vkBindBufferMemory");
    if (map && (bound.flags & kHost) == kHost)
      device.check(device.fn.vkMapMemory(device.handle, bound.memory, 0, VK_WHOLE_SIZE, 0, &bound.mapped),
                   "vkMapMemory");
  } catch (...) {
    device.fn.vkFreeMemory(device.handle, bound.memory, device.allocation);
    throw;
  }
  return bound;
}

}  // namespace

MemoryMap::~MemoryMap() {
  for (const auto &[address, block] : blocks_) {
    if (!block.memory) continue;
    device_.fn.vkDestroyBuffer(device_.handle, block.buffer, device_.allocation);
    device_.fn.vkFreeMemory(device_.handle, block.memory, device_.allocation);
  }
}

Memory MemoryMap::alloc(uint64_t bytes) {
  const Caps &caps = device_.caps;
  SEER_REQUIRE(bytes <= caps.max_allocation, Status::device_out_of_memory,
               "%llu bytes in one allocation; the device gives at most %llu", (unsigned long long)bytes,
               (unsigned long long)caps.max_allocation);
  // Whole vectors of 16 bytes, so that kernels may read the last element as part of one.
  const uint64_t size = (std::max<uint64_t>(bytes, 1) + 15) / 16 * 16;
  Block block;
  block.buffer = make_buffer(device_, size);
  block.size = size;
  try {
    const Bound bound = bind_memory(device_, block.buffer, caps.unified_memory, [&](uint32_t allowed) {
      if (caps.unified_memory) return memory_type(device_, allowed, kLocal, {kHost, kHost | kCached});
      return memory_type(device_, allowed, kLocal, {}, VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT);
    });
    block.memory = bound.memory;
    block.mapped = bound.mapped;
    block.cached = bound.flags & kCached;
    std::unique_lock lock(mutex_);
    const uintptr_t address = next_;
    blocks_.emplace(address, block);
    next_ += (size / kPage + 2) * kPage;  // a page between two allocations, so that none ends where another begins
    return {.address = reinterpret_cast<void *>(address), .handle = 0, .size = bytes};
  } catch (...) {
    device_.fn.vkDestroyBuffer(device_.handle, block.buffer, device_.allocation);
    if (block.memory) device_.fn.vkFreeMemory(device_.handle, block.memory, device_.allocation);
    throw;
  }
}

Memory MemoryMap::borrow(VkBuffer buffer, uint64_t offset, uint64_t size) {
  SEER_REQUIRE(size <= uint64_t{1} << 56, Status::out_of_bounds, "a buffer of %llu bytes: more than any memory",
               (unsigned long long)size);
  const uint64_t range = std::bit_ceil(std::max(size + kPage, 2 * kPage));
  std::unique_lock lock(mutex_);
  std::vector<uintptr_t> &spare = spare_[size_t(std::countr_zero(range))];
  const uintptr_t address = spare.empty() ? next_ : spare.back();
  Block block;
  block.buffer = buffer;
  block.offset = offset;
  block.size = size;
  blocks_.emplace(address, block);
  if (spare.empty())
    next_ += range;
  else
    spare.pop_back();
  return {.address = reinterpret_cast<void *>(address), .handle = reinterpret_cast<uint64_t>(buffer), .size = size};
}

void MemoryMap::rebind(const Memory &borrowed, VkBuffer buffer, uint64_t offset) {
  std::unique_lock lock(mutex_);
  Block &block = blocks_.at(reinterpret_cast<uintptr_t>(borrowed.address));
  block.buffer = buffer;
  block.offset = offset;
}

void MemoryMap::free(const Memory &memory) noexcept {
  if (!memory.address) return;
  const auto address = reinterpret_cast<uintptr_t>(memory.address);
  Block block;
  {
    std::unique_lock lock(mutex_);
    const auto found = blocks_.find(address);
    if (found == blocks_.end()) return;
    block = found->second;
    blocks_.erase(found);
    if (!block.memory) {
      const uint64_t range = std::bit_ceil(std::max(block.size + kPage, 2 * kPage));
      try {
        spare_[size_t(std::countr_zero(range))].push_back(address);
      } catch (const std::bad_alloc &) {  // there are more addresses
      }
      return;
    }
  }
  device_.fn.vkDestroyBuffer(device_.handle, block.buffer, device_.allocation);
  device_.fn.vkFreeMemory(device_.handle, block.memory, device_.allocation);
}

Place MemoryMap::find(const void *pointer, uint64_t bytes) const {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  std::shared_lock lock(mutex_);
  auto after = blocks_.upper_bound(address);
  if (after != blocks_.begin()) {
    const auto &[start, block] = *--after;
    const uint64_t offset = address - start;
    if (offset <= block.size && bytes <= block.size - offset)
      return {.buffer = block.buffer,
              .offset = block.offset + offset,
              .end = block.offset + block.size,
              .mapped = block.mapped ? static_cast<char *>(block.mapped) + offset : nullptr,
              .cached = block.cached};
  }
  fail(Status::internal, "%llu bytes at %p are not in one allocation of this Vulkan device", (unsigned long long)bytes,
       pointer);
}

HostBuffer make_host_buffer(Gpu &device, uint64_t bytes, bool read_back) {
  HostBuffer host;
  host.size = (std::max<uint64_t>(bytes, 1) + 15) / 16 * 16;
  host.buffer = make_buffer(device, host.size);
  try {
    const Bound bound = bind_memory(device, host.buffer, true, [&](uint32_t allowed) {
      if (read_back) return memory_type(device, allowed, kHost, {kCached}, kLocal);
      return memory_type(device, allowed, kHost, {}, kCached | (device.caps.unified_memory ? 0 : kLocal));
    });
    host.memory = bound.memory;
    host.mapped = static_cast<char *>(bound.mapped);
  } catch (...) {
    device.fn.vkDestroyBuffer(device.handle, host.buffer, device.allocation);
    throw;
  }
  return host;
}

void free_host_buffer(Gpu &device, HostBuffer &host) noexcept {
  if (!host.buffer) return;
  device.fn.vkDestroyBuffer(device.handle, host.buffer, device.allocation);
  device.fn.vkFreeMemory(device.handle, host.memory, device.allocation);
  host = {};
}

}  // namespace seer::vulkan
