// Times a program's first call on Vulkan, from the load of the library on: what a user waits for.
//
//   ninja -C build tests/vulkan/vulkan-start
//   build/tests/vulkan/vulkan-start build/libseerattn.so own|imported|driver [attention|prefill]
//
// own: on a device that the library makes. imported: on one that this program makes, as the library recommends; its
// times are told apart. driver: an instance and a device and nothing else, which no program does without. One process
// is one measurement; the first with an empty SEER_VK_CACHE folder is the cold one. Sequences of 1024 tokens, 32 and 8
// heads of 128, f16. The lines behind are the library's debug log.
#define VK_NO_PROTOTYPES
#include <dlfcn.h>
#include <seerattn/seerattn_vulkan.h>
#include <vulkan/vulkan_core.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kTokens = 1024, kQHeads = 32, kKvHeads = 8, kDim = 128;

std::string log_lines;
std::string laps;
double library_ms = 0;
Clock::time_point last;

// The time since the last one.
double lap(const char *what) {
  const Clock::time_point now = Clock::now();
  const double ms = std::chrono::duration<double, std::milli>(now - last).count();
  char text[64];
  std::snprintf(text, sizeof text, "%s %.2f  ", what, ms);
  laps += text;
  last = Clock::now();
  return ms;
}

[[noreturn]] void die(const char *what) {
  std::printf("%s\n%s", what, log_lines.c_str());
  std::exit(1);
}

struct Library {
  void *handle;
  template <class F>
  F *get(F *, const char *name) const {
    auto *f = reinterpret_cast<F *>(dlsym(handle, name));
    if (!f) die(name);
    return f;
  }
};
#define SEER(name) library.get(name, #name)

void SEER_CALL take_log(void *, seer_log_level, const char *text, size_t length) {
  log_lines += "  ";
  log_lines.append(text, length);
  log_lines += '\n';
}

struct Caller {
  PFN_vkGetInstanceProcAddr proc = nullptr;
  VkInstance instance = VK_NULL_HANDLE;
  VkPhysicalDevice physical = VK_NULL_HANDLE;
  VkDevice device = VK_NULL_HANDLE;
  std::vector<const char *> extensions;
  VkPhysicalDeviceFeatures2 features = {};
  VkPhysicalDeviceVulkan11Features features11 = {};
  VkPhysicalDeviceVulkan12Features features12 = {};
  VkPhysicalDeviceVulkan13Features features13 = {};
  // VkPhysicalDeviceCooperativeMatrixFeaturesKHR, ...CooperativeMatrix2FeaturesNV, ...ShaderBfloat16FeaturesKHR, which
  // older headers do not have.
  struct Newer {
    int32_t type;
    void *next;
    VkBool32 enabled[8];
  } newer[3] = {{1000506000, nullptr, {}}, {1000593000, nullptr, {}}, {1000141000, nullptr, {}}};

  template <class F>
  F get(const char *name) const {
    return reinterpret_cast<F>(proc(instance, name));
  }

  void make_instance() {
    void *loader = dlopen("libvulkan.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!loader) die("no libvulkan.so.1");
    proc = reinterpret_cast<PFN_vkGetInstanceProcAddr>(dlsym(loader, "vkGetInstanceProcAddr"));
    lap("loader");
    VkApplicationInfo application = {};
    application.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO;
    application.apiVersion = VK_API_VERSION_1_3;
    VkInstanceCreateInfo info = {};
    info.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO;
    info.pApplicationInfo = &application;
    if (get<PFN_vkCreateInstance>("vkCreateInstance")(&info, nullptr, &instance) != VK_SUCCESS) die("vkCreateInstance");
    lap("vkCreateInstance");
    uint32_t count = 1;
    get<PFN_vkEnumeratePhysicalDevices>("vkEnumeratePhysicalDevices")(instance, &count, &physical);
    if (count == 0) die("no device");
    features.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
    features11.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES;
    features12.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES;
    features13.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES;
    features.pNext = &features11;
    features11.pNext = &features12;
    features12.pNext = &features13;
    features13.pNext = &newer[0];
    newer[0].next = &newer[1];
    newer[1].next = &newer[2];
    lap("devices");
  }
  void make_device() {
    const float priority = 1;
    VkDeviceQueueCreateInfo queue = {};  // family 0 computes wherever this was run
    queue.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO;
    queue.queueCount = 1;
    queue.pQueuePriorities = &priority;
    VkDeviceCreateInfo info = {};
    info.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO;
    info.pNext = &features;
    info.queueCreateInfoCount = 1;
    info.pQueueCreateInfos = &queue;
    info.enabledExtensionCount = uint32_t(extensions.size());
    info.ppEnabledExtensionNames = extensions.data();
    if (get<PFN_vkCreateDevice>("vkCreateDevice")(physical, &info, nullptr, &device) != VK_SUCCESS)
      die("vkCreateDevice");
    lap("vkCreateDevice");
  }
};

}  // namespace

int main(int argc, char **argv) {
  const std::string mode = argc > 2 ? argv[2] : "";
  const bool prefill = argc > 3 && std::strcmp(argv[3], "prefill") == 0;
  if (mode != "own" && mode != "imported" && mode != "driver") {
    std::fprintf(stderr, "usage: vulkan-start LIBRARY own|imported|driver [attention|prefill]\n");
    return 2;
  }
  std::vector<uint16_t> values(size_t(kTokens * kQHeads * kDim));
  for (size_t i = 0; i < values.size(); i++) values[i] = uint16_t(0x3000 + i * 7919 % 2048);  // 0.125 and more
  Caller caller;
  last = Clock::now();
  if (mode != "own") caller.make_instance();
  if (mode == "driver") {
    caller.features.pNext = nullptr;
    caller.make_device();
    std::printf("driver: %s\n", laps.c_str());
    return 0;
  }

  laps.clear();
  last = Clock::now();
  const Library library{dlopen(argv[1], RTLD_NOW | RTLD_LOCAL)};
  if (!library.handle) die(dlerror());
  library_ms += lap("load");
  seer_context_params params = SEER_INIT(seer_context_params);
  params.backend = SEER_BACKEND_VULKAN;
  params.log = take_log;
  params.log_level = SEER_LOG_DEBUG;
  seer_context *ctx = nullptr;
  if (mode == "imported") {
    uint32_t count = 0;
    const auto recommend = SEER(seer_vulkan_recommend);
    auto *const proc = reinterpret_cast<void *>(caller.proc);
    recommend(proc, caller.instance, caller.physical, VK_API_VERSION_1_3, &caller.features, nullptr, &count);
    caller.extensions.resize(count);
    if (recommend(proc, caller.instance, caller.physical, VK_API_VERSION_1_3, &caller.features,
                  caller.extensions.data(), &count) != SEER_OK)
      die(SEER(seer_last_error)());
    library_ms += lap("recommend");
    caller.make_device();
    seer_vulkan_import import = SEER_INIT(seer_vulkan_import);
    import.api_version = VK_API_VERSION_1_3;
    import.get_instance_proc_addr = proc;
    import.instance = caller.instance;
    import.physical_device = caller.physical;
    import.device = caller.device;
    import.extension_count = count;
    import.extensions = caller.extensions.data();
    import.features = &caller.features;
    if (SEER(seer_vulkan_context_create)(&params, &import, &ctx) != SEER_OK) die(SEER(seer_last_error)());
  } else if (SEER(seer_context_create)(&params, &ctx) != SEER_OK) {
    die(SEER(seer_last_error)());
  }
  library_ms += lap("context");

  const auto tensor = [&](int64_t heads) {
    seer_tensor t = {};
    t.mem = SEER_MEM_BUFFER;
    t.dtype = SEER_F16;
    t.ndim = 4;
    t.shape[0] = 1;
    t.shape[1] = kTokens;
    t.shape[2] = heads;
    t.shape[3] = kDim;
    if (SEER(seer_buffer_create)(ctx, uint64_t(kTokens * heads * kDim * 2), 0, &t.buffer) != SEER_OK)
      die(SEER(seer_last_error)());
    return t;
  };
  const auto fill = [&](const seer_tensor &t) {
    if (SEER(seer_buffer_write)(t.buffer, 0, values.data(), uint64_t(kTokens * t.shape[2] * kDim * 2)) != SEER_OK)
      die(SEER(seer_last_error)());
  };
  const seer_tensor q = tensor(kQHeads), k = tensor(kKvHeads), v = tensor(kKvHeads), out = tensor(kQHeads);
  for (const seer_tensor &t : {q, k, v}) fill(t);
  library_ms += lap("buffers");

  seer_model *model = nullptr;
  if (prefill) {
    seer_gate_config config = SEER_INIT(seer_gate_config);
    config.layers = 1;
    config.q_heads = kQHeads;
    config.kv_heads = kKvHeads;
    config.head_dim = config.gate_dim = kDim;
    config.block_size = 64;
    config.force_double = 1;
    config.q_pool = SEER_POOL_AVG;
    config.k_pool = SEER_POOL_MAX | SEER_POOL_MIN | SEER_POOL_AVG;
    config.rope.kind = SEER_ROPE_THETA;
    config.rope.theta = 10000;
    std::vector<uint16_t> weights(size_t(kQHeads * kDim * kDim));
    for (size_t i = 0; i < weights.size(); i++) weights[i] = values[i % values.size()];
    seer_gate_weights layer = SEER_INIT(seer_gate_weights);
    const auto weight = [&](int64_t heads, int64_t in) {
      seer_tensor t = {};
      t.mem = SEER_MEM_HOST;
      t.dtype = SEER_F16;
      t.ndim = 3;
      t.shape[0] = heads;
      t.shape[1] = in;
      t.shape[2] = kDim;
      t.data = weights.data();
      t.size = weights.size() * 2;
      return t;
    };
    layer.wq = weight(kQHeads, kDim);
    layer.wk = weight(kKvHeads, 3 * kDim);
    const seer_gate_weights *layers[] = {&layer};
    if (SEER(seer_model_create)(ctx, &config, layers, &model) != SEER_OK) die(SEER(seer_last_error)());
    library_ms += lap("model");
  }
  seer_ticket ticket = 0;
  const auto call = [&] {
    seer_status status;
    if (prefill) {
      seer_prefill_desc desc = SEER_INIT(seer_prefill_desc);
      desc.q = q;
      desc.k = k;
      desc.v = v;
      desc.out = out;
      desc.select.method = SEER_SELECT_THRESHOLD;
      desc.select.threshold = 1e-3;
      status = SEER(seer_prefill)(ctx, model, 0, &desc, nullptr, &ticket);
    } else {
      seer_attention_desc desc = SEER_INIT(seer_attention_desc);
      desc.q = q;
      desc.k = k;
      desc.v = v;
      desc.out = out;
      status = SEER(seer_attention)(ctx, &desc, nullptr, &ticket);
    }
    if (status != SEER_OK) die(SEER(seer_last_error)());
  };
  call();
  library_ms += lap("first call");
  call();
  lap("second");
  seer_stats stats = SEER_INIT(seer_stats);
  if (SEER(seer_ticket_stats)(ctx, ticket, &stats) != SEER_OK) die(SEER(seer_last_error)());
  std::printf(
      "%s %s: %s| library, without the caller's device and all but the first call: %.1f ms\n"
      "  the second, as the library tells: %.3f ms, gate %.3f, attend %.3f\n%s",
      mode.c_str(), prefill ? "prefill" : "attention", laps.c_str(), library_ms, double(stats.device_ns) * 1e-6,
      double(stats.gate_ns) * 1e-6, double(stats.attend_ns) * 1e-6, log_lines.c_str());
  // What this process leaves to the system at its end, a program that goes on would release.
  return 0;
}
