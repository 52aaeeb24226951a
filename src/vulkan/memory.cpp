#include "memory.h"

#include <bit>
#include <mutex>

#include "device.h"
#include "interop.h"

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

VkBuffer make_buffer(Gpu &device, uint64_t size, const void *next = nullptr) {
  VkBufferCreateInfo info{};
  info.pNext = next;
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
  uint32_t type = 0;
  uint64_t size = 0;  // of the allocation
};

// Memory of the type that `choose` picks, bound to the buffer and mapped where the host can see it. `next` and `size`
// are of memory that is shared.
template <class Choose>
Bound bind_memory(Gpu &device, VkBuffer buffer, bool map, Choose choose, const void *next = nullptr,
                  uint64_t size = 0) {
  VkMemoryRequirements needs;
  device.fn.vkGetBufferMemoryRequirements(device.handle, buffer, &needs);
  const int32_t type = choose(needs.memoryTypeBits);
  SEER_REQUIRE(type >= 0, Status::device_out_of_memory, "the device has no memory of a fitting type");
  VkMemoryAllocateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO;
  info.pNext = next;
  info.allocationSize = size ? size : needs.size;
  info.memoryTypeIndex = uint32_t(type);
  Bound bound;
  bound.type = info.memoryTypeIndex;
  bound.size = info.allocationSize;
  bound.flags = device.memory_properties.memoryTypes[type].propertyFlags;
  const VkResult result = device.fn.vkAllocateMemory(device.handle, &info, device.allocation, &bound.memory);
  if (result == VK_ERROR_OUT_OF_DEVICE_MEMORY || result == VK_ERROR_OUT_OF_HOST_MEMORY ||
      result == VK_ERROR_TOO_MANY_OBJECTS)
    fail(Status::device_out_of_memory, "%llu bytes of device memory cannot be had", (unsigned long long)needs.size);
  SEER_REQUIRE(result != VK_ERROR_INVALID_EXTERNAL_HANDLE, Status::invalid_argument,
               "the driver does not take what it was given as memory of this device");
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
    if (block.memory) destroy(block);
  }
}

void MemoryMap::destroy(const Block &block) noexcept {
  device_.fn.vkDestroyBuffer(device_.handle, block.buffer, device_.allocation);
  if (block.memory) device_.fn.vkFreeMemory(device_.handle, block.memory, device_.allocation);
}

void MemoryMap::check_size(uint64_t bytes) const {
  const uint64_t most = device_.caps.max_allocation;
  SEER_REQUIRE(bytes <= most, Status::device_out_of_memory,
               "%llu bytes in one allocation; the device gives at most %llu", (unsigned long long)bytes,
               (unsigned long long)most);
}

Memory MemoryMap::add(const Block &block, uint64_t bytes) {
  std::unique_lock lock(mutex_);
  const uintptr_t address = next_;
  blocks_.emplace(address, block);
  next_ += (block.size / kPage + 2) * kPage;  // a page between two allocations, so that none ends where another begins
  return {.address = reinterpret_cast<void *>(address), .handle = 0, .size = bytes};
}

namespace {

// Whole vectors of 16 bytes, so that kernels may read the last element as part of one.
uint64_t padded(uint64_t bytes) { return (std::max<uint64_t>(bytes, 1) + 15) / 16 * 16; }

}  // namespace

Memory MemoryMap::alloc(uint64_t bytes) {
  const Caps &caps = device_.caps;
  check_size(bytes);
  Block block;
  block.size = padded(bytes);
  block.buffer = make_buffer(device_, block.size);
  try {
    const Bound bound = bind_memory(device_, block.buffer, caps.unified_memory, [&](uint32_t allowed) {
      if (caps.unified_memory) return memory_type(device_, allowed, kLocal, {kHost, kHost | kCached});
      return memory_type(device_, allowed, kLocal, {}, VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT);
    });
    block.memory = bound.memory;
    block.mapped = bound.mapped;
    block.cached = bound.flags & kCached;
    return add(block, bytes);
  } catch (...) {
    destroy(block);
    throw;
  }
}

namespace {

#if defined(_WIN32)
constexpr auto kOpaque = VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT;
#else
constexpr auto kOpaque = VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT;
#endif
constexpr auto kHostPointer = VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT;

// That buffers like ours can have memory of this type. Returns the structure for their creation.
VkExternalMemoryBufferCreateInfo check_external(const Gpu &device, VkExternalMemoryHandleTypeFlagBits type,
                                                VkExternalMemoryFeatureFlagBits wanted, const char *what) {
  VkPhysicalDeviceExternalBufferInfo info{};
  info.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_BUFFER_INFO;
  info.usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT;
  info.handleType = type;
  VkExternalBufferProperties properties{};
  properties.sType = VK_STRUCTURE_TYPE_EXTERNAL_BUFFER_PROPERTIES;
  device.instance->fn().vkGetPhysicalDeviceExternalBufferProperties(device.physical, &info, &properties);
  const VkExternalMemoryFeatureFlags has = properties.externalMemoryProperties.externalMemoryFeatures;
  SEER_REQUIRE((has & wanted) && !(has & VK_EXTERNAL_MEMORY_FEATURE_DEDICATED_ONLY_BIT), Status::unsupported,
               "the driver does not %s", what);
  VkExternalMemoryBufferCreateInfo external{};
  external.sType = VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO;
  external.handleTypes = type;
  return external;
}

VkExternalMemoryBufferCreateInfo check_shared(const Gpu &device, VkExternalMemoryFeatureFlagBits wanted,
                                              const char *what) {
  const bool callable = device.fn.vkGetMemoryFdKHR || device.fn.vkGetMemoryWin32HandleKHR;
  SEER_REQUIRE(device.caps.external && callable, Status::unsupported, "shared memory needs the extension %s, which %s",
               external_memory_extension(),
               device.imported ? "the context's device was imported without" : "the device does not have");
  return check_external(device, kOpaque, wanted, what);
}

// What names memory to others; theirs to close.
VkResult get_handle(const Gpu &device, VkDeviceMemory memory, External &external) {
#if defined(_WIN32)
  ext::MemoryGetWin32HandleInfo get;
  get.memory = memory;
  return device.fn.vkGetMemoryWin32HandleKHR(device.handle, &get, &external.handle);
#else
  VkMemoryGetFdInfoKHR get{};
  get.sType = VK_STRUCTURE_TYPE_MEMORY_GET_FD_INFO_KHR;
  get.memory = memory;
  get.handleType = kOpaque;
  return device.fn.vkGetMemoryFdKHR(device.handle, &get, &external.fd);
#endif
}

}  // namespace

Memory MemoryMap::share(uint64_t bytes, External &external) {
  const auto create =
      check_shared(device_, VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT, "give away storage buffers' memory");
  check_size(bytes);
  Block block;
  block.size = padded(bytes);
  block.buffer = make_buffer(device_, block.size, &create);
  try {
    VkExportMemoryAllocateInfo exported{};
    exported.sType = VK_STRUCTURE_TYPE_EXPORT_MEMORY_ALLOCATE_INFO;
    exported.handleTypes = kOpaque;
    const Bound bound = bind_memory(
        device_, block.buffer, false,
        [&](uint32_t allowed) {
          return memory_type(device_, allowed, kLocal, {}, VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT);
        },
        &exported);
    block.memory = bound.memory;
    const Memory memory = add(block, bytes);
    const VkResult result = get_handle(device_, block.memory, external);
    if (result != VK_SUCCESS) {
      free(memory);
      block = {};
      device_.check(result, "the memory's handle");
    }
    external.allocation_size = bound.size;
    external.size = bytes;
    external.memory_type = bound.type;
    return memory;
  } catch (...) {
    destroy(block);
    throw;
  }
}

Memory MemoryMap::take(const External &external) {
  const auto create =
      check_shared(device_, VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT, "take others' memory for storage buffers");
  check_size(external.allocation_size);
  Block block;
  block.size = padded(external.size);
  block.buffer = make_buffer(device_, block.size, &create);
  try {
    VkMemoryRequirements needs;
    device_.fn.vkGetBufferMemoryRequirements(device_.handle, block.buffer, &needs);
    SEER_REQUIRE(needs.size <= external.allocation_size, Status::out_of_bounds,
                 "a buffer of %llu bytes takes %llu; the memory has %llu", (unsigned long long)external.size,
                 (unsigned long long)needs.size, (unsigned long long)external.allocation_size);
    SEER_REQUIRE(external.memory_type < device_.memory_properties.memoryTypeCount &&
                     needs.memoryTypeBits >> external.memory_type & 1,
                 Status::invalid_argument, "memory_type is %u, which storage buffers of this device cannot have",
                 external.memory_type);
#if defined(_WIN32)
    ext::ImportMemoryWin32HandleInfo import;
    import.handle = external.handle;
#else
    VkImportMemoryFdInfoKHR import{};
    import.sType = VK_STRUCTURE_TYPE_IMPORT_MEMORY_FD_INFO_KHR;
    import.handleType = kOpaque;
    import.fd = external.fd;
#endif
    const Bound bound = bind_memory(
        device_, block.buffer, false, [&](uint32_t) { return int32_t(external.memory_type); }, &import,
        external.allocation_size);
    block.memory = bound.memory;
    return add(block, external.size);
  } catch (...) {
    destroy(block);
    throw;
  }
}

Memory MemoryMap::import_host(void *data, uint64_t bytes) {
  const uint64_t alignment = device_.caps.host_alignment;
  SEER_REQUIRE(alignment && device_.fn.vkGetMemoryHostPointerPropertiesEXT, Status::unsupported,
               "host memory in place needs the extension %s, which %s", VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME,
               device_.imported ? "the context's device was imported without" : "the device does not have");
  const auto address = reinterpret_cast<uintptr_t>(data);
  // What kernels know of a tensor's alignment holds for its place in the buffer, too.
  SEER_REQUIRE(address % 16 == 0, Status::unsupported, "the memory begins at no multiple of 16");
  // To whole pages: of these the caller has all if it has some. Coarser units may hold what nobody has.
  const bool exact = alignment > kPage;
  SEER_REQUIRE(!exact || (address % alignment == 0 && bytes % alignment == 0), Status::unsupported,
               "the memory's address and size are no multiples of %llu, as the device wants",
               (unsigned long long)alignment);
  const uint64_t unit = exact ? alignment : kPage, before = address % unit;
  const uint64_t whole = (before + bytes + unit - 1) / unit * unit;
  check_size(whole);
  auto *begin = static_cast<char *>(data) - before;
  const auto create = check_external(device_, kHostPointer, VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT,
                                     "take host memory for storage buffers");
  VkMemoryHostPointerPropertiesEXT properties{};
  properties.sType = VK_STRUCTURE_TYPE_MEMORY_HOST_POINTER_PROPERTIES_EXT;
  const VkResult result =
      device_.fn.vkGetMemoryHostPointerPropertiesEXT(device_.handle, kHostPointer, begin, &properties);
  SEER_REQUIRE(result == VK_SUCCESS, Status::unsupported, "the driver does not take this host memory: %s",
               result_name(result));
  Block block;
  block.offset = before;
  block.size = bytes;
  block.buffer = make_buffer(device_, whole, &create);
  try {
    VkMemoryRequirements needs;
    device_.fn.vkGetBufferMemoryRequirements(device_.handle, block.buffer, &needs);
    SEER_REQUIRE(needs.size <= whole, Status::unsupported, "a buffer of %llu bytes takes %llu of the device's memory",
                 (unsigned long long)whole, (unsigned long long)needs.size);
    const auto type = [&](uint32_t allowed) {
      return memory_type(device_, allowed & properties.memoryTypeBits, kHost, {kCached});
    };
    SEER_REQUIRE(type(needs.memoryTypeBits) >= 0, Status::unsupported,
                 "storage buffers cannot have the memory type of this host memory");
    VkImportMemoryHostPointerInfoEXT import{};
    import.sType = VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT;
    import.handleType = kHostPointer;
    import.pHostPointer = begin;
    const Bound bound = bind_memory(device_, block.buffer, false, type, &import, whole);
    block.memory = bound.memory;
    block.mapped = data;
    block.cached = true;
    return add(block, bytes);
  } catch (...) {
    destroy(block);
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
  destroy(block);
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
  host.size = padded(bytes);
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
