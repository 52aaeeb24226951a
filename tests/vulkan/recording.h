// What tests of recorded calls share: plans, the room that they need, command buffers.
#pragma once
#include <functional>

#include "tensors.h"

namespace foreign {

using Plan = std::unique_ptr<seer_vulkan_plan, api::Release<seer_vulkan_plan_release>>;
using MakePlan = std::function<seer_status(const seer_vulkan_plan_params *, seer_vulkan_plan **)>;

inline Plan make_plan(const MakePlan &make, double part_flops = 0) {
  seer_vulkan_plan_params params = SEER_INIT(seer_vulkan_plan_params);
  params.part_flops = part_flops;
  seer_vulkan_plan *plan = nullptr;
  OK(make(&params, &plan));
  return Plan(plan);
}

inline seer_vulkan_plan_info info_of(const Plan &plan) {
  seer_vulkan_plan_info info = SEER_INIT(seer_vulkan_plan_info);
  OK(seer_vulkan_plan_get(plan.get(), &info));
  return info;
}

// A workspace and a place for statistics, for one plan.
struct Room {
  Room(Gpu &gpu, const Plan &plan, uint32_t recordings = 1)
      : info(info_of(plan)),
        buffer(gpu, info.workspace_bytes + 1024),
        pool(gpu, recordings * info.descriptor_sets, recordings * info.descriptors) {
    std::memset(buffer.mapped, 0xff, buffer.size);
  }
  void fill(seer_vulkan_recording &r) const {
    r.workspace = {buffer.handle(), info.workspace_alignment, info.workspace_bytes};
    r.stats = {buffer.handle(), buffer.size - 32, 24};
    r.descriptor_pool = reinterpret_cast<uint64_t>(pool.handle);
  }
  std::vector<uint64_t> stats() const {
    const auto *at = buffer.at<uint64_t>(buffer.size - 32);
    return {at, at + 3};
  }
  const seer_vulkan_plan_info info;
  const Buffer buffer;
  const DescriptorPool pool;
};

template <class Desc>
seer_vulkan_recording recording_of(const Desc &desc) {
  seer_vulkan_recording r = SEER_INIT(seer_vulkan_recording);
  if constexpr (requires { desc.q; }) r.q = desc.q;
  if constexpr (requires { desc.k; }) r.k = desc.k;
  if constexpr (requires { desc.v; }) r.v = desc.v;
  if constexpr (requires { desc.out; }) r.out = desc.out;
  if constexpr (requires { desc.lse; }) r.lse = desc.lse;
  if constexpr (requires { desc.scores; }) r.scores = desc.scores;
  if constexpr (requires { desc.mask; }) r.mask = desc.mask;
  return r;
}

inline void run(Gpu &gpu, const Plan &plan, seer_vulkan_recording r) {
  Commands commands(gpu);
  commands.begin();
  r.command_buffer = commands.handle;
  OK(seer_vulkan_record(plan.get(), &r));
  commands.run();
}

}  // namespace foreign
