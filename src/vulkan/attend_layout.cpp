#include "attend_layout.h"

#include <array>
#include <vector>

#include "../status.h"

namespace seer::vulkan {
namespace {

constexpr uint32_t kLargest = 256;  // elements of a matrix: numbers that bf16 holds

uint32_t length_of(const CoopShape &shape, uint32_t size) { return shape.m * shape.n / size; }

std::optional<CoopLayout> ask(VulkanDevice &device, const CoopShape &shape, uint32_t size) {
  const uint32_t length = length_of(shape, size);
  const bool sizes = device.caps.subgroup_size_control && device.caps.full_subgroups;
  struct {
    uint32_t first = 0, count = 0;
  } push;
  const Kernel &kernel = device.kernel({.module = shape.bf16 ? "attend_layout_bf16" : "attend_layout_f16",
                                        .constants = {size, shape.m, shape.n, shape.k, length + 1},
                                        .bindings = 1,
                                        .push_bytes = sizeof push,
                                        .subgroup_size = sizes ? size : 0,
                                        .full_subgroups = sizes,
                                        .shared_bytes = shape.m * shape.k * 2 + shape.m * shape.n * 4});
  std::vector<uint32_t> numbers(2 * size_t(length + 1) * size);
  const uint64_t bytes = numbers.size() * sizeof numbers[0];
  const Memory memory = device.memory->alloc(bytes);
  struct Freed {
    VulkanDevice &device;
    Memory memory;
    ~Freed() { device.memory->free(memory); }
  } freed{device, memory};
  Exec exec;
  device.recorder->dispatch(exec, kernel, std::array{device.recorder->window(memory.address, bytes)}, push,
                            {.items = 1, .flops = 1e3, .units = 0, .beside = false});
  device.recorder->read(memory.address, numbers.data(), bytes);
  return find_layout(shape, size, numbers);
}

}  // namespace

std::optional<CoopLayout> find_layout(const CoopShape &shape, uint32_t size, std::span<const uint32_t> numbers) {
  // What an accumulator becomes as an A matrix: products of M x N with N = K.
  if (shape.n != shape.k || size == 0 || shape.m * shape.n % size != 0 || shape.m * shape.n > kLargest)
    return std::nullopt;
  const uint32_t length = length_of(shape, size);
  if (length == 0 || numbers.size() != 2 * size_t(length + 1) * size) return std::nullopt;
  const auto number = [&](uint32_t lane, uint32_t e) { return numbers[2 * size_t(e) * size + lane]; };
  std::vector<bool> seen(shape.m * shape.n);
  for (uint32_t lane = 0; lane < size; lane++) {
    for (uint32_t e = 0; e <= length; e++) {
      const uint32_t here = number(lane, e);
      if (here != numbers[(2 * size_t(e) + 1) * size + lane]) return std::nullopt;
      if ((e < length) != (here < seen.size())) return std::nullopt;
      if (e == length) continue;
      if (seen[here]) return std::nullopt;  // so that each is held once
      seen[here] = true;
    }
  }
  const auto row = [&](uint32_t lane, uint32_t e) { return number(lane, e) / shape.n; };
  // The simplest way to tell a lane's rows from the number of an element: all in one, or by some of its bits.
  for (uint32_t slots = 1; slots <= length; slots *= 2)
    for (uint32_t shift = 0; slots << shift <= length; shift++) {
      const auto slot = [&](uint32_t e) { return e >> shift & (slots - 1); };
      bool fits = true;
      for (uint32_t lane = 0; lane < size; lane++)
        for (uint32_t e = 0; e < length; e++) fits = fits && row(lane, e) == row(lane, slot(e) << shift);
      if (!fits) continue;
      CoopLayout layout{.slots = slots, .slot_shift = shift};
      for (uint32_t bit = 1; bit < size; bit *= 2) {
        bool same = true;
        for (uint32_t lane = 0; lane < size; lane++)
          for (uint32_t z = 0; z < slots; z++) same = same && row(lane, z << shift) == row(lane ^ bit, z << shift);
        if (same) layout.lane_bits |= bit;
      }
      // Lanes that share a row must differ in those bits alone.
      uint32_t sharing = 1;
      for (uint32_t bits = layout.lane_bits; bits; bits &= bits - 1) sharing *= 2;
      if (uint64_t(length / slots) * sharing != shape.n) return std::nullopt;
      return layout;
    }
  return std::nullopt;
}

std::optional<CoopLayout> coop_layout(VulkanDevice &device, const CoopShape &shape, uint32_t size) {
  Gpu &gpu = *device.gpu;
  std::lock_guard lock(gpu.layouts_mutex);
  for (const auto &[known, layout] : gpu.layouts)
    if (known == shape) return layout;
  std::optional<CoopLayout> layout;
  try {
    layout = ask(device.tester(), shape, size);
  } catch (const Error &error) {
    if (error.status() != Status::unsupported) throw;
    device.log(LogLevel::info, "the layout of cooperative matrices cannot be found out: %s", error.what());
  }
  gpu.layouts.emplace_back(shape, layout);
  return layout;
}

}  // namespace seer::vulkan
