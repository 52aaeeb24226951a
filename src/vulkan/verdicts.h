// What was found out about a device by trying it, kept on disk: for the same driver and the same code it is not tried
// again.
#pragma once
#include <cstdint>
#include <mutex>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "cache_file.h"

namespace seer::vulkan {

// What the self-test takes away from a device.
enum Taken : uint32_t { kTakenSubgroups = 1, kTakenCoopmat = 2, kTakenScore = 4 };

struct DeviceVerdict {
  uint32_t taken = 0;  // Taken bits; 0: it is right
  // Layouts of cooperative matrices that were asked for; nothing: of no use.
  std::vector<std::pair<CoopShape, std::optional<CoopLayout>>> layouts;
  bool operator==(const DeviceVerdict &) const = default;
};

// Thread-safe.
class Verdicts {
public:
  // Before anything else.
  void load(const Caps &caps, const Log &log);
  void save() noexcept;  // if anything was added

  // Of a device, by a fingerprint of the code that tried it and of the features that it may use.
  std::optional<DeviceVerdict> device(uint64_t fingerprint) const;
  void set_device(uint64_t fingerprint, const DeviceVerdict &verdict);
  // Of a kernel that was found right, by a fingerprint of it.
  bool right(uint64_t kernel) const;
  void set_right(uint64_t kernel);

private:
  struct Content {
    std::vector<std::pair<uint64_t, DeviceVerdict>> devices;
    std::set<uint64_t> right;
    bool operator==(const Content &) const = default;
  };
  static std::vector<char> pack(const Content &content);
  static Content unpack(const std::vector<char> &data);

  mutable std::mutex mutex_;
  CacheFile file_;
  Content content_;
  bool dirty_ = false;
};

}  // namespace seer::vulkan
