#include "kernels.h"

namespace seer::vulkan {

void project(VulkanDevice &, Exec &, const ProjectArgs &) { fail(Status::unsupported, "project is not written yet"); }

}  // namespace seer::vulkan
