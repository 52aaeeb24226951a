// The pipeline: the only place that knows the order of the stages.
#pragma once
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "backend.h"
#include "gate.h"
#include "plan.h"
#include "rope.h"
#include "tensor.h"

namespace seer {

// Gate K of complete blocks, per layer [sequences][max_blocks][k_heads][gate_dim] f32 in device memory.
class GateCache {
public:
  GateCache(Device &device, const GateConfig &config, int32_t layers, int32_t sequences, int64_t max_tokens);
  ~GateCache();
  GateCache(const GateCache &) = delete;
  GateCache &operator=(const GateCache &) = delete;

  int32_t sequences() const { return sequences_; }
  int64_t max_blocks() const { return max_blocks_; }
  int32_t layers() const { return static_cast<int32_t>(memory_.size()); }
  const GateConfig &config() const { return config_; }
  float *gate_k(int32_t layer) const { return static_cast<float *>(memory_[size_t(layer)].address); }
  // Blocks covered by work that has run. The pipeline reads it when a call runs, so that a call behind one that failed
  // pools what that one did not leave, and sets it to k_len / block only once its call has succeeded. (What submitted
  // work will leave, which callers ask for, is kept by ChunkCache in context.h.)
  int64_t blocks(int32_t layer, int32_t sequence) const;
  void set_blocks(int32_t layer, int32_t sequence, int64_t blocks);
  using Lengths = std::vector<std::vector<int64_t>>;  // blocks, [layer][sequence]
  using Change = std::function<void(Lengths &)>;
  void change(const Change &wanted);

private:
  Device &device_;
  GateConfig config_;
  int32_t sequences_;
  int64_t max_blocks_;
  std::vector<Memory> memory_;  // per layer
  mutable std::mutex mutex_;
  Lengths blocks_;
};

enum class TensorRole { q, k, v, out, lse, scores, mask };

// A tensor of a call that is in host memory, where the device's is another (staging.h).
struct HostTensor {
  TensorRole role = TensorRole::q;
  Tensor tensor;
  bool output = false;

  struct Ref {
    TensorRole role;
    const Tensor *tensor;
    bool output;
  };
};

struct GateCall {
  const GateConfig *config = nullptr;
  const LayerGate *weights = nullptr;  // device memory
  std::vector<Sequence> sequences;     // batch, q_begin/len, k_begin/len, total_len, mask_row set; rows assigned here
  TokenView q, k;                      // before RoPE
  FloatView scores;                    // optional
  int64_t scores_cols = 0;
  bool scores_are_logits = false;  // else softmax
  BlockMaskView mask;              // optional
  ByteMaskView mask_bytes;         // optional
  SelectRule rule;                 // method not model
  RopeConfig rope;                 // of the gate; kind none = no rotation
  GateCache *cache = nullptr;
  int32_t cache_layer = 0;  // index into the cache
  // A call that is recorded, to run at any time: what lies before its chunk is in the cache, whatever the cache's
  // lengths say, and they stay.
  bool recorded = false;
  std::vector<HostTensor> host;  // of a prefill, its attention's too. Not looked at by the pipeline
};

struct AttendCall {
  std::vector<Sequence> sequences;
  int64_t block = 64;
  TokenView q, k, v, out;
  FloatView lse;       // optional
  BlockMaskView mask;  // words and mask_bytes null: dense
  ByteMaskView mask_bytes;
  double scale = 0;  // set, not 0
  RopeConfig rope;   // kind none = no rotation
  std::vector<HostTensor> host;
};

struct SelectCall {
  std::vector<Sequence> sequences;
  int64_t block = 64, q_heads = 0;
  FloatView scores;
  BlockMaskView mask;
  ByteMaskView mask_bytes;
  SelectRule rule;
  std::vector<HostTensor> host;
};

struct CallStats {
  SelectStats select;
  uint64_t workspace_bytes = 0, device_ns = 0, gate_ns = 0, attend_ns = 0;

  void set(const CallResult &result) {
    select = result.select;
    device_ns = result.device_ns;
    gate_ns = result.gate_ns;
    attend_ns = result.attend_ns;
  }
};

// Runs calls on one device, one at a time, reusing one workspace. Inputs were validated (validate.h). Where the backend
// can record a call without waiting (BackendFns::begin), a call's work may still run when it returns or throws: it is
// exec.pending, which also has the statistics but workspace_bytes. Elsewhere it is done.
class Pipeline {
public:
  explicit Pipeline(Device &device, uint64_t workspace_limit = 0 /* 0 = none */);
  ~Pipeline();
  Pipeline(const Pipeline &) = delete;
  Pipeline &operator=(const Pipeline &) = delete;

  // gate, then attend over its mask. attend.sequences, mask and mask_bytes are ignored: the gate's are used.
  void prefill(Exec &exec, const GateCall &gate, const AttendCall &attend, CallStats &stats);
  void gate(Exec &exec, const GateCall &call, CallStats &stats);
  void select(Exec &exec, const SelectCall &call, CallStats &stats);
  void attend(Exec &exec, const AttendCall &call, CallStats &stats);

  // Workspace bytes that prefill would take. Pure.
  static uint64_t prefill_workspace(const Device &device, const GateCall &gate, const AttendCall &attend);
  // Units that Exec::step will be told of in all, for progress.
  static uint64_t prefill_units(const GateCall &gate, const AttendCall &attend);
  static uint64_t gate_units(const GateCall &call);
  static uint64_t select_units(const SelectCall &call);
  static uint64_t attend_units(const AttendCall &call);

private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace seer
