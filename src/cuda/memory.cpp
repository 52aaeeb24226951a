#include "memory.h"

#include <algorithm>

#include "device.h"

namespace seer::cuda {

Memory alloc(CudaDevice &device, uint64_t bytes) {
  // Whole vectors of 16 bytes, so that kernels may read the last element as part of one.
  SEER_REQUIRE(bytes <= uint64_t{1} << 62, Status::device_out_of_memory, "%llu bytes in one allocation",
               (unsigned long long)bytes);
  const uint64_t size = (std::max<uint64_t>(bytes, 1) + 15) / 16 * 16;
  if (device.allocator.device_alloc) {
    // A call that another thread records has a stream of its own.
    const Recorder &recorder = *device.recorder;
    CUstream stream = recorder.recording_here() ? recorder.stream() : recorder.own_stream();
    void *address = device.allocator.device_alloc(device.allocator.user, size, stream);
    SEER_REQUIRE(address, Status::device_out_of_memory, "the caller's device_alloc gives no %llu bytes",
                 (unsigned long long)size);
    if (reinterpret_cast<uintptr_t>(address) % 16 == 0) return {.address = address, .handle = 0, .size = bytes};
    device.allocator.device_free(device.allocator.user, address, size, stream);
    fail(Status::invalid_argument, "the caller's device_alloc gives %p; memory must be aligned to 16 bytes", address);
  }
  CUdeviceptr address = 0;
  const CUresult result = device.fn.cuMemAlloc(&address, size);
  if (result == CUDA_ERROR_OUT_OF_MEMORY)
    fail(Status::device_out_of_memory, "%llu bytes of device memory cannot be had", (unsigned long long)size);
  device.check(result, "cuMemAlloc");
  return {.address = reinterpret_cast<void *>(address), .handle = kDriverMemory, .size = bytes};
}

void free_now(CudaDevice &device, const Memory &memory, CUstream stream) noexcept {
  if (!memory.address) return;
  if (memory.handle == kDriverMemory) {
    device.fn.cuMemFree(reinterpret_cast<CUdeviceptr>(memory.address));
    return;
  }
  const uint64_t size = (std::max<uint64_t>(memory.size, 1) + 15) / 16 * 16;
  device.allocator.device_free(device.allocator.user, memory.address, size, stream);
}

void free(CudaDevice &device, const Memory &memory) noexcept {
  Recorder &recorder = *device.recorder;
  if (!recorder.recording_here()) return free_now(device, memory, recorder.own_stream());
  try {
    if (recorder.graphs())
      recorder.keep(memory);  // a graph may use it
    else
      recorder.free_later(memory);
  } catch (const std::exception &) {  // no room for a note: the memory stays until the process ends
    device.log(LogLevel::warn, "backend cuda: %llu bytes were not freed", (unsigned long long)memory.size);
  }
}

uint64_t reachable(const CudaDevice &device, const void *address, uint64_t wanted) {
  uint64_t found = 0;
  // Memory that was mapped in pieces (as PyTorch's expandable segments) may be told of piece by piece.
  while (found < wanted) {
    const CUdeviceptr at = reinterpret_cast<CUdeviceptr>(address) + found;
    unsigned type = 0, managed = 0;
    int ordinal = -1;
    CUdeviceptr start = 0;
    size_t size = 0;
    CUpointer_attribute names[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_IS_MANAGED,
                                   CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
                                   CU_POINTER_ATTRIBUTE_RANGE_SIZE};
    void *values[] = {&type, &managed, &ordinal, &start, &size};
    const CUresult result = device.fn.cuPointerGetAttributes(5, names, values, at);
    if (is_sticky(result)) device.gpu->check(result, "cuPointerGetAttributes");
    if (result != CUDA_SUCCESS) break;
    const bool usable = (managed & 0xff) != 0 || (type == CU_MEMORYTYPE_DEVICE && ordinal == device.caps.ordinal);
    if (!usable || size == 0 || at < start || at - start >= size) break;
    found += size - (at - start);
  }
  return found;
}

}  // namespace seer::cuda
