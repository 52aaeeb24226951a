// Which kernels attend takes on whatever devices there are. What they compute is checked by tests/check.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "backend.h"
#include "vulkan/attend_layout.h"
#include "vulkan/attend_proof.h"
#include "vulkan/attend_tile.h"
#include "vulkan/kernels.h"
#include "with.h"

using namespace seer;
using vulkan::VulkanDevice;

namespace {

// What is wrong with attention as the device computes it.
std::string fault(VulkanDevice &device, int64_t dim) {
  const vulkan::AttendShape shape{
      .dtype = DType::f16, .dim = dim, .block = 64, .paired = true, .wide = true, .wide_out = true};
  const vulkan::AttendProof proof(shape, 2, false);
  const Memory memory = device.memory->alloc(proof.bytes());
  device.recorder->write(memory.address, proof.input().data(), proof.input().size());
  AttendArgs args = proof.args(static_cast<std::byte *>(memory.address));
  const Memory scratch = device.memory->alloc(std::max<uint64_t>(4, vulkan::attend_scratch(device, args)));
  args.scratch = scratch.address;
  Exec exec;
  vulkan::attend(device, exec, args);
  std::vector<std::byte> output(proof.output_bytes());
  device.recorder->read(static_cast<std::byte *>(memory.address) + proof.input().size(), output.data(), output.size());
  device.memory->free(memory);
  device.memory->free(scratch);
  return proof.fault(output);
}

}  // namespace

TEST_CASE("vulkan: a tier of attend that does not exist is refused") {
  const With setting("SEER_VK_TIER", "fastest");
  CHECK_THROWS_WITH_AS(create_device(BackendKind::vulkan, {}),
                       "SEER_VK_TIER is 'fastest'; expected scalar, coopmat or flexible", Error);
}

TEST_CASE("vulkan: each tier of attend is taken where there is one, and one that is wrong is not") {
  for (const char *tier : {"scalar", "coopmat", "flexible"}) {
    CAPTURE(tier);
    const With setting("SEER_VK_TIER", tier);
    const auto device = create_device(BackendKind::vulkan, {});
    CHECK(fault(static_cast<VulkanDevice &>(*device), 64) == "");
  }
  DeviceParams params;
  std::string told;
  params.log = {.fn = [](void *user, int32_t, const char *text,
                         size_t n) { *static_cast<std::string *>(user) += std::string(text, n) + "\n"; },
                .user = &told,
                .level = LogLevel::warn};
  {
    // What larger head dims take. Were it wrong, another kernel would be right in its place.
    const With split("SEER_VK_TILE_SPLIT", "2"), turns("SEER_VK_TILE_TURNS", "2");
    const auto device = create_device(BackendKind::vulkan, params);
    CHECK(fault(static_cast<VulkanDevice &>(*device), 32) == "");
    CHECK(told.find("failed its test") == std::string::npos);
  }
  const With untested("SEER_VK_SELFTEST", "0"), apart("SEER_VK_CORES", "3");  // a device of its own
  const auto device = create_device(BackendKind::vulkan, params);
  VulkanDevice &vk = static_cast<VulkanDevice &>(*device);
  if (!vk.caps.coopmat) return;
  const vulkan::CoopShape matrix = vulkan::attend_matrices(vk.caps, DType::f16).front();
  const auto layout = vulkan::coop_layout(vk, matrix, vulkan::attend_subgroup(vk.caps));
  // Mesa's driver for the CPU: a lane holds a column.
  if (vk.caps.software()) CHECK(layout == vulkan::CoopLayout{.slots = 8, .slot_shift = 0, .lane_bits = 7});
  if (!layout) return;
  vk.gpu->layouts = {{matrix, vulkan::CoopLayout{.slots = layout->slots, .slot_shift = layout->slot_shift}}};
  CHECK(fault(vk, 64) == "");
  for (const char *kernel : {"attend_split_f16", "attend_flexible_f16"})
    CHECK(told.find(std::string(kernel) + " failed its test on this device") != std::string::npos);
}
