// Plans: calls that are prepared once and recorded into the caller's command buffers.
//
// A plan has a device of its own for the pipeline of stages: the same functions, but a recorder that writes to the
// caller's command buffer and memory functions that hand out the caller's workspace. Stages cannot tell. To prepare is
// to run the call on it with nothing behind the recorder: once to see which kernels it takes, which are then compiled
// side by side, and once more with these.
#include <array>

#include "interop.h"
#include "rehearsal.h"

namespace seer::vulkan {
namespace {

constexpr uint64_t kStatsBytes = sizeof(SelectStats);

// A copy of what a description points to.
struct OwnedArrays {
  std::vector<int32_t> q, k;
  std::vector<float> inv_freq;

  void own(SequenceSpec &spec) {
    const auto take = [&](std::vector<int32_t> &to, const int32_t *&from) {
      if (!from || spec.count <= 0) return;
      to.assign(from, from + spec.count + 1);
      from = to.data();
    };
    take(q, spec.q);
    take(k, spec.k);
  }
  void own(RopeSpec &spec) {
    if (!spec.inv_freq) return;
    inv_freq.assign(spec.inv_freq, spec.inv_freq + spec.inv_freq_count);
    spec.inv_freq = inv_freq.data();
  }
};

struct NamedTensor {
  const char *name;
  Tensor TensorSet::*in_set;
  Tensor *tensor;
};

// The tensors of a description, whatever call it is of.
std::vector<NamedTensor> tensors_of(PlannedDesc &desc) {
  std::vector<NamedTensor> all;
  const auto add = [&](const char *name, Tensor TensorSet::*in_set, Tensor &t) { all.push_back({name, in_set, &t}); };
  std::visit(
      [&](auto &d) {
        if constexpr (requires { d.q; }) add("q", &TensorSet::q, d.q);
        if constexpr (requires { d.k; }) add("k", &TensorSet::k, d.k);
        if constexpr (requires { d.v; }) add("v", &TensorSet::v, d.v);
        if constexpr (requires { d.out; }) add("out", &TensorSet::out, d.out);
        if constexpr (requires { d.lse; }) add("lse", &TensorSet::lse, d.lse);
        if constexpr (requires { d.scores; }) add("scores", &TensorSet::scores, d.scores);
        if constexpr (requires { d.mask; }) add("mask", &TensorSet::mask, d.mask);
      },
      desc);
  return all;
}

void check_same_shape(const char *name, const Tensor &planned, Tensor &t) {
  SEER_REQUIRE(t.present() == planned.present(), Status::invalid_argument, "%s is %s; in the plan it is %s", name,
               t.present() ? "there" : "absent", planned.present() ? "there" : "absent");
  if (!t.present()) return;
  SEER_REQUIRE(t.dtype == planned.dtype, Status::dtype, "%s.dtype is %s; in the plan it is %s", name,
               dtype_name(t.dtype), dtype_name(planned.dtype));
  SEER_REQUIRE(t.ndim == planned.ndim && std::equal(t.shape, t.shape + t.ndim, planned.shape), Status::shape,
               "%s has another shape than in the plan", name);
  pack_strides(t);
  SEER_REQUIRE(std::equal(t.stride, t.stride + t.ndim, planned.stride), Status::stride,
               "%s has other strides than in the plan", name);
}

struct RecordingDevice : Rehearsal {
  RecordingDevice(VulkanDevice &context, std::unique_ptr<Recorder> target)
      : Rehearsal(context, std::move(target), RopeBuffers::Keep::all) {
    static const BackendFns fns_of_all = functions();
    fns = &fns_of_all;
  }

  Window wanted_stats;  // where they are wanted; buffer null: nowhere

private:
  static BackendFns functions() {
    BackendFns f = Rehearsal::functions();
    f.end = [](Device &device, const SelectStats *stats) -> std::unique_ptr<PendingCall> {
      auto &d = static_cast<RecordingDevice &>(device);
      if (stats && d.wanted_stats.buffer) d.recorder->copy(stats, d.wanted_stats, kStatsBytes);
      return nullptr;
    };
    return f;
  }
};

class VulkanPlan final : public Plan {
public:
  VulkanPlan(std::shared_ptr<Context> context, std::shared_ptr<const Model> model, PlannedDesc desc,
             const ChunkCache *cache, double part_flops)
      : Plan(std::move(context)), model_(std::move(model)), desc_(desc), part_flops_(part_flops) {
    if (cache) {
      cache_sequences_ = cache->sequences();
      cache_tokens_ = cache->max_tokens();
    }
    std::visit(
        [&](auto &d) {
          arrays_.own(d.sequences);
          if constexpr (requires { d.rope; }) arrays_.own(d.rope);
        },
        desc_);
  }
  ~VulkanPlan() override {
    if (device_) free_host_buffer(*device_->gpu, absent_);
  }

  void prepare(VulkanDevice &device, ChunkCache *cache);  // on the queue's thread
  void record(const Recording &recording) override;

private:
  void run(PlannedDesc desc, int32_t layer_index, ChunkCache *cache);
  Target target() const {
    Target t;
    t.absent = absent_.buffer;
    t.part_flops = part_flops_;
    return t;
  }
  void make_tables_and_kernels(ChunkCache *cache);
  void check_cache(const ChunkCache *cache) const;
  void check_workspace(const BufferRange &workspace, const std::vector<NamedTensor> &tensors) const;

  const std::shared_ptr<const Model> model_;
  PlannedDesc desc_;
  OwnedArrays arrays_;
  int32_t cache_sequences_ = 0;  // 0: without a gate cache
  int64_t cache_tokens_ = 0;
  const double part_flops_;
  std::mutex mutex_;  // guards what follows while it is recorded
  HostBuffer absent_;
  std::unique_ptr<RecordingDevice> device_;
  std::unique_ptr<Pipeline> pipeline_;
};

// Through validation, like any call.
void VulkanPlan::run(PlannedDesc desc, int32_t layer_index, ChunkCache *cache) {
  Exec exec;
  CallStats stats;
  const auto no_host = [](const std::vector<HostTensor> &host) {
    SEER_REQUIRE(host.empty(), Status::memory_kind,
                 "a recorded call takes VkBuffers (3) and buffers (4); %zu of its tensors are in host memory",
                 host.size());
  };
  const auto attach = [&](GateCall &call) {
    call.weights = &model_->layer(layer_index);
    if (cache) cache->serve_recorded(call, layer_index);
  };
  std::visit(
      [&]<class Desc>(Desc &d) {
        if constexpr (std::is_same_v<Desc, PrefillDesc>) {
          PrefillCall call = check_prefill(*device_, model_->gates().config, d, cache != nullptr);
          no_host(call.gate.host);
          attach(call.gate);
          pipeline_->prefill(exec, call.gate, call.attend, stats);
        } else if constexpr (std::is_same_v<Desc, GateDesc>) {
          GateCall call = check_gate(*device_, model_->gates().config, d, cache != nullptr);
          no_host(call.host);
          attach(call);
          pipeline_->gate(exec, call, stats);
        } else if constexpr (std::is_same_v<Desc, SelectDesc>) {
          const SelectCall call = check_select(*device_, d);
          no_host(call.host);
          pipeline_->select(exec, call, stats);
        } else {
          const AttendCall call = check_attention(*device_, d);
          no_host(call.host);
          pipeline_->attend(exec, call, stats);
        }
      },
      desc);
}

void VulkanPlan::prepare(VulkanDevice &context, ChunkCache *cache) {
  device_ = std::make_unique<RecordingDevice>(context, std::make_unique<Recorder>(*context.gpu, target()));
  absent_ = make_host_buffer(*context.gpu, 16384, false);
  pipeline_ = std::make_unique<Pipeline>(*device_);
  try {
    make_tables_and_kernels(cache);
    context.recorder->wait();  // the tables are there
  } catch (...) {
    complete(context, nullptr);  // they may be on their way, and go
    device_->rope->freeze();
    throw;
  }
  device_->rope->freeze();
  device_->kernels.step = PlannedKernels::Step::made;
  device_->tests_on = nullptr;
  parts = device_->recorder->parts();
  flops = device_->recorder->flops();
  if (!device_->caps.push_descriptor) {
    descriptor_sets = device_->recorder->sets();
    descriptors = device_->recorder->bindings();
  }
  workspace_bytes = device_->workspace.size;
  workspace_alignment = uint64_t(device_->limits.alignment);
}

void VulkanPlan::make_tables_and_kernels(ChunkCache *cache) {
  // Addresses for tensors whose memory is not there yet.
  struct Addresses {
    MemoryMap &map;
    std::vector<Memory> taken;
    ~Addresses() {
      for (const Memory &memory : taken) map.free(memory);
    }
  } addresses{*device_->memory, {}};
  for (const NamedTensor &named : tensors_of(desc_)) {
    Tensor &t = *named.tensor;
    if (!t.present()) continue;
    SEER_REQUIRE(t.mem == Mem::vulkan, Status::memory_kind,
                 "%s.mem is %d; a recorded call takes VkBuffers (3) and buffers (4)", named.name, int(t.mem));
    if (t.ndim < 1 || t.ndim > 4 || std::any_of(t.shape, t.shape + t.ndim, [](int64_t n) { return n < 0; }) ||
        std::any_of(t.stride, t.stride + t.ndim, [](int64_t n) { return n < 0; }))
      continue;  // validation says it better
    pack_strides(t);
    t.size = (uint64_t(t.extent_bytes()) + 15) / 16 * 16;
    addresses.taken.reserve(addresses.taken.size() + 1);
    addresses.taken.push_back(device_->memory->borrow(VK_NULL_HANDLE, 0, t.size));
    t.data = addresses.taken.back().address;
    t.handle = t.offset = 0;
  }

  // Layers differ in their weights' types at most.
  std::vector<int32_t> layers = {0};
  const int32_t layer_count = model_ ? int32_t(model_->gates().layers.size()) : 1;
  const auto types = [&](int32_t i) { return std::pair(model_->layer(i).wq.dtype, model_->layer(i).wk.dtype); };
  for (int32_t i = 1; i < layer_count; i++)
    if (std::none_of(layers.begin(), layers.end(), [&](int32_t other) { return types(i) == types(other); }))
      layers.push_back(i);

  using Step = PlannedKernels::Step;
  for (const Step step : {Step::collecting, Step::making}) {
    device_->kernels.step = step;
    for (const int32_t layer : layers) {
      device_->recorder = std::make_unique<Recorder>(*device_->gpu, target());
      run(desc_, layer, cache);
    }
    if (step == Step::collecting) device_->make_kernels();
  }
}

// Of the plan's sizes, for where a sequence's vectors begin decides on kernels.
void VulkanPlan::check_cache(const ChunkCache *cache) const {
  SEER_REQUIRE((cache != nullptr) == (cache_sequences_ > 0), Status::invalid_argument,
               "cache is %s; in the plan it is %s", cache ? "there" : "absent", cache ? "absent" : "there");
  if (!cache) return;
  cache->check_owners(*context_, *model_);
  SEER_REQUIRE(cache->sequences() == cache_sequences_ && cache->max_tokens() == cache_tokens_, Status::cache_state,
               "the cache was made for %d sequences of %lld tokens; the plan's for %d of %lld", cache->sequences(),
               (long long)cache->max_tokens(), cache_sequences_, (long long)cache_tokens_);
}

void VulkanPlan::check_workspace(const BufferRange &workspace, const std::vector<NamedTensor> &tensors) const {
  using ull = unsigned long long;
  SEER_REQUIRE(workspace.buffer, Status::invalid_argument, "workspace.buffer is 0");
  SEER_REQUIRE(workspace.offset % workspace_alignment == 0, Status::stride,
               "workspace.offset is %llu; expected a multiple of %llu", ull(workspace.offset),
               ull(workspace_alignment));
  SEER_REQUIRE(workspace.size >= workspace_bytes, Status::out_of_bounds,
               "workspace.size is %llu; the plan needs %llu bytes", ull(workspace.size), ull(workspace_bytes));
  for (const NamedTensor &named : tensors) {
    const Tensor &t = *named.tensor;
    if (!t.present() || t.handle != workspace.buffer) continue;
    const auto bytes = uint64_t(t.extent_bytes());
    SEER_REQUIRE(t.offset >= workspace.offset + workspace_bytes || workspace.offset >= t.offset + bytes, Status::stride,
                 "%s overlaps the workspace", named.name);
  }
}

void VulkanPlan::record(const Recording &recording) {
  std::lock_guard lock(mutex_);
  Gpu &gpu = *device_->gpu;
  SEER_REQUIRE(gpu.imported, Status::unsupported,
               "the context made a VkDevice of its own; there are no command buffers of it to record into");
  SEER_REQUIRE(!gpu.lost, Status::device_lost, "the Vulkan device was lost");
  SEER_REQUIRE(recording.commands, Status::invalid_argument, "command_buffer is NULL");
  SEER_REQUIRE(recording.descriptor_pool || descriptor_sets == 0, Status::invalid_argument,
               "descriptor_pool is 0; without VK_KHR_push_descriptor one is needed, with room for %u sets",
               descriptor_sets);
  SEER_REQUIRE(recording.first_part < parts && recording.parts <= parts - recording.first_part,
               Status::invalid_argument, "parts %u and %u more; the plan has %u", recording.first_part, recording.parts,
               parts);
  const int32_t layer = model_ ? model_->index(recording.layer) : 0;
  check_cache(recording.cache.get());
  PlannedDesc desc = desc_;
  std::vector<NamedTensor> tensors = tensors_of(desc);
  for (const NamedTensor &named : tensors) {
    Tensor t = recording.tensors.*named.in_set;
    check_same_shape(named.name, *named.tensor, t);
    *named.tensor = t;
  }
  check_workspace(recording.workspace, tensors);
  device_->wanted_stats = {};
  if (recording.stats.buffer) {
    SEER_REQUIRE(recording.stats.offset % 4 == 0, Status::stride, "stats.offset is %llu; expected a multiple of 4",
                 (unsigned long long)recording.stats.offset);
    SEER_REQUIRE(recording.stats.size >= kStatsBytes, Status::out_of_bounds, "stats.size is %llu; expected %llu",
                 (unsigned long long)recording.stats.size, (unsigned long long)kStatsBytes);
    device_->wanted_stats.buffer = reinterpret_cast<VkBuffer>(recording.stats.buffer);
    device_->wanted_stats.offset = recording.stats.offset;
  }
  device_->memory->rebind(device_->workspace, reinterpret_cast<VkBuffer>(recording.workspace.buffer),
                          recording.workspace.offset);
  Target wanted = target();
  wanted.commands = static_cast<VkCommandBuffer>(recording.commands);
  wanted.sets = reinterpret_cast<VkDescriptorPool>(recording.descriptor_pool);
  wanted.first_part = recording.first_part;
  wanted.parts = recording.parts;
  device_->recorder = std::make_unique<Recorder>(gpu, wanted);
  run(desc, layer, recording.cache.get());
}

}  // namespace

std::shared_ptr<Plan> Plan::make(std::shared_ptr<Context> context, std::shared_ptr<const Model> model, PlannedDesc desc,
                                 std::shared_ptr<ChunkCache> cache, double part_flops) {
  SEER_REQUIRE(!model || model->context().same_device(*context), Status::bad_handle, "model belongs to another device");
  if (cache) cache->check_owners(*context, *model);
  auto plan = std::make_shared<VulkanPlan>(context, std::move(model), desc, cache.get(), part_flops);
  auto &device = static_cast<VulkanDevice &>(context->device());
  const uint64_t ticket = context->submit(
      [plan, &device, cache](Pipeline &, Exec &, CallStats &) { plan->prepare(device, cache.get()); }, 0, {});
  context->queue().wait(ticket, Queue::kForever);
  Outcome outcome = context->queue().outcome(ticket);
  if (outcome.status != Status::ok) throw Error(outcome.status, std::move(outcome.message));
  return plan;
}

}  // namespace seer::vulkan
