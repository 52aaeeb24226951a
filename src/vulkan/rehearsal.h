// Calls that are run without the GPU, to see which kernels they take.
//
// A rehearsal is a device for the pipeline of stages: the same functions, but a recorder that records nowhere, and
// memory functions that hand out addresses with nothing behind them. Stages cannot tell.
#pragma once
#include <memory>

#include "device.h"

namespace seer::vulkan {

struct Rehearsal : VulkanDevice {
  explicit Rehearsal(VulkanDevice &context);
  ~Rehearsal() override;

  // Compiles what was taken so far and is not there, on all processors; how many those were. What fails says so when it
  // is asked for.
  size_t make_kernels() { return gpu->pipelines->make(kernels.keys()); }

  PlannedKernels kernels;
  Memory workspace;  // an address for as much as was asked for last

  static Rehearsal &of(Device &device) { return static_cast<Rehearsal &>(device); }

protected:
  // For calls that are recorded later: with a recorder and tables of RoPE of their own.
  Rehearsal(VulkanDevice &context, std::unique_ptr<Recorder> target, RopeBuffers::Keep keep);
  static BackendFns functions();
};

}  // namespace seer::vulkan
