// Tensors in host memory and in a backend's own, and the files they come from.
#pragma once
#include <seerattn/seerattn.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "api.h"
#include "dtype.h"
#include "safetensors.h"

namespace seer::tool {

// Packed, owns its memory.
struct HostTensor {
  DType dtype = DType::none;
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;

  HostTensor() = default;
  HostTensor(DType type, std::vector<int64_t> extents);  // zeroed

  int64_t elements() const;
  template <class T>
  T *data() {
    return reinterpret_cast<T *>(bytes.data());
  }
  template <class T>
  const T *data() const {
    return reinterpret_cast<const T *>(bytes.data());
  }
  seer_tensor view();
};

std::string shape_text(const std::vector<int64_t> &shape);  // "[1, 1024, 4, 128]"
HostTensor convert(const HostTensor &tensor, DType dtype);  // between f32, f16 and bf16
std::vector<float> to_floats(const HostTensor &tensor);     // from f32, f16 or bf16
DType parse_dtype(const std::string &name);                 // f32, f16, bf16

// Packed, in a seer_buffer: what a GPU computes on without staging.
class DeviceTensor {
public:
  DeviceTensor() = default;
  DeviceTensor(seer_context *ctx, DType dtype, std::vector<int64_t> shape);
  DeviceTensor(seer_context *ctx, const HostTensor &contents);
  const seer_tensor &view() const { return view_; }
  HostTensor read() const;

private:
  Buffer buffer_;
  DType dtype_ = DType::none;
  std::vector<int64_t> shape_;
  seer_tensor view_ = {};
};

// Errors name the file and the tensor.
HostTensor read_tensor(const Safetensors &file, const std::string &name);
HostTensor read_tensor(const Safetensors &file, const std::string &name, size_t dimensions);  // throws if it has others

// The q, k and v of a prefill, [B, S, H, D], all of one dtype.
struct Qkv {
  HostTensor q, k, v;
  int64_t batch() const { return q.shape[0]; }
  int64_t tokens() const { return q.shape[1]; }
  int64_t keys() const { return k.shape[1]; }
  int64_t q_heads() const { return q.shape[2]; }
  int64_t kv_heads() const { return k.shape[2]; }
  int64_t dim() const { return q.shape[3]; }
};
// Tensors PREFIXq, PREFIXk and PREFIXv. dtype none: as stored.
Qkv read_qkv(const Safetensors &file, const std::string &prefix, DType dtype);

SafetensorsItem item(std::string name, const HostTensor &tensor);  // for write_safetensors

}  // namespace seer::tool
