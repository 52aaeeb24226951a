#include "rope.h"

#include <algorithm>

#include "../../shaders/args.h"
#include "../checked.h"

namespace seer::vulkan {
namespace {

constexpr size_t kMaxEntries = 8;
constexpr int64_t kFine = kRopeFineRows;

struct Turn {
  float cos, sin;
};

}  // namespace

RopeBuffers::~RopeBuffers() {
  for (Entry &entry : entries_) release(entry);
}

RopeBuffers::Entry &RopeBuffers::find(const RopeView &rope, int64_t rows) {
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
    SEER_REQUIRE(!frozen_, Status::internal, "a RoPE table that was not planned");
    if (!keep_all_ && entries_.size() == kMaxEntries) {
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

void RopeBuffers::release(Entry &entry) {
  if (entry.memory.size) {
    if (frozen_)
      memory_.free(entry.memory);
    else
      recorder_.free_later(entry.memory);
  }
  entry.memory = {};
}

void RopeBuffers::grow(Entry &entry, int64_t coarse_rows) {
  release(entry);
  entry.capacity = entry.rows = 0;
  const int64_t bytes = checked_mul(kFine + coarse_rows, int64_t(entry.inv_freq.size()), int64_t{sizeof(Turn)});
  entry.memory = memory_.alloc(uint64_t(bytes));
  entry.capacity = coarse_rows;
}

Window RopeBuffers::get(const RopeView &rope, int64_t rows) {
  Entry &entry = find(rope, rows);
  const int64_t half = rope.half, coarse = ceil_div(rows, kFine);
  SEER_REQUIRE(!frozen_ || rows <= entry.rows, Status::internal, "rows of a RoPE table that were not planned");
  // Half as much again, so that a prompt in chunks does not start anew with each.
  if (coarse > entry.capacity) grow(entry, std::max(coarse, entry.capacity + entry.capacity / 2));

  const auto write = [&](int64_t to, int64_t first, int64_t last, int64_t step, double scale) {
    if (first >= last) return;
    std::vector<Turn> turns;
    turns.reserve(size_t((last - first) * half));
    for (int64_t row = first; row < last; row++)
      for (int64_t d = 0; d < half; d++) {
        const int64_t at = row * step * half + d;
        turns.push_back({float(double{rope.cos[at]} * scale), float(double{rope.sin[at]} * scale)});
      }
    const auto *base = static_cast<const char *>(entry.memory.address);
    recorder_.write(base + (to + first) * half * int64_t{sizeof(Turn)}, turns.data(), turns.size() * sizeof(Turn));
  };
  // A scaling of 0 leaves nothing to divide out: the coarse rows are 0 and so is all that they are multiplied with.
  const double unscale = rope.attention_scaling != 0 ? 1.0 / rope.attention_scaling : 1.0;
  write(0, std::min(entry.rows, kFine), std::min(rows, kFine), 1, unscale);
  write(kFine, ceil_div(entry.rows, kFine), coarse, kFine, 1.0);
  entry.rows = std::max(entry.rows, rows);
  return recorder_.window(entry.memory.address, entry.memory.size);
}

}  // namespace seer::vulkan
