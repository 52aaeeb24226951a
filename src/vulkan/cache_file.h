// Files of the user's cache folder: what is worth keeping of a device from process to process.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "../log.h"
#include "caps.h"

namespace seer::vulkan {

// FNV-1a over whole words, with a step that brings their high bits down; what a file holds is megabytes.
uint64_t hash_bytes(std::span<const char> bytes, uint64_t hash = 14695981039346656037u);
template <class T>
uint64_t hash_values(std::span<const T> values, uint64_t hash = 14695981039346656037u) {
  return hash_bytes({reinterpret_cast<const char *>(values.data()), values.size_bytes()}, hash);
}

class CacheFile {
public:
  CacheFile() = default;  // none
  // "KIND-VENDOR-DEVICE-DRIVER-UUID.bin" in the folder that SEER_VK_CACHE names, empty for none, else in that of the
  // user's caches.
  CacheFile(const char *kind, const Caps &caps);

  bool named() const { return !path_.empty(); }
  // What was kept for this device and driver. Nothing, and a line in the log, of a file that is damaged, cut or
  // another's: drivers check the header of their own data, but not all of them the rest.
  std::vector<char> read(const Log &log) const;
  // Whole or not at all. A folder that cannot be written costs time, no more: false.
  bool write(std::span<const char> data) const noexcept;

private:
  struct Header {
    char magic[8] = {'S', 'E', 'E', 'R', 'V', 'K', '0', '5'};
    uint64_t bytes = 0, hash = 0;  // of what follows
    uint32_t vendor_id = 0, device_id = 0, driver_version = 0, driver_id = 0;
    uint8_t cache_uuid[16] = {}, driver_uuid[16] = {};
  };
  Header header_of(std::span<const char> data) const;

  std::string path_;
  Header identity_;
};

}  // namespace seer::vulkan
