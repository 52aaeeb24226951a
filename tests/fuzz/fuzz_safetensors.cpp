// Any bytes as a .safetensors file: refused, or every tensor can be read.
#include <cstdlib>
#include <vector>

#include "safetensors.h"
#include "status.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  try {
    const auto file = seer::Safetensors::from_memory(std::as_bytes(std::span(data, size)), "f");
    for (const auto &t : file.tensors()) {
      if (t.bytes() > size || file.find(t.name) == nullptr) std::abort();
      std::vector<char> bytes(t.bytes());
      file.read(t, bytes.data());
    }
  } catch (const seer::Error &error) {
    if (error.status() != seer::Status::format) std::abort();
  }
  return 0;
}
