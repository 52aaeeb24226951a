// The fast context against the reference context on random problems.
#include "problem.h"

using namespace property;

namespace {

// Gate scores of the reference: probabilities for THRESHOLD, logits for the rest.
void reference_scores(Problem &p) {
  const api::Model m = p.model(reference());
  seer_gate_desc desc = SEER_INIT(seer_gate_desc);
  desc.q = p.q.tensor({p.batch, p.s, p.q_heads, p.dim});
  desc.k = p.k.tensor({p.batch, p.l, p.kv_heads, p.dim});
  desc.scores = api::f32(p.scores, {p.batch, p.q_heads, p.nq(), p.nk()});
  desc.select = p.select;
  OK(seer_gate(reference(), m.get(), 0, &desc, nullptr, nullptr));
}

// The value of a row's cut: what the lowest kept of the reference scored, and the highest dropped.
struct Cut {
  float lowest_kept, highest_dropped;
};

}  // namespace

TEST_CASE("random prefills: the mask is the reference's but for scores within rounding of the cut") {
  CHECK(rc::check("mask", [] {
    Problem p = Problem::draw(700, true);
    Problem want = p;
    p.run_prefill(fast());
    want.run_prefill(reference());
    reference_scores(want);
    uint64_t kept = 0, causal = 0;
    const bool threshold = p.select.method == SEER_SELECT_THRESHOLD;
    for (int64_t b = 0; b < p.batch; b++)
      for (int64_t h = 0; h < p.q_heads; h++)
        for (int64_t i = 0; i < p.nq(); i++) {
          const float *row = &want.scores[size_t(((b * p.q_heads + h) * p.nq() + i) * p.nk())];
          Cut cut{INFINITY, -INFINITY};
          float largest = 0;
          for (int64_t j = 0; j < p.causal(i); j++) {
            if (want.kept(b, h, i, j))
              cut.lowest_kept = std::min(cut.lowest_kept, row[j]);
            else
              cut.highest_dropped = std::max(cut.highest_dropped, row[j]);
            largest = std::max(largest, std::fabs(row[j]));
          }
          for (int64_t j = 0; j < p.words() * 32; j++) {
            const bool got = p.kept(b, h, i, j);
            if (j >= p.causal(i)) {
              RC_ASSERT(!got);
              continue;
            }
            kept += got;
            causal++;
            if (got == want.kept(b, h, i, j)) continue;
            // A flip is fair if the score is as close to the cut as rounding of its inputs can bring it.
            const double slack = 1e-5 * (threshold ? 1.0 : std::max(1.0f, largest));
            const double at = threshold ? p.select.threshold : got ? cut.lowest_kept : cut.highest_dropped;
            RC_ASSERT(std::fabs(double(row[j]) - at) <= slack);
          }
        }
    RC_ASSERT(p.stats.blocks_kept == kept);
    RC_ASSERT(p.stats.blocks_causal == causal);
  }));
}

TEST_CASE("random prefills: out and lse are the reference's over the same mask") {
  CHECK(rc::check("attend", [] {
    Problem p = Problem::draw(500, true);
    p.run_prefill(fast());
    Problem want = p;
    want.out = Array(p.dtype, std::vector<float>(p.q.count(), 55.0f));
    want.lse.assign(want.lse.size(), 55.0f);
    seer_attention_desc desc = want.attention();  // with the mask that the prefill chose
    desc.rope.kind = SEER_ROPE_THETA;
    desc.rope.theta = 10000.0;
    OK(seer_attention(reference(), &desc, nullptr, nullptr));
    RC_ASSERT(relative_error(p.out.floats(), want.out.floats()) <= p.tolerance());
    RC_ASSERT(relative_error(p.lse, want.lse) <= p.tolerance());
  }));
}

TEST_CASE("random attention: any mask, empty rows and unaligned chunks included") {
  CHECK(rc::check("attention", [] {
    Problem p = Problem::draw(400, true);
    if (*rc::gen::arbitrary<bool>()) {  // a chunk that starts inside a block
      p.l = p.s + *rc::gen::inRange(0, 200);
      p.fill();
    }
    const uint32_t density = *rc::gen::element(0u, 1u, 4u, 8u);
    std::mt19937 rng(p.seed);
    for (uint32_t &word : p.mask) {
      word = 0;
      for (int bit = 0; bit < 32; bit++) word |= uint32_t(rng() % 8 < density) << bit;  // above the triangle too
    }
    Problem want = p;
    p.run_attention(fast());
    want.run_attention(reference());
    RC_ASSERT(relative_error(p.out.floats(), want.out.floats()) <= p.tolerance());
    RC_ASSERT(relative_error(p.lse, want.lse) <= p.tolerance());
    RC_ASSERT(p.mask == want.mask);  // an input
    for (int64_t b = 0; b < p.batch; b++)
      for (int64_t h = 0; h < p.q_heads; h++)
        for (int64_t t = 0; t < p.s; t++) {
          const int64_t i = t / p.block;
          bool any = false;
          for (int64_t j = 0; j <= (p.l - p.s + t) / p.block; j++) any |= p.kept(b, h, i, j);
          if (any) continue;
          RC_ASSERT(p.lse[size_t((b * p.q_heads + h) * p.s + t)] == -INFINITY);
          for (int64_t d = 0; d < p.dim; d++)
            RC_ASSERT(p.out.get(size_t(((b * p.s + t) * p.q_heads + h) * p.dim + d)) == 0.0f);
        }
  }));
}
