// Entry points of seerattn_vulkan.h.
#include <seerattn/seerattn_vulkan.h>

#include <cmath>

#include "convert.h"
#include "handles.h"
#include "vulkan/interop.h"

using namespace seer;
using namespace seer::capi;

struct seer_vulkan_plan : seer::capi::Handle<seer::vulkan::Plan, 0x7265657376706c31> {};

namespace {

using VulkanPlan = seer::vulkan::Plan;

constexpr uint32_t kVulkan11 = 1u << 22 | 1u << 12;

void check_version(uint32_t api_version, const char *name) {
  SEER_REQUIRE(api_version >= kVulkan11, Status::unsupported, "%s is %u.%u; expected Vulkan 1.1 or more", name,
               api_version >> 22 & 127, api_version >> 12 & 1023);
}

void check_handle(const void *handle, const char *name) {
  SEER_REQUIRE(handle, Status::invalid_argument, "%s is NULL", name);
}

VulkanImport vulkan_import(const seer_vulkan_import &in) {
  check_version(in.api_version, "import.api_version");
  check_handle(in.get_instance_proc_addr, "import.get_instance_proc_addr");
  check_handle(in.instance, "import.instance");
  check_handle(in.physical_device, "import.physical_device");
  check_handle(in.device, "import.device");
  SEER_REQUIRE(!in.lock_queue == !in.unlock_queue, Status::invalid_argument,
               "import has one of lock_queue and unlock_queue; they come together");
  SEER_REQUIRE(in.extensions || in.extension_count == 0, Status::invalid_argument,
               "import.extensions is NULL; expected %u names", in.extension_count);
  VulkanImport out;
  out.api_version = in.api_version;
  out.get_instance_proc_addr = in.get_instance_proc_addr;
  out.instance = in.instance;
  out.physical_device = in.physical_device;
  out.device = in.device;
  out.queue = in.queue;
  out.queue_family = in.queue_family;
  out.queue_index = in.queue_index;
  out.queue_flags = in.queue_flags;
  for (uint32_t i = 0; i < in.extension_count; i++) {
    SEER_REQUIRE(in.extensions[i], Status::invalid_argument, "import.extensions[%u] is NULL", i);
    out.extensions.emplace_back(in.extensions[i]);
  }
  out.features = in.features;
  out.lock = in.lock_queue;
  out.unlock = in.unlock_queue;
  out.user = in.user;
  out.allocation_callbacks = in.allocation_callbacks;
  out.pipeline_cache = in.pipeline_cache;
  return out;
}

void require_vulkan(const Context &context, const char *what) {
  const BackendFns &fns = *context.device().fns;
  SEER_REQUIRE(fns.kind == BackendKind::vulkan, Status::unsupported, "backend %s has no Vulkan %s", fns.name, what);
}

std::shared_ptr<Buffer> shared_buffer(const std::shared_ptr<Context> &context, const Memory &memory) {
  try {
    return std::make_shared<Buffer>(context, memory);
  } catch (...) {
    context->device().fns->free(context->device(), memory);
    throw;
  }
}

// The context and the semaphores of a call, checked.
std::pair<std::shared_ptr<Context>, std::vector<vulkan::Semaphore>> semaphore_call(const seer_context *ctx,
                                                                                   const seer_vulkan_semaphore *list,
                                                                                   uint32_t count) {
  auto context = usable(ctx);
  require_vulkan(*context, "semaphores");
  vulkan::check_semaphores(context->device());
  SEER_REQUIRE(list || count == 0, Status::invalid_argument, "list is NULL; expected %u semaphores", count);
  std::vector<vulkan::Semaphore> semaphores;
  for (uint32_t i = 0; i < count; i++) {
    SEER_REQUIRE(list[i].semaphore, Status::invalid_argument, "list[%u].semaphore is 0", i);
    semaphores.push_back({list[i].semaphore, list[i].value});
  }
  return {std::move(context), std::move(semaphores)};
}

// What the four plans have in common. make_desc(context, pins, cache) takes the description as the call that executes
// would take it.
template <class MakeDesc>
seer_status make_plan(seer_context *ctx, const seer_model *model, bool has_model, const seer_vulkan_plan_params *params,
                      seer_vulkan_plan **out, MakeDesc make_desc) {
  if (out) *out = nullptr;
  return entry([&] {
    SEER_REQUIRE(out, Status::invalid_argument, "out is NULL");
    const auto context = usable(ctx);
    require_vulkan(*context, "command buffers");
    std::shared_ptr<const Model> gates;
    if (has_model) gates = get(model, "model");
    double part_flops = 0;
    if (params) {
      const seer_vulkan_plan_params in = read_struct(params, "params");
      check_flags(in.flags, 0, "params");
      SEER_REQUIRE(in.part_flops >= 0 && std::isfinite(in.part_flops), Status::invalid_argument,
                   "params.part_flops is %g; expected a positive number, or 0 for one part", in.part_flops);
      part_flops = in.part_flops;
    }
    Context::Pins pins;
    std::shared_ptr<ChunkCache> cache;
    const vulkan::PlannedDesc desc = make_desc(*context, pins, cache);
    *out = make_handle<seer_vulkan_plan>(VulkanPlan::make(context, gates, desc, cache, part_flops));
  });
}

// A tensor without the memory that a plan does not look at.
seer_tensor without_memory(seer_tensor t) {
  if (t.mem != SEER_MEM_VULKAN && t.mem != SEER_MEM_BUFFER) return t;
  t.mem = SEER_MEM_VULKAN;
  t.vk_buffer = t.offset = t.size = 0;
  t.buffer = nullptr;
  return t;
}

template <class Desc>
Desc without_memory(const Desc &in) {
  Desc desc = in;
  if constexpr (requires { desc.q; }) desc.q = without_memory(in.q);
  if constexpr (requires { desc.k; }) desc.k = without_memory(in.k);
  if constexpr (requires { desc.v; }) desc.v = without_memory(in.v);
  if constexpr (requires { desc.out; }) desc.out = without_memory(in.out);
  if constexpr (requires { desc.lse; }) desc.lse = without_memory(in.lse);
  if constexpr (requires { desc.scores; }) desc.scores = without_memory(in.scores);
  if constexpr (requires { desc.mask; }) desc.mask = without_memory(in.mask);
  return desc;
}

vulkan::BufferRange buffer_range(const seer_vulkan_range &in) {
  return {.buffer = in.buffer, .offset = in.offset, .size = in.size};
}

}  // namespace

extern "C" {

seer_status seer_vulkan_recommend(void *get_instance_proc_addr, void *instance, void *physical_device,
                                  uint32_t api_version, void *features, const char **extensions,
                                  uint32_t *extension_count) {
  return entry([&] {
    check_handle(get_instance_proc_addr, "get_instance_proc_addr");
    check_handle(instance, "instance");
    check_handle(physical_device, "physical_device");
    check_version(api_version, "api_version");
    SEER_REQUIRE(extension_count || !extensions, Status::invalid_argument,
                 "extension_count is NULL; expected the room in extensions");
    const auto names = vulkan::recommend(get_instance_proc_addr, instance, physical_device, api_version, features);
    if (!extension_count) return;
    if (extensions) std::copy_n(names.begin(), std::min<size_t>(names.size(), *extension_count), extensions);
    *extension_count = static_cast<uint32_t>(names.size());
  });
}

seer_status seer_vulkan_context_create(const seer_context_params *params, const seer_vulkan_import *import,
                                       seer_context **out) {
  if (out) *out = nullptr;
  return entry([&] {
    SEER_REQUIRE(out, Status::invalid_argument, "out is NULL");
    ContextParams p = context_params(params);
    SEER_REQUIRE(p.backend == BackendKind::automatic || p.backend == BackendKind::vulkan, Status::invalid_argument,
                 "params.backend is %d; expected AUTO (0) or VULKAN (2)", int(p.backend));
    SEER_REQUIRE(p.ordinal == 0, Status::invalid_argument, "params.device is %d; the device is the import's",
                 p.ordinal);
    const seer_vulkan_import in = read_struct(import, "import");
    const VulkanImport checked = vulkan_import(in);
    p.backend = BackendKind::vulkan;
    p.vulkan = &checked;
    p.vulkan_release = in.release;
    p.vulkan_user = in.user;
    auto handle = std::make_unique<seer_context>();
    handle->object = Context::create(p);
    *out = handle.release();
  });
}

seer_status seer_vulkan_wait_semaphores(seer_context *ctx, const seer_vulkan_semaphore *list, uint32_t count) {
  return entry([&] {
    auto [context, semaphores] = semaphore_call(ctx, list, count);
    Device &device = context->device();
    context->submit([&device, waits = std::move(semaphores)](Pipeline &, Exec &,
                                                             CallStats &) { vulkan::wait_semaphores(device, waits); },
                    0, {});
  });
}

seer_status seer_vulkan_signal_semaphores(seer_context *ctx, const seer_vulkan_semaphore *list, uint32_t count,
                                          seer_ticket *ticket) {
  return entry([&] {
    auto [context, semaphores] = semaphore_call(ctx, list, count);
    Device &device = context->device();
    const uint64_t number =
        context->submit([&device, signals = std::move(semaphores)](
                            Pipeline &, Exec &, CallStats &) { vulkan::signal_semaphores(device, signals); },
                        0, {});
    if (ticket) *ticket = number;
  });
}

seer_status seer_vulkan_buffer_get(const seer_buffer *buffer, seer_vulkan_range *range) {
  return entry([&] {
    const auto object = get(buffer, "buffer");
    SEER_REQUIRE(range, Status::invalid_argument, "range is NULL");
    const Context &context = object->context();
    context.check_usable();
    require_vulkan(context, "buffers");
    SEER_REQUIRE(vulkan::is_imported(context.device()), Status::unsupported,
                 "the context made a VkDevice of its own, whose buffers nobody else can use");
    const vulkan::BufferRange found = vulkan::range_of(context.device(), object->memory());
    *range = {found.buffer, found.offset, found.size};
  });
}

seer_status seer_vulkan_buffer_export(seer_context *ctx, uint64_t size, seer_vulkan_external *external,
                                      seer_buffer **out) {
  if (out) *out = nullptr;
  return entry([&] {
    SEER_REQUIRE(out, Status::invalid_argument, "out is NULL");
    const auto context = usable(ctx);
    require_vulkan(*context, "memory to share");
    prepare_struct(external, "external");
    SEER_REQUIRE(size > 0 && size <= INT64_MAX, Status::invalid_argument, "size is %llu",
                 static_cast<unsigned long long>(size));
    auto handle = std::make_unique<seer_buffer>();
    vulkan::External shared;
    handle->object = shared_buffer(context, vulkan::share_memory(context->device(), size, shared));
    seer_vulkan_external value = {};
    value.fd = shared.fd;
    value.handle = shared.handle;
    value.size = shared.size;
    value.allocation_size = shared.allocation_size;
    value.memory_type = shared.memory_type;
    write_struct(external, value);
    *out = handle.release();
  });
}

seer_status seer_vulkan_buffer_import(seer_context *ctx, const seer_vulkan_external *external, seer_buffer **out) {
  if (out) *out = nullptr;
  return entry([&] {
    SEER_REQUIRE(out, Status::invalid_argument, "out is NULL");
    const auto context = usable(ctx);
    require_vulkan(*context, "memory to share");
    const seer_vulkan_external in = read_struct(external, "external");
    check_reserved(in.reserved, "external", "reserved");
#if defined(_WIN32)
    SEER_REQUIRE(in.handle, Status::invalid_argument, "external.handle is NULL");
#else
    SEER_REQUIRE(in.fd >= 0, Status::invalid_argument, "external.fd is %d", in.fd);
    SEER_REQUIRE(!in.handle, Status::invalid_argument, "external.handle is set; it is of Windows");
#endif
    SEER_REQUIRE(in.size > 0 && in.size <= in.allocation_size, Status::out_of_bounds,
                 "external.size is %llu; the memory has %llu bytes", static_cast<unsigned long long>(in.size),
                 static_cast<unsigned long long>(in.allocation_size));
    auto handle = std::make_unique<seer_buffer>();
    const vulkan::External taken{.fd = in.fd,
                                 .handle = in.handle,
                                 .allocation_size = in.allocation_size,
                                 .size = in.size,
                                 .memory_type = in.memory_type};
    handle->object = shared_buffer(context, vulkan::take_memory(context->device(), taken));
    *out = handle.release();
  });
}

seer_status seer_vulkan_buffer_import_host(seer_context *ctx, const seer_vulkan_host_memory *host, seer_buffer **out) {
  if (out) *out = nullptr;
  return entry([&] {
    SEER_REQUIRE(out, Status::invalid_argument, "out is NULL");
    const auto context = usable(ctx);
    require_vulkan(*context, "host memory in place");
    const seer_vulkan_host_memory in = read_struct(host, "host");
    check_flags(in.flags, 0, "host");
    check_handle(in.data, "host.data");
    SEER_REQUIRE(reinterpret_cast<uintptr_t>(in.data) % 16 == 0, Status::stride,
                 "host.data is %p; expected a multiple of 16", in.data);
    SEER_REQUIRE(in.size > 0 && in.size <= INT64_MAX && in.size % 4 == 0, Status::invalid_argument,
                 "host.size is %llu; expected a multiple of 4", static_cast<unsigned long long>(in.size));
    auto handle = std::make_unique<seer_buffer>();
    // The buffer, and behind it the caller's function.
    struct Lent {
      explicit Lent(const seer_vulkan_host_memory &memory) : release(memory.release), user(memory.user) {}
      Lent(const Lent &) = delete;
      Lent &operator=(const Lent &) = delete;
      ~Lent() {
        buffer.reset();
        if (!release || !taken) return;
        const CallbackScope scope;
        release(user);
      }
      const seer_release_fn release;
      void *const user;
      bool taken = false;
      std::shared_ptr<Buffer> buffer;
    };
    const auto lent = std::make_shared<Lent>(in);
    lent->buffer = shared_buffer(context, vulkan::host_memory(context->device(), in.data, in.size));
    handle->object = std::shared_ptr<Buffer>(lent, lent->buffer.get());
    lent->taken = true;
    *out = handle.release();
  });
}

seer_status seer_vulkan_plan_prefill(seer_context *ctx, const seer_model *model, const seer_prefill_desc *desc,
                                     const seer_vulkan_plan_params *params, seer_vulkan_plan **out) {
  return make_plan(ctx, model, true, params, out, [&](Context &context, Context::Pins &pins, auto &cache) {
    const seer_prefill_desc in = without_memory(read_struct(desc, "desc"));
    cache = cache_of(in);
    return prefill_desc(in, context, pins);
  });
}

seer_status seer_vulkan_plan_gate(seer_context *ctx, const seer_model *model, const seer_gate_desc *desc,
                                  const seer_vulkan_plan_params *params, seer_vulkan_plan **out) {
  return make_plan(ctx, model, true, params, out, [&](Context &context, Context::Pins &pins, auto &cache) {
    const seer_gate_desc in = without_memory(read_struct(desc, "desc"));
    cache = cache_of(in);
    return gate_desc(in, context, pins);
  });
}

seer_status seer_vulkan_plan_select(seer_context *ctx, const seer_select_desc *desc,
                                    const seer_vulkan_plan_params *params, seer_vulkan_plan **out) {
  return make_plan(ctx, nullptr, false, params, out, [&](Context &context, Context::Pins &pins, auto &) {
    return select_desc(without_memory(read_struct(desc, "desc")), context, pins);
  });
}

seer_status seer_vulkan_plan_attention(seer_context *ctx, const seer_attention_desc *desc,
                                       const seer_vulkan_plan_params *params, seer_vulkan_plan **out) {
  return make_plan(ctx, nullptr, false, params, out, [&](Context &context, Context::Pins &pins, auto &) {
    return attention_desc(without_memory(read_struct(desc, "desc")), context, pins);
  });
}

seer_status seer_vulkan_plan_get(const seer_vulkan_plan *plan, seer_vulkan_plan_info *info) {
  return entry([&] {
    const auto object = get(plan, "plan");
    prepare_struct(info, "info");
    seer_vulkan_plan_info value = {};
    value.part_count = object->parts;
    value.workspace_bytes = object->workspace_bytes;
    value.workspace_alignment = object->workspace_alignment;
    value.flops = object->flops;
    value.descriptor_sets = object->descriptor_sets;
    value.descriptors = object->descriptors;
    write_struct(info, value);
  });
}

void seer_vulkan_plan_retain(seer_vulkan_plan *plan) { retain(plan); }
void seer_vulkan_plan_release(seer_vulkan_plan *plan) { release(plan); }

seer_status seer_vulkan_record(seer_vulkan_plan *plan, const seer_vulkan_recording *recording) {
  return entry([&] {
    const auto object = get(plan, "plan");
    const Context &context = object->context();
    context.check_usable();
    const seer_vulkan_recording in = read_struct(recording, "recording");
    Context::Pins pins;  // buffers are borrowed while their handles are recorded
    vulkan::Recording r;
    r.commands = in.command_buffer;
    r.layer = in.layer;
    r.tensors = {.q = tensor(in.q, "q", context, pins),
                 .k = tensor(in.k, "k", context, pins),
                 .v = tensor(in.v, "v", context, pins),
                 .out = tensor(in.out, "out", context, pins),
                 .lse = tensor(in.lse, "lse", context, pins),
                 .scores = tensor(in.scores, "scores", context, pins),
                 .mask = tensor(in.mask, "mask", context, pins)};
    r.cache = cache_of(in, "recording.cache");
    r.workspace = buffer_range(in.workspace);
    r.stats = buffer_range(in.stats);
    r.descriptor_pool = in.descriptor_pool;
    r.first_part = in.first_part;
    r.parts = in.part_count;
    object->record(r);
  });
}

seer_status seer_vulkan_gate_cache_extend(seer_gate_cache *cache, int32_t layer, int32_t sequence, int64_t tokens) {
  return entry([&] {
    const auto object = get(cache, "cache");
    const Context &context = object->context();
    context.check_usable();
    require_vulkan(context, "command buffers");
    SEER_REQUIRE(vulkan::is_imported(context.device()), Status::unsupported,
                 "the context made a VkDevice of its own; there are no command buffers of it that fill a cache");
    ChunkCache::extend(object, layer, sequence, tokens);
  });
}

}  // extern "C"
