#include "device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "../../cuda/launch.h"
#include "../../cuda/launch_gate.h"

namespace seer::cuda {

namespace {

// With the mask, 64 MB of workspace beside the rotated copies for 32 query heads and 128k tokens.
constexpr int64_t kGateBytes = int64_t{47} << 20;

}  // namespace

bool is_sticky(CUresult result) {
  switch (result) {
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_NVLINK_UNCORRECTABLE:
    case CUDA_ERROR_CONTAINED:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_CONTEXT_IS_DESTROYED:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
    case CUDA_ERROR_TENSOR_MEMORY_LEAK:
    case CUDA_ERROR_MPS_CLIENT_TERMINATED:
    case CUDA_ERROR_EXTERNAL_DEVICE: return true;
    default: return false;
  }
}

Gpu::Gpu(const Caps &c) : fn(driver()), caps(c) {
  const CUresult result = fn.cuDevicePrimaryCtxRetain(&context, caps.device);
  SEER_REQUIRE(result == CUDA_SUCCESS,
               is_sticky(result)                    ? Status::device_lost
               : result == CUDA_ERROR_OUT_OF_MEMORY ? Status::device_out_of_memory
                                                    : Status::unsupported,
               "%s cannot be used: %s: %s", caps.name.c_str(), fn.name(result), fn.text(result));
}

Gpu::~Gpu() {
  if (fn.cuCtxPushCurrent(context) == CUDA_SUCCESS) {
    for (const auto &[name, module] : modules_) fn.cuModuleUnload(module);
    CUcontext popped = nullptr;
    fn.cuCtxPopCurrent(&popped);
  }
  fn.cuDevicePrimaryCtxRelease(caps.device);
}

void Gpu::check(CUresult result, const char *what) {
  if (result == CUDA_SUCCESS) return;
  if (is_sticky(result)) {
    lost = true;
    fail(Status::device_lost, "the CUDA device %s was lost (%s): %s: %s", caps.name.c_str(), what, fn.name(result),
         fn.text(result));
  }
  if (result == CUDA_ERROR_OUT_OF_MEMORY) fail(Status::device_out_of_memory, "device memory is exhausted (%s)", what);
  fail(Status::internal, "%s gives %s: %s", what, fn.name(result), fn.text(result));
}

CUmodule Gpu::module(const char *image) {
  if (const auto found = modules_.find(image); found != modules_.end()) return found->second;
  for (const Image &i : images()) {
    if (std::strcmp(i.name, image) != 0) continue;
    CUmodule loaded = nullptr;
    const CUresult result = fn.cuModuleLoadData(&loaded, i.data);
    if (result == CUDA_ERROR_NO_BINARY_FOR_GPU || result == CUDA_ERROR_INVALID_IMAGE ||
        result == CUDA_ERROR_UNSUPPORTED_PTX_VERSION)
      fail(Status::unsupported,
           "kernel module %s does not run on %s (compute capability %d.%d) with a driver of CUDA %d.%d: %s: %s", image,
           caps.name.c_str(), caps.sm / 10, caps.sm % 10, caps.driver / 1000, caps.driver % 1000 / 10, fn.name(result),
           fn.text(result));
    check(result, (std::string("loading kernel module ") + image).c_str());
    modules_.emplace(image, loaded);
    return loaded;
  }
  fail(Status::unsupported, "kernel module %s is not part of this build", image);
}

std::optional<int32_t> Gpu::find_constant(CUmodule module, const std::string &name) {
  CUdeviceptr at = 0;
  size_t size = 0;
  const CUresult result = fn.cuModuleGetGlobal(&at, &size, module, name.c_str());
  if (result == CUDA_ERROR_NOT_FOUND) return {};
  check(result, name.c_str());
  int32_t value = 0;
  SEER_REQUIRE(size == sizeof value, Status::internal, "%s has %zu bytes", name.c_str(), size);
  CUstream aside = nullptr;  // not the legacy default stream, which a capture elsewhere may forbid
  check(fn.cuStreamCreate(&aside, CU_STREAM_NON_BLOCKING), ("cuStreamCreate for " + name).c_str());
  CUresult copied = fn.cuMemcpyDtoHAsync(&value, at, sizeof value, aside);
  if (copied == CUDA_SUCCESS) copied = fn.cuStreamSynchronize(aside);
  fn.cuStreamDestroy(aside);
  check(copied, ("cuMemcpyDtoHAsync of " + name).c_str());
  return value;
}

int32_t Gpu::constant(const char *image, const std::string &name) {
  std::lock_guard lock(mutex_);
  auto key = std::make_pair(std::string(image), name);
  if (const auto known = constants_.find(key); known != constants_.end()) return known->second;
  const auto found = find_constant(module(image), name);
  SEER_REQUIRE(found, Status::internal, "module %s has no constant %s", image, name.c_str());
  constants_.emplace(std::move(key), *found);
  return *found;
}

const Kernel &Gpu::kernel(const char *image, const std::string &name) {
  std::lock_guard lock(mutex_);
  auto key = std::make_pair(std::string(image), name);
  if (const auto found = kernels_.find(key); found != kernels_.end()) return found->second;
  CUmodule in = module(image);
  Kernel kernel;
  kernel.name = name;
  const CUresult result = fn.cuModuleGetFunction(&kernel.function, in, name.c_str());
  SEER_REQUIRE(result != CUDA_ERROR_NOT_FOUND, Status::unsupported, "module %s has no kernel %s", image, name.c_str());
  check(result, ("cuModuleGetFunction of " + name).c_str());
  kernel.shared = find_constant(in, name + "_shared").value_or(0);
  int32_t fixed = 0;
  check(fn.cuFuncGetAttribute(&fixed, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, kernel.function),
        ("cuFuncGetAttribute of " + name).c_str());
  kernel.max_shared = caps.max_shared - fixed;
  check(fn.cuFuncSetAttribute(kernel.function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, kernel.max_shared),
        ("cuFuncSetAttribute of " + name).c_str());
  return kernels_.emplace(std::move(key), std::move(kernel)).first->second;
}

Current::Current(Gpu &gpu) : fn_(gpu.fn) {
  gpu.check(fn_.cuCtxPushCurrent(gpu.context), "cuCtxPushCurrent");
  fn_.cuThreadExchangeStreamCaptureMode(&mode_);
}

Current::~Current() {
  fn_.cuThreadExchangeStreamCaptureMode(&mode_);
  CUcontext popped = nullptr;
  fn_.cuCtxPopCurrent(&popped);
}

CudaDevice::CudaDevice(std::shared_ptr<Gpu> opened, const DeviceParams &params)
    : gpu(std::move(opened)), fn(gpu->fn), caps(gpu->caps), allocator(params.allocator) {
  const Current current(*gpu);
  log = params.log;
  info = describe(caps);
  limits.alignment = 256;
  limits.attend_rotates_q = true;
  limits.rope_tables = false;
  limits.gate_bytes = kGateBytes;
  limits.project_in_place = true;
  limits.pooled_rows = kTermRows;
  if (const char *mb = std::getenv("SEER_CUDA_GATE_MB")) limits.gate_bytes = std::atoll(mb) << 20;
  try {
    recorder = std::make_unique<Recorder>(*this);
    rope = std::make_unique<RopeTables>(*this);
    CUdeviceptr words = 0;
    constexpr size_t bytes = kAttendCounters * sizeof *counter + 2 * sizeof *clocks;
    check(fn.cuMemAlloc(&words, bytes), "cuMemAlloc");
    clocks = reinterpret_cast<uint64_t *>(words);
    counter = reinterpret_cast<uint32_t *>(clocks + 2);
    recorder->fill_zero(clocks, bytes);
    check(fn.cuStreamSynchronize(recorder->stream()), "cuStreamSynchronize");  // calls go to other streams too
  } catch (...) {
    release();
    throw;
  }
}

CudaDevice::~CudaDevice() {
  try {
    const Current current(*gpu);
    release();
  } catch (const Error &) {
    // the driver is gone, and everything with it
  }
}

void CudaDevice::release() noexcept {
  rope.reset();
  recorder.reset();
  if (clocks) fn.cuMemFree(reinterpret_cast<CUdeviceptr>(clocks));
}

std::vector<Caps> devices() {
  const Driver &fn = driver();
  int count = 0;
  std::vector<Caps> all;
  const CUresult result = fn.cuDeviceGetCount(&count);
  SEER_REQUIRE(result == CUDA_SUCCESS, Status::unsupported,
               "backend cuda: the driver does not list its devices: %s: %s", fn.name(result), fn.text(result));
  for (int i = 0; i < count; i++) {
    Caps caps;
    if (fn.cuDeviceGet(&caps.device, i) != CUDA_SUCCESS) continue;
    const auto attribute = [&](CUdevice_attribute what) {
      int value = 0;
      return fn.cuDeviceGetAttribute(&value, what, caps.device) == CUDA_SUCCESS ? value : 0;
    };
    caps.ordinal = i;
    char name[256] = {};
    fn.cuDeviceGetName(name, sizeof name, caps.device);
    caps.name = name;
    CUuuid uuid{};
    fn.cuDeviceGetUuid(&uuid, caps.device);
    std::memcpy(caps.uuid, uuid.bytes, sizeof caps.uuid);
    size_t bytes = 0;
    fn.cuDeviceTotalMem(&bytes, caps.device);
    caps.memory_bytes = bytes;
    caps.sm = 10 * attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) +
              attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
    caps.multiprocessors = attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
    caps.max_shared = attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
    caps.driver = fn.version;
    all.push_back(caps);
  }
  return all;
}

DeviceInfo describe(const Caps &caps) {
  DeviceInfo info;
  info.backend = BackendKind::cuda;
  info.ordinal = caps.ordinal;
  info.vendor_id = 0x10de;
  std::memcpy(info.uuid, caps.uuid, sizeof info.uuid);
  info.memory_bytes = caps.memory_bytes;
  for (DType t : {DType::f32, DType::f16, DType::bf16}) info.dtype_bits |= uint64_t{1} << int(t);
  info.name = caps.name;
  info.detail = "compute capability " + std::to_string(caps.sm / 10) + "." + std::to_string(caps.sm % 10) + ", " +
                std::to_string(caps.multiprocessors) + " multiprocessors, driver of CUDA " +
                std::to_string(caps.driver / 1000) + "." + std::to_string(caps.driver % 1000 / 10) +
                (caps.sm == 90 ? ", attend by wgmma" : "");
  return info;
}

std::shared_ptr<Gpu> open_gpu(const Caps &caps) {
  static std::mutex mutex;
  static std::vector<std::weak_ptr<Gpu>> opened;
  std::lock_guard lock(mutex);
  std::erase_if(opened, [](const std::weak_ptr<Gpu> &gpu) { return gpu.expired(); });
  for (const std::weak_ptr<Gpu> &weak : opened) {
    const auto gpu = weak.lock();
    if (gpu && gpu->caps.device == caps.device && !gpu->lost) return gpu;
  }
  auto gpu = std::make_shared<Gpu>(caps);
  opened.push_back(gpu);
  return gpu;
}

}  // namespace seer::cuda
