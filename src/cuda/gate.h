// What pool and project record, one by one or both sides of a gate at once.
#pragma once
#include <span>

#include "kernels.h"

namespace seer::cuda {

// The blocks of q or of k. Beyond PoolArgs a kernel that pools fast can leave them ready for what comes next.
struct PoolJob {
  const PoolArgs &args;
  int64_t tiles = 0;     // not 0: as terms (cuda/launch_gate.h), so many tiles a head
  RopeView gate_rope{};  // one kind of pool turned at the positions of blocks: gate vectors without a matrix
};

// Whether pool has a fast kernel for these tensors.
bool pools_fast(const PoolArgs &args);
// At most two jobs, of one type and size; those that are fast share a launch.
void record_pools(CudaDevice &device, std::span<const PoolJob> jobs);

void record_project(CudaDevice &device, const ProjectArgs &args);
// Tiles of terms of pooled vectors that project takes by wgmma; 0: it takes f32.
int64_t project_tiles(const CudaDevice &device, const PoolArgs &pool, const ProjectArgs &args);
void record_project_terms(CudaDevice &device, const ProjectArgs &args, uint32_t pool_bits, int64_t tiles);

}  // namespace seer::cuda
