#include "backend.h"

#include <array>

namespace seer {

void Exec::check_cancelled() const {
  if (cancelled()) fail(Status::cancelled, "the call was cancelled");
}

std::span<const BackendFns *const> backends() {
  static const std::array<const BackendFns *, 3> all = {&cuda_backend(), &vulkan_backend(), &cpu_backend()};
  return all;
}

const BackendFns &backend(BackendKind kind) {
  for (const BackendFns *fns : backends())
    if (fns->kind == kind) return *fns;
  fail(Status::invalid_argument, "backend is %d; cuda (1), vulkan (2) and cpu (3) exist", int(kind));
}

namespace {

// What every backend must have got right; here so that a new one fails at its birth.
void check_device(const BackendFns &fns, const Device &device) {
  const auto must = [&](bool ok, const char *what) {
    SEER_REQUIRE(ok, Status::internal, "backend %s: %s", fns.name, what);
  };
  must(device.fns == &fns, "the device does not point to its function table");
  must(fns.alloc && fns.free && fns.write && fns.read, "a memory function is missing");
  must(fns.pool && fns.project && fns.score && fns.select && fns.attend, "a stage is missing");
  must(!fns.record == !fns.fence_wait, "record and fence_wait come together or not at all");
  must(!fns.begin == !fns.end && !fns.begin == !fns.clear && !fns.begin == !fns.mark,
       "begin, clear, mark and end come together or not at all");
  must(!fns.rehearse == !fns.rehearsed, "rehearse and rehearsed come together or not at all");
  must(!fns.pack_mask == !fns.unpack_mask, "pack_mask and unpack_mask come together or not at all");
  must(device.info.backend == fns.kind, "the device's info names another backend");
  must(!device.info.name.empty() && device.info.dtype_bits != 0, "the device's info is incomplete");
  const int64_t alignment = device.limits.alignment;
  must(alignment > 0 && (alignment & (alignment - 1)) == 0, "alignment is not a power of two");
  must(device.limits.max_head_dim > 0, "the device's limits are incomplete");
}

std::unique_ptr<Device> create_checked(const BackendFns &fns, const DeviceParams &params) {
  // A caller's device is none of those that are counted.
  const int32_t count = params.vulkan ? 0 : fns.device_count();
  if (count > 0)
    SEER_REQUIRE(params.ordinal >= 0 && params.ordinal < count, Status::invalid_argument,
                 "device is %d; backend %s has devices 0 to %d", params.ordinal, fns.name, count - 1);
  std::unique_ptr<Device> device = fns.create(params);
  check_device(fns, *device);
  return device;
}

}  // namespace

std::unique_ptr<Device> create_device(BackendKind kind, const DeviceParams &params) {
  if (kind != BackendKind::automatic) return create_checked(backend(kind), params);
  for (const BackendFns *fns : backends()) {
    if (fns->kind == BackendKind::cpu) break;  // the last resort: its errors are the caller's
    try {
      if (fns->not_automatic && params.ordinal >= 0 && params.ordinal < fns->device_count())
        if (const std::string why = fns->not_automatic(params.ordinal); !why.empty())
          fail(Status::unsupported, "%s", why.c_str());
      return create_checked(*fns, params);
    } catch (const Error &error) {
      params.log(LogLevel::info, "backend %s is not used: %s", fns->name, error.what());
    }
  }
  return create_checked(cpu_backend(), params);
}

void complete(Device &device, void *stream) noexcept {
  if (!device.fns->record) return;
  try {
    device.fns->fence_wait(device, device.fns->record(device, stream), UINT64_MAX);
  } catch (const std::exception &error) {
    device.log(LogLevel::warn, "waiting for backend %s: %s", device.fns->name, error.what());
  }
}

}  // namespace seer
