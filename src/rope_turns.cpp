#include "rope_turns.h"

#include <algorithm>
#include <cmath>

#include "checked.h"

namespace seer {
namespace {

constexpr size_t kMaxEntries = 8;
constexpr int64_t kFine = kRopeTurnRows;

}  // namespace

std::vector<RopeTurns::Entry>::iterator RopeTurns::find(const RopeView &rope) {
  return std::find_if(entries_.begin(), entries_.end(), [&](const Entry &e) {
    return e.step == rope.step && e.attention_scaling == rope.attention_scaling &&
           std::equal(e.inv_freq.begin(), e.inv_freq.end(), rope.inv_freq, rope.inv_freq + rope.half);
  });
}

void RopeTurns::release(Entry &entry) {
  if (entry.memory.size) entry.pinned ? store_.keep(entry.memory) : store_.free_later(entry.memory);
  entry.memory = {};
  entry.pinned = false;
}

void RopeTurns::write(const Entry &entry, int64_t to, int64_t first, int64_t last, int64_t positions, double scale) {
  if (first >= last) return;
  const auto half = int64_t(entry.inv_freq.size());
  std::vector<RopeTurn> turns;
  turns.reserve(size_t((last - first) * half));
  for (int64_t row = first; row < last; row++)
    for (const float inv_freq : entry.inv_freq) {
      // Operation by operation as the tables of rope.cpp.
      const double angle = double(row * positions) * (double(entry.step) * double{inv_freq});
      turns.push_back({float(std::cos(angle) * scale), float(std::sin(angle) * scale)});
    }
  store_.write(static_cast<RopeTurn *>(entry.memory.address) + (to + first) * half, turns.data(),
               turns.size() * sizeof(RopeTurn));
}

Memory RopeTurns::get(const RopeView &rope, int64_t rows, bool pinned) {
  if (const auto found = find(rope); found != entries_.end()) {
    std::rotate(entries_.begin(), found, found + 1);
  } else {
    if (!keep_all_ && entries_.size() == kMaxEntries) {
      release(entries_.back());
      entries_.pop_back();
    }
    Entry entry;
    entry.inv_freq.assign(rope.inv_freq, rope.inv_freq + rope.half);
    entry.attention_scaling = rope.attention_scaling;
    entry.step = rope.step;
    entries_.insert(entries_.begin(), std::move(entry));
  }
  Entry &entry = entries_.front();
  const int64_t coarse = ceil_div(rows, kFine);
  if (coarse > entry.capacity) {
    release(entry);
    // Half as much again, so that a prompt in chunks does not start anew with each.
    const int64_t capacity = std::max(coarse, entry.capacity + entry.capacity / 2);
    entry.capacity = entry.rows = entry.settled = 0;
    entry.memory = store_.alloc(uint64_t(checked_mul(kFine + capacity, int64_t(rope.half), int64_t{sizeof(RopeTurn)})));
    entry.capacity = capacity;
  }
  entry.pinned |= pinned;
  write(entry, 0, std::min(entry.rows, kFine), std::min(rows, kFine), 1, 1.0);
  write(entry, kFine, ceil_div(entry.rows, kFine), coarse, kFine, entry.attention_scaling);
  entry.rows = std::max(entry.rows, rows);
  return entry.memory;
}

void RopeTurns::settle(bool written) {
  for (Entry &entry : entries_)
    if (written)
      entry.settled = entry.rows;
    else
      entry.rows = entry.settled;
}

Memory RopeTurns::find(const RopeView &rope, int64_t rows) {
  const auto found = find(rope);
  return found != entries_.end() && rows <= found->rows ? found->memory : Memory{};
}

}  // namespace seer
