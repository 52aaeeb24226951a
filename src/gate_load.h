// Gates from a folder, from memory, from arrays.
//
// Weights keep the dtype of the file and are read once, straight into the memory that the model keeps: a load needs
// little more than the bytes it leaves behind. Functions throw Error: io where a file cannot be read or is not a
// regular file, format where it is malformed, unsafe_file where a .pth wants more than tensors, model_mismatch where
// weights are missing or do not fit the configuration. The text names the file and the value.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend.h"
#include "gate.h"

namespace seer {

struct LoadOptions {
  int32_t first_layer = 0, layer_count = 0;      // count 0: all from the first on
  int32_t first_kv_head = 0, kv_head_count = 0;  // a rank's share; the query heads of these KV heads come along
  uint64_t max_file_bytes = uint64_t{16} << 30;  // of each file, and of all that is loaded
  bool safetensors_only = false;                 // never open a .pth
  // Called with done = 0 before the first read and after each layer; throws to cancel.
  std::function<void(uint64_t done, uint64_t total)> progress;
  HostAllocator allocator;  // of the weights; must outlive the model
};

// config.json and, of these, the first that exists: attn_gate_weights.safetensors, attn_gate_weights.pth, the shards
// that model.safetensors.index.json names, model*.safetensors. Tensors are named
// model.layers.N.self_attn.attn_gate.mask_linear_{q,k}.weight; all others are ignored.
GateModel load_gates_dir(const std::string &dir, const LoadOptions &options = {});

// `weights`: a .safetensors or .pth image, recognised by its first bytes. Both only need to live during the call.
GateModel load_gates_memory(std::string_view config_json, std::span<const std::byte> weights,
                            const LoadOptions &options = {});

// An array of the caller's: [heads, in, out], strides in elements with the innermost 1, all zero = packed.
struct GateArray {
  DType dtype = DType::none;  // none: absent
  int64_t shape[3] = {};
  int64_t stride[3] = {};
  const void *data = nullptr;
};
struct LayerArrays {
  GateArray wq, wk;
};
// Copies. layers[i] is layer i; there must be config.layers of them. Throws shape, dtype, stride or invalid_argument
// naming the array ("layers[3].wk").
GateModel make_gates(const GateConfig &config, std::span<const LayerArrays> layers,
                     const HostAllocator &allocator = {});

// "model.layers.3.self_attn.attn_gate.mask_linear_k.weight"; matrix is 'q' or 'k'.
std::string gate_weight_name(int32_t layer, char matrix);

}  // namespace seer
