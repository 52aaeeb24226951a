// What stands in for the CUDA backend in builds without it: no devices, and a clear message.
#include "../backend.h"

namespace seer {
namespace {

int32_t device_count() { return 0; }
DeviceInfo device_info(int32_t) { fail(Status::unsupported, "backend cuda is not part of this build"); }
std::unique_ptr<Device> create(const DeviceParams &) {
  fail(Status::unsupported, "backend cuda is not part of this build");
}

}  // namespace

const BackendFns &cuda_backend() {
  static const BackendFns fns = {
      .name = "cuda",
      .kind = BackendKind::cuda,
      .device_count = device_count,
      .device_info = device_info,
      .create = create,
  };
  return fns;
}

}  // namespace seer
