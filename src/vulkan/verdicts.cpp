#include "verdicts.h"

#include <algorithm>
#include <cstring>

namespace seer::vulkan {
namespace {

constexpr size_t kMostDevices = 64;  // builds and overrides that are remembered; older ones go

class Writer {
public:
  void put(uint64_t x) {
    const auto *bytes = reinterpret_cast<const char *>(&x);
    data.insert(data.end(), bytes, bytes + sizeof x);
  }
  std::vector<char> data;
};

// Reads 0 behind the end: a file that is whole has none of that.
class Reader {
public:
  explicit Reader(const std::vector<char> &data) : data_(data) {}
  uint64_t get() {
    uint64_t x = 0;
    if (at_ + sizeof x <= data_.size()) std::memcpy(&x, data_.data() + at_, sizeof x);
    at_ += sizeof x;
    return x;
  }
  uint64_t count() { return std::min<uint64_t>(get(), data_.size()); }

private:
  const std::vector<char> &data_;
  size_t at_ = 0;
};

}  // namespace

std::vector<char> Verdicts::pack(const Content &content) {
  Writer to;
  to.put(content.devices.size());
  for (const auto &[fingerprint, verdict] : content.devices) {
    to.put(fingerprint);
    to.put(verdict.taken);
    to.put(verdict.layouts.size());
    for (const auto &[shape, layout] : verdict.layouts) {
      for (const uint32_t x : {shape.m, shape.n, shape.k, uint32_t(shape.bf16), uint32_t(shape.f16_sums),
                               uint32_t(shape.f16_accumulators)})
        to.put(x);
      to.put(layout.has_value());
      const CoopLayout lay = layout.value_or(CoopLayout{});
      for (const uint32_t x : {lay.slots, lay.slot_shift, lay.lane_bits}) to.put(x);
    }
  }
  to.put(content.right.size());
  for (const uint64_t kernel : content.right) to.put(kernel);
  return std::move(to.data);
}

Verdicts::Content Verdicts::unpack(const std::vector<char> &data) {
  Content content;
  Reader from(data);
  const uint64_t devices = from.count();
  for (uint64_t i = 0; i < devices; i++) {
    const uint64_t fingerprint = from.get();
    DeviceVerdict verdict;
    verdict.taken = uint32_t(from.get());
    const uint64_t layouts = from.count();
    for (uint64_t j = 0; j < layouts; j++) {
      CoopShape shape;
      for (uint32_t *x : {&shape.m, &shape.n, &shape.k}) *x = uint32_t(from.get());
      shape.bf16 = from.get() != 0;
      shape.f16_sums = from.get() != 0;
      shape.f16_accumulators = from.get() != 0;
      const bool serves = from.get() != 0;
      CoopLayout layout;
      for (uint32_t *x : {&layout.slots, &layout.slot_shift, &layout.lane_bits}) *x = uint32_t(from.get());
      verdict.layouts.emplace_back(shape, serves ? std::optional(layout) : std::nullopt);
    }
    content.devices.emplace_back(fingerprint, std::move(verdict));
  }
  const uint64_t right = from.count();
  for (uint64_t i = 0; i < right; i++) content.right.insert(from.get());
  return content;
}

void Verdicts::load(const Caps &caps, const Log &log) {
  const std::lock_guard lock(mutex_);
  file_ = CacheFile("tests", caps);
  content_ = unpack(file_.read(log));
}

void Verdicts::save() noexcept {
  try {
    const std::lock_guard lock(mutex_);
    if (!dirty_) return;
    dirty_ = false;  // one attempt: a folder that cannot be written stays so
    if (!file_.named()) return;
    // What another process has found out meanwhile stays.
    Content all = unpack(file_.read({}));
    for (const auto &[fingerprint, verdict] : content_.devices) {
      std::erase_if(all.devices, [&, key = fingerprint](const auto &other) { return other.first == key; });
      all.devices.emplace_back(fingerprint, verdict);
    }
    if (all.devices.size() > kMostDevices)
      all.devices.erase(all.devices.begin(), all.devices.end() - ptrdiff_t(kMostDevices));
    all.right.insert(content_.right.begin(), content_.right.end());
    file_.write(pack(all));
  } catch (const std::exception &) {  // found out again
  }
}

std::optional<DeviceVerdict> Verdicts::device(uint64_t fingerprint) const {
  const std::lock_guard lock(mutex_);
  for (const auto &[key, verdict] : content_.devices)
    if (key == fingerprint) return verdict;
  return std::nullopt;
}

void Verdicts::set_device(uint64_t fingerprint, const DeviceVerdict &verdict) {
  const std::lock_guard lock(mutex_);
  for (auto &[key, known] : content_.devices)
    if (key == fingerprint) {
      if (known == verdict) return;
      known = verdict;
      dirty_ = true;
      return;
    }
  content_.devices.emplace_back(fingerprint, verdict);
  dirty_ = true;
}

bool Verdicts::right(uint64_t kernel) const {
  const std::lock_guard lock(mutex_);
  return content_.right.contains(kernel);
}

void Verdicts::set_right(uint64_t kernel) {
  const std::lock_guard lock(mutex_);
  dirty_ |= content_.right.insert(kernel).second;
}

}  // namespace seer::vulkan
