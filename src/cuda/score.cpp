#include "kernels.h"

namespace seer::cuda {

void score(CudaDevice &, Exec &, const ScoreArgs &) {
  fail(Status::unsupported, "backend cuda has no kernel for score");
}

}  // namespace seer::cuda
