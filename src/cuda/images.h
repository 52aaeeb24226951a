// Device code, embedded by cuda/compile.py: a fat binary for each .cu file.
#pragma once
#include <cstdint>
#include <span>

namespace seer::cuda {

struct Image {
  const char *name;  // of the .cu file
  const uint64_t *data;
  uint64_t bytes;
};
std::span<const Image> images();

}  // namespace seer::cuda
