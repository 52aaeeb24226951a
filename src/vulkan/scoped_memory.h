// Device memory for the life of a scope, as tests of kernels on the device use it.
#pragma once
#include <vector>

#include "device.h"

namespace seer::vulkan {

class ScopedMemory {
public:
  ScopedMemory(VulkanDevice &device, uint64_t bytes) : device_(device), memory_(device.memory->alloc(bytes)) {}
  // Filled with what a vector has.
  template <class T>
  ScopedMemory(VulkanDevice &device, const std::vector<T> &from) : ScopedMemory(device, from.size() * sizeof(T)) {
    device_.recorder->write(memory_.address, from.data(), from.size() * sizeof(T));
  }
  ~ScopedMemory() {
    try {
      device_.recorder->wait();
    } catch (const Error &) {  // said by who waited before
    }
    device_.memory->free(memory_);
  }
  ScopedMemory(const ScopedMemory &) = delete;
  ScopedMemory &operator=(const ScopedMemory &) = delete;

  void *address() const { return memory_.address; }
  template <class T>
  T *as() const {
    return static_cast<T *>(memory_.address);
  }
  template <class T>
  void read(std::vector<T> &to) const {
    device_.recorder->read(memory_.address, to.data(), to.size() * sizeof(T));
  }
  Window window() const { return device_.recorder->window(memory_.address, memory_.size); }

private:
  VulkanDevice &device_;
  Memory memory_;
};

}  // namespace seer::vulkan
