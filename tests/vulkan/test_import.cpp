// Contexts on a device that the program has made, with its buffers and semaphores.
#include <algorithm>
#include <array>
#include <chrono>
#include <thread>

#include "tensors.h"

using namespace api;
using foreign::full_prefill;
using foreign::InBuffer;

TEST_CASE("vulkan import: prefill on the program's device equals that on host tensors and on the CPU") {
  foreign::Gpu gpu;
  {
    const Context ctx(gpu.context()), cpu = make_context();
    seer_device_info info = SEER_INIT(seer_device_info);
    OK(seer_context_info(ctx.get(), &info));
    CHECK(info.backend == SEER_BACKEND_VULKAN);
    CHECK(info.ordinal == -1);
    const Model model = make_model(ctx.get()), cpu_model = make_model(cpu.get());
    Batch x(2, 70, 134), y = x;
    const seer_prefill_desc on_cpu = full_prefill(y);
    OK(seer_prefill(cpu.get(), cpu_model.get(), 4, &on_cpu, nullptr, nullptr));
    InBuffer memory(gpu, 1 << 20);
    seer_prefill_desc desc = full_prefill(x);
    for (seer_tensor *t : {&desc.q, &desc.k, &desc.v, &desc.out, &desc.lse, &desc.scores, &desc.mask})
      *t = memory.put(*t);
    // Twice: what was borrowed for one call is borrowed again.
    for (int i = 0; i < 2; i++) {
      OK(seer_prefill(ctx.get(), model.get(), 4, &desc, nullptr, nullptr));
      CHECK(distance(memory.get<float>(desc.out, y.out.size()), y.out) < 1e-4);
      CHECK(distance(memory.get<float>(desc.lse, y.lse.size()), y.lse) < 1e-4);
      CHECK(distance(memory.get<float>(desc.scores, y.scores.size()), y.scores) < 1e-4);
      CHECK(memory.get<uint32_t>(desc.mask, y.bits.size()) == y.bits);
      CHECK(memory.margins_intact());
    }
    const seer_prefill_desc on_host = full_prefill(x);
    OK(seer_prefill(ctx.get(), model.get(), 4, &on_host, nullptr, nullptr));
    CHECK(memory.get<float>(desc.out, x.out.size()) == x.out);
    CHECK(gpu.locks > 0);
  }
  gpu.wait_for_release();
}

TEST_CASE("vulkan import: a device with nothing beyond Vulkan 1.1 enabled, and contexts that share one") {
  foreign::Gpu gpu({.api_version = VK_API_VERSION_1_1, .recommended = false});
  {
    const Context a(gpu.context()), b(gpu.context()), own = [] {
      seer_context_params params = SEER_INIT(seer_context_params);
      params.backend = SEER_BACKEND_VULKAN;
      return make_context(params);
    }();
    const Model model = make_model(a.get());
    Batch x(1, 64, 64), y = x;
    const seer_prefill_desc on_a = x.prefill(), on_b = y.prefill();
    OK(seer_prefill(a.get(), model.get(), 4, &on_a, nullptr, nullptr));
    OK(seer_prefill(b.get(), model.get(), 4, &on_b, nullptr, nullptr));
    CHECK(x.out == y.out);
    FAILS(SEER_ERROR_HANDLE, "another device", seer_prefill(own.get(), model.get(), 4, &on_a, nullptr, nullptr));
    const foreign::Buffer buffer(gpu, 4096);
    seer_attention_desc desc = x.attention();
    desc.q.mem = SEER_MEM_VULKAN;
    desc.q.data = nullptr;
    desc.q.vk_buffer = buffer.handle();
    FAILS(SEER_ERROR_UNSUPPORTED, "VkDevice of its own", seer_attention(own.get(), &desc, nullptr, nullptr));
    const seer_vulkan_semaphore semaphore = {1, 1};
    FAILS(SEER_ERROR_UNSUPPORTED, "timelineSemaphore", seer_vulkan_wait_semaphores(a.get(), &semaphore, 1));
    FAILS(SEER_ERROR_UNSUPPORTED, "VkDevice of its own", seer_vulkan_wait_semaphores(own.get(), &semaphore, 1));
  }
  gpu.wait_for_release(2);
}

TEST_CASE("vulkan import: what is missing is named") {
  foreign::Gpu gpu;
  const auto refused = [&](seer_status status, const char *word, auto change) {
    seer_vulkan_import import = gpu.import();
    change(import);
    seer_context *ctx = nullptr;
    FAILS(status, word, seer_vulkan_context_create(nullptr, &import, &ctx));
    CHECK(ctx == nullptr);
  };
  using Import = seer_vulkan_import;
  refused(SEER_ERROR_INVALID_ARGUMENT, "import.device is NULL", [](Import &i) { i.device = nullptr; });
  refused(SEER_ERROR_INVALID_ARGUMENT, "import.instance is NULL", [](Import &i) { i.instance = nullptr; });
  refused(SEER_ERROR_INVALID_ARGUMENT, "get_instance_proc_addr", [](Import &i) { i.get_instance_proc_addr = nullptr; });
  refused(SEER_ERROR_INVALID_ARGUMENT, "unlock_queue", [](Import &i) { i.unlock_queue = nullptr; });
  refused(SEER_ERROR_INVALID_ARGUMENT, "queue_family is 99", [](Import &i) { i.queue_family = 99; });
  refused(SEER_ERROR_INVALID_ARGUMENT, "queue_index is 99", [](Import &i) { i.queue_index = 99; });
  refused(SEER_ERROR_UNSUPPORTED, "1.0", [](Import &i) { i.api_version = VK_API_VERSION_1_0; });
  refused(SEER_ERROR_STRUCT, "struct_size", [](Import &i) { i.struct_size = 8; });
  const char *no_such = "VK_KHR_no_such_thing";
  refused(SEER_ERROR_UNSUPPORTED, no_such, [&](Import &i) {
    i.extensions = &no_such;
    i.extension_count = 1;
  });
  // A feature of an extension that is not enabled with it, and one that the device has not.
  VkPhysicalDeviceTimelineSemaphoreFeatures timeline = {};
  timeline.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES;
  timeline.timelineSemaphore = VK_TRUE;
  refused(SEER_ERROR_UNSUPPORTED, "VK_KHR_timeline_semaphore", [&](Import &i) {
    i.api_version = VK_API_VERSION_1_1;
    i.features = &timeline;
  });
  {
    setenv("SEER_VK_MAX_SHARED", "8000", 1);
    refused(SEER_ERROR_UNSUPPORTED, "bytes of shared memory: 8000", [](Import &) {});
    unsetenv("SEER_VK_MAX_SHARED");
  }
  seer_context_params params = SEER_INIT(seer_context_params);
  params.backend = SEER_BACKEND_CPU;
  const seer_vulkan_import import = gpu.import();
  seer_context *ctx = nullptr;
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "params.backend", seer_vulkan_context_create(&params, &import, &ctx));
  FAILS(SEER_ERROR_INVALID_ARGUMENT, "import is NULL", seer_vulkan_context_create(nullptr, nullptr, &ctx));
  CHECK(gpu.released == 0);  // not called where nothing was made
}

TEST_CASE("vulkan import: bad buffers are refused before anything is recorded") {
  foreign::Gpu gpu;
  {
    const Context ctx(gpu.context());
    Batch x(1, 33, 33);
    InBuffer memory(gpu, 1 << 18);
    seer_attention_desc good = x.attention();
    for (seer_tensor *t : {&good.q, &good.k, &good.v, &good.out, &good.lse}) *t = memory.put(*t);
    const int locks = gpu.locks;
    const auto refused = [&](seer_status status, const char *word, auto change) {
      seer_attention_desc desc = good;
      change(desc);
      FAILS(status, word, seer_attention(ctx.get(), &desc, nullptr, nullptr));
    };
    using Desc = seer_attention_desc;
    refused(SEER_ERROR_STRIDE, "multiple of 16", [](Desc &d) { d.q.offset += 4; });
    refused(SEER_ERROR_OUT_OF_BOUNDS, "k reaches over", [](Desc &d) { d.k.size = d.k.offset + 16; });
    refused(SEER_ERROR_OUT_OF_BOUNDS, "out.offset", [](Desc &d) { d.out.offset = d.out.size + 16; });
    refused(SEER_ERROR_INVALID_ARGUMENT, "vk_buffer is 0", [](Desc &d) { d.v.vk_buffer = 0; });
    refused(SEER_ERROR_INVALID_ARGUMENT, "q.data is set", [](Desc &d) { d.q.data = &d; });
    refused(SEER_ERROR_STRIDE, "out overlaps the input q", [](Desc &d) { d.out.offset = d.q.offset; });
    refused(SEER_ERROR_MEMORY_KIND, "q.mem is 2", [](Desc &d) {
      d.q.mem = SEER_MEM_CUDA;
      d.q.vk_buffer = 0;
      d.q.data = &d;
    });
    CHECK(gpu.locks == locks);
    CHECK(memory.margins_intact());
    OK(seer_attention(ctx.get(), &good, nullptr, nullptr));
    CHECK(gpu.locks > locks);
    // To the byte: the last element may end where the buffer ends, if that is a whole word.
    const foreign::Buffer exact(gpu, good.lse.shape[2] * good.lse.shape[1] * 4);
    good.lse.vk_buffer = exact.handle();
    good.lse.offset = 0;
    good.lse.size = exact.size;
    OK(seer_attention(ctx.get(), &good, nullptr, nullptr));
    if (foreign::Gpu::validated()) {  // what only the layers can see
      const foreign::Buffer other(gpu, exact.size, VK_BUFFER_USAGE_TRANSFER_DST_BIT);
      good.lse.vk_buffer = other.handle();
      OK(seer_attention(ctx.get(), &good, nullptr, nullptr));
      CHECK(gpu.take_messages().find("STORAGE_BUFFER") != std::string::npos);
    }
    good.lse.size -= 2;
    FAILS(SEER_ERROR_OUT_OF_BOUNDS, "lse reaches over", seer_attention(ctx.get(), &good, nullptr, nullptr));
  }
  gpu.wait_for_release();
}

TEST_CASE("vulkan import: work waits for the program's semaphores and signals them, also when it fails") {
  foreign::Gpu gpu;
  {
    const Context ctx(gpu.context());
    foreign::Timeline ready(gpu), done(gpu);
    Batch x(1, 96, 96), y = x;
    const seer_attention_desc on_host = y.attention();
    OK(seer_attention(ctx.get(), &on_host, nullptr, nullptr));
    InBuffer memory(gpu, 1 << 18);
    seer_attention_desc desc = x.attention();
    for (seer_tensor *t : {&desc.q, &desc.k, &desc.v, &desc.out, &desc.lse}) *t = memory.put(*t);
    // The query is not there before the semaphore is: work that does not wait for it computes something else.
    const std::vector<float> q = memory.get<float>(desc.q, x.q.size());
    std::fill_n(memory.buffer().at<float>(desc.q.offset), q.size(), 0.0f);

    const seer_vulkan_semaphore waits[] = {ready.at(3)}, signals[] = {done.at(7)};
    seer_submit submit = SEER_INIT(seer_submit);
    seer_ticket attended = 0, signalled = 0;
    OK(seer_vulkan_wait_semaphores(ctx.get(), waits, 1));
    OK(seer_attention(ctx.get(), &desc, &submit, &attended));
    OK(seer_vulkan_signal_semaphores(ctx.get(), signals, 1, &signalled));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    CHECK(seer_wait(ctx.get(), attended, 0) == SEER_NOT_READY);
    CHECK(done.value() == 0);
    std::copy(q.begin(), q.end(), memory.buffer().at<float>(desc.q.offset));
    ready.signal(3);
    OK(seer_wait(ctx.get(), signalled, UINT64_MAX));
    for (int i = 0; done.value() != 7 && i < 1000; i++) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    CHECK(done.value() == 7);
    CHECK(memory.get<float>(desc.out, y.out.size()) == y.out);

    // A wait with nothing but a copy behind it, and a signal behind cancelled work.
    seer_cancel *cancel = nullptr;
    OK(seer_cancel_create(&cancel));
    seer_cancel_trigger(cancel);
    submit.cancel = cancel;
    OK(seer_attention(ctx.get(), &desc, &submit, &attended));
    seer_cancel_release(cancel);
    const seer_vulkan_semaphore last = done.at(8);
    OK(seer_vulkan_signal_semaphores(ctx.get(), &last, 1, nullptr));
    CHECK(seer_wait(ctx.get(), attended, UINT64_MAX) == SEER_ERROR_CANCELLED);
    OK(seer_vulkan_wait_semaphores(ctx.get(), &last, 1));
    seer_buffer *buffer = nullptr;
    OK(seer_buffer_create(ctx.get(), 64, 0, &buffer));
    const std::array<uint8_t, 64> bytes = {1, 2, 3};
    OK(seer_buffer_write(buffer, 0, bytes.data(), bytes.size()));
    CHECK(done.value() == 8);
    seer_buffer_release(buffer);
    FAILS(SEER_ERROR_INVALID_ARGUMENT, "list[0].semaphore", [&] {
      const seer_vulkan_semaphore none = {};
      return seer_vulkan_signal_semaphores(ctx.get(), &none, 1, nullptr);
    }());
    FAILS(SEER_ERROR_UNSUPPORTED, "backend cpu", seer_vulkan_wait_semaphores(make_context().get(), &last, 1));
  }
  gpu.wait_for_release();
}

TEST_CASE("vulkan import: memory by file descriptor is one memory on both sides; buffers have a VkBuffer") {
  seer_context_params params = SEER_INIT(seer_context_params);
  params.backend = SEER_BACKEND_VULKAN;
  const Context own = make_context(params);
  std::vector<uint8_t> bytes(100000), back(bytes.size());
  for (size_t i = 0; i < bytes.size(); i++) bytes[i] = uint8_t(i * 7);
  foreign::Gpu gpu;
  {
    const Context ctx(gpu.context());
    seer_vulkan_external external = SEER_INIT(seer_vulkan_external);
    seer_buffer *a = nullptr, *b = nullptr;
    OK(seer_vulkan_buffer_export(own.get(), bytes.size(), &external, &a));
    CHECK(external.fd >= 0);
    CHECK(external.size == bytes.size());
    CHECK(external.allocation_size >= bytes.size());
    OK(seer_buffer_write(a, 0, bytes.data(), bytes.size()));

    const auto refused = [&](seer_status status, const char *word, auto change) {
      seer_vulkan_external other = external;
      change(other);
      seer_buffer *none = nullptr;
      FAILS(status, word, seer_vulkan_buffer_import(ctx.get(), &other, &none));
      CHECK(none == nullptr);
    };
    using E = seer_vulkan_external;
    refused(SEER_ERROR_INVALID_ARGUMENT, "external.fd", [](E &e) { e.fd = -1; });
    refused(SEER_ERROR_OUT_OF_BOUNDS, "external.size", [](E &e) { e.size = e.allocation_size + 1; });
    refused(SEER_ERROR_INVALID_ARGUMENT, "memory_type is 77", [](E &e) { e.memory_type = 77; });
    refused(SEER_ERROR_STRUCT, "reserved", [](E &e) { e.reserved = 1; });

    OK(seer_vulkan_buffer_import(ctx.get(), &external, &b));  // the descriptor is gone now
    OK(seer_buffer_read(b, 0, back.data(), back.size()));
    CHECK(back == bytes);
    seer_buffer_release(a);  // the memory lives on in b
    std::fill(back.begin(), back.end(), uint8_t(1));
    OK(seer_buffer_read(b, 50000, back.data() + 50000, 50000));
    CHECK(std::equal(back.begin() + 50000, back.end(), bytes.begin() + 50000));

    seer_vulkan_range range = {};
    OK(seer_vulkan_buffer_get(b, &range));
    CHECK(range.buffer != 0);
    CHECK(range.size == bytes.size());
    foreign::Commands commands(gpu);
    commands.begin();
    gpu.fn.vkCmdFillBuffer(commands.handle, reinterpret_cast<VkBuffer>(range.buffer), range.offset, 4096, 0x01010101);
    commands.run();
    OK(seer_buffer_read(b, 0, back.data(), 4097));
    CHECK(std::count(back.begin(), back.begin() + 4096, uint8_t(1)) == 4096);
    CHECK(back[4096] == bytes[4096]);
    seer_buffer_release(b);

    OK(seer_buffer_create(own.get(), 16, 0, &a));
    FAILS(SEER_ERROR_UNSUPPORTED, "VkDevice of its own", seer_vulkan_buffer_get(a, &range));
    seer_buffer_release(a);
    FAILS(SEER_ERROR_UNSUPPORTED, "backend cpu", seer_vulkan_buffer_export(make_context().get(), 16, &external, &a));
  }
  gpu.wait_for_release();
  foreign::Gpu plain({.recommended = false});
  {
    const Context ctx(plain.context());
    seer_vulkan_external external = SEER_INIT(seer_vulkan_external);
    seer_buffer *none = nullptr;
    FAILS(SEER_ERROR_UNSUPPORTED, "VK_KHR_external_memory_fd",
          seer_vulkan_buffer_export(ctx.get(), 16, &external, &none));
  }
  plain.wait_for_release();
}
