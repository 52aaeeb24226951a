// Drivers that fail: compilers that give up or return nothing, devices that are lost. The program's loader hands out
// functions that do so, in front of the real ones.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <mutex>
#include <string>

#include "dtype.h"
#include "tensors.h"
#include "vulkan/deny.h"
#include "with.h"

using namespace api;

namespace {

// Faults to come, and the functions behind them. One import at a time.
struct Faults {
  PFN_vkGetInstanceProcAddr instance_proc = nullptr;
  PFN_vkGetDeviceProcAddr device_proc = nullptr;
  PFN_vkCreateShaderModule create_module = nullptr;
  PFN_vkCreateComputePipelines create_pipelines = nullptr;
  PFN_vkQueueSubmit submit = nullptr;
  PFN_vkWaitForFences wait = nullptr;
  PFN_vkQueueWaitIdle queue_idle = nullptr;
  PFN_vkDeviceWaitIdle device_idle = nullptr;
  PFN_vkGetQueryPoolResults query_results = nullptr;

  bool pipelines = false;  // all fail
  bool subgroups = false;  // those without specialization constants fail: the test of subgroups is the only one
  bool matrices = false;   // all that use cooperative matrices fail
  bool null = false;       // by success and no pipeline
  uint64_t tick = 0;       // between two time stamps; 0: they are the device's
  bool lost_submit = false, lost_wait = false;
  std::vector<VkShaderModule> matrix_modules;
  int failed = 0, created = 0;
} faults;
std::mutex faults_mutex;  // of the counts: pipelines are made on several threads

VKAPI_ATTR VkResult VKAPI_CALL create_module(VkDevice device, const VkShaderModuleCreateInfo *info,
                                             const VkAllocationCallbacks *allocation, VkShaderModule *module) {
  const VkResult result = faults.create_module(device, info, allocation, module);
  constexpr uint32_t capability = 2u << 16 | 17, cooperative_matrix = 6022;  // of SPIR-V
  for (size_t i = 5; i + 1 < info->codeSize / 4 && info->pCode[i] == capability; i += 2)
    if (info->pCode[i + 1] == cooperative_matrix) {
      const std::lock_guard lock(faults_mutex);
      faults.matrix_modules.push_back(*module);
    }
  return result;
}

VKAPI_ATTR VkResult VKAPI_CALL create_pipelines(VkDevice device, VkPipelineCache cache, uint32_t count,
                                                const VkComputePipelineCreateInfo *infos,
                                                const VkAllocationCallbacks *allocation, VkPipeline *pipelines) {
  const auto &known = faults.matrix_modules;
  {
    const std::lock_guard lock(faults_mutex);
    const bool matrix = std::find(known.begin(), known.end(), infos->stage.module) != known.end();
    const bool plain = infos->stage.pSpecializationInfo->mapEntryCount == 0;
    faults.created++;
    if (faults.pipelines || (faults.matrices && matrix) || (faults.subgroups && plain)) {
      faults.failed++;
      *pipelines = VK_NULL_HANDLE;
      return faults.null ? VK_SUCCESS : VK_ERROR_UNKNOWN;
    }
  }
  return faults.create_pipelines(device, cache, count, infos, allocation, pipelines);
}

VKAPI_ATTR VkResult VKAPI_CALL submit(VkQueue queue, uint32_t count, const VkSubmitInfo *infos, VkFence fence) {
  if (!faults.lost_submit) return faults.submit(queue, count, infos, fence);
  faults.queue_idle(queue);  // on a device that is lost nothing runs
  return VK_ERROR_DEVICE_LOST;
}

VKAPI_ATTR VkResult VKAPI_CALL wait(VkDevice device, uint32_t count, const VkFence *fences, VkBool32 all,
                                    uint64_t timeout) {
  if (!faults.lost_wait) return faults.wait(device, count, fences, all, timeout);
  faults.device_idle(device);
  return VK_ERROR_DEVICE_LOST;
}

VKAPI_ATTR VkResult VKAPI_CALL query_results(VkDevice device, VkQueryPool pool, uint32_t first, uint32_t count,
                                             size_t bytes, void *data, VkDeviceSize stride, VkQueryResultFlags flags) {
  const VkResult result = faults.query_results(device, pool, first, count, bytes, data, stride, flags);
  // From a number on that leaves 64 bits on the way.
  for (uint32_t i = 0; faults.tick && i < count; i++) static_cast<uint64_t *>(data)[i] = (i + 1) * faults.tick - 5000;
  return result;
}

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL device_proc(VkDevice device, const char *name) {
  const std::string wanted = name;
  faults.queue_idle = reinterpret_cast<PFN_vkQueueWaitIdle>(faults.device_proc(device, "vkQueueWaitIdle"));
  faults.device_idle = reinterpret_cast<PFN_vkDeviceWaitIdle>(faults.device_proc(device, "vkDeviceWaitIdle"));
  const PFN_vkVoidFunction real = faults.device_proc(device, name);
  const auto replaced = [&](auto &behind, auto *instead) {
    behind = reinterpret_cast<std::remove_reference_t<decltype(behind)>>(real);
    return reinterpret_cast<PFN_vkVoidFunction>(instead);
  };
  if (wanted == "vkCreateShaderModule") return replaced(faults.create_module, create_module);
  if (wanted == "vkCreateComputePipelines") return replaced(faults.create_pipelines, create_pipelines);
  if (wanted == "vkQueueSubmit") return replaced(faults.submit, submit);
  if (wanted == "vkWaitForFences") return replaced(faults.wait, wait);
  if (wanted == "vkGetQueryPoolResults") return replaced(faults.query_results, query_results);
  return real;
}

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL instance_proc(VkInstance instance, const char *name) {
  const PFN_vkVoidFunction real = faults.instance_proc(instance, name);
  if (std::string(name) != "vkGetDeviceProcAddr") return real;
  faults.device_proc = reinterpret_cast<PFN_vkGetDeviceProcAddr>(real);
  return reinterpret_cast<PFN_vkVoidFunction>(device_proc);
}

// A context whose driver has `wanted`; its log in `told`.
Context faulty_context(foreign::Gpu &gpu, const Faults &wanted, std::string &told) {
  faults = wanted;
  faults.instance_proc = gpu.proc;
  seer_context_params params = SEER_INIT(seer_context_params);
  params.log = [](void *user, seer_log_level, const char *text, size_t n) {
    *static_cast<std::string *>(user) += std::string(text, n) + "\n";
  };
  params.log_user = &told;
  params.log_level = SEER_LOG_DEBUG;
  seer_vulkan_import import = gpu.import();
  import.get_instance_proc_addr = reinterpret_cast<void *>(instance_proc);
  seer_context *ctx = nullptr;
  OK(seer_vulkan_context_create(&params, &import, &ctx));
  return Context(ctx);
}

void check_attention(seer_context *ctx) {
  const Context cpu = make_context();
  Batch x(1, 100, 100, {.q_heads = 4, .kv_heads = 2, .dim = 64, .block = 64});
  using seer::f16;
  const auto half = [](const std::vector<float> &from) {
    std::vector<f16> to(from.size());
    std::transform(from.begin(), from.end(), to.begin(), seer::from_f32<f16>);
    return to;
  };
  std::vector<f16> q = half(x.q), k = half(x.k), v = half(x.v), out(q.size()), on_cpu(q.size());
  seer_attention_desc desc = SEER_INIT(seer_attention_desc);
  desc.q = host(q.data(), q.size(), SEER_F16, {1, 100, 4, 64});
  desc.k = host(k.data(), k.size(), SEER_F16, {1, 100, 2, 64});
  desc.v = host(v.data(), v.size(), SEER_F16, {1, 100, 2, 64});
  desc.out = host(out.data(), out.size(), SEER_F16, {1, 100, 4, 64});
  OK(seer_attention(ctx, &desc, nullptr, nullptr));
  desc.out.data = on_cpu.data();
  OK(seer_attention(cpu.get(), &desc, nullptr, nullptr));
  double worst = 0;
  for (size_t i = 0; i < out.size(); i++)
    worst = std::max(worst, std::fabs(double(seer::to_f32(out[i])) - double(seer::to_f32(on_cpu[i]))));
  CHECK(worst < 4e-3);
}

}  // namespace

TEST_CASE("vulkan faults: a kernel that does not compile is done without, by an error or by a pipeline that is none") {
  const With cache("SEER_VK_CACHE", "");  // a device that has passed before is not tried again
  foreign::Gpu gpu;
  int contexts = 0;
  for (const bool null : {false, true}) {
    Faults subgroups;
    subgroups.subgroups = true;
    subgroups.null = null;
    Faults matrices;
    matrices.matrices = true;
    matrices.null = null;
    for (const Faults &wanted : {subgroups, matrices}) {
      std::string told;
      {
        const Context ctx = faulty_context(gpu, wanted, told);
        check_attention(ctx.get());
      }
      gpu.wait_for_release(++contexts);
      CAPTURE(told);
      if (wanted.subgroups) CHECK(faults.failed == 1);
      if (wanted.subgroups) CHECK(told.find("subgroups are not what the driver says") != std::string::npos);
      if (faults.failed && wanted.matrices) CHECK(told.find("attend") != std::string::npos);
    }
  }
  // Nothing compiles: no context, and a status that says so.
  faults = {};
  faults.instance_proc = gpu.proc;
  faults.pipelines = true;
  seer_vulkan_import import = gpu.import();
  import.get_instance_proc_addr = reinterpret_cast<void *>(instance_proc);
  seer_context *ctx = nullptr;
  FAILS(SEER_ERROR_UNSUPPORTED, "cannot compile", seer_vulkan_context_create(nullptr, &import, &ctx));
  CHECK(ctx == nullptr);
  CHECK(gpu.released == contexts);
}

TEST_CASE(
    "vulkan: what a device was found to be is kept, for this build's code, and a call's kernels are made together") {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("seer-vk-kept-" + std::to_string(getpid()));
  const With cache("SEER_VK_CACHE", folder.c_str());
  foreign::Gpu gpu;
  int contexts = 0;
  const auto told_with = [&](const Faults &wanted, bool call) {
    std::string told;
    {
      const Context ctx = faulty_context(gpu, wanted, told);
      CHECK((faults.created == 0) == (contexts > 0 && !wanted.pipelines));
      if (call) check_attention(ctx.get());
    }
    gpu.wait_for_release(++contexts);
    return told;
  };
  Faults subgroups;
  subgroups.subgroups = true;
  const char *kept = "when this build first used it";
  const std::string first = told_with(subgroups, false);
  CHECK(first.find("subgroups are not what the driver says") != std::string::npos);
  CHECK(first.find(kept) == std::string::npos);
  const std::string second = told_with({}, true);  // no fault any more, but nobody looks
  CHECK(second.find(kept) != std::string::npos);
  // By the rehearsal, and none where a stage asked for it.
  CHECK(second.find(" kernels at once") != std::string::npos);
  CHECK(second.find("kernel attend") == std::string::npos);
  std::filesystem::remove_all(folder);
  contexts = 0;
  gpu.released = 0;
  CHECK(told_with({}, false).find("self-test") != std::string::npos);
  CHECK(told_with({}, false).find(kept) == std::string::npos);
  std::filesystem::remove_all(folder);
}

TEST_CASE("vulkan: times are those of the device's stamps, and the host's where there are none") {
  foreign::Gpu gpu;
  int contexts = 0;
  for (const char *stamps : {"1", "0"}) {
    const With setting("SEER_VK_TIMESTAMPS", stamps);
    std::string told;
    {
      const Context ctx = faulty_context(gpu, {}, told);
      seer_device_info info = SEER_INIT(seer_device_info);
      OK(seer_context_info(ctx.get(), &info));
      const bool device = *stamps == '1';
      CHECK((std::string(info.detail).find("times of the device") != std::string::npos) == device);
      const Model model = make_model(ctx.get());
      Batch x(1, 64, 64);
      const seer_prefill_desc desc = x.prefill();
      const auto stats = [&] {
        seer_ticket ticket = 0;
        OK(seer_prefill(ctx.get(), model.get(), 4, &desc, nullptr, &ticket));
        seer_stats s = SEER_INIT(seer_stats);
        OK(seer_ticket_stats(ctx.get(), ticket, &s));
        CHECK(s.blocks_causal > 0);
        return s;
      };
      const seer_stats real = stats();
      CHECK(real.gate_ns > 0);
      CHECK(real.attend_ns > 0);
      CHECK(real.gate_ns + real.attend_ns <= real.device_ns);
      // Stamps: begin, gate, attend, end, of which the first is before the counter's turn.
      faults.tick = 3000;
      const seer_stats given = stats();
      VkPhysicalDeviceProperties properties;
      gpu.fn.vkGetPhysicalDeviceProperties(gpu.physical, &properties);
      const auto ns = [&](double ticks) { return uint64_t(ticks * double(properties.limits.timestampPeriod)); };
      CHECK((given.gate_ns == ns(3000)) == device);
      CHECK((given.attend_ns == ns(3000)) == device);
      CHECK((given.device_ns == ns(15000)) == device);
    }
    gpu.wait_for_release(++contexts);
  }
}

TEST_CASE("vulkan faults: a lost device is told to every context on it, releases go on, a new context works") {
  foreign::Gpu gpu;
  int contexts = 0;
  for (const bool at_wait : {false, true}) {
    std::string told;
    {
      const Context ctx = faulty_context(gpu, {}, told), other = faulty_context(gpu, {}, told);
      const Model model = make_model(ctx.get());
      Batch x(1, 64, 64);
      const seer_prefill_desc desc = x.prefill();
      OK(seer_prefill(ctx.get(), model.get(), 4, &desc, nullptr, nullptr));
      seer_buffer *buffer = nullptr;
      OK(seer_buffer_create(ctx.get(), 100, 0, &buffer));
      (at_wait ? faults.lost_wait : faults.lost_submit) = true;
      FAILS(SEER_ERROR_DEVICE_LOST, "lost", seer_prefill(ctx.get(), model.get(), 4, &desc, nullptr, nullptr));
      (at_wait ? faults.lost_wait : faults.lost_submit) = false;  // it is remembered
      FAILS(SEER_ERROR_DEVICE_LOST, "lost", seer_prefill(ctx.get(), model.get(), 4, &desc, nullptr, nullptr));
      FAILS(SEER_ERROR_DEVICE_LOST, "lost", seer_prefill(other.get(), model.get(), 4, &desc, nullptr, nullptr));
      seer_buffer_release(buffer);
    }
    gpu.wait_for_release(contexts += 2);
    check_attention(Context(gpu.context()).get());
    gpu.wait_for_release(++contexts);
  }
}

TEST_CASE("vulkan faults: what drivers are known to get wrong is taken from them, and only from them") {
  using seer::vulkan::Caps;
  const auto denied = [](auto change) {
    Caps caps;
    caps.coopmat = true;
    caps.coop_shapes = {{16, 16, 16, false}};
    caps.subgroup_ops = 255;
    caps.subgroup_size = caps.min_subgroup_size = 32;
    change(caps);
    seer::vulkan::deny_known_faults(caps);
    CHECK(caps.denied.empty() == (caps.coopmat && caps.subgroup_ops));
    CHECK(caps.coop_shapes.empty() == !caps.coopmat);
    return caps.denied;
  };
  CHECK(denied([](Caps &) {}).empty());
  const auto lavapipe = [](uint32_t size) {
    return [size](Caps &c) {
      c.driver_id = VK_DRIVER_ID_MESA_LLVMPIPE;
      c.subgroup_size = size;
    };
  };
  CHECK(denied(lavapipe(8)).empty());
  CHECK(denied(lavapipe(4)).find("lavapipe crashes") != std::string::npos);
  const auto nvidia = [](uint32_t warps) {
    return [warps](Caps &c) {
      c.vendor_id = 0x10de;
      c.warps_per_core = warps;
    };
  };
  CHECK(denied(nvidia(64)).empty());
  CHECK(denied(nvidia(32)).find("Turing") != std::string::npos);
  const auto intel = [](uint32_t patch) {
    return [patch](Caps &c) {
      c.vendor_id = 0x8086;
      c.min_subgroup_size = 16;
      c.driver_id = VK_DRIVER_ID_INTEL_OPEN_SOURCE_MESA;
      c.driver_version = 26u << 22 | 2u << 12 | patch;
    };
  };
  CHECK(denied(intel(4)).empty());
  CHECK(denied(intel(3)).find("uneven") != std::string::npos);
  const auto amd = [](bool mixed) {
    return [mixed](Caps &c) {
      c.vendor_id = 0x1002;
      c.driver_id = VK_DRIVER_ID_AMD_PROPRIETARY;
      c.mixed_dot = mixed;
    };
  };
  CHECK(denied(amd(true)).empty());
  CHECK(denied(amd(false)).find("RDNA3") != std::string::npos);
  const With trusting("SEER_VK_DENY", "0");
  CHECK(denied(amd(false)).empty());
}
