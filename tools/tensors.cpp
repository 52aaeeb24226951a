#include "tensors.h"

#include "checked.h"
#include "report.h"
#include "status.h"

namespace seer::tool {
namespace {

int64_t product(const std::vector<int64_t> &shape) {
  int64_t n = 1;
  for (int64_t extent : shape) n = checked_mul(n, extent);
  return n;
}

seer_tensor describe(DType dtype, const std::vector<int64_t> &shape) {
  seer_tensor t = {};
  t.dtype = static_cast<seer_dtype>(dtype);
  t.ndim = static_cast<int32_t>(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) t.shape[i] = shape[i];
  return t;
}

}  // namespace

HostTensor::HostTensor(DType type, std::vector<int64_t> extents)
    : dtype(type),
      shape(std::move(extents)),
      bytes(static_cast<size_t>(checked_mul(product(shape), element_size(type)))) {}

int64_t HostTensor::elements() const { return product(shape); }

seer_tensor HostTensor::view() {
  seer_tensor t = describe(dtype, shape);
  t.mem = SEER_MEM_HOST;
  t.data = bytes.data();
  t.size = bytes.size();
  return t;
}

std::string shape_text(const std::vector<int64_t> &shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::vector<float> to_floats(const HostTensor &tensor) {
  SEER_REQUIRE(is_float(tensor.dtype), Status::dtype, "a tensor of %s where f32, f16 or bf16 is needed",
               dtype_name(tensor.dtype));
  std::vector<float> out(static_cast<size_t>(tensor.elements()));
  dispatch_float(tensor.dtype, [&](auto tag) {
    const auto *in = tensor.data<decltype(tag)>();
    for (size_t i = 0; i < out.size(); ++i) out[i] = to_f32(in[i]);
  });
  return out;
}

HostTensor convert(const HostTensor &tensor, DType dtype) {
  if (tensor.dtype == dtype) return tensor;
  const std::vector<float> values = to_floats(tensor);
  HostTensor out(dtype, tensor.shape);
  dispatch_float(dtype, [&](auto tag) {
    using T = decltype(tag);
    for (size_t i = 0; i < values.size(); ++i) out.data<T>()[i] = from_f32<T>(values[i]);
  });
  return out;
}

DType parse_dtype(const std::string &name) {
  for (DType t : {DType::f32, DType::f16, DType::bf16})
    if (name == dtype_name(t)) return t;
  fail(Status::invalid_argument, "--dtype %s: expected f32, f16 or bf16", name.c_str());
}

DeviceTensor::DeviceTensor(seer_context *ctx, DType dtype, std::vector<int64_t> shape)
    : dtype_(dtype), shape_(std::move(shape)), view_(describe(dtype, shape_)) {
  const int64_t bytes = checked_mul(product(shape_), element_size(dtype));
  seer_buffer *buffer = nullptr;
  require(seer_buffer_create(ctx, static_cast<uint64_t>(bytes), 0, &buffer),
          format("allocating %s on the device", human_bytes(static_cast<uint64_t>(bytes)).c_str()));
  buffer_.reset(buffer);
  view_.mem = SEER_MEM_BUFFER;
  view_.buffer = buffer;
  view_.size = static_cast<uint64_t>(bytes);
}

DeviceTensor::DeviceTensor(seer_context *ctx, const HostTensor &contents)
    : DeviceTensor(ctx, contents.dtype, contents.shape) {
  require(seer_buffer_write(buffer_.get(), 0, contents.bytes.data(), contents.bytes.size()), "copying to the device");
}

HostTensor DeviceTensor::read() const {
  HostTensor out(dtype_, shape_);
  require(seer_buffer_read(buffer_.get(), 0, out.bytes.data(), out.bytes.size()), "copying from the device");
  return out;
}

HostTensor read_tensor(const Safetensors &file, const std::string &name) {
  const SafetensorsTensor &found = file.at(name);
  SEER_REQUIRE(found.dtype != DType::none, Status::dtype, "%s: tensor %s is %s, which this command cannot read",
               file.name().c_str(), name.c_str(), found.dtype_name.c_str());
  HostTensor tensor(found.dtype, found.shape);
  file.read(found, tensor.bytes.data());
  return tensor;
}

HostTensor read_tensor(const Safetensors &file, const std::string &name, size_t dimensions) {
  HostTensor tensor = read_tensor(file, name);
  SEER_REQUIRE(tensor.shape.size() == dimensions, Status::shape, "%s: tensor %s is %s; expected %zu dimensions",
               file.name().c_str(), name.c_str(), shape_text(tensor.shape).c_str(), dimensions);
  return tensor;
}

SafetensorsItem item(std::string name, const HostTensor &tensor) {
  return {std::move(name), tensor.dtype, tensor.shape, tensor.bytes.data()};
}

Qkv read_qkv(const Safetensors &file, const std::string &prefix, DType dtype) {
  const auto get = [&](const char *name) {
    HostTensor t = read_tensor(file, prefix + name, 4);
    SEER_REQUIRE(is_float(t.dtype), Status::dtype, "%s: tensor %s%s is %s; expected f32, f16 or bf16",
                 file.name().c_str(), prefix.c_str(), name, dtype_name(t.dtype));
    return dtype == DType::none ? t : convert(t, dtype);
  };
  Qkv x{get("q"), get("k"), get("v")};
  SEER_REQUIRE(x.q.dtype == x.k.dtype && x.q.dtype == x.v.dtype, Status::dtype,
               "%s: q is %s, k %s, v %s; they must agree (--dtype converts them)", file.name().c_str(),
               dtype_name(x.q.dtype), dtype_name(x.k.dtype), dtype_name(x.v.dtype));
  SEER_REQUIRE(x.k.shape == x.v.shape, Status::shape, "%s: k is %s and v %s; they must have one shape",
               file.name().c_str(), shape_text(x.k.shape).c_str(), shape_text(x.v.shape).c_str());
  SEER_REQUIRE(x.q.shape[0] == x.k.shape[0] && x.q.shape[3] == x.k.shape[3], Status::shape,
               "%s: q is %s and k %s; batch and head dimension must agree", file.name().c_str(),
               shape_text(x.q.shape).c_str(), shape_text(x.k.shape).c_str());
  return x;
}

}  // namespace seer::tool
