#include "kernels.h"

namespace seer::cuda {

uint64_t select_scratch(const CudaDevice &, const SelectArgs &) { return 0; }

void select(CudaDevice &, Exec &, const SelectArgs &) {
  fail(Status::unsupported, "backend cuda has no kernel for select");
}

}  // namespace seer::cuda
