// RoPE's angles in device memory. The tables of a call's RopeView have a row for every position; here it is two small
// ones, whose angles kernels add (shaders/args.h): of 1 / 64 the size, and kept from call to call.
#pragma once
#include <vector>

#include "dispatch.h"

namespace seer::vulkan {

// Of one context, or of one plan. Not thread-safe.
class RopeBuffers {
public:
  // keep_all: a plan's, which keeps every table it was ever asked for.
  RopeBuffers(MemoryMap &memory, Recorder &recorder, bool keep_all = false)
      : memory_(memory), recorder_(recorder), keep_all_(keep_all) {}
  ~RopeBuffers();
  RopeBuffers(const RopeBuffers &) = delete;
  RopeBuffers &operator=(const RopeBuffers &) = delete;

  // The table for rows 0 .. rows - 1 of `rope`, for work that is recorded from now on and before the next get().
  Window get(const RopeView &rope, int64_t rows);
  // From now on only what was asked for before can be asked for, the recorder is left alone, and nobody uses the tables
  // when this goes.
  void freeze() { frozen_ = true; }

private:
  struct Entry {
    std::vector<float> inv_freq;
    double attention_scaling = 1.0;
    std::vector<float> second_row;  // sin; tells tables of other steps apart. Empty until there is one
    int64_t rows = 0;               // written
    int64_t capacity = 0;           // coarse rows
    Memory memory;
  };
  Entry &find(const RopeView &rope, int64_t rows);
  void grow(Entry &entry, int64_t coarse_rows);
  void release(Entry &entry);

  MemoryMap &memory_;
  Recorder &recorder_;
  const bool keep_all_;
  bool frozen_ = false;
  std::vector<Entry> entries_;  // most recently used first
};

}  // namespace seer::vulkan
