#include "plan.h"

#include <doctest/doctest.h>

#include <vector>

using namespace seer;

namespace {

GateConfig llama_gate() {
  GateConfig gate;
  gate.layers = 32;
  gate.q_heads = 32;
  gate.kv_heads = 8;
  gate.head_dim = 128;
  return gate;
}

Problem problem_of(const std::vector<Sequence> &sequences, const GateConfig *gate) {
  Problem problem;
  problem.sequences = sequences;
  problem.q_heads = 32;
  problem.kv_heads = 8;
  problem.head_dim = 128;
  problem.dtype = DType::bf16;
  problem.gate = gate;
  problem.own_mask = true;
  problem.rotate = true;
  return problem;
}

struct Named {
  const char *name;
  Region region;
};
std::vector<Named> regions(const Plan &p) {
  return {{"stats", p.stats},   {"pooled_q", p.pooled_q}, {"pooled_k", p.pooled_k},   {"gate_q", p.gate_q},
          {"gate_k", p.gate_k}, {"mask", p.mask},         {"rotated_q", p.rotated_q}, {"rotated_k", p.rotated_k}};
}

}  // namespace

TEST_CASE("plan: regions are aligned, disjoint and inside the workspace") {
  const GateConfig gate = llama_gate();
  std::vector<Sequence> sequences(3);
  sequences[0].q_len = sequences[0].k_len = 1;
  sequences[1].q_len = 100;
  sequences[1].k_len = 1000;
  DeviceLimits limits;
  limits.alignment = 256;
  const Plan plan = make_plan(problem_of(sequences, &gate), limits);
  uint64_t end = 0;
  for (const Named &r : regions(plan)) {
    CAPTURE(r.name);
    CHECK(r.region.offset % 256 == 0);
    CHECK(r.region.offset >= end);
    CHECK(r.region.size > 0);
    end = r.region.offset + r.region.size;
  }
  CHECK(plan.workspace_bytes >= end);
  CHECK(plan.q_rows == 1 + 2 + 0);
  CHECK(plan.k_rows == 1 + 16 + 0);
  CHECK(plan.max_k_blocks == 16);
  CHECK(plan.mask_row_words == 1);
}

TEST_CASE("plan: a backend that rotates in attend needs no copies, an attention needs no gate vectors") {
  std::vector<Sequence> sequences(1);
  sequences[0].q_len = sequences[0].k_len = 640;
  DeviceLimits limits;
  limits.attend_rotates_q = true;
  const GateConfig gate = llama_gate();
  Plan plan = make_plan(problem_of(sequences, &gate), limits);
  CHECK(plan.rotated_q.size == 0);
  CHECK(plan.rotated_k.size == uint64_t{640} * 8 * 128 * 2);
  limits.attend_rotates_k = true;
  plan = make_plan(problem_of(sequences, &gate), limits);
  CHECK(plan.rotated_q.size == 0);
  CHECK(plan.rotated_k.size == 0);
  Problem attention = problem_of(sequences, nullptr);
  attention.own_mask = false;
  plan = make_plan(attention, limits);
  CHECK(plan.workspace_bytes <= 256);  // the statistics
}

TEST_CASE("plan: sizes at 128k and 256k tokens stay where users were told they would") {
  const GateConfig gate = llama_gate();
  std::vector<Sequence> sequences(1);
  sequences[0].q_len = sequences[0].k_len = 262144;
  Problem problem = problem_of(sequences, &gate);
  Plan plan = make_plan(problem, DeviceLimits{});
  CHECK(plan.mask.size == uint64_t{32} * 4096 * 128 * 4);  // 67 MB < 100 MB
  CHECK(plan.rotated_q.size == uint64_t{262144} * 32 * 128 * 2);
}

TEST_CASE("plan: cached blocks are not pooled again and live elsewhere") {
  const GateConfig gate = llama_gate();
  std::vector<Sequence> sequences(1);
  sequences[0].q_len = 128;
  sequences[0].k_len = 640;
  sequences[0].cached_blocks = 8;
  Problem problem = problem_of(sequences, &gate);
  problem.cached = true;
  const Plan plan = make_plan(problem, DeviceLimits{});
  CHECK(plan.k_pool_rows == 2);
  CHECK(plan.pooled_k.size == uint64_t{2} * 8 * 384 * 4);
  CHECK(plan.gate_k.size == 0);
}

TEST_CASE("plan: sizes beyond 64 bits are an error, not a small number") {
  std::vector<Sequence> sequences(2);
  sequences[0].q_len = sequences[0].k_len = INT64_MAX - 64;
  sequences[1] = sequences[0];
  CHECK_THROWS_AS(make_plan(problem_of(sequences, nullptr), DeviceLimits{}), Error);
  sequences.resize(1);
  CHECK_THROWS_AS(make_plan(problem_of(sequences, nullptr), DeviceLimits{}), Error);
}
