// Times a program's first call on Vulkan, from the load of the library on: what a user waits for.
//
//   ninja -C build tests/vulkan/vulkan-start
//   build/tests/vulkan/vulkan-start build/libseerattn.so own|imported|driver [attention|prefill]
//
// own: on a device that the library makes. imported: on one that this program makes, as the library recommends; its
// times are told apart. driver: an instance and a device and nothing else, which no program does without. One process
// is one measurement; the first with an empty SEER_VK_CACHE folder is the cold one. Sequences of 1024 tokens, 32 and 8
// heads of 128, f16. The lines behind are the library's debug log.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../tests/vulkan/own_device.h"

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

// VkPhysicalDeviceCooperativeMatrixFeaturesKHR, ...CooperativeMatrix2FeaturesNV, ...ShaderBfloat16FeaturesKHR, which
// older headers do not have.
struct Newer {
  int32_t type;
  void *next;
  VkBool32 enabled[8];
} newer[3] = {{1000506000, &newer[1], {}}, {1000593000, &newer[2], {}}, {1000141000, nullptr, {}}};

void make_instance(foreign::OwnDevice &caller) {
  caller.load();
  lap("loader");
  caller.make_instance();
  lap("vkCreateInstance");
  caller.pick(&newer[0]);
  lap("devices");
}

void make_device(foreign::OwnDevice &caller) {
  caller.make_device();
  lap("vkCreateDevice");
}

}  // namespace

int main(int argc, char **argv) try {
  const std::string mode = argc > 2 ? argv[2] : "";
  const bool prefill = argc > 3 && std::strcmp(argv[3], "prefill") == 0;
  if (mode != "own" && mode != "imported" && mode != "driver") {
    std::fprintf(stderr, "usage: vulkan-start LIBRARY own|imported|driver [attention|prefill]\n");
    return 2;
  }
  std::vector<uint16_t> values(size_t(kTokens * kQHeads * kDim));
  for (size_t i = 0; i < values.size(); i++) values[i] = uint16_t(0x3000 + i * 7919 % 2048);  // 0.125 and more
  foreign::OwnDevice caller(VK_API_VERSION_1_3);
  last = Clock::now();
  if (mode != "own") make_instance(caller);
  if (mode == "driver") {
    caller.features.pNext = nullptr;
    make_device(caller);
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
    caller.recommend(SEER(seer_vulkan_recommend));
    library_ms += lap("recommend");
    make_device(caller);
    const seer_vulkan_import import = caller.import();
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
} catch (const std::exception &error) {
  die(error.what());
}
