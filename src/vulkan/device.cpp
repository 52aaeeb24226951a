#include "device.h"

#include <algorithm>
#include <cstring>

#include "../queue.h"
#include "attend_tile.h"
#include "chain.h"
#include "deny.h"

namespace seer::vulkan {
namespace {

// The family to compute on: one that does not draw, if there is one, as its work runs beside a desktop's.
uint32_t pick_queue_family(const std::vector<VkQueueFamilyProperties> &families) {
  uint32_t best = UINT32_MAX;
  for (uint32_t i = 0; i < families.size(); i++) {
    if (!(families[i].queueFlags & VK_QUEUE_COMPUTE_BIT)) continue;
    if (best == UINT32_MAX) best = i;
    if (!(families[i].queueFlags & VK_QUEUE_GRAPHICS_BIT)) return i;
  }
  SEER_REQUIRE(best != UINT32_MAX, Status::unsupported, "the device has no queue that computes");
  return best;
}

// Enables what caps still say after the overrides, and nothing else.
VkDevice make_device(const Instance &instance, VkPhysicalDevice physical, const Caps &caps, uint32_t family,
                     const std::vector<std::string> &offered) {
  Features wanted;
  wanted.storage16 = caps.storage16;
  wanted.fp16 = caps.fp16;
  wanted.subgroup_size_control = caps.subgroup_size_control || caps.full_subgroups;
  wanted.full_subgroups = caps.full_subgroups;
  if (caps.coopmat) {
    wanted.memory_model = wanted.memory_model_device_scope = wanted.coopmat = true;
    wanted.bf16 = wanted.bf16_coopmat = caps.bf16_coopmat;
    if (caps.coopmat2_flexible || caps.coopmat2_workgroup) {
      wanted.workgroup_scope = caps.coopmat2_workgroup;
      wanted.flexible_dimensions = caps.coopmat2_flexible;
      wanted.reductions = caps.coopmat2_reductions;
      wanted.conversions = caps.coopmat2_conversions;
      wanted.per_element_operations = caps.coopmat2_per_element;
      wanted.tensor_addressing = caps.coopmat2_tensor;
      wanted.block_loads = caps.coopmat2_block_loads;
    }
  }
  std::vector<const char *> extensions = extensions_for(wanted, caps.api_version);
  extensions.push_back("VK_KHR_portability_subset");  // must be enabled where it is offered
  std::erase_if(extensions, [&](const std::string &name) {
    return std::find(offered.begin(), offered.end(), name) == offered.end() ||
           (name == VK_KHR_PUSH_DESCRIPTOR_EXTENSION_NAME && !caps.push_descriptor) ||
           (name == external_memory_extension() && !caps.external) ||
           (name == VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME && !caps.host_alignment);
  });
  FeatureChain features(caps.api_version, [&](const std::string &name) {
    return std::find(extensions.begin(), extensions.end(), name) != extensions.end();
  });
  set_features(&features.head, wanted);

  const float priority = 1;
  auto queue = typed<VkDeviceQueueCreateInfo>(VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO);
  queue.queueFamilyIndex = family;
  queue.queueCount = 1;
  queue.pQueuePriorities = &priority;
  auto info = typed<VkDeviceCreateInfo>(VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO);
  info.pNext = &features.head;
  info.queueCreateInfoCount = 1;
  info.pQueueCreateInfos = &queue;
  info.enabledExtensionCount = uint32_t(extensions.size());
  info.ppEnabledExtensionNames = extensions.data();
  VkDevice device = VK_NULL_HANDLE;
  const VkResult result = instance.fn().vkCreateDevice(physical, &info, nullptr, &device);
  SEER_REQUIRE(result == VK_SUCCESS, result == VK_ERROR_DEVICE_LOST ? Status::device_lost : Status::unsupported,
               "%s cannot be used: vkCreateDevice gives %s", caps.name.c_str(), result_name(result));
  return device;
}

}  // namespace

void Gpu::check(VkResult result, const char *what) {
  switch (result) {
    case VK_SUCCESS: return;
    case VK_ERROR_DEVICE_LOST:
      lost = true;
      fail(Status::device_lost, "the Vulkan device %s was lost (%s)", caps.name.c_str(), what);
    case VK_ERROR_OUT_OF_HOST_MEMORY: fail(Status::out_of_memory, "host memory is exhausted (%s)", what);
    case VK_ERROR_OUT_OF_DEVICE_MEMORY: fail(Status::device_out_of_memory, "device memory is exhausted (%s)", what);
    default: fail(Status::internal, "%s gives %s", what, result_name(result));
  }
}

Gpu::~Gpu() {
  if (!handle) return;
  save();
  pipelines.reset();
  memory.reset();
  if (!imported) fn.vkDestroyDevice(handle, nullptr);
}

void Gpu::save() noexcept {
  if (pipelines) pipelines->save_cache();
  try {
    const std::scoped_lock lock(self_test_mutex, layouts_mutex);
    if (test_fingerprint) verdicts.set_device(test_fingerprint, {.taken = taken, .layouts = layouts});
  } catch (const std::bad_alloc &) {  // found out again
  }
  verdicts.save();
}

void Gpu::submit(const VkSubmitInfo &info, VkFence fence) {
  std::lock_guard lock(queue_mutex);
  const CallbackScope scope;
  if (lock_queue) lock_queue(lock_user);
  const VkResult result = fn.vkQueueSubmit(queue, 1, &info, fence);
  if (unlock_queue) unlock_queue(lock_user);
  check(result, "vkQueueSubmit");
}

VulkanDevice::VulkanDevice(std::shared_ptr<Gpu> opened)
    : gpu(std::move(opened)),
      caps(gpu->caps),
      memory(gpu->memory.get()),
      recorder(std::make_unique<Recorder>(*gpu)),
      rope(std::make_unique<RopeBuffers>(*memory, *recorder)) {
  info = describe(caps);
  limits.alignment = std::max<int64_t>(256, caps.offset_alignment);
  limits.rope_tables = false;
}

const Kernel &VulkanDevice::kernel(const KernelKey &key) {
  if (planned) return planned->get(key);
  if (const Kernel *made = gpu->pipelines->find(key)) return *made;
  const Stopwatch watch;
  const Kernel &made = gpu->pipelines->get(key);
  log(LogLevel::debug, "kernel %s: %.1f ms", key.module.c_str(), watch.total_ms());
  return made;
}

VulkanDevice::VulkanDevice(const VulkanDevice &context, std::unique_ptr<Recorder> target, RopeBuffers::Keep keep)
    : gpu(context.gpu),
      caps(gpu->caps),
      memory(gpu->memory.get()),
      recorder(std::move(target)),
      rope(std::make_unique<RopeBuffers>(*memory, *context.recorder, keep)) {
  info = context.info;
  limits = context.limits;
  log = context.log;
}

std::vector<Candidate> candidates(const Instance &instance) {
  std::vector<Candidate> all;
  for (VkPhysicalDevice physical : instance.devices()) {
    Candidate c{.physical = physical, .caps = {}, .extensions = {}};
    c.caps = query_caps(instance, physical, &c.extensions);
    deny_known_faults(c.caps);
    override_caps(c.caps);
    if (std::any_of(all.begin(), all.end(), [&](const Candidate &other) {
          return std::memcmp(other.caps.device_uuid, c.caps.device_uuid, sizeof c.caps.device_uuid) == 0 &&
                 other.caps.driver_id == c.caps.driver_id;
        }))
      continue;
    all.push_back(std::move(c));
  }
  // Discrete, integrated, virtual, others, software; the driver's order within.
  const auto rank = [](const Candidate &c) {
    switch (c.caps.type) {
      case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU: return 0;
      case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU: return 1;
      case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU: return 2;
      case VK_PHYSICAL_DEVICE_TYPE_CPU: return 4;
      default: return 3;
    }
  };
  std::stable_sort(all.begin(), all.end(), [&](const Candidate &a, const Candidate &b) { return rank(a) < rank(b); });
  return all;
}

namespace {

std::shared_ptr<Gpu> make_gpu(std::shared_ptr<Instance> instance, const Candidate &candidate, const Log &log,
                              Stopwatch &watch) {
  const Caps &caps = candidate.caps;
  if (const std::string why = refusal(caps); !why.empty())
    fail(Status::unsupported, "%s cannot be used: %s", caps.name.c_str(), why.c_str());
  auto gpu = std::make_shared<Gpu>();
  gpu->instance = std::move(instance);
  gpu->physical = candidate.physical;
  gpu->caps = gpu->requested = caps;
  const std::vector<VkQueueFamilyProperties> families = queue_families(*gpu->instance, candidate.physical);
  gpu->queue_family = pick_queue_family(families);
  gpu->handle = make_device(*gpu->instance, candidate.physical, caps, gpu->queue_family, candidate.extensions);
  const InstanceFunctions &fn = gpu->instance->fn();
  gpu->fn.vkDestroyDevice =
      reinterpret_cast<PFN_vkDestroyDevice>(fn.vkGetDeviceProcAddr(gpu->handle, "vkDestroyDevice"));
  gpu->fn = gpu->instance->load_device(gpu->handle);
  gpu->fn.vkGetDeviceQueue(gpu->handle, gpu->queue_family, 0, &gpu->queue);
  watch.lap("vkCreateDevice");
  finish_gpu(*gpu, families, log, watch);
  return gpu;
}

}  // namespace

std::vector<VkQueueFamilyProperties> queue_families(const Instance &instance, VkPhysicalDevice device) {
  uint32_t count = 0;
  instance.fn().vkGetPhysicalDeviceQueueFamilyProperties(device, &count, nullptr);
  std::vector<VkQueueFamilyProperties> families(count);
  instance.fn().vkGetPhysicalDeviceQueueFamilyProperties(device, &count, families.data());
  families.resize(count);
  return families;
}

void finish_gpu(Gpu &gpu, const std::vector<VkQueueFamilyProperties> &families, const Log &log, Stopwatch &watch,
                VkPipelineCache cache) {
  if (const uint32_t bits = families[gpu.queue_family].timestampValidBits; bits > 0 && gpu.caps.timestamp_ns > 0)
    gpu.timestamp_mask = bits < 64 ? (uint64_t{1} << bits) - 1 : UINT64_MAX;
  gpu.instance->fn().vkGetPhysicalDeviceMemoryProperties(gpu.physical, &gpu.memory_properties);
  gpu.memory = std::make_unique<MemoryMap>(gpu);
  gpu.pipelines = std::make_unique<Pipelines>(gpu);
  gpu.verdicts.load(gpu.caps, log);
  if (cache)
    gpu.pipelines->use_cache(cache);
  else
    gpu.pipelines->load_cache(log, watch);
}

std::shared_ptr<Gpu> open_gpu(std::shared_ptr<Instance> instance, const Candidate &candidate, const Log &log,
                              Stopwatch &watch) {
  static std::mutex mutex;
  static std::vector<std::weak_ptr<Gpu>> opened;
  std::lock_guard lock(mutex);
  std::erase_if(opened, [](const std::weak_ptr<Gpu> &gpu) { return gpu.expired(); });
  for (const std::weak_ptr<Gpu> &weak : opened) {
    const auto gpu = weak.lock();
    if (gpu && gpu->instance == instance && gpu->physical == candidate.physical && gpu->requested == candidate.caps &&
        !gpu->lost)
      return gpu;
  }
  auto gpu = make_gpu(std::move(instance), candidate, log, watch);
  opened.push_back(gpu);
  return gpu;
}

DeviceInfo describe(const Caps &caps) {
  DeviceInfo info;
  info.backend = BackendKind::vulkan;
  info.vendor_id = caps.vendor_id;
  std::memcpy(info.uuid, caps.device_uuid, sizeof info.uuid);
  info.memory_bytes = caps.heap_bytes;
  for (DType t : {DType::f32, DType::f16, DType::bf16}) info.dtype_bits |= uint64_t{1} << int(t);
  info.name = caps.name;
  info.detail = "Vulkan " + std::to_string(VK_API_VERSION_MAJOR(caps.api_version)) + "." +
                std::to_string(VK_API_VERSION_MINOR(caps.api_version)) + ", " + caps.driver;
  if (const std::string why = refusal(caps); !why.empty()) {
    info.detail += "; cannot be used: " + why;
    return info;
  }
  // What a model's attention would get.
  const AttendShape shape{.dtype = DType::f16, .dim = 128, .block = 64, .paired = true, .wide = true};
  std::string why;
  if (!attend_coopmat(caps, shape, 1, 1, why).empty()) {
    const CoopShape &best = caps.coop_shapes.front();
    info.detail += ", cooperative matrices " + std::to_string(best.m) + "x" + std::to_string(best.n) + "x" +
                   std::to_string(best.k) + (caps.bf16_coopmat ? " f16 and bf16" : " f16");
    // Whether the layout of the matrices serves only the device itself can tell, once it is open.
    info.detail += attend_flexible(caps, shape, best, {}, 1, 1, why)
                       ? ", attend flexible if their layout serves, else coopmat"
                       : ", attend coopmat (no flexible: " + why + ")";
  } else {
    info.detail += ", attend scalar (" + (caps.denied.empty() ? why : caps.denied) + ")";
  }
  return info;
}

}  // namespace seer::vulkan
