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
#include "caps.h"

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
  // Several at once, on as many threads as there are processors. What fails says so when it is asked for.
  void make(std::span<const KernelKey> keys);
  const Kernel *find(const KernelKey &key);  // null: not made yet, or failed

  // What a self-test of the kernel on the device found: a fault, after which get throws it, or "" = none, which is kept
  // in the cache on disk: it holds for this driver and this build's code.
  void judge(const KernelKey &key, const std::string &fault);
  bool judged(const KernelKey &key);  // found right
  bool failed(const KernelKey &key);  // get throws, and has thrown before or was told to

  void load_cache(const std::string &path, const Log &log);  // "" = none. Call before the first get
  void use_cache(VkPipelineCache cache);                     // somebody else's instead, which is not destroyed
  void save_cache() noexcept;                                // if anything was added

  // The fingerprint of the self-test that this device and driver passed, kept in the same file; 0: none.
  uint64_t passed() const { return passed_; }
  void set_passed(uint64_t fingerprint);

private:
  struct Layout {
    VkDescriptorSetLayout set = VK_NULL_HANDLE;
    VkPipelineLayout pipeline = VK_NULL_HANDLE;
  };
  VkShaderModule shader_module(const KernelKey &key);  // these two under the mutex
  void check_limits(const KernelKey &key) const;
  std::unique_ptr<Kernel> compile(const KernelKey &key, VkShaderModule module, const Layout &layouts) const;
  static uint64_t fingerprint(const KernelKey &key);
  std::vector<char> read_cache(const std::string &path);
  Layout layout(uint32_t bindings, uint32_t push_bytes);

  Gpu &device_;
  std::mutex mutex_;
  std::condition_variable compiled_;
  std::set<KernelKey> compiling_;  // by some thread, without the mutex
  std::map<KernelKey, std::unique_ptr<Kernel>> kernels_;
  std::map<KernelKey, std::string> failures_;
  std::set<uint64_t> right_;  // fingerprints
  std::map<std::string, VkShaderModule> modules_;
  std::map<std::pair<uint32_t, uint32_t>, Layout> layouts_;
  VkPipelineCache cache_ = VK_NULL_HANDLE;
  bool foreign_cache_ = false;
  std::string cache_path_;
  bool cache_dirty_ = false;
  uint64_t passed_ = 0;
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
