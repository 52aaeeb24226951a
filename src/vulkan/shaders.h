// The SPIR-V of this build (shaders/modules.txt), embedded.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace seer::vulkan {

struct Shader {
  const char *name;
  const uint32_t *words;
  size_t count;  // words
};

std::span<const Shader> shaders();  // by name

}  // namespace seer::vulkan
