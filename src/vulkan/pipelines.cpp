#include "pipelines.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "device.h"
#include "shaders.h"

namespace seer::vulkan {

Pipelines::~Pipelines() {
  const DeviceFunctions &fn = device_.fn;
  for (const auto &[key, kernel] : kernels_) fn.vkDestroyPipeline(device_.handle, kernel->pipeline, device_.allocation);
  for (const auto &[name, module] : modules_) fn.vkDestroyShaderModule(device_.handle, module, device_.allocation);
  for (const auto &[key, layout] : layouts_) {
    fn.vkDestroyPipelineLayout(device_.handle, layout.pipeline, device_.allocation);
    fn.vkDestroyDescriptorSetLayout(device_.handle, layout.set, device_.allocation);
  }
  if (cache_ && !foreign_cache_) fn.vkDestroyPipelineCache(device_.handle, cache_, device_.allocation);
}

const Kernel &Pipelines::get(const KernelKey &key) {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (const auto failed = failures_.find(key); failed != failures_.end())
      fail(Status::unsupported, "%s", failed->second.c_str());
    if (const auto found = kernels_.find(key); found != kernels_.end()) return *found->second;
    if (!compiling_.contains(key)) break;
    compiled_.wait(lock);  // another thread's
  }
  const auto done = [&] {
    compiling_.erase(key);
    compiled_.notify_all();
  };
  try {
    check_limits(key);
    VkShaderModule module = shader_module(key);
    const Layout layouts = layout(key.bindings, key.push_bytes);
    compiling_.insert(key);
    lock.unlock();
    std::unique_ptr<Kernel> kernel = compile(key, module, layouts);
    lock.lock();
    done();
    cache_dirty_ = true;
    return *kernels_.emplace(key, std::move(kernel)).first->second;
  } catch (const Error &error) {
    if (!lock.owns_lock()) lock.lock();
    done();
    if (error.status() == Status::unsupported) failures_.emplace(key, error.what());
    throw;
  } catch (...) {
    if (!lock.owns_lock()) lock.lock();
    done();
    throw;
  }
}

const Kernel *Pipelines::find(const KernelKey &key) {
  std::lock_guard lock(mutex_);
  const auto found = kernels_.find(key);
  return found != kernels_.end() ? found->second.get() : nullptr;
}

size_t Pipelines::make(std::span<const KernelKey> keys) {
  std::vector<const KernelKey *> missing;
  for (const KernelKey &key : keys)
    if (!find(key) && !failed(key)) missing.push_back(&key);
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i; (i = next++) < missing.size();) {
      try {
        get(*missing[i]);
      } catch (const std::exception &) {  // again when it is asked for
      }
    }
  };
  std::vector<std::thread> helpers;
  const size_t processors = std::max(1u, std::thread::hardware_concurrency());
  try {
    while (helpers.size() + 1 < std::min(processors, missing.size())) helpers.emplace_back(work);
  } catch (const std::exception &) {  // fewer will do
  }
  work();
  for (std::thread &helper : helpers) helper.join();
  return missing.size();
}

const Kernel &PlannedKernels::get(const KernelKey &key) {
  switch (step) {
    case Step::collecting: {
      Kernel &stand_in = stand_ins_[key];
      stand_in.name = key.module;
      stand_in.bindings = key.bindings;
      stand_in.push_bytes = key.push_bytes;
      return stand_in;
    }
    case Step::making: return pipelines_.get(key);
    case Step::made: break;
  }
  const Kernel *kernel = pipelines_.find(key);
  SEER_REQUIRE(kernel, Status::internal, "kernel %s was not planned", key.module.c_str());
  return *kernel;
}

std::vector<KernelKey> PlannedKernels::keys() const {
  std::vector<KernelKey> keys;
  for (const auto &[key, stand_in] : stand_ins_) keys.push_back(key);
  return keys;
}

void Pipelines::judge(const KernelKey &key, const std::string &fault) {
  if (fault.empty()) return device_.verdicts.set_right(fingerprint(key));
  std::lock_guard lock(mutex_);
  failures_.emplace(key, "kernel " + key.module + " failed its test on this device: " + fault);
}

bool Pipelines::judged(const KernelKey &key) {
  {
    std::lock_guard lock(mutex_);
    if (right_.contains(key)) return true;
  }
  if (!device_.verdicts.right(fingerprint(key))) return false;
  std::lock_guard lock(mutex_);
  right_.insert(key);
  return true;
}

bool Pipelines::failed(const KernelKey &key) {
  std::lock_guard lock(mutex_);
  return failures_.contains(key);
}

Pipelines::Layout Pipelines::layout(uint32_t bindings, uint32_t push_bytes) {
  Layout &layout = layouts_[{bindings, push_bytes}];
  if (layout.pipeline) return layout;
  std::vector<VkDescriptorSetLayoutBinding> slots(bindings);
  for (uint32_t i = 0; i < bindings; i++) {
    slots[i].binding = i;
    slots[i].descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
    slots[i].descriptorCount = 1;
    slots[i].stageFlags = VK_SHADER_STAGE_COMPUTE_BIT;
  }
  VkDescriptorSetLayoutCreateInfo set{};
  set.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO;
  if (device_.caps.push_descriptor) set.flags = VK_DESCRIPTOR_SET_LAYOUT_CREATE_PUSH_DESCRIPTOR_BIT_KHR;
  set.bindingCount = bindings;
  set.pBindings = slots.data();
  if (!layout.set)
    device_.check(device_.fn.vkCreateDescriptorSetLayout(device_.handle, &set, device_.allocation, &layout.set),
                  "vkCreateDescriptorSetLayout");
  const VkPushConstantRange range{VK_SHADER_STAGE_COMPUTE_BIT, 0, push_bytes};
  VkPipelineLayoutCreateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO;
  info.setLayoutCount = 1;
  info.pSetLayouts = &layout.set;
  info.pushConstantRangeCount = push_bytes ? 1 : 0;
  info.pPushConstantRanges = &range;
  device_.check(device_.fn.vkCreatePipelineLayout(device_.handle, &info, device_.allocation, &layout.pipeline),
                "vkCreatePipelineLayout");
  return layout;
}

void Pipelines::check_limits(const KernelKey &key) const {
  const Caps &caps = device_.caps;
  const char *name = key.module.c_str();
  const auto limit = [&](const char *what, uint64_t wants, uint64_t has) {
    SEER_REQUIRE(wants <= has, Status::unsupported, "kernel %s wants %llu %s; the device has %llu", name,
                 (unsigned long long)wants, what, (unsigned long long)has);
  };
  limit("storage buffers", key.bindings, caps.max_bindings);
  limit("bytes of push constants", key.push_bytes, caps.max_push);
  limit("bytes of shared memory", key.shared_bytes, caps.max_shared);
  if (key.subgroup_size) {
    SEER_REQUIRE(caps.subgroup_size_control, Status::unsupported,
                 "kernel %s wants a subgroup size, which the device does not let choose", name);
    SEER_REQUIRE(key.subgroup_size >= caps.min_subgroup_size && key.subgroup_size <= caps.max_subgroup_size,
                 Status::unsupported, "kernel %s wants subgroups of %u; the device has %u to %u", name,
                 key.subgroup_size, caps.min_subgroup_size, caps.max_subgroup_size);
  }
  SEER_REQUIRE(!key.full_subgroups || caps.full_subgroups, Status::unsupported,
               "kernel %s wants full subgroups, which the device does not promise", name);
}

namespace {

const Shader *find_shader(const std::string &name) {
  const auto all = shaders();
  const auto found = std::find_if(all.begin(), all.end(), [&](const Shader &s) { return name == s.name; });
  return found != all.end() ? &*found : nullptr;
}

}  // namespace

uint64_t Pipelines::fingerprint(const KernelKey &key) {
  uint64_t hash = hash_values(std::span<const uint32_t>(key.constants));
  if (const Shader *shader = find_shader(key.module)) hash = hash_values(std::span(shader->words, shader->count), hash);
  const uint32_t rest[] = {key.bindings, key.push_bytes, key.subgroup_size, key.full_subgroups};
  return hash_values(std::span<const uint32_t>(rest), hash);
}

VkShaderModule Pipelines::shader_module(const KernelKey &key) {
  VkShaderModule &module = modules_[key.module];
  if (!module) {
    const Shader *found = find_shader(key.module);
    SEER_REQUIRE(found, Status::unsupported, "kernel %s is not part of this build", key.module.c_str());
    VkShaderModuleCreateInfo info{};
    info.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO;
    info.codeSize = found->count * sizeof(uint32_t);
    info.pCode = found->words;
    device_.check(device_.fn.vkCreateShaderModule(device_.handle, &info, device_.allocation, &module),
                  "vkCreateShaderModule");
  }
  return module;
}

std::unique_ptr<Kernel> Pipelines::compile(const KernelKey &key, VkShaderModule module, const Layout &layouts) const {
  std::vector<VkSpecializationMapEntry> entries(key.constants.size());
  for (uint32_t i = 0; i < entries.size(); i++) entries[i] = {i, i * 4, 4};
  VkSpecializationInfo constants{};
  constants.mapEntryCount = uint32_t(entries.size());
  constants.pMapEntries = entries.data();
  constants.dataSize = key.constants.size() * 4;
  constants.pData = key.constants.data();
  VkPipelineShaderStageRequiredSubgroupSizeCreateInfo subgroup{};
  subgroup.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO;
  subgroup.requiredSubgroupSize = key.subgroup_size;

  VkComputePipelineCreateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO;
  info.stage.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO;
  info.stage.stage = VK_SHADER_STAGE_COMPUTE_BIT;
  info.stage.module = module;
  info.stage.pName = "main";
  info.stage.pSpecializationInfo = &constants;
  if (key.subgroup_size) info.stage.pNext = &subgroup;
  if (key.full_subgroups) info.stage.flags = VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT;
  info.layout = layouts.pipeline;
  auto kernel = std::make_unique<Kernel>();
  const VkResult result =
      device_.fn.vkCreateComputePipelines(device_.handle, cache_, 1, &info, device_.allocation, &kernel->pipeline);
  if (result == VK_ERROR_DEVICE_LOST) device_.check(result, "vkCreateComputePipelines");
  // Some drivers report success and return nothing.
  SEER_REQUIRE(result == VK_SUCCESS && kernel->pipeline, Status::unsupported,
               "the driver cannot compile kernel %s: vkCreateComputePipelines gives %s", key.module.c_str(),
               result == VK_SUCCESS ? "no pipeline" : result_name(result));
  kernel->name = key.module;
  kernel->layout = layouts.pipeline;
  kernel->set_layout = layouts.set;
  kernel->bindings = key.bindings;
  kernel->push_bytes = key.push_bytes;
  return kernel;
}

// ---- The cache on disk ----------------------------------------------------------------------------------------------

void Pipelines::load_cache(const Log &log, Stopwatch &watch) {
  cache_file_ = CacheFile("pipelines", device_.caps);
  const std::vector<char> data = cache_file_.read(log);
  cache_bytes_ = data.size();
  watch.lap(("cache of " + std::to_string(data.size() / 1024) + " KB").c_str());
  VkPipelineCacheCreateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO;
  info.initialDataSize = data.size();
  info.pInitialData = data.data();
  const DeviceFunctions &fn = device_.fn;
  if (fn.vkCreatePipelineCache(device_.handle, &info, device_.allocation, &cache_) != VK_SUCCESS) {
    info.initialDataSize = 0;
    device_.check(fn.vkCreatePipelineCache(device_.handle, &info, device_.allocation, &cache_),
                  "vkCreatePipelineCache");
  }
  watch.lap("vkCreatePipelineCache");
}

void Pipelines::use_cache(VkPipelineCache cache) {
  cache_ = cache;
  foreign_cache_ = true;
}

void Pipelines::save_cache() noexcept {
  try {
    std::lock_guard lock(mutex_);
    if (!cache_file_.named() || !cache_ || !cache_dirty_ || device_.lost) return;
    cache_dirty_ = false;  // one attempt: a folder that cannot be written stays so
    size_t size = 0;
    device_.check(device_.fn.vkGetPipelineCacheData(device_.handle, cache_, &size, nullptr), "vkGetPipelineCacheData");
    if (size == cache_bytes_) return;  // all was found in it: drivers add, and take nothing away
    std::vector<char> data(size);
    device_.check(device_.fn.vkGetPipelineCacheData(device_.handle, cache_, &size, data.data()),
                  "vkGetPipelineCacheData");
    data.resize(size);
    if (cache_file_.write(data)) cache_bytes_ = size;
  } catch (const std::exception &) {  // costs time, no more
  }
}

}  // namespace seer::vulkan
