// NVIDIA's driver, found at run time: nothing links to it, and a machine without it is no error.
#pragma once
#include "driver.h"

#if defined(_WIN32)
#define SEER_CUDA_CALL __stdcall
#else
#define SEER_CUDA_CALL
#endif

namespace seer::cuda {

// (name, symbol, parameters): symbols carry the version of the ABI that the parameters are of.
#define SEER_CU_FUNCTIONS(X)                                                                                     \
  X(cuInit, "cuInit", (unsigned))                                                                                \
  X(cuDriverGetVersion, "cuDriverGetVersion", (int *))                                                           \
  X(cuGetErrorName, "cuGetErrorName", (CUresult, const char **))                                                 \
  X(cuGetErrorString, "cuGetErrorString", (CUresult, const char **))                                             \
  X(cuDeviceGetCount, "cuDeviceGetCount", (int *))                                                               \
  X(cuDeviceGet, "cuDeviceGet", (CUdevice *, int))                                                               \
  X(cuDeviceGetName, "cuDeviceGetName", (char *, int, CUdevice))                                                 \
  X(cuDeviceGetUuid, "cuDeviceGetUuid", (CUuuid *, CUdevice))                                                    \
  X(cuDeviceTotalMem, "cuDeviceTotalMem_v2", (size_t *, CUdevice))                                               \
  X(cuDeviceGetAttribute, "cuDeviceGetAttribute", (int *, CUdevice_attribute, CUdevice))                         \
  X(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", (CUcontext *, CUdevice))                               \
  X(cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", (CUdevice))                                       \
  X(cuCtxPushCurrent, "cuCtxPushCurrent_v2", (CUcontext))                                                        \
  X(cuCtxPopCurrent, "cuCtxPopCurrent_v2", (CUcontext *))                                                        \
  X(cuCtxGetDevice, "cuCtxGetDevice", (CUdevice *))                                                              \
  X(cuMemAlloc, "cuMemAlloc_v2", (CUdeviceptr *, size_t))                                                        \
  X(cuMemFree, "cuMemFree_v2", (CUdeviceptr))                                                                    \
  X(cuMemHostAlloc, "cuMemHostAlloc", (void **, size_t, unsigned))                                               \
  X(cuMemFreeHost, "cuMemFreeHost", (void *))                                                                    \
  X(cuMemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2", (CUdeviceptr, const void *, size_t, CUstream))                    \
  X(cuMemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2", (void *, CUdeviceptr, size_t, CUstream))                          \
  X(cuMemsetD8Async, "cuMemsetD8Async", (CUdeviceptr, unsigned char, size_t, CUstream))                          \
  X(cuPointerGetAttributes, "cuPointerGetAttributes", (unsigned, CUpointer_attribute *, void **, CUdeviceptr))   \
  X(cuStreamCreate, "cuStreamCreate", (CUstream *, unsigned))                                                    \
  X(cuStreamDestroy, "cuStreamDestroy_v2", (CUstream))                                                           \
  X(cuStreamSynchronize, "cuStreamSynchronize", (CUstream))                                                      \
  X(cuStreamWaitEvent, "cuStreamWaitEvent", (CUstream, CUevent, unsigned))                                       \
  X(cuStreamIsCapturing, "cuStreamIsCapturing", (CUstream, CUstreamCaptureStatus *))                             \
  X(cuStreamGetCtx, "cuStreamGetCtx", (CUstream, CUcontext *))                                                   \
  X(cuStreamGetId, "cuStreamGetId", (CUstream, unsigned long long *))                                            \
  X(cuThreadExchangeStreamCaptureMode, "cuThreadExchangeStreamCaptureMode", (CUstreamCaptureMode *))             \
  X(cuEventCreate, "cuEventCreate", (CUevent *, unsigned))                                                       \
  X(cuEventDestroy, "cuEventDestroy_v2", (CUevent))                                                              \
  X(cuEventRecord, "cuEventRecord", (CUevent, CUstream))                                                         \
  X(cuEventQuery, "cuEventQuery", (CUevent))                                                                     \
  X(cuEventSynchronize, "cuEventSynchronize", (CUevent))                                                         \
  X(cuEventElapsedTime, "cuEventElapsedTime", (float *, CUevent, CUevent))                                       \
  X(cuModuleLoadData, "cuModuleLoadData", (CUmodule *, const void *))                                            \
  X(cuModuleUnload, "cuModuleUnload", (CUmodule))                                                                \
  X(cuModuleGetFunction, "cuModuleGetFunction", (CUfunction *, CUmodule, const char *))                          \
  X(cuModuleGetGlobal, "cuModuleGetGlobal_v2", (CUdeviceptr *, size_t *, CUmodule, const char *))                \
  X(cuFuncGetAttribute, "cuFuncGetAttribute", (int *, CUfunction_attribute, CUfunction))                         \
  X(cuFuncSetAttribute, "cuFuncSetAttribute", (CUfunction, CUfunction_attribute, int))                           \
  X(cuOccupancyMaxActiveBlocksPerMultiprocessor, "cuOccupancyMaxActiveBlocksPerMultiprocessor",                  \
    (int *, CUfunction, int, size_t))                                                                            \
  X(cuOccupancyMaxActiveClusters, "cuOccupancyMaxActiveClusters", (int *, CUfunction, const CUlaunchConfig *))   \
  X(cuLaunchKernelEx, "cuLaunchKernelEx", (const CUlaunchConfig *, CUfunction, void **, void **))                \
  X(cuTensorMapEncodeTiled, "cuTensorMapEncodeTiled",                                                            \
    (CUtensorMap *, CUtensorMapDataType, uint32_t, void *, const uint64_t *, const uint64_t *, const uint32_t *, \
     const uint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill))

struct Driver {
#define SEER_CU_DECLARE(name, symbol, parameters) CUresult(SEER_CUDA_CALL *name) parameters = nullptr;
  SEER_CU_FUNCTIONS(SEER_CU_DECLARE)
#undef SEER_CU_DECLARE
  int version = 0;  // 1000 * major + 10 * minor

  // "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered"
  const char *name(CUresult result) const;
  const char *text(CUresult result) const;
};

// The driver, loaded and initialised at the first call, for good. Throws unsupported, saying what is missing: the
// library, a function, a device. SEER_CUDA_DRIVER names another library to load (tests do).
const Driver &driver();

}  // namespace seer::cuda
