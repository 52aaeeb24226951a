// A .pth file: a zip of storages and a pickle that names the tensors in them.
//
// The CRC-32 of data.pkl is checked. That of the storages is not: it would cost more than reading them, and newer torch
// can leave it out.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "file.h"
#include "pickle.h"

namespace seer {

struct PthTensor {
  PickleTensor view;
  uint64_t begin = 0;  // byte of the file where its storage starts
};

// Checked when a file is opened: every view lies inside its storage, every storage is there with the size that the
// pickle says. Throws io, format or unsafe_file. Thread-safety: const functions may run at once.
class Pth {
public:
  static Pth open(const std::string &path, uint64_t max_bytes = UINT64_MAX);
  explicit Pth(std::shared_ptr<const ByteSource> source);

  const std::string &name() const { return source_->name(); }
  const std::vector<PthTensor> &tensors() const { return tensors_; }  // in the order of the dict
  const PthTensor *find(std::string_view name) const;                 // null: no such tensor
  // Indices [first, first + count) of the first dimension, packed row-major whatever the strides are.
  void read(const PthTensor &tensor, int64_t first, int64_t count, void *dst) const;

private:
  void read_packed(const PickleTensor &view, uint64_t begin, void *dst) const;

  std::shared_ptr<const ByteSource> source_;
  std::vector<PthTensor> tensors_;
  std::vector<uint32_t> by_name_;
};

}  // namespace seer
