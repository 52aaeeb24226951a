#include "dispatch.h"

#include <algorithm>
#include <cmath>

#include "device.h"
#include "interop.h"

namespace seer::vulkan {
namespace {

constexpr uint64_t kUploadBlock = uint64_t{1} << 20;
constexpr uint64_t kAbsentBytes = 16384;
constexpr uint32_t kSetsOfPool = 64, kBindingsOfSet = 16;
constexpr int kSlots = 4;

using Clock = std::chrono::steady_clock;

}  // namespace

Recorder::Recorder(Gpu &device) : device_(device), slots_(kSlots) {
  absent_ = make_host_buffer(device_, kAbsentBytes, false);
}

Recorder::Recorder(Gpu &device, const Target &target)
    : device_(device), external_(true), target_(target), slots_(1), pending_(true) {
  slots_[0].commands = target.commands;
  absent_.buffer = target.absent;
}

Recorder::~Recorder() {
  if (external_) return;
  const DeviceFunctions &fn = device_.fn;
  for (Slot &slot : slots_) {
    if (slot.id) fn.vkWaitForFences(device_.handle, 1, &slot.fence, VK_TRUE, UINT64_MAX);
    for (VkDescriptorPool pool : slot.descriptor_pools)
      fn.vkDestroyDescriptorPool(device_.handle, pool, device_.allocation);
    if (slot.fence) fn.vkDestroyFence(device_.handle, slot.fence, device_.allocation);
    if (slot.pool) fn.vkDestroyCommandPool(device_.handle, slot.pool, device_.allocation);
  }
  for (HostBuffer &block : uploads_.blocks) free_host_buffer(device_, block);
  for (Staging &staging : staging_)
    for (Staging::Side &side : staging.sides) free_host_buffer(device_, side.buffer);
  free_host_buffer(device_, absent_);
  free_host_buffer(device_, stats_);
  if (queries_) fn.vkDestroyQueryPool(device_.handle, queries_, device_.allocation);
  for (const Memory &memory : to_free_) device_.memory->free(memory);
}

// ---- Arguments ------------------------------------------------------------------------------------------------------

bool Recorder::fits(const void *address, uint64_t bytes) const {
  const Place place = device_.memory->find(address, bytes);
  return bytes + place.offset % device_.caps.offset_alignment <= device_.caps.max_range;
}

Window Recorder::window(const void *address, uint64_t bytes) const {
  if (bytes == 0) return absent();
  const Place place = device_.memory->find(address, bytes);
  const uint64_t skip = place.offset % device_.caps.offset_alignment;
  // Whole words: 16-bit data is read by the word, and buffers end on one.
  const uint64_t range = (skip + bytes + 3) / 4 * 4;
  SEER_REQUIRE(range <= device_.caps.max_range, Status::unsupported,
               "a tensor takes %llu bytes at once; a binding of this device sees %llu", (unsigned long long)bytes,
               (unsigned long long)device_.caps.max_range);
  return {.buffer = place.buffer, .offset = place.offset - skip, .range = range, .skip = uint32_t(skip)};
}

// Elsewhere each time: the validation layer takes a dispatch that binds it to write for one that writes it.
Window Recorder::absent() const {
  static thread_local uint32_t next = 0;
  const uint64_t step = std::max(256u, device_.caps.offset_alignment), places = kAbsentBytes / step;
  return {.buffer = absent_.buffer, .offset = places ? next++ % places * step : 0, .range = 16, .skip = 0};
}

Window Recorder::upload(const void *data, uint64_t bytes) {
  if (bytes == 0) return absent();
  SEER_REQUIRE(!external_, Status::internal, "an upload into the caller's command buffer");
  const uint64_t alignment = std::max<uint64_t>(16, device_.caps.offset_alignment);
  const uint64_t range = (bytes + 3) / 4 * 4;  // kernels read words
  Uploads &u = uploads_;
  while (u.block < u.blocks.size() && u.used + range > u.blocks[u.block].size) {
    u.block++;
    u.used = 0;
  }
  if (u.block == u.blocks.size()) u.blocks.push_back(make_host_buffer(device_, std::max(range, kUploadBlock), false));
  const HostBuffer &block = u.blocks[u.block];
  std::memcpy(block.mapped + u.used, data, bytes);
  const Window window{.buffer = block.buffer, .offset = u.used, .range = range, .skip = 0};
  u.used = (u.used + range + alignment - 1) / alignment * alignment;
  return window;
}

// ---- Recording ------------------------------------------------------------------------------------------------------

void Recorder::make_slot(Slot &slot) {
  const DeviceFunctions &fn = device_.fn;
  if (!slot.pool) {
    VkCommandPoolCreateInfo pool{};
    pool.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO;
    pool.flags = VK_COMMAND_POOL_CREATE_TRANSIENT_BIT;
    pool.queueFamilyIndex = device_.queue_family;
    device_.check(fn.vkCreateCommandPool(device_.handle, &pool, device_.allocation, &slot.pool), "vkCreateCommandPool");
  }
  if (!slot.commands) {
    VkCommandBufferAllocateInfo info{};
    info.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO;
    info.commandPool = slot.pool;
    info.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY;
    info.commandBufferCount = 1;
    device_.check(fn.vkAllocateCommandBuffers(device_.handle, &info, &slot.commands), "vkAllocateCommandBuffers");
  }
  if (!slot.fence) {
    VkFenceCreateInfo info{};
    info.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO;
    device_.check(fn.vkCreateFence(device_.handle, &info, device_.allocation, &slot.fence), "vkCreateFence");
  }
}

Recorder::Slot &Recorder::current() {
  if (recording_ >= 0) return slots_[size_t(recording_)];
  if (external_) return slots_[size_t(recording_ = 0)];
  SEER_REQUIRE(!device_.lost, Status::device_lost, "the Vulkan device was lost");
  const auto index = size_t(next_id_ % kSlots);
  Slot &slot = slots_[index];
  if (slot.id) retire(slot, UINT64_MAX);
  make_slot(slot);
  const DeviceFunctions &fn = device_.fn;
  device_.check(fn.vkResetCommandPool(device_.handle, slot.pool, 0), "vkResetCommandPool");
  for (VkDescriptorPool pool : slot.descriptor_pools) fn.vkResetDescriptorPool(device_.handle, pool, 0);
  slot.descriptor_pool = 0;
  slot.sets_left = slot.descriptor_pools.empty() ? 0 : kSetsOfPool;
  VkCommandBufferBeginInfo info{};
  info.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO;
  info.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
  device_.check(fn.vkBeginCommandBuffer(slot.commands, &info), "vkBeginCommandBuffer");
  slot.flops = 0;
  recording_ = int(index);
  return slot;
}

// What was recorded or submitted before is complete and visible to what follows.
void Recorder::barrier(Slot &slot) {
  pending_ = false;
  mark_ = Mark::none;
  if (!emits()) return;
  VkMemoryBarrier memory{};
  memory.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER;
  memory.srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT;
  memory.dstAccessMask = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_READ_BIT |
                         VK_ACCESS_TRANSFER_WRITE_BIT;
  constexpr VkPipelineStageFlags stages = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
  device_.fn.vkCmdPipelineBarrier(slot.commands, stages, stages, 0, 1, &memory, 0, nullptr, 0, nullptr);
}

VkDescriptorSet Recorder::descriptor_set(Slot &slot, const Kernel &kernel) {
  const DeviceFunctions &fn = device_.fn;
  if (!external_ && slot.sets_left == 0) {
    if (!slot.descriptor_pools.empty()) slot.descriptor_pool++;
    if (slot.descriptor_pool == slot.descriptor_pools.size()) {
      const VkDescriptorPoolSize size{VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, kSetsOfPool * kBindingsOfSet};
      VkDescriptorPoolCreateInfo info{};
      info.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO;
      info.maxSets = kSetsOfPool;
      info.poolSizeCount = 1;
      info.pPoolSizes = &size;
      VkDescriptorPool pool = VK_NULL_HANDLE;
      device_.check(fn.vkCreateDescriptorPool(device_.handle, &info, device_.allocation, &pool),
                    "vkCreateDescriptorPool");
      slot.descriptor_pools.push_back(pool);
    }
    slot.sets_left = kSetsOfPool;
  }
  VkDescriptorSetAllocateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO;
  info.descriptorPool = external_ ? target_.sets : slot.descriptor_pools[slot.descriptor_pool];
  info.descriptorSetCount = 1;
  info.pSetLayouts = &kernel.set_layout;
  VkDescriptorSet set = VK_NULL_HANDLE;
  const VkResult result = fn.vkAllocateDescriptorSets(device_.handle, &info, &set);
  SEER_REQUIRE(!external_ || (result != VK_ERROR_OUT_OF_POOL_MEMORY && result != VK_ERROR_FRAGMENTED_POOL),
               Status::out_of_memory, "descriptor_pool has no room for another set of %u storage buffers",
               kernel.bindings);
  device_.check(result, "vkAllocateDescriptorSets");
  slot.sets_left--;
  return set;
}

void Recorder::bind(Slot &slot, const Kernel &kernel, std::span<const Window> windows) {
  SEER_REQUIRE(windows.size() == kernel.bindings && kernel.bindings <= kBindingsOfSet, Status::internal,
               "kernel %s has %u bindings; got %zu", kernel.name.c_str(), kernel.bindings, windows.size());
  VkDescriptorBufferInfo buffers[kBindingsOfSet];
  VkWriteDescriptorSet writes[kBindingsOfSet];
  VkDescriptorSet set = device_.caps.push_descriptor ? VK_NULL_HANDLE : descriptor_set(slot, kernel);
  for (uint32_t i = 0; i < kernel.bindings; i++) {
    buffers[i] = {windows[i].buffer, windows[i].offset, windows[i].range};
    writes[i] = {};
    writes[i].sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET;
    writes[i].dstSet = set;
    writes[i].dstBinding = i;
    writes[i].descriptorCount = 1;
    writes[i].descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
    writes[i].pBufferInfo = &buffers[i];
  }
  const DeviceFunctions &fn = device_.fn;
  fn.vkCmdBindPipeline(slot.commands, VK_PIPELINE_BIND_POINT_COMPUTE, kernel.pipeline);
  if (kernel.bindings == 0) return;
  if (device_.caps.push_descriptor) {
    fn.vkCmdPushDescriptorSetKHR(slot.commands, VK_PIPELINE_BIND_POINT_COMPUTE, kernel.layout, 0, kernel.bindings,
                                 writes);
  } else {
    fn.vkUpdateDescriptorSets(device_.handle, kernel.bindings, writes, 0, nullptr);
    fn.vkCmdBindDescriptorSets(slot.commands, VK_PIPELINE_BIND_POINT_COMPUTE, kernel.layout, 0, 1, &set, 0, nullptr);
  }
}

bool Recorder::emits() const {
  if (!external_) return true;
  return target_.commands && part_ >= target_.first_part &&
         (target_.parts == 0 || part_ - target_.first_part < target_.parts);
}

double Recorder::budget() const {
  if (external_) return target_.part_flops > 0 ? target_.part_flops : HUGE_VAL;
  // Before anything was measured: what a slow device of its kind does within the time.
  const double guess = device_.caps.software() ? 2e9 : 200e9;
  return (rate_ > 0 ? rate_ : guess) * device_.caps.submit_ms * 1e-3;
}

void Recorder::dispatch_bytes(Exec &exec, const Kernel &kernel, std::span<const Window> windows, void *push,
                              size_t push_bytes, const Work &work) {
  if (work.items == 0) return;
  mark_ = Mark::none;
  const Caps &caps = device_.caps;
  SEER_REQUIRE(work.items <= UINT32_MAX && push_bytes == kernel.push_bytes, Status::internal,
               "kernel %s: %llu items, %zu bytes of push constants for %u", kernel.name.c_str(),
               (unsigned long long)work.items, push_bytes, kernel.push_bytes);
  const uint64_t grid = uint64_t{std::min(caps.max_groups_x, 65535u)} * std::min(caps.max_groups_y, 65535u);
  const double cost = std::max(work.flops, 1.0);
  uint64_t units = 0;
  for (uint64_t first = 0; first < work.items;) {
    exec.check_cancelled();
    Slot &slot = current();
    if (first == 0 && !work.beside && pending_) barrier(slot);
    uint64_t count = std::min(work.items - first, grid);
    if (caps.chunk_items) {
      count = std::min<uint64_t>(count, caps.chunk_items);
    } else {
      const double room = (budget() - slot.flops) / cost;
      if (room < 1 && slot.flops > 0) {
        submit();
        continue;
      }
      if (room < double(count)) count = std::max<uint64_t>(1, uint64_t(room));
    }
    if (emits()) {
      const uint32_t range[2] = {uint32_t(first), uint32_t(count)};
      std::memcpy(push, range, sizeof range);
      bind(slot, kernel, windows);
      device_.fn.vkCmdPushConstants(slot.commands, kernel.layout, VK_SHADER_STAGE_COMPUTE_BIT, 0, kernel.push_bytes,
                                    push);
      const uint64_t columns = std::min<uint64_t>(count, std::min(caps.max_groups_x, 65535u));
      device_.fn.vkCmdDispatch(slot.commands, uint32_t(columns), uint32_t((count + columns - 1) / columns), 1);
    }
    flops_ += cost * double(count);
    sets_++;
    bindings_ += kernel.bindings;
    slot.flops += cost * double(count);
    first += count;
    if (caps.chunk_items || slot.flops >= budget()) submit();
    if (const uint64_t reached = uint64_t(double(work.units) * double(first) / double(work.items)); reached > units) {
      exec.step(reached - units);
      units = reached;
    }
  }
  pending_ = true;
}

// ---- Submission -----------------------------------------------------------------------------------------------------

uint64_t Recorder::submit() {
  if (recording_ < 0) return next_id_ - 1;
  Slot &slot = slots_[size_t(recording_)];
  const DeviceFunctions &fn = device_.fn;
  recording_ = -1;
  if (external_) {
    part_++;
    slot.flops = 0;
    return 0;
  }
  // What the host reads after waiting: memory that is mapped.
  VkMemoryBarrier memory{};
  memory.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER;
  memory.srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT;
  memory.dstAccessMask = VK_ACCESS_HOST_READ_BIT;
  fn.vkCmdPipelineBarrier(slot.commands, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT,
                          VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &memory, 0, nullptr, 0, nullptr);
  device_.check(fn.vkEndCommandBuffer(slot.commands), "vkEndCommandBuffer");
  device_.check(fn.vkResetFences(device_.handle, 1, &slot.fence), "vkResetFences");
  VkSubmitInfo info{};
  info.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO;
  info.commandBufferCount = 1;
  info.pCommandBuffers = &slot.commands;
  VkTimelineSemaphoreSubmitInfo values{};
  const std::vector<VkPipelineStageFlags> stages(waits_.size(),
                                                 VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT);
  if (!waits_.empty()) {
    values.sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO;
    values.waitSemaphoreValueCount = uint32_t(wait_values_.size());
    values.pWaitSemaphoreValues = wait_values_.data();
    info.pNext = &values;
    info.waitSemaphoreCount = uint32_t(waits_.size());
    info.pWaitSemaphores = waits_.data();
    info.pWaitDstStageMask = stages.data();
  }
  device_.submit(info, slot.fence);
  waits_.clear();
  wait_values_.clear();
  slot.submitted = Clock::now();
  slot.id = next_id_;
  return next_id_++;
}

void Recorder::wait_for(const std::vector<Semaphore> &list) {
  submit();  // what was recorded before does not wait
  for (const Semaphore &s : list) {
    waits_.push_back(reinterpret_cast<VkSemaphore>(s.handle));
    wait_values_.push_back(s.value);
  }
}

void Recorder::signal(const std::vector<Semaphore> &list) {
  if (!waits_.empty()) current();  // nothing came between: one submission carries the waits
  submit();
  std::vector<VkSemaphore> semaphores;
  std::vector<uint64_t> reached;
  for (const Semaphore &s : list) {
    semaphores.push_back(reinterpret_cast<VkSemaphore>(s.handle));
    reached.push_back(s.value);
  }
  VkTimelineSemaphoreSubmitInfo values{};
  values.sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO;
  values.signalSemaphoreValueCount = uint32_t(reached.size());
  values.pSignalSemaphoreValues = reached.data();
  VkSubmitInfo info{};
  info.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO;
  info.pNext = &values;
  info.signalSemaphoreCount = uint32_t(semaphores.size());
  info.pSignalSemaphores = semaphores.data();
  device_.submit(info, VK_NULL_HANDLE);
}

// Waits for a submission in flight. False: timeout.
bool Recorder::retire(Slot &slot, uint64_t timeout_ns) {
  const DeviceFunctions &fn = device_.fn;
  constexpr uint64_t kSecond = 1'000'000'000;
  VkResult result = fn.vkWaitForFences(device_.handle, 1, &slot.fence, VK_TRUE, 0);
  const bool was_running = result == VK_TIMEOUT;
  for (uint64_t left = timeout_ns; result == VK_TIMEOUT && left > 0;) {
    const uint64_t part = std::min(left, kSecond);
    result = fn.vkWaitForFences(device_.handle, 1, &slot.fence, VK_TRUE, part);
    if (left != UINT64_MAX) left -= part;
  }
  if (result == VK_TIMEOUT) return false;
  device_.check(result, "vkWaitForFences");
  const auto now = Clock::now();
  // Work that ended while we waited for it: it began when the one before ended, or when it was submitted.
  if (was_running && slot.flops > 0) {
    const double seconds = std::chrono::duration<double>(now - std::max(slot.submitted, last_retired_)).count();
    // Short ones say more of the way there and back than of the work.
    if (seconds > 1e-3) {
      const double rate = slot.flops / seconds;
      rate_ = rate_ > 0 ? std::clamp(rate, rate_ / 4, rate_ * 4) : rate;
    }
  }
  last_retired_ = now;
  done_ = std::max(done_, slot.id);
  slot.id = 0;
  return true;
}

bool Recorder::wait(uint64_t submission, uint64_t timeout_ns) {
  while (done_ < submission && done_ + 1 < next_id_) {
    Slot &slot = slots_[size_t((done_ + 1) % kSlots)];
    if (!retire(slot, timeout_ns)) return false;
  }
  const std::string messages = device_.instance->take_validation_messages();
  SEER_REQUIRE(messages.empty(), Status::internal, "Vulkan validation: %s", messages.c_str());
  return true;
}

void Recorder::wait() {
  SEER_REQUIRE(!external_, Status::internal, "waiting for the caller's command buffer");
  if (!waits_.empty()) current();  // the host's copies wait for them, too
  wait(submit(), UINT64_MAX);
}

void Recorder::recycle() {
  if (recording_ >= 0 || done_ + 1 != next_id_) return;
  uploads_.block = 0;
  uploads_.used = 0;
  for (const Memory &memory : to_free_) device_.memory->free(memory);
  to_free_.clear();
}

void Recorder::free_later(const Memory &memory) { to_free_.push_back(memory); }

}  // namespace seer::vulkan
