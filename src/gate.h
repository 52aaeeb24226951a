// The gates of a model: configuration and weights in host memory, as a loader leaves them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dtype.h"
#include "rope.h"

namespace seer {

enum PoolBits : uint32_t { pool_max = 1, pool_min = 2, pool_avg = 4 };  // concatenated in this order
constexpr int pool_count(uint32_t bits) { return int(bits & 1) + int(bits >> 1 & 1) + int(bits >> 2 & 1); }

enum class SelectMethod : int32_t { model = 0, threshold = 1, ratio = 2, budget = 3, all = 4 };

// How blocks are chosen. See docs of seer_select_spec; last_dense_rows is a plain count here.
struct SelectRule {
  SelectMethod method = SelectMethod::threshold;
  int64_t last_dense_rows = 2;
  double threshold = 0.0;
  double ratio = 1.0;
  int64_t token_budget = 0;
  bool keep_diagonal = false, keep_first = false;
};

struct GateConfig {
  int32_t layers = 0;  // of the model, whether loaded or not
  int32_t q_heads = 0, kv_heads = 0, head_dim = 0;
  int32_t gate_dim = 128;   // E
  int32_t block_size = 64;  // P
  uint32_t q_pool = pool_avg, k_pool = pool_max | pool_min | pool_avg;
  bool force_double = false;
  RopeConfig rope;  // of the model, and of the gate at dim gate_dim
  RopeConfig gate_rope;
  SelectRule select;
  std::string base_model, model_type;  // may be empty

  // One pooling for Q, gate_dim == head_dim and not forced: no matrix for Q, one matrix per query head for K.
  bool single() const { return pool_count(q_pool) == 1 && gate_dim == head_dim && !force_double; }
  int32_t k_weight_heads() const { return single() ? q_heads : kv_heads; }
  // Throws model_mismatch naming the offending value: heads, dims > 0 and even, block 32/64/128, pools non-empty, ...
  void validate() const;
};

// A gate type's name and back: "Qavg_Kmaxminavg". parse throws on anything but the 49 combinations.
std::string gate_type_name(uint32_t q_pool, uint32_t k_pool);
void parse_gate_type(const std::string &name, uint32_t &q_pool, uint32_t &k_pool);

// A matrix per head, [heads, in, out], packed, in memory that `GateModel::storage` (or the caller) keeps alive.
struct GateMatrix {
  DType dtype = DType::none;  // none: absent
  int64_t heads = 0, in = 0, out = 0;
  const void *data = nullptr;
  bool present() const { return dtype != DType::none; }
  int64_t bytes() const { return heads * in * out * element_size(dtype); }
};
struct LayerGate {
  GateMatrix wq;  // absent in the single form
  GateMatrix wk;
};

struct GateModel {
  GateConfig config;          // q_heads and kv_heads are those loaded (a rank's share)
  int32_t first_layer = 0;    // layers[i] is layer first_layer + i
  int32_t first_kv_head = 0;  // of the checkpoint
  std::vector<LayerGate> layers;
  std::vector<std::shared_ptr<const void>> storage;  // keeps `data` pointers alive
};

}  // namespace seer
