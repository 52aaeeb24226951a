// Copies between the host's memory and the device's.
#include <algorithm>
#include <bit>

#include "device.h"
#include "dispatch.h"

namespace seer::vulkan {
namespace {

// Of a side of staging: host memory that the device can reach takes time to make, and copies of this size already run
// at full speed.
constexpr uint64_t kSmallestSide = uint64_t{64} << 10, kLargestSide = uint64_t{4} << 20;
constexpr uint64_t kUpdateLimit = 65536;  // of vkCmdUpdateBuffer

}  // namespace

// The next side, which nothing uses any more, of up to so many bytes.
Recorder::Staging::Side &Recorder::staging(bool read_back, uint64_t bytes) {
  Staging &staging = staging_[read_back];
  Staging::Side &side = staging.sides[staging.second];
  staging.second = !staging.second;
  wait(side.used_by, UINT64_MAX);
  const uint64_t wanted = std::clamp(std::bit_ceil(bytes), kSmallestSide, kLargestSide);
  if (side.buffer.size < wanted) {
    free_host_buffer(device_, side.buffer);
    side.buffer = make_host_buffer(device_, wanted, read_back);
  }
  return side;
}

void Recorder::copy_buffer(VkBuffer from, uint64_t from_offset, VkBuffer to, uint64_t to_offset, uint64_t bytes) {
  Slot &slot = current();
  barrier(slot);
  const VkBufferCopy region{from_offset, to_offset, bytes};
  if (emits()) device_.fn.vkCmdCopyBuffer(slot.commands, from, to, 1, &region);
  pending_ = true;
}

void Recorder::write(const void *address, const void *src, uint64_t bytes) {
  if (bytes == 0) return;
  SEER_REQUIRE(!external_, Status::internal, "a write into the caller's command buffer");
  const Place place = device_.memory->find(address, bytes);
  const bool idle = recording_ < 0 && done_ + 1 == next_id_ && waits_.empty();
  if (place.mapped && idle) {
    std::memcpy(place.mapped, src, bytes);
    return;
  }
  const auto *from = static_cast<const char *>(src);
  if (bytes <= kUpdateLimit && bytes % 4 == 0 && place.offset % 4 == 0) {
    Slot &slot = current();
    barrier(slot);  // also behind reads of what is overwritten
    device_.fn.vkCmdUpdateBuffer(slot.commands, place.buffer, place.offset, bytes, from);
    pending_ = true;
    return;
  }
  if (place.mapped) {
    wait();
    std::memcpy(place.mapped, src, bytes);
    return;
  }
  for (uint64_t at = 0, part; at < bytes; at += part) {
    Staging::Side &side = staging(false, bytes - at);
    part = std::min(side.buffer.size, bytes - at);
    std::memcpy(side.buffer.mapped, from + at, part);
    copy_buffer(side.buffer.buffer, 0, place.buffer, place.offset + at, part);
    side.used_by = submit();
  }
}

void Recorder::read(const void *address, void *dst, uint64_t bytes) {
  if (bytes == 0) return;
  SEER_REQUIRE(!external_, Status::internal, "a read into the caller's command buffer");
  const Place place = device_.memory->find(address, bytes);
  if (place.mapped && place.cached) {
    wait();
    std::memcpy(dst, place.mapped, bytes);
    return;
  }
  struct Part {
    Staging::Side *side = nullptr;
    uint64_t at = 0, bytes = 0;
  } before;
  const auto take = [&] {
    if (!before.side) return;
    wait(before.side->used_by, UINT64_MAX);
    std::memcpy(static_cast<char *>(dst) + before.at, before.side->buffer.mapped, before.bytes);
  };
  for (uint64_t at = 0; at < bytes; at += before.bytes) {
    Part part{.side = &staging(true, bytes - at), .at = at};
    part.bytes = std::min(part.side->buffer.size, bytes - at);
    copy_buffer(place.buffer, place.offset + at, part.side->buffer.buffer, 0, part.bytes);
    part.side->used_by = submit();  // which makes it visible to the host
    take();
    before = part;
  }
  take();
}

void Recorder::fill_zero(const void *address, uint64_t bytes) {
  if (bytes == 0) return;
  const Place place = device_.memory->find(address, bytes);
  Slot &slot = current();
  barrier(slot);
  if (emits()) device_.fn.vkCmdFillBuffer(slot.commands, place.buffer, place.offset, bytes, 0);
  pending_ = true;
}

void Recorder::copy(const void *address, const Window &to, uint64_t bytes) {
  const Place place = device_.memory->find(address, bytes);
  copy_buffer(place.buffer, place.offset, to.buffer, to.offset, bytes);
}

}  // namespace seer::vulkan
