// The safetensors format: a bounded reader of untrusted files and a writer. Knows nothing of gates.
//
// Layout: 8 bytes little-endian header length, a JSON object {name: {dtype, shape, data_offsets}}, the data.
// https://github.com/huggingface/safetensors#format
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dtype.h"
#include "file.h"

namespace seer {

struct SafetensorsTensor {
  std::string name;
  std::string dtype_name;       // as in the file: "BF16", "F8_E4M3", ...
  DType dtype = DType::none;    // F32 F16 BF16 I32 I64 U8, BOOL as u8; none: another, readable as bytes
  std::vector<int64_t> shape;   // empty: a scalar
  uint64_t begin = 0, end = 0;  // bytes of the file, end exclusive
  uint64_t bytes() const { return end - begin; }
  int64_t elements() const;  // product of the shape; was checked not to overflow
};

// The header is checked whole when a file is opened: length, JSON, unique names, ranges inside the file that tile the
// data without gap or overlap and fit dtype and shape. Throws io or format. Tensors are read on demand.
// Thread-safety: const functions may run at once.
class Safetensors {
public:
  static Safetensors open(const std::string &path, uint64_t max_bytes = UINT64_MAX);
  static Safetensors from_memory(std::span<const std::byte> bytes, std::string name);  // bytes must outlive it
  explicit Safetensors(std::shared_ptr<const ByteSource> source);

  const std::string &name() const { return source_->name(); }
  const std::vector<SafetensorsTensor> &tensors() const { return tensors_; }  // in the order of their data
  const SafetensorsTensor *find(std::string_view name) const;                 // null: no such tensor
  const SafetensorsTensor &at(std::string_view name) const;                   // throws format naming it
  const std::vector<std::pair<std::string, std::string>> &metadata() const { return metadata_; }

  void read(const SafetensorsTensor &tensor, void *dst) const;  // bytes() bytes
  // Bytes [offset, offset + bytes) of the tensor.
  void read(const SafetensorsTensor &tensor, uint64_t offset, void *dst, uint64_t bytes) const;

private:
  std::shared_ptr<const ByteSource> source_;
  std::vector<SafetensorsTensor> tensors_;
  std::vector<uint32_t> by_name_;  // indices of tensors_, sorted by name
  std::vector<std::pair<std::string, std::string>> metadata_;
};

struct SafetensorsItem {
  std::string name;  // UTF-8, unique
  DType dtype = DType::none;
  std::vector<int64_t> shape;
  const void *data = nullptr;  // packed
};

class AtomicFile;
// Writes to the target only when all is written (AtomicFile). Throws invalid_argument naming a bad item, or io.
void write_safetensors(const std::string &path, const std::vector<SafetensorsItem> &items,
                       const std::vector<std::pair<std::string, std::string>> &metadata = {});
// The same into a file that the caller commits.
void write_safetensors(AtomicFile &file, const std::vector<SafetensorsItem> &items,
                       const std::vector<std::pair<std::string, std::string>> &metadata = {});

}  // namespace seer
