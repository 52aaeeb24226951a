#include "tape.h"

#include <cstring>

#include "device.h"

namespace seer::cuda {

LaunchConfig::LaunchConfig(const Launch &launch, CUstream stream) {
  config = {.gridDimX = uint32_t(launch.blocks),
            .gridDimY = launch.blocks_y,
            .gridDimZ = launch.blocks_z,
            .blockDimX = launch.threads,
            .blockDimY = 1,
            .blockDimZ = 1,
            .sharedMemBytes = uint32_t(launch.shared),
            .hStream = stream,
            .attrs = attributes,
            .numAttrs = 0};
  if (launch.overlap) {
    CUlaunchAttribute &attribute = attributes[config.numAttrs++];
    attribute.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    attribute.value.programmaticStreamSerializationAllowed = 1;
  }
  if (launch.cluster > 1) {
    CUlaunchAttribute &attribute = attributes[config.numAttrs++];
    attribute.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    attribute.value.clusterDim = {launch.cluster, 1, 1};
  }
}

void Tape::launch(const Kernel &kernel, const Launch &launch, std::span<const std::span<const std::byte>> params) {
  const size_t first = offsets_.size();
  for (const auto &bytes : params) {
    const size_t at = params_.size();
    offsets_.push_back(at);
    params_.resize(at + (bytes.size() + sizeof(Line) - 1) / sizeof(Line));
    std::memcpy(params_.data() + at, bytes.data(), bytes.size());
  }
  ops_.push_back(Start{&kernel, launch, first});
}

void Tape::play(Gpu &gpu, CUstream stream) {
  struct Player {
    void operator()(const Start &s) const {
      const LaunchConfig config(s.launch, stream);
      gpu.check(fn.cuLaunchKernelEx(&config.config, s.kernel->function, params + s.first, nullptr),
                s.kernel->name.c_str());
    }
    void operator()(const CopyIn &c) const {
      gpu.check(fn.cuMemcpyHtoDAsync(c.dst, c.src, c.bytes, stream), "cuMemcpyHtoDAsync");
    }
    void operator()(const CopyOut &c) const {
      gpu.check(fn.cuMemcpyDtoHAsync(c.dst, c.src, c.bytes, stream), "cuMemcpyDtoHAsync");
    }
    void operator()(const Zero &z) const {
      gpu.check(fn.cuMemsetD8Async(z.dst, 0, z.bytes, stream), "cuMemsetD8Async");
    }
    void operator()(const Record &r) const { gpu.check(fn.cuEventRecord(r.event, stream), "cuEventRecord"); }
    void operator()(const Wait &w) const { gpu.check(fn.cuStreamWaitEvent(stream, w.event, 0), "cuStreamWaitEvent"); }
    void **const params;
    Gpu &gpu;
    const Driver &fn;
    CUstream stream;
  };
  pointers_.clear();
  for (const size_t at : offsets_) pointers_.push_back(params_.data() + at);
  const Player player{pointers_.data(), gpu, gpu.fn, stream};
  for (const auto &op : ops_) std::visit(player, op);
}

void Tape::clear() {
  ops_.clear();
  params_.clear();
  offsets_.clear();
}

}  // namespace seer::cuda
