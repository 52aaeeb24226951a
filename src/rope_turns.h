// RoPE's angles in device memory: two small tables whose angles kernels add, of 1 / 64 the size of the tables of a
// RopeView, and kept from call to call.
#pragma once
#include <vector>

#include "backend.h"

namespace seer {

// Pairs (cos, sin) in f32, [row][half]: first fine, kRopeTurnRows rows 0, 1, 2, ... without the attention scaling, then
// coarse, rows 0, kRopeTurnRows, 2 kRopeTurnRows, ... with it. Row i is position i * step of the view.
struct RopeTurn {
  float cos, sin;
};
constexpr int64_t kRopeTurnRows = 64;  // of fine, and between two of coarse

// Of one context. Not thread-safe.
class RopeTurns {
public:
  // Where the tables are.
  class Store {
  public:
    virtual ~Store() = default;
    virtual Memory alloc(uint64_t bytes) = 0;
    virtual void write(void *to, const void *from, uint64_t bytes) = 0;  // in order with the work that is recorded
    virtual void free_later(const Memory &memory) = 0;                   // when work recorded so far is done
    // Never before the store goes: work that runs again and again uses it.
    virtual void keep(const Memory &memory) = 0;
  };

  // keep_all: every table that was ever asked for is kept, else a handful.
  explicit RopeTurns(Store &store, bool keep_all = false) : store_(store), keep_all_(keep_all) {}
  RopeTurns(const RopeTurns &) = delete;
  RopeTurns &operator=(const RopeTurns &) = delete;

  // The tables for rows 0 .. rows - 1, for work that is recorded from now on. pinned: that work runs again and again.
  Memory get(const RopeView &rope, int64_t rows, bool pinned = false);
  // The same if it can be had without writing anything; else size 0.
  Memory find(const RopeView &rope, int64_t rows);
  // For a store whose writes may come to nothing: whether all since the last time were made. Those that were not are
  // made again when their rows are next asked for.
  void settle(bool written);
  // Gives all tables up: free(memory) for each.
  template <class Free>
  void clear(Free free) {
    for (const Entry &entry : entries_)
      if (entry.memory.size) free(entry.memory);
    entries_.clear();
  }

private:
  struct Entry {
    std::vector<float> inv_freq;
    double attention_scaling = 1.0;
    int64_t step = 1;
    int64_t rows = 0;      // written
    int64_t settled = 0;   // of these, for certain
    int64_t capacity = 0;  // coarse rows
    bool pinned = false;
    Memory memory;
  };
  std::vector<Entry>::iterator find(const RopeView &rope);
  void release(Entry &entry);
  void write(const Entry &entry, int64_t to, int64_t first, int64_t last, int64_t positions, double scale);

  Store &store_;
  const bool keep_all_;
  std::vector<Entry> entries_;  // most recently used first
};

}  // namespace seer
