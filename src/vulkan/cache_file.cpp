#include "cache_file.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>

#include "../atomic_file.h"
#include "../status.h"

namespace seer::vulkan {
namespace {

constexpr uint64_t kLargest = uint64_t{256} << 20;
#if defined(_WIN32)
constexpr const char *kReading = "rb";
#else
constexpr const char *kReading = "rbe";  // not for programs that this one starts
#endif

std::string folder() {
  if (const char *named = std::getenv("SEER_VK_CACHE")) return named;
  if (const char *xdg = std::getenv("XDG_CACHE_HOME"); xdg && *xdg) return std::string(xdg) + "/seerattn";
  if (const char *home = std::getenv("HOME"); home && *home) return std::string(home) + "/.cache/seerattn";
  return {};
}

}  // namespace

uint64_t hash_bytes(std::span<const char> bytes, uint64_t hash) {
  const auto step = [&](uint64_t word) {
    hash = (hash ^ word) * 1099511628211u;
    hash ^= hash >> 32;
  };
  size_t at = 0;
  for (; at + 8 <= bytes.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + at, 8);
    step(word);
  }
  uint64_t rest = 0;
  if (at < bytes.size()) std::memcpy(&rest, bytes.data() + at, bytes.size() - at);
  step(rest);
  step(bytes.size());
  return hash;
}

CacheFile::CacheFile(const char *kind, const Caps &caps) {
  identity_.vendor_id = caps.vendor_id;
  identity_.device_id = caps.device_id;
  identity_.driver_version = caps.driver_version;
  identity_.driver_id = caps.driver_id;
  std::memcpy(identity_.cache_uuid, caps.cache_uuid, sizeof identity_.cache_uuid);
  std::memcpy(identity_.driver_uuid, caps.driver_uuid, sizeof identity_.driver_uuid);
  const std::string in = folder();
  if (in.empty()) return;
  char name[128];
  char uuid[33] = {};
  for (size_t i = 0; i < sizeof caps.cache_uuid; i++) std::snprintf(uuid + 2 * i, 3, "%02x", caps.cache_uuid[i]);
  std::snprintf(name, sizeof name, "/%s-%04x-%04x-%08x-%s.bin", kind, caps.vendor_id, caps.device_id,
                caps.driver_version, uuid);
  path_ = in + name;
}

CacheFile::Header CacheFile::header_of(std::span<const char> data) const {
  Header h = identity_;
  h.bytes = data.size();
  h.hash = hash_bytes(data);
  return h;
}

std::vector<char> CacheFile::read(const Log &log) const {
  if (path_.empty()) return {};
  try {
    const std::unique_ptr<std::FILE, int (*)(std::FILE *)> file(std::fopen(path_.c_str(), kReading), std::fclose);
    if (!file) return {};  // the first time
    Header header;
    SEER_REQUIRE(std::fread(&header, sizeof header, 1, file.get()) == 1, Status::format, "it is cut short");
    SEER_REQUIRE(header.bytes <= kLargest, Status::format, "it claims to hold %llu bytes",
                 (unsigned long long)header.bytes);
    std::vector<char> data(header.bytes);
    SEER_REQUIRE(std::fread(data.data(), 1, data.size(), file.get()) == data.size() && std::fgetc(file.get()) == EOF,
                 Status::format, "its size is wrong");
    const Header expected = header_of(data);
    SEER_REQUIRE(std::memcmp(&header, &expected, sizeof header) == 0, Status::format,
                 "it is of another device or driver, or damaged");
    return data;
  } catch (const std::exception &error) {
    log(LogLevel::info, "the cache %s is not used: %s", path_.c_str(), error.what());
    return {};
  }
}

bool CacheFile::write(std::span<const char> data) const noexcept {
  if (path_.empty() || data.size() > kLargest) return false;
  try {
    const Header header = header_of(data);
    std::error_code ignored;
    std::filesystem::create_directories(std::filesystem::path(path_).parent_path(), ignored);
    AtomicFile file(path_);
    file.write(&header, sizeof header);
    file.write(data.data(), data.size());
    file.commit();
    return true;
  } catch (const std::exception &) {
    return false;
  }
}

}  // namespace seer::vulkan
