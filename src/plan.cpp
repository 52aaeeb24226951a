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

// Pooled Q becomes gate Q where it is.
bool q_in_place(const GateConfig &gate, const DeviceLimits &limits) { return gate.single() && limits.project_in_place; }

// Floats of pooled tokens and of gate vectors, in the workspace.
struct GateSizes {
  int64_t pooled_q = 0, pooled_k = 0, gate_q = 0, gate_k = 0;
};

// For `kv_heads` of a problem's KV heads.
GateSizes gate_sizes(const Problem &problem, const DeviceLimits &limits, int64_t kv_heads) {
  const GateConfig &gate = *problem.gate;
  int64_t q_rows = 0, k_rows = 0, k_pool_rows = 0;
  for (const Sequence &s : problem.sequences) {
    q_rows += s.q_blocks(problem.block);
    k_rows += s.k_blocks(problem.block);
    k_pool_rows += s.k_blocks(problem.block) - s.cached_blocks;
  }
  k_pool_rows = round_up(k_pool_rows, limits.pooled_rows);
  const int64_t q_heads = kv_heads * (problem.q_heads / problem.kv_heads);
  return {
      .pooled_q =
          q_in_place(gate, limits) ? 0 : checked_mul(q_rows, q_heads, int64_t{gate.head_dim} * pool_count(gate.q_pool)),
      .pooled_k = checked_mul(k_pool_rows, kv_heads, int64_t{gate.head_dim} * pool_count(gate.k_pool)),
      .gate_q = checked_mul(q_rows, q_heads, int64_t{gate.gate_dim}),
      .gate_k = problem.cached ? 0 : checked_mul(k_rows, gate.single() ? q_heads : kv_heads, int64_t{gate.gate_dim})};
}

}  // namespace

int64_t pass_kv_heads(const Problem &problem, const DeviceLimits &limits) {
  if (!limits.gate_bytes || problem.cached) return problem.kv_heads;
  const GateSizes one = gate_sizes(problem, limits, 1);
  const int64_t bytes =
      checked_mul(checked_add(checked_add(one.pooled_q, one.pooled_k), checked_add(one.gate_q, one.gate_k)), 4);
  if (bytes == 0) return problem.kv_heads;
  const int64_t most =
      std::clamp<int64_t>((limits.gate_bytes - int64_t(problem.select_scratch)) / bytes, 1, problem.kv_heads);
  return ceil_div(problem.kv_heads, ceil_div(problem.kv_heads, most));  // passes of one size, or nearly
}

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
    plan.pass_kv_heads = pass_kv_heads(problem, limits);
    const GateSizes sizes = gate_sizes(problem, limits, plan.pass_kv_heads);
    plan.pooled_q = layout.add(4, sizes.pooled_q);
    plan.pooled_k = layout.add(4, sizes.pooled_k);
    plan.gate_q = layout.add(4, sizes.gate_q);
    if (q_in_place(*problem.gate, limits)) plan.pooled_q = plan.gate_q;
    if (!problem.cached) plan.gate_k = layout.add(4, sizes.gate_k);
  }
  if (problem.own_mask) plan.mask = layout.add(4, problem.q_heads, plan.q_rows, plan.mask_row_words);
  const int64_t bytes = element_size(problem.dtype);
  if (problem.rotate && !limits.attend_rotates_q)
    plan.rotated_q = layout.add(bytes, q_tokens, problem.q_heads, problem.head_dim);
  if (problem.rotate && !limits.attend_rotates_k)
    plan.rotated_k = layout.add(bytes, k_tokens, problem.kv_heads, problem.head_dim);
  plan.scratch = layout.add(1, static_cast<int64_t>(problem.scratch));
  plan.workspace_bytes = layout.end();
  return plan;
}

}  // namespace seer
