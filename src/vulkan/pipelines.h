// Compute pipelines: made when first asked for, kept with the device, and cached on disk from process to process.
#pragma once
#include <compare>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "../log.h"
#include "cache_file.h"
#include "caps.h"
#include "stopwatch.h"

namespace seer::vulkan {

struct Gpu;

struct KernelKey {
  std::string module;               // a name of shaders()
  std::vector<uint32_t> constants;  // of specialization constants 0, 1, ...; f32 ones by their bits
  uint32_t bindings = 0;            // storage buffers at set 0, bindings 0 .. bindings - 1
  uint32_t push_bytes = 0;          // of push constants
  uint32_t subgroup_size = 0;       // 0 = the driver's choice
  bool full_subgroups = false;
  uint32_t shared_bytes = 0;  // of shared memory with these constants: software drivers do not check it
  auto operator<=>(const KernelKey &) const = default;
};

struct Kernel {
  std::string name;
  VkPipeline pipeline = VK_NULL_HANDLE;
  VkPipelineLayout layout = VK_NULL_HANDLE;
  VkDescriptorSetLayout set_layout = VK_NULL_HANDLE;
  uint32_t bindings = 0, push_bytes = 0;
};

// Thread-safe.
class Pipelines {
public:
  explicit Pipelines(Gpu &device) : device_(device) {}
  ~Pipelines();

  // Throws unsupported, naming the kernel and why: no such module, a limit, or the driver's compiler. What failed once
  // fails again without asking the driver. The reference lives as long as the device.
  const Kernel &get(const KernelKey &key);
  // Those of them that are not there yet at once, on as many threads as there are processors; how many they were. What
  // fails says so when it is asked for.
  size_t make(std::span<const KernelKey> keys);
  const Kernel *find(const KernelKey &key);  // null: not made yet, or failed

  // What a self-test of the kernel on the device found: a fault, after which get throws it, or "" = none, which is kept
  // on disk (verdicts.h): it holds for this driver and this build's code.
  void judge(const KernelKey &key, const std::string &fault);
  bool judged(const KernelKey &key);  // found right
  bool failed(const KernelKey &key);  // get throws, and has thrown before or was told to

  void load_cache(const Log &log, Stopwatch &watch);  // from disk. Call before the first get
  void use_cache(VkPipelineCache cache);              // somebody else's instead, which is not destroyed
  void save_cache() noexcept;                         // if anything was added

private:
  struct Layout {
    VkDescriptorSetLayout set = VK_NULL_HANDLE;
    VkPipelineLayout pipeline = VK_NULL_HANDLE;
  };
  VkShaderModule shader_module(const KernelKey &key);  // these two under the mutex
  void check_limits(const KernelKey &key) const;
  std::unique_ptr<Kernel> compile(const KernelKey &key, VkShaderModule module, const Layout &layouts) const;
  static uint64_t fingerprint(const KernelKey &key);
  Layout layout(uint32_t bindings, uint32_t push_bytes);

  Gpu &device_;
  std::mutex mutex_;
  std::condition_variable compiled_;
  std::set<KernelKey> compiling_;  // by some thread, without the mutex
  std::map<KernelKey, std::unique_ptr<Kernel>> kernels_;
  std::map<KernelKey, std::string> failures_;
  std::set<KernelKey> right_;  // asked for before: a fingerprint takes a look at all of a kernel's words
  std::map<std::string, VkShaderModule> modules_;
  std::map<std::pair<uint32_t, uint32_t>, Layout> layouts_;
  VkPipelineCache cache_ = VK_NULL_HANDLE;
  bool foreign_cache_ = false;
  CacheFile cache_file_;
  size_t cache_bytes_ = 0;    // on disk
  bool cache_dirty_ = false;  // something was compiled, or found in it
};

// Kernels of calls that are planned now and recorded later.
class PlannedKernels {
public:
  explicit PlannedKernels(Pipelines &pipelines) : pipelines_(pipelines) {}

  // collecting: a stand-in, and the key is noted. making: as Pipelines::get. made: only what there is.
  enum class Step { collecting, making, made };
  Step step = Step::collecting;
  const Kernel &get(const KernelKey &key);
  std::vector<KernelKey> keys() const;

private:
  Pipelines &pipelines_;
  std::map<KernelKey, Kernel> stand_ins_;
};

}  // namespace seer::vulkan
