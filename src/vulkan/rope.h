// RoPE tables on the device, kept from call to call.
#pragma once
#include <vector>

#include "../stages.h"
#include "memory.h"

namespace seer::vulkan {

struct VulkanDevice;

struct RopeOnDevice {
  const float *cos = nullptr, *sin = nullptr;  // [rows][half], device memory: Recorder::window takes any rows of it
};

// Not thread-safe.
class RopeBuffers {
public:
  explicit RopeBuffers(VulkanDevice &device) : device_(device) {}

  // The first `rows` rows of the view's tables. Stays until the next wait of the recorder, at least.
  RopeOnDevice get(const RopeView &view, int64_t rows);

private:
  struct Entry {
    std::vector<float> inv_freq, second_row;  // the second row tells the step between rows
    double attention_scaling = 1;
    int64_t rows = 0;
    Memory memory;  // cos, then sin
  };
  VulkanDevice &device_;
  std::vector<Entry> entries_;  // most recently used first, a handful
};

}  // namespace seer::vulkan
