// RoPE's angles in device memory (rope_turns.h), as kernels take them (shaders/args.h).
#pragma once
#include "../rope_turns.h"
#include "dispatch.h"

namespace seer::vulkan {

// Of one context, or of one plan. Not thread-safe.
class RopeBuffers {
public:
  // recent: a handful. all: a plan's, which keeps every table it was ever asked for. none: of a rehearsal, which writes
  // nothing.
  enum class Keep { recent, all, none };
  RopeBuffers(MemoryMap &memory, Recorder &recorder, Keep keep = Keep::recent)
      : memory_(memory), recorder_(recorder), keep_(keep), store_(*this), turns_(store_, keep == Keep::all) {}
  ~RopeBuffers();
  RopeBuffers(const RopeBuffers &) = delete;
  RopeBuffers &operator=(const RopeBuffers &) = delete;

  // The table for rows 0 .. rows - 1 of `rope`, for work that is recorded from now on and before the next get().
  Window get(const RopeView &rope, int64_t rows);
  // From now on only what was asked for before can be asked for, the recorder is left alone, and nobody uses the tables
  // when this goes.
  void freeze() { frozen_ = true; }

private:
  class Store final : public RopeTurns::Store {
  public:
    explicit Store(RopeBuffers &owner) : owner_(owner) {}
    Memory alloc(uint64_t bytes) override { return owner_.memory_.alloc(bytes); }
    void write(void *to, const void *from, uint64_t bytes) override { owner_.recorder_.write(to, from, bytes); }
    void free_later(const Memory &memory) override { owner_.recorder_.free_later(memory); }
    void keep(const Memory &memory) override { owner_.recorder_.free_later(memory); }

  private:
    RopeBuffers &owner_;
  };

  MemoryMap &memory_;
  Recorder &recorder_;
  const Keep keep_;
  bool frozen_ = false;
  Store store_;
  RopeTurns turns_;
};

}  // namespace seer::vulkan
