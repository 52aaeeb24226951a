// What a device must get right before it is used. Wrong numbers without an error are common in the field.
#pragma once
#include "device.h"

namespace seer::vulkan {

// Small problems with known answers, once for each Gpu; what came out is remembered (verdicts.h).
// What fails loses the features it was computed with, with a log line: subgroups, then cooperative matrices. Throws
// unsupported where even the plainest kernels are wrong. SEER_VK_SELFTEST=0 skips it.
void self_test(VulkanDevice &device);

}  // namespace seer::vulkan
