// Part of seerattn.hpp: models, buffers, gate caches.
#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "context.hpp"

namespace seerattn {

// seer_load_params.
struct LoadOptions {
  std::int32_t first_layer = 0;
  std::int32_t layer_count = 0;
  std::int32_t first_kv_head = 0;
  std::int32_t kv_head_count = 0;
  std::uint64_t max_file_bytes = 0;
  bool safetensors_only = false;
  std::optional<Cancel> cancel = {};
  Progress progress = {};  // bytes
};

// One layer's weights: seer_gate_weights.
struct GateWeights {
  Input wq = {};
  Input wk = {};
};

// Gate weights. Immutable, and usable with every context of the device.
class Model : public detail::Shared<seer_model, seer_model_retain, seer_model_release> {
public:
  using Shared::Shared;
  Model() = default;

  // A folder in the style of Hugging Face.
  static Model load(const Context &context, const std::filesystem::path &folder, const LoadOptions &options = {}) {
    return try_load(context, folder, options).value();
  }
  static Result<Model> try_load(const Context &context, const std::filesystem::path &folder,
                                const LoadOptions &options = {}) {
    return loaded(options, [&](const seer_load_params *params, seer_model **out) {
      return seer_model_load_dir(context.get(), detail::utf8(folder).c_str(), params, out);
    });
  }

  // config.json and a .safetensors or .pth file, in memory.
  static Model load(const Context &context, std::string_view config_json, std::span<const std::byte> weights,
                    const LoadOptions &options = {}) {
    return try_load(context, config_json, weights, options).value();
  }
  static Result<Model> try_load(const Context &context, std::string_view config_json,
                                std::span<const std::byte> weights, const LoadOptions &options = {}) {
    return loaded(options, [&](const seer_load_params *params, seer_model **out) {
      return seer_model_load_memory(context.get(), config_json.data(), config_json.size(), weights.data(),
                                    weights.size(), params, out);
    });
  }

  // Weights of config.layers layers, which are copied.
  static Model create(const Context &context, const seer_gate_config &config, std::span<const GateWeights> layers) {
    return try_create(context, config, layers).value();
  }
  static Result<Model> try_create(const Context &context, const seer_gate_config &config,
                                  std::span<const GateWeights> layers) {
    if (config.layers < 0 || static_cast<std::size_t>(config.layers) != layers.size())
      return Failure{Status::model_mismatch, "config.layers is " + std::to_string(config.layers) + ", weights are of " +
                                                 std::to_string(layers.size()) + " layers"};
    std::vector<seer_gate_weights> weights(layers.size(), SEER_INIT(seer_gate_weights));
    std::vector<const seer_gate_weights *> pointers;
    for (std::size_t i = 0; i < layers.size(); i++) {
      weights[i].wq = layers[i].wq.get();
      weights[i].wk = layers[i].wk.get();
      pointers.push_back(&weights[i]);
    }
    seer_model *out = nullptr;
    const seer_status status = seer_model_create(context.get(), &config, pointers.data(), &out);
    return status == SEER_OK ? Result(Model(out)) : detail::failure(status);
  }

  // Writes config.json and attn_gate_weights.safetensors into a folder that exists.
  void save(const std::filesystem::path &folder) const { try_save(folder).value(); }
  Result<void> try_save(const std::filesystem::path &folder) const {
    return detail::result(seer_model_save(get(), detail::utf8(folder).c_str()));
  }

  // Its pointers live as long as the model.
  seer_gate_config config() const { return try_config().value(); }
  Result<seer_gate_config> try_config() const {
    seer_gate_config config = SEER_INIT(seer_gate_config);
    const seer_status status = seer_model_config(get(), &config);
    return status == SEER_OK ? Result(config) : detail::failure(status);
  }

private:
  template <class Load>
  static Result<Model> loaded(const LoadOptions &options, Load load) {
    std::optional<detail::ProgressCall> progress;
    seer_load_params params = SEER_INIT(seer_load_params);
    if (options.safetensors_only) params.flags |= SEER_LOAD_SAFETENSORS_ONLY;
    params.first_layer = options.first_layer;
    params.layer_count = options.layer_count;
    params.first_kv_head = options.first_kv_head;
    params.kv_head_count = options.kv_head_count;
    params.max_file_bytes = options.max_file_bytes;
    params.cancel = options.cancel ? options.cancel->get() : nullptr;
    if (options.progress) {
      params.progress = detail::ProgressCall::call;
      params.progress_user = &progress.emplace(options.progress);
    }
    seer_model *out = nullptr;
    const seer_status status = load(&params, &out);
    if (status == SEER_OK) return Model(out);
    Failure failure = detail::failure(status);
    if (progress) failure.exception = progress->thrown();
    return failure;
  }
};

// Device memory owned by the library.
class Buffer : public detail::Shared<seer_buffer, seer_buffer_retain, seer_buffer_release> {
public:
  using Shared::Shared;
  Buffer() = default;
  Buffer(const Context &context, std::uint64_t bytes) : Buffer(try_create(context, bytes).value()) {}
  static Result<Buffer> try_create(const Context &context, std::uint64_t bytes) {
    seer_buffer *out = nullptr;
    const seer_status status = seer_buffer_create(context.get(), bytes, 0, &out);
    return status == SEER_OK ? Result(Buffer(out)) : detail::failure(status);
  }

  // Copies to and from host memory, after what was submitted before. Offsets are in bytes.
  template <class T>
    requires std::is_trivially_copyable_v<T>
  void write(std::span<const T> source, std::uint64_t offset = 0) const {
    try_write(std::as_bytes(source), offset).value();
  }
  template <class T>
    requires std::is_trivially_copyable_v<T>
  void read(std::span<T> target, std::uint64_t offset = 0) const {
    try_read(std::as_writable_bytes(target), offset).value();
  }
  Result<void> try_write(std::span<const std::byte> source, std::uint64_t offset = 0) const {
    return detail::result(seer_buffer_write(get(), offset, source.data(), source.size()));
  }
  Result<void> try_read(std::span<std::byte> target, std::uint64_t offset = 0) const {
    return detail::result(seer_buffer_read(get(), offset, target.data(), target.size()));
  }

  // A tensor in this memory, as input or output of a call. The offset is in bytes.
  Output tensor(Dtype dtype, Shape shape, std::uint64_t offset = 0, Shape strides = {}) const {
    seer_tensor t = detail::tensor(SEER_MEM_BUFFER, dtype, shape, strides);
    t.buffer = get();
    t.offset = offset;
    return Output(t);
  }
  // A host or CUDA address, where the backend has one.
  void *address() const {
    void *address = nullptr;
    detail::result(seer_buffer_address(get(), &address)).value();
    return address;
  }
};

// The gate's keys of a prompt that comes in chunks. One thread at a time.
class GateCache {
public:
  GateCache() = default;
  GateCache(const Context &context, const Model &model, std::int64_t max_tokens, std::int32_t sequences = 1)
      : GateCache(try_create(context, model, max_tokens, sequences).value()) {}
  static Result<GateCache> try_create(const Context &context, const Model &model, std::int64_t max_tokens,
                                      std::int32_t sequences = 1) {
    seer_gate_cache_params params = SEER_INIT(seer_gate_cache_params);
    params.sequences = sequences;
    params.max_tokens = max_tokens;
    seer_gate_cache *out = nullptr;
    const seer_status status = seer_gate_cache_create(context.get(), model.get(), &params, &out);
    if (status != SEER_OK) return detail::failure(status);
    GateCache cache;
    cache.handle_.reset(out);
    return cache;
  }

  // Tokens covered, submitted work included.
  std::int64_t length(std::int32_t layer, std::int32_t sequence = 0) const {
    std::int64_t tokens = 0;
    detail::result(seer_gate_cache_length(get(), layer, sequence, &tokens)).value();
    return tokens;
  }
  // Forgets what lies beyond; sequence -1 = all.
  void truncate(std::int64_t tokens, std::int32_t sequence = -1) const { try_truncate(tokens, sequence).value(); }
  Result<void> try_truncate(std::int64_t tokens, std::int32_t sequence = -1) const {
    return detail::result(seer_gate_cache_truncate(get(), sequence, tokens));
  }
  seer_gate_cache *get() const noexcept { return handle_.get(); }

private:
  struct Release {
    void operator()(seer_gate_cache *cache) const noexcept { seer_gate_cache_release(cache); }
  };
  std::unique_ptr<seer_gate_cache, Release> handle_;
};

}  // namespace seerattn
