// The program's host memory, used by the device where it lies.
#include <algorithm>
#include <cstdlib>
#include <memory>

#include "tensors.h"
#include "with.h"

using namespace api;

namespace {

// Host memory of whole pages, filled with a value that nobody else writes.
class Pages {
public:
  explicit Pages(size_t bytes) : size_((bytes + 4095) / 4096 * 4096), data_(std::aligned_alloc(4096, size_)) {
    std::memset(data_, 0x5a, size_);
  }
  ~Pages() { std::free(data_); }
  Pages(const Pages &) = delete;
  Pages &operator=(const Pages &) = delete;
  char *at(size_t offset) const { return static_cast<char *>(data_) + offset; }
  bool untouched(size_t begin, size_t end) const {
    return std::all_of(at(begin), at(end), [](char c) { return c == 0x5a; });
  }
  size_t size() const { return size_; }

private:
  const size_t size_;
  void *const data_;
};

struct Imports {
  PFN_vkGetInstanceProcAddr instance_proc = nullptr;
  PFN_vkGetDeviceProcAddr device_proc = nullptr;
  PFN_vkAllocateMemory allocate = nullptr;
  int count = 0;  // of host memory
  bool refuse = false;
} imports;

VKAPI_ATTR VkResult VKAPI_CALL allocate(VkDevice device, const VkMemoryAllocateInfo *info,
                                        const VkAllocationCallbacks *callbacks, VkDeviceMemory *memory) {
  for (auto *s = static_cast<const VkBaseInStructure *>(info->pNext); s; s = s->pNext) {
    if (s->sType != VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT) continue;
    imports.count++;
    if (imports.refuse) return VK_ERROR_INVALID_EXTERNAL_HANDLE;
  }
  return imports.allocate(device, info, callbacks, memory);
}

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL device_proc(VkDevice device, const char *name) {
  const PFN_vkVoidFunction real = imports.device_proc(device, name);
  if (std::string(name) != "vkAllocateMemory") return real;
  imports.allocate = reinterpret_cast<PFN_vkAllocateMemory>(real);
  return reinterpret_cast<PFN_vkVoidFunction>(allocate);
}

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL instance_proc(VkInstance instance, const char *name) {
  const PFN_vkVoidFunction real = imports.instance_proc(instance, name);
  if (std::string(name) != "vkGetDeviceProcAddr") return real;
  imports.device_proc = reinterpret_cast<PFN_vkGetDeviceProcAddr>(real);
  return reinterpret_cast<PFN_vkVoidFunction>(device_proc);
}

bool offered(const foreign::Gpu &gpu) {
  return std::any_of(gpu.extensions.begin(), gpu.extensions.end(),
                     [](const char *name) { return std::string(name) == VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME; });
}

}  // namespace

TEST_CASE("vulkan host memory: a buffer of the program's memory, its lifetime, and what is refused") {
  foreign::Gpu gpu;
  if (!offered(gpu)) {
    MESSAGE("the device lacks VK_EXT_external_memory_host");
    return;
  }
  std::atomic<int> released{0};
  Batch x(1, 70, 70, {.q_heads = 4, .kv_heads = 2, .dim = 64, .block = 64}), y = x;
  {
    const Context ctx(gpu.context()), cpu = make_context();
    const Pages pages(1 << 20);
    constexpr size_t begin = 4096 + 48, size = 500000;  // not on the grid of pages
    const auto import = [&](auto change) {
      seer_vulkan_host_memory host = SEER_INIT(seer_vulkan_host_memory);
      host.data = pages.at(begin);
      host.size = size;
      host.release = [](void *user) { ++*static_cast<std::atomic<int> *>(user); };
      host.user = &released;
      change(host);
      return host;
    };
    using H = seer_vulkan_host_memory;
    const auto refused = [&](seer_status status, const char *word, auto change) {
      const H host = import(change);
      seer_buffer *none = nullptr;
      FAILS(status, word, seer_vulkan_buffer_import_host(ctx.get(), &host, &none));
      CHECK(none == nullptr);
    };
    refused(SEER_ERROR_INVALID_ARGUMENT, "host.data is NULL", [](H &h) { h.data = nullptr; });
    refused(SEER_ERROR_STRIDE, "multiple of 16", [](H &h) { h.data = static_cast<char *>(h.data) + 8; });
    refused(SEER_ERROR_INVALID_ARGUMENT, "host.size is 0", [](H &h) { h.size = 0; });
    refused(SEER_ERROR_INVALID_ARGUMENT, "host.size is 6", [](H &h) { h.size = 6; });
    refused(SEER_ERROR_UNSUPPORTED, "host.flags", [](H &h) { h.flags = 1; });
    const H host = import([](H &) {});
    seer_buffer *buffer = nullptr;
    FAILS(SEER_ERROR_UNSUPPORTED, "backend cpu", seer_vulkan_buffer_import_host(cpu.get(), &host, &buffer));
    CHECK(released == 0);

    OK(seer_vulkan_buffer_import_host(ctx.get(), &host, &buffer));
    seer_attention_desc desc = x.attention();
    size_t used = begin;
    std::vector<std::pair<size_t, size_t>> parts;
    for (seer_tensor *t : {&desc.q, &desc.k, &desc.v, &desc.out}) {
      const size_t offset = (used - begin + 15) / 16 * 16 + 32, bytes = t->size;
      std::memcpy(pages.at(begin + offset), t->data, bytes);  // before the call, by nobody's leave
      parts.push_back({begin + offset, begin + offset + bytes});
      t->mem = SEER_MEM_BUFFER;
      t->buffer = buffer;
      t->data = nullptr;
      t->offset = offset;
      t->size = 0;
      used = begin + offset + bytes;
    }
    desc.mask = desc.lse = {};
    OK(seer_attention(ctx.get(), &desc, nullptr, nullptr));
    seer_attention_desc on_cpu = y.attention();
    on_cpu.mask = on_cpu.lse = {};
    OK(seer_attention(cpu.get(), &on_cpu, nullptr, nullptr));
    std::memcpy(x.out.data(), pages.at(parts[3].first), x.out.size() * 4);
    CHECK(distance(x.out, y.out) < 1e-4);
    size_t from = 0;
    for (const auto &[first, end] : parts) {
      CHECK(pages.untouched(from, first));
      from = end;
    }
    CHECK(pages.untouched(from, pages.size()));
    std::vector<char> back(16);
    OK(seer_buffer_write(buffer, 0, back.data(), 16));
    CHECK(pages.untouched(0, begin));
    CHECK(std::all_of(pages.at(begin), pages.at(begin + 16), [](char c) { return c == 0; }));
    OK(seer_buffer_read(buffer, parts[3].first - begin, back.data(), 16));
    CHECK(std::memcmp(back.data(), x.out.data(), 16) == 0);
    CHECK(released == 0);
    seer_buffer_release(buffer);
    CHECK(released == 1);
  }
  gpu.wait_for_release();
  const With none("SEER_VK_HOST_POINTERS", "0");
  {
    const Context ctx(gpu.context());
    seer_vulkan_host_memory host = SEER_INIT(seer_vulkan_host_memory);
    const Pages pages(4096);
    host.data = pages.at(0);
    host.size = 4096;
    seer_buffer *buffer = nullptr;
    FAILS(SEER_ERROR_UNSUPPORTED, "VK_EXT_external_memory_host",
          seer_vulkan_buffer_import_host(ctx.get(), &host, &buffer));
  }
  gpu.wait_for_release(2);
}

TEST_CASE("vulkan host memory: host tensors of a call are used in place, or copied where that cannot be") {
  foreign::Gpu gpu;
  if (!offered(gpu)) {
    MESSAGE("the device lacks VK_EXT_external_memory_host");
    return;
  }
  const Context cpu = make_context();
  Batch y(1, 70, 70);
  const seer_prefill_desc on_cpu = y.prefill();
  OK(seer_prefill(cpu.get(), make_model(cpu.get()).get(), 4, &on_cpu, nullptr, nullptr));
  // Kernels of a GPU with memory of its own do not read tensors through the bus unasked.
  VkPhysicalDeviceProperties properties;
  gpu.fn.vkGetPhysicalDeviceProperties(gpu.physical, &properties);
  const bool discrete = properties.deviceType == VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU;
  int contexts = 0;
  enum class Case { in_place, odd_output, strided, refused, switched_off, own_memory };
  for (const Case c :
       {Case::in_place, Case::odd_output, Case::strided, Case::refused, Case::switched_off, Case::own_memory}) {
    CAPTURE(int(c));
    const With off("SEER_VK_HOST_POINTERS", c == Case::switched_off ? "0" : "1");
    const With unified(c == Case::own_memory ? "SEER_VK_UNIFIED_MEMORY" : "SEER_UNUSED", "0");
    imports = {};
    imports.instance_proc = gpu.proc;
    imports.refuse = c == Case::refused;
    {
      seer_vulkan_import import = gpu.import();
      import.get_instance_proc_addr = reinterpret_cast<void *>(instance_proc);
      seer_context *made = nullptr;
      OK(seer_vulkan_context_create(nullptr, &import, &made));
      const Context ctx(made);
      const Model model = make_model(ctx.get());
      Batch x(1, 70, 70);
      seer_prefill_desc desc = x.prefill();
      const Pages pages(1 << 20);
      // Each in pages of its own; what is written has neighbours there.
      size_t used = 256;
      for (seer_tensor *t : {&desc.q, &desc.k, &desc.v, &desc.out}) {
        char *to = pages.at(used) + (c == Case::odd_output && t == &desc.out ? 4 : 0);
        std::memcpy(to, t->data, t->size);
        t->data = to;
        used = (used + t->size + 8191) / 4096 * 4096 + 256;
      }
      const auto out = reinterpret_cast<char *>(desc.out.data) - pages.at(0);
      const size_t out_bytes = desc.out.size;
      if (c == Case::strided) {  // with a gap behind each token, which nobody may write
        desc.out.stride[3] = 1;
        desc.out.stride[2] = x.d;
        desc.out.stride[1] = x.hq * x.d + 4;
        desc.out.stride[0] = desc.out.stride[1] * x.s;
        desc.out.size = uint64_t(desc.out.stride[0]) * 4;
        std::memset(desc.out.data, 0x5a, desc.out.size);
      }
      imports.count = 0;
      OK(seer_prefill(ctx.get(), model.get(), 4, &desc, nullptr, nullptr));
      const int tensors = c == Case::in_place || c == Case::refused     ? 4
                          : c == Case::odd_output || c == Case::strided ? 3
                                                                        : 0;
      CHECK(imports.count == (discrete ? 0 : tensors));
      if (c == Case::strided) {
        const auto *row = static_cast<const char *>(desc.out.data);
        for (int64_t i = 0; i < x.s; i++) {
          std::memcpy(&x.out[size_t(i * x.hq * x.d)], row + i * desc.out.stride[1] * 4, size_t(x.hq * x.d) * 4);
          const auto gap = size_t(out + (i * desc.out.stride[1] + x.hq * x.d) * 4);
          CHECK(pages.untouched(gap, gap + 16));
        }
      } else {
        std::memcpy(x.out.data(), desc.out.data, out_bytes);
        CHECK(pages.untouched(size_t(out) + out_bytes, pages.size()));
      }
      CHECK(pages.untouched(size_t(out) - 256 + 16, size_t(out)));
      CHECK(distance(x.out, y.out) < 1e-4);
    }
    gpu.wait_for_release(++contexts);
  }
}
