#include "rope.h"

#include "../../shaders/args.h"

namespace seer::vulkan {

static_assert(kRopeFineRows == kRopeTurnRows);

RopeBuffers::~RopeBuffers() {
  turns_.clear([&](const Memory &memory) { frozen_ ? memory_.free(memory) : recorder_.free_later(memory); });
}

Window RopeBuffers::get(const RopeView &rope, int64_t rows) {
  if (keep_ == Keep::none) return recorder_.absent();
  const Memory memory = frozen_ ? turns_.find(rope, rows) : turns_.get(rope, rows);
  SEER_REQUIRE(memory.size, Status::internal, "rows of a RoPE table that were not planned");
  return recorder_.window(memory.address, memory.size);
}

}  // namespace seer::vulkan
