#include "gate_load.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <new>
#include <optional>

#include "checked.h"
#include "file.h"
#include "gate_config.h"
#include "json.h"
#include "pth.h"
#include "safetensors.h"

namespace seer {

namespace {

constexpr uint64_t alignment = 64;             // of each matrix
constexpr uint64_t group_bytes = 64ull << 20;  // layers share an allocation up to about this size

struct WeightTensor {
  std::string file;
  DType dtype = DType::none;
  std::string dtype_name;
  std::vector<int64_t> shape;
  // Indices [first, first + count) of the first dimension, packed.
  std::function<void(int64_t first, int64_t count, void *dst)> read;
};

class Weights {
public:
  virtual ~Weights() = default;
  virtual std::optional<WeightTensor> find(const std::string &name) const = 0;
  virtual std::string place() const = 0;  // for "... is missing in"
};

class SafetensorsWeights final : public Weights {
public:
  explicit SafetensorsWeights(std::vector<Safetensors> files, std::string place)
      : files_(std::move(files)), place_(std::move(place)) {}
  std::optional<WeightTensor> find(const std::string &name) const override {
    std::optional<WeightTensor> found;
    for (const Safetensors &file : files_) {
      const SafetensorsTensor *t = file.find(name);
      if (!t) continue;
      SEER_REQUIRE(!found, Status::format, "%s: %s is in %s too", file.name().c_str(), name.c_str(),
                   found->file.c_str());
      found = WeightTensor{file.name(), t->dtype, t->dtype_name, t->shape,
                           [&file, t](int64_t first, int64_t count, void *dst) {
                             const uint64_t row = t->bytes() / static_cast<uint64_t>(t->shape[0]);
                             file.read(*t, static_cast<uint64_t>(first) * row, dst, static_cast<uint64_t>(count) * row);
                           }};
    }
    return found;
  }
  std::string place() const override { return place_; }

private:
  std::vector<Safetensors> files_;
  std::string place_;
};

class PthWeights final : public Weights {
public:
  explicit PthWeights(Pth file) : file_(std::move(file)) {}
  std::optional<WeightTensor> find(const std::string &name) const override {
    const PthTensor *t = file_.find(name);
    if (!t) return std::nullopt;
    return WeightTensor{file_.name(), t->view.dtype, t->view.type, t->view.shape,
                        [this, t](int64_t first, int64_t count, void *dst) { file_.read(*t, first, count, dst); }};
  }
  std::string place() const override { return file_.name(); }

private:
  Pth file_;
};

// Shards of an index that hold gates, by file name.
std::vector<std::string> shards_of_index(const std::string &path) {
  const Json json = parse_json(read_text(path, JsonLimits{}.max_bytes), path);
  const auto map = JsonObject(json, path).object("weight_map");
  SEER_REQUIRE(map, Status::format, "%s: key \"weight_map\" is missing", path.c_str());
  std::vector<std::string> shards;
  for (const JsonMember &member : map->members()) {
    if (member.key.find(".attn_gate.") == std::string::npos) continue;
    const auto *shard = member.value.as<std::string>();
    // A name must not lead out of the folder.
    SEER_REQUIRE(shard && !shard->empty() && *shard != "." && *shard != ".." &&
                     shard->find_first_of(std::string_view("/\\\0", 3)) == std::string::npos,
                 Status::format, "%s: %s is in %s, expected the plain name of a file", path.c_str(),
                 quote(member.key).c_str(), shard ? quote(*shard).c_str() : member.value.type_name());
    shards.push_back(*shard);
  }
  std::sort(shards.begin(), shards.end());
  shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
  return shards;
}

std::vector<std::string> model_files(const std::string &dir) {
  std::vector<std::string> names;
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(dir, error); !error && it != std::filesystem::directory_iterator();
       it.increment(error)) {
    std::string name = it->path().filename().string();
    if (name.starts_with("model") && name.ends_with(".safetensors")) names.push_back(std::move(name));
  }
  SEER_REQUIRE(!error, Status::io, "%s: %s", dir.c_str(), error.message().c_str());
  std::sort(names.begin(), names.end());
  return names;
}

std::unique_ptr<Weights> open_weights(const std::string &dir, const LoadOptions &options) {
  const auto path = [&](const std::string &name) { return dir + "/" + name; };
  const auto open_all = [&](const std::vector<std::string> &names, std::string place) {
    std::vector<Safetensors> files;
    for (const auto &name : names) files.push_back(Safetensors::open(path(name), options.max_file_bytes));
    return std::make_unique<SafetensorsWeights>(std::move(files), std::move(place));
  };
  constexpr const char *own = "attn_gate_weights.safetensors", *pth = "attn_gate_weights.pth",
                       *index = "model.safetensors.index.json";
  if (file_exists(path(own))) return open_all({own}, path(own));
  if (!options.safetensors_only && file_exists(path(pth)))
    return std::make_unique<PthWeights>(Pth::open(path(pth), options.max_file_bytes));
  if (file_exists(path(index))) return open_all(shards_of_index(path(index)), path(index));
  const auto names = model_files(dir);
  SEER_REQUIRE(!names.empty(), Status::io, "%s: no gate weights: expected %s%s%s, %s or model*.safetensors",
               dir.c_str(), own, options.safetensors_only ? "" : ", ", options.safetensors_only ? "" : pth, index);
  return open_all(names, dir + "/model*.safetensors");
}

// What part of a checkpoint to load.
struct Share {
  int32_t first_layer, layers, first_kv_head, kv_heads;
};

Share find_share(const GateConfig &config, const LoadOptions &options) {
  const auto part = [](const char *what, int32_t first, int32_t count, int32_t all) {
    SEER_REQUIRE(first >= 0 && first < all, Status::invalid_argument, "first_%s is %d, the checkpoint has %d", what,
                 first, all);
    SEER_REQUIRE(count >= 0 && count <= all - first, Status::invalid_argument,
                 "%s_count is %d from %d on, the checkpoint has %d", what, count, first, all);
    return count ? count : all - first;
  };
  return {options.first_layer, part("layer", options.first_layer, options.layer_count, config.layers),
          options.first_kv_head, part("kv_head", options.first_kv_head, options.kv_head_count, config.kv_heads)};
}

std::shared_ptr<const void> allocate(uint64_t bytes, const HostAllocator &allocator, char *&data) {
  bytes = std::max<uint64_t>(bytes, 1);
  if (!allocator.alloc) {
    void *p = ::operator new (bytes, std::align_val_t{alignment});
    data = static_cast<char *>(p);
    return {p, [](void *q) { ::operator delete (q, std::align_val_t{alignment}); }};
  }
  void *p = allocator.alloc(allocator.user, bytes, alignment);
  SEER_REQUIRE(p, Status::out_of_memory, "the allocator has no %llu bytes for gate weights",
               static_cast<unsigned long long>(bytes));
  data = static_cast<char *>(p);
  return {p, [allocator, bytes](void *q) {
            if (allocator.free) allocator.free(allocator.user, q, bytes);
          }};
}

// One matrix of one layer: where it comes from, and its place in the model.
struct Pending {
  GateMatrix *matrix;
  std::function<void(void *dst)> fill;
};

// Allocates group by group and fills, layer by layer. `layers[i]` lists the matrices of layer i.
void fill_all(GateModel &model, const std::vector<std::vector<Pending>> &layers, const HostAllocator &allocator,
              const std::function<void(uint64_t, uint64_t)> &progress) {
  const auto padded = [](const GateMatrix &m) {
    return (static_cast<uint64_t>(m.bytes()) + alignment - 1) / alignment * alignment;
  };
  const auto size_of = [&](const std::vector<Pending> &layer) {
    uint64_t bytes = 0;
    for (const Pending &p : layer) bytes += padded(*p.matrix);
    return bytes;
  };
  uint64_t total = 0, done = 0;
  for (const auto &layer : layers)
    for (const Pending &p : layer) total += static_cast<uint64_t>(p.matrix->bytes());
  if (progress) progress(0, total);
  for (size_t begin = 0; begin < layers.size();) {
    size_t end = begin;
    uint64_t bytes = 0;
    while (end < layers.size() && (end == begin || bytes + size_of(layers[end]) <= group_bytes))
      bytes += size_of(layers[end++]);
    char *at = nullptr;
    model.storage.push_back(allocate(bytes, allocator, at));
    for (; begin < end; ++begin) {
      for (const Pending &p : layers[begin]) {
        p.fill(at);
        p.matrix->data = at;
        at += padded(*p.matrix);
        done += static_cast<uint64_t>(p.matrix->bytes());
      }
      if (progress) progress(done, total);
    }
  }
}

std::string shape_text(std::span<const int64_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size() && i < 8; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() > 8 ? ", ...]" : "]");
}

GateModel load(const GateConfig &config, const Weights &weights, const LoadOptions &options) {
  const Share share = find_share(config, options);
  const int32_t group = config.q_heads / config.kv_heads;
  GateModel model;
  model.config = config;
  model.config.kv_heads = share.kv_heads;
  model.config.q_heads = share.kv_heads * group;
  model.first_layer = share.first_layer;
  model.first_kv_head = share.first_kv_head;
  model.layers.resize(static_cast<size_t>(share.layers));

  // All checks before the first allocation.
  std::vector<std::vector<Pending>> pending(model.layers.size());
  int64_t total = 0;
  const auto want = [&](size_t i, char which, bool per_query_head, int pools) {
    const std::string name = gate_weight_name(share.first_layer + static_cast<int32_t>(i), which);
    auto found = weights.find(name);
    SEER_REQUIRE(found, Status::model_mismatch, "%s: %s is missing", weights.place().c_str(), name.c_str());
    SEER_REQUIRE(is_float(found->dtype), Status::model_mismatch, "%s: %s is %s, expected F32, F16 or BF16",
                 found->file.c_str(), name.c_str(), quote(found->dtype_name).c_str());
    const int64_t scale = per_query_head ? group : 1;
    const int64_t expected[] = {config.kv_heads * scale, int64_t{config.head_dim} * pools, config.gate_dim};
    SEER_REQUIRE(std::equal(found->shape.begin(), found->shape.end(), std::begin(expected), std::end(expected)),
                 Status::model_mismatch, "%s: %s is %s, config.json needs %s", found->file.c_str(), name.c_str(),
                 shape_text(found->shape).c_str(), shape_text(expected).c_str());
    GateMatrix &matrix = which == 'q' ? model.layers[i].wq : model.layers[i].wk;
    matrix = {found->dtype, share.kv_heads * scale, expected[1], expected[2], nullptr};
    total = checked_add(total, checked_mul(matrix.heads, matrix.in, matrix.out, element_size(matrix.dtype)));
    const int64_t first = share.first_kv_head * scale, count = matrix.heads;
    pending[i].push_back(
        {&matrix, [read = std::move(found->read), first, count](void *dst) { read(first, count, dst); }});
  };
  for (size_t i = 0; i < model.layers.size(); ++i) {
    if (config.single()) {
      const std::string name = gate_weight_name(share.first_layer + static_cast<int32_t>(i), 'q');
      SEER_REQUIRE(!weights.find(name), Status::model_mismatch,
                   "%s: %s is there, but by config.json these gates have no matrix for Q", weights.place().c_str(),
                   name.c_str());
    } else {
      want(i, 'q', true, pool_count(config.q_pool));
    }
    want(i, 'k', config.single(), pool_count(config.k_pool));
  }
  // Views of one storage could add up to far more than the file.
  SEER_REQUIRE(static_cast<uint64_t>(total) <= options.max_file_bytes, Status::format,
               "%s: %lld bytes of gates, at most %llu are allowed", weights.place().c_str(),
               static_cast<long long>(total), static_cast<unsigned long long>(options.max_file_bytes));
  fill_all(model, pending, options.allocator, options.progress);
  return model;
}

}  // namespace

std::string gate_weight_name(int32_t layer, char matrix) {
  return "model.layers." + std::to_string(layer) + ".self_attn.attn_gate.mask_linear_" + matrix + ".weight";
}

GateModel load_gates_dir(const std::string &dir, const LoadOptions &options) {
  const std::string path = dir + "/config.json";
  const GateConfig config = parse_gate_config(read_text(path, JsonLimits{}.max_bytes), path);
  return load(config, *open_weights(dir, options), options);
}

GateModel load_gates_memory(std::string_view config_json, std::span<const std::byte> weights,
                            const LoadOptions &options) {
  const GateConfig config = parse_gate_config(config_json, "config");
  SEER_REQUIRE(weights.size() <= options.max_file_bytes, Status::format, "weights: %zu bytes, at most %llu are allowed",
               weights.size(), static_cast<unsigned long long>(options.max_file_bytes));
  const auto source = std::make_shared<MemorySource>(weights, "weights");
  const auto starts_with = [&](std::string_view magic) {
    return weights.size() >= magic.size() && std::memcmp(weights.data(), magic.data(), magic.size()) == 0;
  };
  if (starts_with("PK") || starts_with("\x80\x02")) {
    SEER_REQUIRE(!options.safetensors_only, Status::unsafe_file, "weights: a .pth image, only safetensors is allowed");
    return load(config, PthWeights(Pth(source)), options);
  }
  std::vector<Safetensors> files;
  files.emplace_back(source);
  return load(config, SafetensorsWeights(std::move(files), "weights"), options);
}

GateModel make_gates(const GateConfig &config, std::span<const LayerArrays> layers, const HostAllocator &allocator) {
  config.validate();
  SEER_REQUIRE(layers.size() == static_cast<size_t>(config.layers), Status::invalid_argument,
               "%zu layers of arrays, the configuration has %d", layers.size(), config.layers);
  GateModel model;
  model.config = config;
  model.layers.resize(layers.size());
  std::vector<std::vector<Pending>> pending(layers.size());
  const auto want = [&](size_t i, const char *which, const GateArray &array, GateMatrix &matrix, int64_t heads,
                        int pools) {
    SEER_REQUIRE(
        is_float(array.dtype) && array.data, array.dtype == DType::none ? Status::invalid_argument : Status::dtype,
        "layers[%zu].%s is %s, expected f32, f16 or bf16", i, which, array.data ? dtype_name(array.dtype) : "absent");
    const int64_t expected[] = {heads, int64_t{config.head_dim} * pools, config.gate_dim};
    SEER_REQUIRE(std::equal(std::begin(expected), std::end(expected), array.shape), Status::shape,
                 "layers[%zu].%s is %s, the configuration needs %s", i, which, shape_text(array.shape).c_str(),
                 shape_text(expected).c_str());
    int64_t stride[3] = {array.stride[0], array.stride[1], array.stride[2]};
    if (!stride[0] && !stride[1] && !stride[2]) {
      stride[0] = expected[1] * expected[2];
      stride[1] = expected[2];
      stride[2] = 1;
    }
    SEER_REQUIRE(stride[0] >= 0 && stride[1] >= 0 && stride[2] == 1, Status::stride,
                 "layers[%zu].%s has strides %s, expected 0 or more and the innermost 1", i, which,
                 shape_text(stride).c_str());
    matrix = {array.dtype, expected[0], expected[1], expected[2], nullptr};
    const int64_t size = element_size(array.dtype);
    pending[i].push_back({&matrix, [from = static_cast<const char *>(array.data), m = matrix, size, s0 = stride[0],
                                    s1 = stride[1]](void *dst) {
                            auto *to = static_cast<char *>(dst);
                            const auto row = static_cast<size_t>(m.out * size);
                            for (int64_t h = 0; h < m.heads; ++h)
                              for (int64_t c = 0; c < m.in; ++c, to += row)
                                std::memcpy(to, from + (h * s0 + c * s1) * size, row);
                          }});
  };
  for (size_t i = 0; i < layers.size(); ++i) {
    if (config.single()) {
      SEER_REQUIRE(layers[i].wq.dtype == DType::none && !layers[i].wq.data, Status::invalid_argument,
                   "layers[%zu].wq is given, but these settings have no matrix for Q", i);
    } else {
      want(i, "wq", layers[i].wq, model.layers[i].wq, config.q_heads, pool_count(config.q_pool));
    }
    want(i, "wk", layers[i].wk, model.layers[i].wk, config.k_weight_heads(), pool_count(config.k_pool));
  }
  fill_all(model, pending, allocator, {});
  return model;
}

}  // namespace seer
