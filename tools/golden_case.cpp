#include "golden_case.h"

#include <cstring>

#include "json.h"
#include "report.h"
#include "status.h"

namespace seer::tool {
namespace {

template <class T>
std::vector<T> read_array(const Safetensors &file, const std::string &name, DType dtype,
                          const std::vector<int64_t> &shape) {
  const HostTensor t = read_tensor(file, name);
  SEER_REQUIRE(t.dtype == dtype, Status::dtype, "%s: tensor %s is %s; expected %s", file.name().c_str(), name.c_str(),
               dtype_name(t.dtype), dtype_name(dtype));
  SEER_REQUIRE(t.shape == shape, Status::shape, "%s: tensor %s is %s; expected %s", file.name().c_str(), name.c_str(),
               shape_text(t.shape).c_str(), shape_text(shape).c_str());
  std::vector<T> values(static_cast<size_t>(t.elements()));
  std::memcpy(values.data(), t.bytes.data(), t.bytes.size());
  return values;
}

}  // namespace

GoldenCase load_case(const std::string &dir) {
  GoldenCase c;
  c.dir = dir;
  const std::string path = dir + "/case.json";
  const seer::Json document = parse_json(read_text(path, 1 << 20), path);
  const JsonObject json(document, path);
  c.name = json.string("name");
  c.layer = static_cast<int>(json.integer("layer", 0, 100000));
  c.block = json.integer("block_size", 1, 1024);
  const std::string method = json.string("method");
  SEER_REQUIRE(method == "threshold" || method == "nz_ratio", Status::format,
               "%s: method is %s; expected threshold or nz_ratio", path.c_str(), quote(method).c_str());
  c.by_threshold = method == "threshold";
  c.threshold = json.number("threshold");
  c.rope_scaling = json.number_or("rope_attention_scaling", 1);
  c.gate_rope_scaling = json.number_or("gate_rope_attention_scaling", 1);

  const Safetensors file = Safetensors::open(dir + "/case.safetensors");
  c.inputs = read_qkv(file, "", DType::none);
  const Qkv &x = c.inputs;
  const int64_t b = x.batch(), s = x.tokens(), h = x.q_heads(), d = x.dim(), n = c.blocks();
  SEER_REQUIRE(x.keys() == s, Status::shape, "%s: q has %lld tokens and k %lld; a case has as many of both",
               file.name().c_str(), static_cast<long long>(s), static_cast<long long>(x.keys()));
  const std::vector<int64_t> blocks = {b, h, n, n};
  c.gate_logits = read_array<float>(file, "gate_logits", DType::f32, blocks);
  c.gate_probs = read_array<float>(file, "gate_probs", DType::f32, blocks);
  c.block_mask = read_array<uint8_t>(file, "block_mask", DType::u8, blocks);
  c.lse = read_array<float>(file, "lse", DType::f32, {b, h, s});
  const int64_t rows = file.at("out_rows").elements();
  c.out_rows = read_array<int32_t>(file, "out_rows", DType::i32, {rows});
  for (int32_t row : c.out_rows)
    SEER_REQUIRE(row >= 0 && row < s, Status::out_of_bounds, "%s: out_rows holds %d; expected 0 to %lld",
                 file.name().c_str(), row, static_cast<long long>(s - 1));
  c.out = read_array<float>(file, "out", DType::f32, {b, rows, h, d});
  c.inv_freq = read_array<float>(file, "inv_freq", DType::f32, {d / 2});
  c.gate_inv_freq = read_array<float>(file, "gate_inv_freq", DType::f32, {file.at("gate_inv_freq").elements()});
  return c;
}

}  // namespace seer::tool
