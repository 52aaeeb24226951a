// What a device can do, as far as this backend cares. Every limit and feature that host code or kernels look at passes
// through this one structure, so that a test can shrink any of it: by environment variables (SEER_VK_<FIELD>, see
// docs/vulkan.md) or by changing it before the device is made.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "features.h"
#include "loader.h"

namespace seer::vulkan {

// A shape of cooperative matrices at subgroup scope: C[m, n] += A[m, k] B[k, n] with f32 C.
struct CoopShape {
  uint32_t m = 0, n = 0, k = 0;
  bool bf16 = false;              // A and B; else f16
  bool f16_sums = false;          // there is f16 C, too
  bool f16_accumulators = false;  // of m x n, for whatever products
  bool operator==(const CoopShape &) const = default;
};
// Where the lanes of a subgroup hold the elements of an accumulator, and of an A matrix just so: element e of a lane
// lies in the lane's row (e >> slot_shift) % slots; lanes that share a row differ in lane_bits alone.
struct CoopLayout {
  uint32_t slots = 0, slot_shift = 0, lane_bits = 0;
  bool operator==(const CoopLayout &) const = default;
};
// The kernels of attend, worst first.
enum class AttendTier { scalar, coopmat, flexible };
// Granularity of flexible dimensions (NV_cooperative_matrix2), f32 C.
struct CoopFlexible {
  uint32_t m = 0, n = 0, k = 0;
  bool bf16 = false, workgroup = false;  // scope
  uint32_t invocations = 0;              // of the workgroup, at workgroup scope
  bool operator==(const CoopFlexible &) const = default;
};

struct Caps {
  // Identity.
  uint32_t api_version = 0, vendor_id = 0, device_id = 0, driver_version = 0, driver_id = 0;
  VkPhysicalDeviceType type = VK_PHYSICAL_DEVICE_TYPE_OTHER;
  std::string name, driver;
  uint8_t device_uuid[16] = {}, driver_uuid[16] = {}, cache_uuid[16] = {};
  bool software() const { return type == VK_PHYSICAL_DEVICE_TYPE_CPU; }

  // Limits.
  uint32_t max_shared = 0;       // bytes of shared memory of a workgroup
  uint32_t max_invocations = 0;  // of a workgroup, also along x
  uint32_t max_groups_x = 0, max_groups_y = 0;
  uint32_t max_bindings = 0;      // storage buffers of a kernel
  uint32_t max_push = 0;          // bytes of push constants
  uint64_t max_range = 0;         // bytes that one binding sees
  uint64_t max_allocation = 0;    // bytes of one buffer
  uint32_t offset_alignment = 0;  // of bindings, bytes
  uint32_t copy_alignment = 4;
  uint64_t heap_bytes = 0;      // of device memory
  bool unified_memory = false;  // device memory is host memory
  uint32_t cores = 0;           // compute units; 0 = not known
  uint32_t warps_per_core = 0;  // NVIDIA's; 0 = not known
  bool mixed_dot = false;       // dot products of bytes of mixed signs are accelerated: tells AMD's generations apart
  std::string denied;           // what was taken away for being known not to work, and why (deny.h)

  // Subgroups.
  uint32_t subgroup_size = 0, min_subgroup_size = 0, max_subgroup_size = 0;
  uint32_t subgroup_ops = 0;           // VkSubgroupFeatureFlags, in compute shaders
  bool subgroup_size_control = false;  // a kernel may ask for a size
  bool full_subgroups = false;

  // Types and memory.
  bool fp16 = false;          // arithmetic
  bool storage16 = false;     // f16 and u16 in storage buffers
  bool memory_model = false;  // Vulkan's, with device scope; enabled only beside cooperative matrices
  bool push_descriptor = false;
  bool timeline = false;        // semaphores: of the caller's
  double timestamp_ns = 0;      // of a tick of the device's time stamps; 0: it has none, or they are not to be used
  bool external = false;        // memory can be shared: by file descriptors, on Windows by handles
  uint64_t host_alignment = 0;  // of host memory that can be used in place; 0: none can

  // Cooperative matrices; the shapes' accumulators are f32.
  bool coopmat = false, bf16_coopmat = false;
  bool coopmat_score = true;           // score may use them; false: its self-test failed
  bool coopmat_project = true;         // project may; likewise
  bool coopmat_select = true;          // select by threshold may, without bands of logits; likewise
  std::vector<CoopShape> coop_shapes;  // best first
  bool coopmat2_flexible = false, coopmat2_reductions = false, coopmat2_conversions = false;
  bool coopmat2_per_element = false, coopmat2_workgroup = false, coopmat2_tensor = false, coopmat2_block_loads = false;
  uint32_t coopmat2_max_dimension = 0, coopmat2_max_workgroup = 0, coopmat2_reserved_shared = 0;
  std::vector<CoopFlexible> coop_flexible;

  AttendTier tier = AttendTier::flexible;  // the best that attend may use
  bool f16_sums = false;                   // attend may add up f16 outputs in f16, where that is faster

  // How work is cut.
  double submit_ms = 50;     // what one submission may take
  uint32_t chunk_items = 0;  // > 0: that many items a dispatch, one dispatch a submission

  bool operator==(const Caps &) const = default;
};

// What the driver says, before any override. `extensions` gets the names the device offers. With `enabled`, of a device
// that somebody else has made, nothing else counts; throws unsupported, naming what it has and the driver has not.
Caps query_caps(const Instance &instance, VkPhysicalDevice device, std::vector<std::string> *extensions = nullptr,
                const Enabled *enabled = nullptr);
// Features that the device offers, of those that the backend can use. `extensions` are the device's.
Features offered_features(const Instance &instance, VkPhysicalDevice device,
                          const std::vector<std::string> &extensions);
// Applies SEER_VK_* to it. Throws invalid_argument on a value that cannot be read. Features can only be taken away.
void override_caps(Caps &caps);
// Leaves no cooperative matrices.
void take_coopmat_away(Caps &caps);
// Why the backend cannot run there; empty: it can.
std::string refusal(const Caps &caps);

}  // namespace seer::vulkan
