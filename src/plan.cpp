#include "plan.h"

#include <algorithm>

#include "checked.h"

namespace seer {
namespace {

// Hands out consecutive aligned regions.
class Layout {
public:
  explicit Layout(int64_t alignment) : alignment_(alignment) {}

  template <class... Extents>
  Region add(int64_t element_bytes, Extents... extents) {
    const int64_t size = checked_mul(element_bytes, extents...);
    const Region region{static_cast<uint64_t>(end_), static_cast<uint64_t>(size)};
    end_ = round_up(checked_add(end_, size), alignment_);
    return region;
  }
  uint64_t end() const { return static_cast<uint64_t>(end_); }

private:
  int64_t alignment_, end_ = 0;
};

}  // namespace

Plan make_plan(const Problem &problem, const DeviceLimits &limits) {
  Plan plan;
  int64_t q_tokens = 0, k_tokens = 0;
  for (const Sequence &s : problem.sequences) {
    const int64_t q_blocks = s.q_blocks(problem.block), k_blocks = s.k_blocks(problem.block);
    plan.q_rows += q_blocks;
    plan.k_rows += k_blocks;
    plan.k_pool_rows += k_blocks - s.cached_blocks;
    plan.max_q_blocks = std::max(plan.max_q_blocks, q_blocks);
    plan.max_k_blocks = std::max(plan.max_k_blocks, k_blocks);
    q_tokens = checked_add(q_tokens, s.q_len);
    k_tokens = checked_add(k_tokens, s.k_len);
  }
  plan.mask_row_words = mask_words(plan.max_k_blocks);

  Layout layout(limits.alignment);
  plan.stats = layout.add(sizeof(SelectStats), 1);
  if (problem.gate) {
    const GateConfig &gate = *problem.gate;
    const int64_t q_channels = int64_t{gate.head_dim} * pool_count(gate.q_pool);
    const int64_t k_channels = int64_t{gate.head_dim} * pool_count(gate.k_pool);
    plan.pooled_q = layout.add(4, plan.q_rows, problem.q_heads, q_channels);
    plan.pooled_k = layout.add(4, plan.k_pool_rows, problem.kv_heads, k_channels);
    plan.gate_q = layout.add(4, plan.q_rows, problem.q_heads, int64_t{gate.gate_dim});
    if (!problem.cached)
      plan.gate_k = layout.add(4, plan.k_rows, int64_t{gate.k_weight_heads()}, int64_t{gate.gate_dim});
  }
  if (problem.own_mask) plan.mask = layout.add(4, problem.q_heads, plan.q_rows, plan.mask_row_words);
  if (problem.rotate && !limits.attend_rotates) {
    const int64_t bytes = element_size(problem.dtype);
    plan.rotated_q = layout.add(bytes, q_tokens, problem.q_heads, problem.head_dim);
    plan.rotated_k = layout.add(bytes, k_tokens, problem.kv_heads, problem.head_dim);
  }
  plan.scratch = layout.add(1, static_cast<int64_t>(problem.scratch));
  plan.workspace_bytes = layout.end();
  return plan;
}

}  // namespace seer
