#include "deny.h"

#include <cstdlib>

namespace seer::vulkan {
namespace {

constexpr uint32_t kNvidia = 0x10de, kIntel = 0x8086, kAmd = 0x1002;

constexpr uint32_t mesa(uint32_t major, uint32_t minor, uint32_t patch) {  // as Mesa's driverVersion has it
  return major << 22 | minor << 12 | patch;
}

enum class Take { coopmat, subgroup_ops };

struct Fault {
  bool (*applies)(const Caps &);
  Take take;
  const char *why;
};

const Fault kFaults[] = {
    {[](const Caps &c) { return c.driver_id == VK_DRIVER_ID_MESA_LLVMPIPE && c.subgroup_size != 8; }, Take::coopmat,
     "lavapipe crashes with them at subgroup sizes other than 8"},
    // llama.cpp #19075, #19290.
    {[](const Caps &c) { return c.vendor_id == kNvidia && c.warps_per_core == 32; }, Take::coopmat,
     "NVIDIA's compiler miscompiles attention with them for Turing"},
    // Advertised for GPUs without matrix units, too; those with them have dot products of mixed signs (RDNA3).
    {[](const Caps &c) {
       return c.vendor_id == kAmd && !c.mixed_dot &&
              (c.driver_id == VK_DRIVER_ID_AMD_PROPRIETARY || c.driver_id == VK_DRIVER_ID_AMD_OPEN_SOURCE);
     },
     Take::coopmat, "AMD's driver emulates them before RDNA3"},
    // llama.cpp #24404: a thousandth of the speed.
    {[](const Caps &c) { return c.vendor_id == kIntel && c.min_subgroup_size < 16; }, Take::coopmat,
     "slower than plain kernels before Xe2"},
    // llama.cpp #24406: fails when workgroups of different lengths share a core, as block-sparse ones do.
    {[](const Caps &c) {
       return c.driver_id == VK_DRIVER_ID_INTEL_OPEN_SOURCE_MESA && c.driver_version >= mesa(26, 2, 0) &&
              c.driver_version <= mesa(26, 2, 3);
     },
     Take::coopmat, "Mesa 26.2.0 to 26.2.3 fails with workgroups of uneven length"},
    // llama.cpp #20029.
    {[](const Caps &c) { return c.driver_id == VK_DRIVER_ID_MOLTENVK && c.vendor_id == kAmd; }, Take::subgroup_ops,
     "MoltenVK's shuffles are wrong on AMD GPUs"},
};

}  // namespace

void deny_known_faults(Caps &caps) {
  const char *wanted = std::getenv("SEER_VK_DENY");
  if (wanted && std::atoi(wanted) == 0) return;
  const auto say = [&](const char *what, const char *why) {
    caps.denied += (caps.denied.empty() ? "" : "; ") + std::string(what) + ": " + why;
  };
  for (const Fault &fault : kFaults) {
    if (!fault.applies(caps)) continue;
    if (fault.take == Take::coopmat && caps.coopmat) {
      take_coopmat_away(caps);
      say("cooperative matrices", fault.why);
    }
    if (fault.take == Take::subgroup_ops && caps.subgroup_ops) {
      caps.subgroup_ops = 0;
      say("subgroup operations", fault.why);
    }
  }
}

}  // namespace seer::vulkan
