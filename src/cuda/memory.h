// Device memory: the caller's allocator or the driver's. Addresses are device pointers.
#pragma once
#include <cstdint>

#include "../backend.h"
#include "driver.h"

namespace seer::cuda {

struct CudaDevice;

// Memory::handle of what is the driver's although the caller has an allocator.
constexpr uint64_t kDriverMemory = 1;

// Aligned to 16 bytes at least (the driver's to 256), in whole 16 bytes. Any thread. Throws device_out_of_memory.
Memory alloc(CudaDevice &device, uint64_t bytes);
// While a call is recorded on this thread: when its work is done. Else at once, which waits for the device.
void free(CudaDevice &device, const Memory &memory) noexcept;
// Without any of that: for memory that nothing uses. `stream` is what the caller's allocator is told.
void free_now(CudaDevice &device, const Memory &memory, CUstream stream) noexcept;

// Bytes from an address of the caller's to the end of the memory it lies in; 0 if this device cannot use it.
uint64_t reachable(const CudaDevice &device, const void *address, uint64_t wanted);

}  // namespace seer::cuda
