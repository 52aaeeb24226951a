// Where a driver keeps the elements of cooperative matrices. The extension leaves that open; a kernel that knows it can
// do the row-wise part of the softmax in registers. So the device is asked, by numbering the elements.
#pragma once
#include <cstdint>
#include <optional>
#include <span>

#include "device.h"

namespace seer::vulkan {

// numbers[(2 * e) * size + lane] is the number, row by row, of the element that a lane of a subgroup of `size` holds as
// element e of an accumulator, and numbers[(2 * e + 1) * size + lane] of an A matrix; ~0 beyond their last.
// Nothing unless accumulators and A matrices are held alike and rows lie in a way that CoopLayout can tell.
std::optional<CoopLayout> find_layout(const CoopShape &shape, uint32_t size, std::span<const uint32_t> numbers);

// Asks the device, once for each shape. Nothing where the layout does not serve, or cannot be found out.
std::optional<CoopLayout> coop_layout(VulkanDevice &device, const CoopShape &shape, uint32_t size);

}  // namespace seer::vulkan
