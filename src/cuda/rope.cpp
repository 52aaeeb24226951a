#include "rope.h"

#include <algorithm>

#include "../checked.h"
#include "device.h"

namespace seer::cuda {
namespace {

constexpr size_t kMaxEntries = 8;
constexpr int64_t kFine = 64;  // rows of the fine table, and positions of a coarse row

struct Turn {
  float cos, sin;
};

}  // namespace

RopeTables::~RopeTables() {
  for (Entry &entry : entries_)
    if (entry.memory.size) free_now(device_, entry.memory, device_.recorder->own_stream());
}

RopeTables::Entry &RopeTables::find(const RopeView &rope, int64_t rows) {
  const auto half = size_t(rope.half);
  const float *second = rows > 1 ? rope.sin + rope.half : nullptr;
  const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry &e) {
    return e.attention_scaling == rope.attention_scaling &&
           std::equal(e.inv_freq.begin(), e.inv_freq.end(), rope.inv_freq, rope.inv_freq + half) &&
           (!second || e.second_row.empty() || std::equal(e.second_row.begin(), e.second_row.end(), second));
  });
  if (found != entries_.end()) {
    std::rotate(entries_.begin(), found, found + 1);
  } else {
    if (entries_.size() == kMaxEntries) {
      release(entries_.back());
      entries_.pop_back();
    }
    Entry entry;
    entry.inv_freq.assign(rope.inv_freq, rope.inv_freq + half);
    entry.attention_scaling = rope.attention_scaling;
    entries_.insert(entries_.begin(), std::move(entry));
  }
  Entry &entry = entries_.front();
  if (second && entry.second_row.empty()) entry.second_row.assign(second, second + half);
  return entry;
}

void RopeTables::release(Entry &entry) {
  if (entry.memory.size) {
    if (entry.captured)
      device_.recorder->keep(entry.memory);
    else
      device_.recorder->free_later(entry.memory);
  }
  entry.memory = {};
  entry.captured = false;
}

RopePair RopeTables::get(const RopeView &rope, int64_t rows) {
  Entry &entry = find(rope, rows);
  Recorder &recorder = *device_.recorder;
  const int64_t half = rope.half, coarse = ceil_div(rows, kFine);
  if (coarse > entry.capacity) {
    release(entry);
    // Half as much again, so that a prompt in chunks does not start anew with each.
    const int64_t capacity = std::max(coarse, entry.capacity + entry.capacity / 2);
    entry.capacity = entry.rows = 0;
    entry.memory = alloc(device_, uint64_t(checked_mul(kFine + capacity, half, int64_t{sizeof(Turn)})));
    entry.capacity = capacity;
  }
  entry.captured |= recorder.capturing();

  auto *fine = static_cast<Turn *>(entry.memory.address);
  Turn *const coarse_rows = fine + kFine * half;
  const auto write = [&](Turn *to, int64_t first, int64_t last, int64_t step, double scale) {
    if (first >= last) return;
    std::vector<Turn> turns;
    turns.reserve(size_t((last - first) * half));
    for (int64_t row = first; row < last; row++)
      for (int64_t d = 0; d < half; d++) {
        const int64_t at = row * step * half + d;
        turns.push_back({float(double{rope.cos[at]} * scale), float(double{rope.sin[at]} * scale)});
      }
    recorder.write(to + first * half, turns.data(), turns.size() * sizeof(Turn));
  };
  // A scaling of 0 leaves nothing to divide out: the coarse rows are 0 and so is all that they are multiplied with.
  const double unscale = rope.attention_scaling != 0 ? 1.0 / rope.attention_scaling : 1.0;
  write(fine, std::min(entry.rows, kFine), std::min(rows, kFine), 1, unscale);
  write(coarse_rows, ceil_div(entry.rows, kFine), coarse, kFine, 1.0);
  entry.rows = std::max(entry.rows, rows);
  return {.coarse = &coarse_rows->cos, .fine = &fine->cos};
}

}  // namespace seer::cuda
