// RoPE's angles in device memory (rope_turns.h), as PoolParams in cuda/launch.h takes them.
#pragma once
#include "../rope_turns.h"

namespace seer::cuda {

struct CudaDevice;

// Pairs (cos, sin), [row][half]: coarse of rows 0, 64, 128, ... with the attention scaling, fine of rows 0 .. 63
// without.
struct RopePair {
  const float *coarse = nullptr, *fine = nullptr;
};

// Of one context. Not thread-safe.
class RopeTables {
public:
  explicit RopeTables(CudaDevice &device) : device_(device), store_(device), turns_(store_) {}
  ~RopeTables();
  RopeTables(const RopeTables &) = delete;
  RopeTables &operator=(const RopeTables &) = delete;

  // Tables for rows 0 .. rows - 1 of `rope` (for project, row i is block i), for work recorded from now on.
  RopePair get(const RopeView &rope, int64_t rows);
  // Whether what was written since the last time was enqueued; else it will be written again.
  void settle(bool written) { turns_.settle(written); }

private:
  class Store final : public RopeTurns::Store {
  public:
    explicit Store(CudaDevice &device) : device_(device) {}
    Memory alloc(uint64_t bytes) override;
    void write(void *to, const void *from, uint64_t bytes) override;
    void free_later(const Memory &memory) override;
    void keep(const Memory &memory) override;

  private:
    CudaDevice &device_;
  };

  CudaDevice &device_;
  Store store_;
  RopeTurns turns_;
};

}  // namespace seer::cuda
