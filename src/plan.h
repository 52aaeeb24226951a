// The planner: a pure function from a problem and a device's limits to the layout of the workspace. No allocation, no
// device call, so it can be asked before a call and tested without a device.
#pragma once
#include <cstdint>
#include <span>

#include "backend.h"
#include "stages.h"

namespace seer {

struct Problem {
  std::span<const Sequence> sequences;  // rows (mask_row, q_row, ...) not yet assigned
  int64_t q_heads = 0, kv_heads = 0, head_dim = 0;
  DType dtype = DType::f32;
  int64_t block = 64;
  const GateConfig *gate = nullptr;  // null: attention only
  bool rotate = false;               // q and k need RoPE
  bool own_mask = false;             // the mask goes to the workspace, not to the caller
  bool cached = false;               // gate K lives in a gate cache
  uint64_t scratch = 0;              // bytes the backend's select and attend, one after the other, ask for
  uint64_t select_scratch = 0;       // those of select
};

struct Region {
  uint64_t offset = 0, size = 0;  // bytes
};

struct Plan {
  Region pooled_q, pooled_k, gate_q, gate_k, mask, rotated_q, rotated_k, scratch, stats;
  int64_t q_rows = 0, k_rows = 0, k_pool_rows = 0;  // over all sequences
  int64_t mask_row_words = 0, max_q_blocks = 0, max_k_blocks = 0;
  int64_t pass_kv_heads = 0;  // KV heads, with their query heads, whose gate is computed at a time
  uint64_t workspace_bytes = 0;
};

// Plan::pass_kv_heads of a problem with a gate: all of them, unless limits.gate_bytes says otherwise. Gate K in a cache
// is written whole.
int64_t pass_kv_heads(const Problem &problem, const DeviceLimits &limits);

Plan make_plan(const Problem &problem, const DeviceLimits &limits);

}  // namespace seer
