#include "fake_state.h"

using namespace fake::driver;

namespace {

Driver &d() {
  static auto *driver = new Driver;  // never destroyed: the library under test ends later
  return *driver;
}

template <class T>
std::vector<T> copy_of(const T *values, int n) {
  return values ? std::vector<T>(values, values + n) : std::vector<T>();
}

unsigned cluster_of(const CUlaunchConfig &config) {
  for (unsigned i = 0; i < config.numAttrs; ++i)
    if (config.attrs[i].id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) return config.attrs[i].value.clusterDim.x;
  return 1;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))
#define ENTER(name)                \
  std::lock_guard lock(d().mutex); \
  if (const CUresult r = d().enter(name); r != CUDA_SUCCESS) return r

// What gives something back does so even if it says that something is wrong, and is not chosen to fail.
#define ENTER_FREE(name)           \
  std::lock_guard lock(d().mutex); \
  ++d().called[name]

EXPORT fake::Control *fake_cuda_control() { return &d(); }

EXPORT CUresult cuInit(unsigned) {
  ENTER("cuInit");
  return CUDA_SUCCESS;
}
EXPORT CUresult cuDriverGetVersion(int *version) {
  *version = 13000;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuGetErrorName(CUresult error, const char **text) {
  *text = error == CUDA_ERROR_ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_OF_THE_FAKE";
  return CUDA_SUCCESS;
}
EXPORT CUresult cuGetErrorString(CUresult, const char **text) {
  *text = "as the test wanted";
  return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetCount(int *count) {
  ENTER("cuDeviceGetCount");
  *count = d().device_count;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal) {
  *device = ordinal;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetName(char *name, int bytes, CUdevice) {
  std::strncpy(name, "Fake GPU", size_t(bytes));
  return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device) {
  std::memset(uuid, 7 + device, sizeof *uuid);
  return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice) {
  *bytes = size_t{80} << 30;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute what, CUdevice) {
  switch (what) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = d().sm / 10; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = d().sm % 10; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 132; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = 232448; break;
  }
  return CUDA_SUCCESS;
}
EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  ENTER("cuDevicePrimaryCtxRetain");
  ++d().contexts;
  *context = reinterpret_cast<CUcontext>(&contexts_of[device]);
  return CUDA_SUCCESS;
}
EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) {
  std::lock_guard lock(d().mutex);
  --d().contexts;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxPushCurrent_v2(CUcontext context) {
  current_contexts.push_back(int(reinterpret_cast<int *>(context) - contexts_of));
  return CUDA_SUCCESS;
}
EXPORT CUresult cuCtxPopCurrent_v2(CUcontext *) {
  std::lock_guard lock(d().mutex);
  d().expect(!current_contexts.empty(), "a context popped from an empty stack");
  if (!current_contexts.empty()) current_contexts.pop_back();
  return CUDA_SUCCESS;
}
EXPORT CUresult cuCtxGetDevice(CUdevice *device) {
  *device = current_contexts.back();
  return CUDA_SUCCESS;
}
EXPORT CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *) { return CUDA_SUCCESS; }

EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *made, size_t bytes) {
  ENTER("cuMemAlloc");
  d().expect(d().current() >= 0, "cuMemAlloc without a context");
  if (d().bytes() + int64_t(bytes) > d().limit) return CUDA_ERROR_OUT_OF_MEMORY;
  void *memory = d().allocate(bytes, d().current());
  std::memset(memory, 0xa5, bytes);
  *made = reinterpret_cast<CUdeviceptr>(memory);
  return CUDA_SUCCESS;
}
EXPORT CUresult cuMemFree_v2(CUdeviceptr memory) {
  ENTER_FREE("cuMemFree");
  ++d().waited;  // as the real one does
  d().expect_current(d().device_of[memory], "memory freed");
  d().release(reinterpret_cast<void *>(memory));
  return CUDA_SUCCESS;
}
EXPORT CUresult cuMemHostAlloc(void **made, size_t bytes, unsigned) {
  ENTER("cuMemHostAlloc");
  *made = std::malloc(bytes);
  std::memset(*made, 0x5a, bytes);
  d().pinned[reinterpret_cast<uintptr_t>(*made)] = bytes;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuMemFreeHost(void *memory) {
  ENTER_FREE("cuMemFreeHost");
  d().run_all();
  d().expect(d().pinned.erase(reinterpret_cast<uintptr_t>(memory)) == 1, "pinned memory freed that is not there");
  std::free(memory);
  return CUDA_SUCCESS;
}
EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr dst, const void *src, size_t bytes, CUstream on) {
  ENTER("cuMemcpyHtoDAsync");
  Stream &stream = d().of(on);
  d().no_capture(stream, "a copy from host memory");
  const auto check = [dst, bytes] { d().expect(Driver::within(d().device, dst, bytes), "a copy to freed memory"); };
  check();
  if (Driver::within(d().pinned, reinterpret_cast<uintptr_t>(src), bytes)) {
    d().add(stream, {[=] {
              check();
              if (Driver::within(d().pinned, reinterpret_cast<uintptr_t>(src), bytes))
                std::memcpy(reinterpret_cast<void *>(dst), src, bytes);
              else
                d().expect(false, "a copy from pinned memory that was freed");
            }});
  } else {
    auto kept =
        std::make_shared<std::vector<char>>(static_cast<const char *>(src), static_cast<const char *>(src) + bytes);
    d().add(stream, {[=] {
              check();
              std::memcpy(reinterpret_cast<void *>(dst), kept->data(), bytes);
            }});
  }
  return CUDA_SUCCESS;
}
EXPORT CUresult cuMemcpyDtoHAsync_v2(void *dst, CUdeviceptr src, size_t bytes, CUstream on) {
  ENTER("cuMemcpyDtoHAsync");
  Stream &stream = d().of(on);
  d().no_capture(stream, "a copy to host memory");
  const bool global = !Driver::within(d().device, src, bytes);  // a module's variable
  d().add(stream, {[=] {
            d().expect(global || Driver::within(d().device, src, bytes), "a copy from freed memory");
            std::memcpy(dst, reinterpret_cast<const void *>(src), bytes);
          }});
  return CUDA_SUCCESS;
}
EXPORT CUresult cuMemsetD8Async(CUdeviceptr dst, unsigned char value, size_t bytes, CUstream on) {
  ENTER("cuMemsetD8Async");
  d().add(d().of(on), {[=] {
            d().expect(Driver::within(d().device, dst, bytes), "freed memory set");
            if (Driver::within(d().device, dst, bytes)) std::memset(reinterpret_cast<void *>(dst), value, bytes);
          }});
  return CUDA_SUCCESS;
}
EXPORT CUresult cuPointerGetAttributes(unsigned count, CUpointer_attribute *names, void **values, CUdeviceptr at) {
  ENTER("cuPointerGetAttributes");
  auto after = d().device.upper_bound(at);
  uint64_t start = 0, size = 0;
  if (after != d().device.begin()) {
    --after;
    if (at - after->first < after->second) start = after->first, size = after->second;
  }
  for (unsigned i = 0; i < count; ++i) switch (names[i]) {
      case CU_POINTER_ATTRIBUTE_MEMORY_TYPE: *static_cast<unsigned *>(values[i]) = size ? 2 : 0; break;
      case CU_POINTER_ATTRIBUTE_IS_MANAGED: *static_cast<unsigned *>(values[i]) = 0; break;
      case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        *static_cast<int *>(values[i]) = size ? d().device_of[start] : -2;
        break;
      case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR: *static_cast<CUdeviceptr *>(values[i]) = start; break;
      case CU_POINTER_ATTRIBUTE_RANGE_SIZE: *static_cast<size_t *>(values[i]) = size; break;
    }
  return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamCreate(CUstream *made, unsigned) {
  ENTER("cuStreamCreate");
  *made = reinterpret_cast<CUstream>(d().make_stream(d().current()));
  return CUDA_SUCCESS;
}
EXPORT CUresult cuStreamDestroy_v2(CUstream stream) {
  ENTER_FREE("cuStreamDestroy");
  d().of(stream);
  d().destroy_stream(stream);
  return CUDA_SUCCESS;
}
EXPORT CUresult cuStreamSynchronize(CUstream on) {
  ENTER("cuStreamSynchronize");
  Stream &stream = d().of(on);
  d().no_capture(stream, "a wait");
  ++d().waited;
  d().run(stream);
  return CUDA_SUCCESS;
}
EXPORT CUresult cuStreamWaitEvent(CUstream on, CUevent event, unsigned) {
  ENTER("cuStreamWaitEvent");
  auto *e = reinterpret_cast<Event *>(event);
  d().no_capture(d().of(on), "a wait for an event from outside");
  d().expect(d().events.count(e), "an event that is not there");
  d().add(d().of(on), {.run = nullptr, .record = nullptr, .wait = e, .version = e->recorded});
  return CUDA_SUCCESS;
}
EXPORT CUresult cuStreamIsCapturing(CUstream on, CUstreamCaptureStatus *status) {
  ENTER("cuStreamIsCapturing");
  *status = d().of(on).capturing ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuStreamGetCtx(CUstream on, CUcontext *context) {
  std::lock_guard lock(d().mutex);
  *context = reinterpret_cast<CUcontext>(&contexts_of[d().find(on).device]);
  return CUDA_SUCCESS;
}
EXPORT CUresult cuStreamGetId(CUstream on, unsigned long long *id) {
  ENTER("cuStreamGetId");
  *id = d().of(on).id;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuEventCreate(CUevent *made, unsigned) {
  ENTER("cuEventCreate");
  auto *e = new Event{.device = d().current()};
  d().events.insert(e);
  *made = reinterpret_cast<CUevent>(e);
  return CUDA_SUCCESS;
}
EXPORT CUresult cuEventDestroy_v2(CUevent event) {
  ENTER_FREE("cuEventDestroy");
  d().run_all();
  auto *e = reinterpret_cast<Event *>(event);
  d().expect(d().events.erase(e) == 1, "an event destroyed that is not there");
  delete e;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuEventRecord(CUevent event, CUstream on) {
  ENTER("cuEventRecord");
  auto *e = reinterpret_cast<Event *>(event);
  Stream &stream = d().of(on);
  d().no_capture(stream, "an event of the library's own");
  d().expect(e->device == stream.device, "an event recorded on a stream of another device");
  if (e->stream && e->stream != &stream) d().run_to(*e, e->recorded);
  e->stream = &stream;
  d().add(stream, {.run = nullptr, .record = e, .wait = nullptr, .version = ++e->recorded});
  return CUDA_SUCCESS;
}
EXPORT CUresult cuEventQuery(CUevent event) {
  ENTER("cuEventQuery");
  auto *e = reinterpret_cast<Event *>(event);
  if (e->done < e->recorded && e->stream) d().step(*e->stream);  // work goes on while somebody looks
  return e->done < e->recorded ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
}
EXPORT CUresult cuEventSynchronize(CUevent event) {
  ENTER("cuEventSynchronize");
  ++d().waited;
  auto *e = reinterpret_cast<Event *>(event);
  d().run_to(*e, e->recorded);
  return CUDA_SUCCESS;
}
EXPORT CUresult cuEventElapsedTime(float *ms, CUevent, CUevent) {
  ENTER("cuEventElapsedTime");
  *ms = 0.5f;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuModuleLoadData(CUmodule *made, const void *image) {
  d().looked_up.image = image;
  ENTER("cuModuleLoadData");
  auto *m = new Module;
  m->device = d().current();
  d().modules.insert(m);
  *made = reinterpret_cast<CUmodule>(m);
  return CUDA_SUCCESS;
}
EXPORT CUresult cuModuleUnload(CUmodule module) {
  ENTER_FREE("cuModuleUnload");
  auto *m = reinterpret_cast<Module *>(module);
  d().expect(d().modules.erase(m) == 1, "a module unloaded that is not there");
  d().expect_current(m->device, "a module unloaded");
  delete m;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuModuleGetFunction(CUfunction *made, CUmodule module, const char *name) {
  d().looked_up.kernel = name;
  ENTER("cuModuleGetFunction");
  auto *m = reinterpret_cast<Module *>(module);
  auto &f = m->functions[name];
  f = std::make_unique<Function>(Function{name, m->device});
  *made = reinterpret_cast<CUfunction>(f.get());
  return CUDA_SUCCESS;
}
EXPORT CUresult cuModuleGetGlobal_v2(CUdeviceptr *at, size_t *bytes, CUmodule module, const char *name) {
  d().looked_up.variable = name;
  ENTER("cuModuleGetGlobal");
  if (std::strncmp(name, "attend_", 7) != 0) return CUDA_ERROR_NOT_FOUND;
  *at = reinterpret_cast<CUdeviceptr>(&reinterpret_cast<Module *>(module)->shared);
  *bytes = sizeof(int);
  return CUDA_SUCCESS;
}
EXPORT CUresult cuFuncGetAttribute(int *value, CUfunction_attribute, CUfunction) {
  ENTER("cuFuncGetAttribute");
  *value = 0;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) {
  ENTER("cuFuncSetAttribute");
  return CUDA_SUCCESS;
}
EXPORT CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, uint32_t rank, void *address,
                                       const uint64_t *extent, const uint64_t *stride, const uint32_t *box,
                                       const uint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                                       CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  ENTER("cuTensorMapEncodeTiled");
  if (reinterpret_cast<uintptr_t>(map) % 64 != 0 || reinterpret_cast<uintptr_t>(address) % 16 != 0)
    return CUDA_ERROR_INVALID_VALUE;
  fake::Map m;
  m.type = type;
  m.address = address;
  if (rank < 1 || rank > std::size(m.extent)) return CUDA_ERROR_INVALID_VALUE;
  for (uint32_t i = 0; i < rank; ++i) {
    m.extent[i] = extent[i];
    m.box[i] = box[i];
    if (extent[i] == 0 || extent[i] > uint64_t{1} << 32) return CUDA_ERROR_INVALID_VALUE;
    if (i + 1 == rank) break;  // the innermost stride is not given
    m.stride[i] = stride[i];
    if (stride[i] % 16 != 0 || stride[i] >= uint64_t{1} << 40) return CUDA_ERROR_INVALID_VALUE;
  }
  d().mapped.push_back(m);
  return CUDA_SUCCESS;
}
EXPORT CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *count, CUfunction, int, size_t shared) {
  ENTER("cuOccupancyMaxActiveBlocksPerMultiprocessor");
  *count = static_cast<int>(233472 / (shared + 1024));
  return CUDA_SUCCESS;
}
EXPORT CUresult cuOccupancyMaxActiveClusters(int *count, CUfunction, const CUlaunchConfig *config) {
  ENTER("cuOccupancyMaxActiveClusters");
  *count = 0;
  const unsigned cluster = cluster_of(*config);
  if (cluster == 1) return CUDA_ERROR_INVALID_VALUE;  // no cluster is none that could be counted
  *count = 132 / static_cast<int>(cluster);
  return CUDA_SUCCESS;
}
EXPORT CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **params, void **) {
  ENTER("cuLaunchKernelEx");
  const auto &kernel = *reinterpret_cast<Function *>(function);
  d().expect_current(kernel.device, "a launch of a kernel");
  fake::Launch l;
  l.kernel = kernel.name;
  l.device = kernel.device;
  l.stream = config->hStream;
  l.grid[0] = config->gridDimX, l.grid[1] = config->gridDimY, l.grid[2] = config->gridDimZ;
  l.threads = config->blockDimX;
  l.shared = config->sharedMemBytes;
  l.cluster = cluster_of(*config);
  if (l.grid[0] % l.cluster != 0) return CUDA_ERROR_INVALID_VALUE;
  Stream &stream = d().of(config->hStream);
  l.captured = stream.capturing;
  if (l.kernel.rfind("attend_bf16", 0) == 0 || l.kernel.rfind("attend_f16", 0) == 0)
    std::memcpy(&l.attend, params[3], sizeof l.attend);
  if (l.kernel.rfind("attend_sm80", 0) == 0 || l.kernel.rfind("attend_plain", 0) == 0)
    std::memcpy(&l.attend80, params[0], sizeof l.attend80);
  if (l.kernel.rfind("pool_", 0) == 0) std::memcpy(&l.pool, params[0], sizeof l.pool);
  const size_t index = d().launched.size();
  d().launched.push_back(l);
  // What the kernel would read, at the time it would.
  d().add(stream, {[index, l] {
            if (index >= d().launched.size()) return;  // reset in between
            fake::Launch &at = d().launched[index];
            at.attend_sequences = copy_of(l.attend.sequence, l.attend.sequences);
            if (l.attend80.sequence) at.attend_sequences = copy_of(l.attend80.sequence, l.attend80.sequences);
            at.pool_sequences = copy_of(l.pool.side[0].sequence, l.pool.side[0].sequences);
            if (l.attend.clocks) l.attend.clocks[0] += 1500000, l.attend.clocks[1] += 1000000;
          }});
  return CUDA_SUCCESS;
}
