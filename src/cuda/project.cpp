#include "kernels.h"

namespace seer::cuda {

void project(CudaDevice &, Exec &, const ProjectArgs &) {
  fail(Status::unsupported, "backend cuda has no kernel for project");
}

}  // namespace seer::cuda
