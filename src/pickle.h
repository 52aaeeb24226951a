// A restricted reader of the pickles inside torch.save files.
//
// A pickle is a program. This machine runs only the opcodes that a dict of tensors needs and only three callables,
// whose effect is built in; it never imports, calls or allocates by a number in the file. Values live in arenas and are
// never walked recursively, so that cyclic and deep ones are harmless.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "dtype.h"

namespace seer {

// A tensor of the root dict: a view of a storage that lies elsewhere in the file. Nothing here is checked against the
// storage's true size.
struct PickleTensor {
  std::string name;            // the key in the dict
  std::string storage;         // the storage's key
  const char *type = nullptr;  // "FloatStorage"
  DType dtype = DType::none;   // none: a type that gates do not use
  int64_t element_bytes = 0;
  int64_t storage_elements = 0;        // as the pickle says
  int64_t offset = 0;                  // elements
  std::vector<int64_t> shape, stride;  // elements, >= 0
};

struct PickleLimits {
  uint64_t max_bytes = 64 << 20;
  uint64_t max_opcodes = 4'000'000;
  uint64_t max_memo = 1'000'000;
  uint64_t max_stack = 100'000;
  uint64_t max_objects = 1'000'000;  // lists, dicts, storages, tensors
  size_t max_dims = 8;
};

// The tensors of the root dict (or OrderedDict) in its order; other values are ignored. `where` begins every error.
// Throws unsafe_file on an opcode, a callable or a use of one outside the allow-list; format on all else.
std::vector<PickleTensor> read_pickle(std::span<const std::byte> bytes, const std::string &where,
                                      const PickleLimits &limits = {});

}  // namespace seer
