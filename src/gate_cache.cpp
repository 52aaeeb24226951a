#include "checked.h"
#include "pipeline.h"

namespace seer {

GateCache::GateCache(Device &device, const GateConfig &config, int32_t layers, int32_t sequences, int64_t max_tokens)
    : device_(device), config_(config), sequences_(sequences), max_blocks_(ceil_div(max_tokens, config.block_size)) {
  const int64_t bytes = checked_mul(int64_t{4}, int64_t{sequences}, max_blocks_, int64_t{config.k_weight_heads()},
                                    int64_t{config.gate_dim});
  blocks_.assign(size_t(layers), std::vector<int64_t>(size_t(sequences), 0));
  memory_.reserve(size_t(layers));
  try {
    for (int32_t i = 0; i < layers; i++) memory_.push_back(device_.fns->alloc(device_, uint64_t(bytes)));
  } catch (...) {
    for (const Memory &m : memory_) device_.fns->free(device_, m);
    throw;
  }
}

GateCache::~GateCache() {
  for (const Memory &m : memory_) device_.fns->free(device_, m);
}

int64_t GateCache::blocks(int32_t layer, int32_t sequence) const {
  std::lock_guard lock(mutex_);
  return blocks_[size_t(layer)][size_t(sequence)];
}

void GateCache::set_blocks(int32_t layer, int32_t sequence, int64_t blocks) {
  std::lock_guard lock(mutex_);
  blocks_[size_t(layer)][size_t(sequence)] = blocks;
}

void GateCache::change(const Change &wanted) {
  std::lock_guard lock(mutex_);
  wanted(blocks_);
}

}  // namespace seer
