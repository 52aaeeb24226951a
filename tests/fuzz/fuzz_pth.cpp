// A .pth file. First byte even: the rest is the file. Odd: the rest is its data.pkl, to which a container with right
// checksums is built, since guessing those would take a fuzzer for ever.
#include <algorithm>
#include <cstdlib>
#include <vector>

#include "../unit/zip_build.h"
#include "pth.h"
#include "status.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  std::string image(reinterpret_cast<const char *>(data) + 1, size - 1);
  if (data[0] & 1)
    image = seer::test::ZipFile{{{"x/data.pkl", image},
                                 {"x/byteorder", "little"},
                                 {"x/data/0", std::string(768, 'a')},
                                 {"x/data/1", std::string(768, 'b')}}}
                .build();
  try {
    const seer::Pth file(std::make_shared<seer::MemorySource>(std::as_bytes(std::span(image)), "f"));
    // Many views may share a storage: reading them all could take long without showing more.
    size_t budget = 1 << 20;
    for (const auto &t : file.tensors()) {
      if (file.find(t.view.name) == nullptr) std::abort();
      if (t.view.shape.empty()) continue;
      size_t bytes = static_cast<size_t>(t.view.element_bytes);
      for (const int64_t n : t.view.shape)
        if (__builtin_mul_overflow(bytes, static_cast<size_t>(n), &bytes)) bytes = 0;  // beside an extent of 0
      if (std::find(t.view.shape.begin(), t.view.shape.end(), 0) != t.view.shape.end()) bytes = 0;
      if (bytes > image.size()) std::abort();
      if (bytes > budget) break;
      budget -= bytes;
      std::vector<char> out(bytes);
      file.read(t, 0, t.view.shape[0], out.data());
      if (t.view.shape[0] > 1) file.read(t, 1, t.view.shape[0] - 1, out.data());
    }
  } catch (const seer::Error &error) {
    if (error.status() != seer::Status::format && error.status() != seer::Status::unsafe_file) std::abort();
  }
  return 0;
}
