// pool and project of q and k at once: one launch pools both, and what it leaves needs as little projecting as can be.
#include "gate.h"

#include <array>

namespace seer::cuda {

void gate_vectors(CudaDevice &device, Exec &exec, const GateVectorArgs &args) {
  Recorder &recorder = *device.recorder;
  recorder.stage(exec);
  // Pooled Q without a matrix only wants to be turned: pool writes gate Q.
  PoolArgs q = args.pool_q;
  const bool direct = !args.project_q.weight.present() && pools_fast(q);
  if (direct) q.pooled = args.project_q.gate;
  const int64_t tiles = pools_fast(args.pool_k) ? project_tiles(device, args.pool_k, args.project_k) : 0;
  record_pools(device, std::array{PoolJob{.args = q, .gate_rope = direct ? args.project_q.rope : RopeView{}},
                                  PoolJob{.args = args.pool_k, .tiles = tiles}});
  recorder.stage_done("pool");
  if (!direct) record_project(device, args.project_q);
  if (tiles)
    record_project_terms(device, args.project_k, args.pool_k.pool_bits, tiles);
  else
    record_project(device, args.project_k);
  recorder.stage_done("project");
}

}  // namespace seer::cuda
