// Which kernels the gate takes on whatever devices there are. What they compute is checked by tests/check.
#include <doctest/doctest.h>

#include "backend.h"
#include "vulkan/gate_proof.h"

using namespace seer;
using vulkan::VulkanDevice;

TEST_CASE(
    "vulkan: the gate's kernels on matrices are taken where there are such matrices, and those that are wrong are "
    "not") {
  std::string told;
  DeviceParams params;
  params.log = {.fn = [](void *user, int32_t, const char *text,
                         size_t n) { *static_cast<std::string *>(user) += std::string(text, n) + "\n"; },
                .user = &told,
                .level = LogLevel::warn};
  const auto device = create_device(BackendKind::vulkan, params);
  VulkanDevice &vk = static_cast<VulkanDevice &>(*device);

  ProjectArgs project;
  project.in = 192;
  project.out = 64;
  project.weight.dtype = DType::bf16;
  if (const auto tile = vulkan::project_tile(vk.caps, project))
    for (const bool rotates : {false, true}) CHECK(vulkan::project_proven(vk, *tile, rotates));

  if (!vulkan::selects_on_matrices(vk, 64)) return;
  const auto tile = vulkan::select_tile(vk, 64, 1);
  REQUIRE(tile);
  auto wrong = *tile;
  wrong.layout.lane_bits = 0;  // every lane a row of its own, as if
  wrong.layout.slots = 1;
  CHECK(!vulkan::select_proven(vk, wrong));
  CHECK(told.find("select_coopmat failed its test on this device") != std::string::npos);
}
