#include "kernels.h"

namespace seer::vulkan {

void select(VulkanDevice &, Exec &, const SelectArgs &) { fail(Status::unsupported, "select is not written yet"); }

}  // namespace seer::vulkan
