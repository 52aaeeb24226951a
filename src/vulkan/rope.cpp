#include "rope.h"

#include <algorithm>

#include "device.h"

namespace seer::vulkan {

RopeOnDevice RopeBuffers::get(const RopeView &view, int64_t rows) {
  constexpr size_t kKept = 4;
  Entry wanted;
  wanted.inv_freq.assign(view.inv_freq, view.inv_freq + view.half);
  wanted.attention_scaling = view.attention_scaling;
  wanted.rows = std::max<int64_t>(rows, 1);
  if (rows > 1) wanted.second_row.assign(view.cos + view.half, view.cos + 2 * view.half);
  const auto serves = [&](const Entry &e) {
    return e.rows >= wanted.rows && e.attention_scaling == wanted.attention_scaling && e.inv_freq == wanted.inv_freq &&
           (wanted.second_row.empty() || e.second_row == wanted.second_row);
  };
  auto entry = std::find_if(entries_.begin(), entries_.end(), serves);
  if (entry == entries_.end()) {
    // What a longer table of the same kind makes superfluous goes first, then the oldest.
    const auto superseded = [&](const Entry &e) {
      return e.attention_scaling == wanted.attention_scaling && e.inv_freq == wanted.inv_freq &&
             (e.second_row.empty() || e.second_row == wanted.second_row);
    };
    std::erase_if(entries_, [&](const Entry &e) {
      if (!superseded(e)) return false;
      device_.recorder->free_later(e.memory);
      return true;
    });
    while (entries_.size() >= kKept) {
      device_.recorder->free_later(entries_.back().memory);
      entries_.pop_back();
    }
    const auto bytes = uint64_t(wanted.rows * view.half) * sizeof(float);
    wanted.memory = device_.memory->alloc(2 * bytes);
    try {
      device_.recorder->write(wanted.memory.address, view.cos, bytes);
      device_.recorder->write(static_cast<char *>(wanted.memory.address) + bytes, view.sin, bytes);
      entry = entries_.insert(entries_.begin(), wanted);
    } catch (...) {
      device_.recorder->free_later(wanted.memory);
      throw;
    }
  } else {
    std::rotate(entries_.begin(), entry, entry + 1);
    entry = entries_.begin();
  }
  const auto *cos = static_cast<const float *>(entry->memory.address);
  return {.cos = cos, .sin = cos + entry->rows * view.half};
}

}  // namespace seer::vulkan
