// RoPE's angles in device memory: two small tables whose angles kernels add (PoolParams in cuda/launch.h), of 1 / 64
// the size of the tables of a RopeView and kept from call to call.
#pragma once
#include <vector>

#include "../backend.h"

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
  explicit RopeTables(CudaDevice &device) : device_(device) {}
  ~RopeTables();
  RopeTables(const RopeTables &) = delete;
  RopeTables &operator=(const RopeTables &) = delete;

  // Tables for rows 0 .. rows - 1 of `rope` (for project, row i is block i), for work recorded from now on.
  RopePair get(const RopeView &rope, int64_t rows);

private:
  struct Entry {
    std::vector<float> inv_freq;
    double attention_scaling = 1.0;
    std::vector<float> second_row;  // sin; tells tables of other steps apart. Empty until there is one
    int64_t rows = 0;               // written
    int64_t capacity = 0;           // coarse rows
    bool captured = false;          // a graph uses the memory
    Memory memory;
  };
  Entry &find(const RopeView &rope, int64_t rows);
  void release(Entry &entry);

  CudaDevice &device_;
  std::vector<Entry> entries_;  // most recently used first
};

}  // namespace seer::cuda
