// A new folder that goes away with all it holds.
#pragma once
#include <cstdio>
#include <filesystem>
#include <random>
#include <stdexcept>
#include <string>

class TempDir {
public:
  TempDir() {
    std::random_device random;
    for (int attempt = 0; attempt < 100; attempt++) {
      char name[32];
      std::snprintf(name, sizeof name, "seerattn-%08x", unsigned(random()));
      path_ = std::filesystem::temp_directory_path() / name;
      if (std::filesystem::create_directory(path_)) return;
    }
    throw std::runtime_error("no temporary folder can be made");
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir &) = delete;
  TempDir &operator=(const TempDir &) = delete;

  std::string operator/(const std::string &name) const { return (path_ / name).string(); }
  std::string str() const { return path_.string(); }
  size_t count() const {  // of entries
    size_t n = 0;
    for ([[maybe_unused]] const auto &entry : std::filesystem::directory_iterator(path_)) ++n;
    return n;
  }

private:
  std::filesystem::path path_;
};
