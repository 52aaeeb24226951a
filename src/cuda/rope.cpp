#include "rope.h"

#include "device.h"

namespace seer::cuda {

Memory RopeTables::Store::alloc(uint64_t bytes) { return cuda::alloc(device_, bytes); }
void RopeTables::Store::write(void *to, const void *from, uint64_t bytes) { device_.recorder->write(to, from, bytes); }
void RopeTables::Store::free_later(const Memory &memory) { device_.recorder->free_later(memory); }
void RopeTables::Store::keep(const Memory &memory) { device_.recorder->keep(memory); }

RopeTables::~RopeTables() {
  turns_.clear([&](const Memory &memory) { free_now(device_, memory, device_.recorder->own_stream()); });
}

RopePair RopeTables::get(const RopeView &rope, int64_t rows) {
  const Memory memory = turns_.get(rope, rows, device_.recorder->capturing());
  const auto *fine = static_cast<const RopeTurn *>(memory.address);
  return {.coarse = &fine[kRopeTurnRows * rope.half].cos, .fine = &fine->cos};
}

}  // namespace seer::cuda
