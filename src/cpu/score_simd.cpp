// score through Highway: dot products of four by four gate vectors at a time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/score_simd.cpp"
#include "cpu/simd_target.h"
#include "hwy/foreach_target.h"
// foreach_target first
#include "cpu/simd-inl.h"

#ifndef SEER_CPU_SCORE_SIMD_ONCE
#define SEER_CPU_SCORE_SIMD_ONCE
#include <algorithm>
#include <cmath>
#include <limits>

#include "ref.h"
#include "score_rows.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace seer::cpu::HWY_NAMESPACE {
namespace {

// The four sums over lanes of a .. e.
HWY_INLINE void store_sums(DF d, VF a, VF b, VF c, VF e, float scale, float *out) {
  out[0] = hn::GetLane(hn::SumOfLanes(d, a)) * scale;
  out[1] = hn::GetLane(hn::SumOfLanes(d, b)) * scale;
  out[2] = hn::GetLane(hn::SumOfLanes(d, c)) * scale;
  out[3] = hn::GetLane(hn::SumOfLanes(d, e)) * scale;
}

// dots[r][j] = scale <q[r], k[j]>.
HWY_INLINE void dots_4x4(const float *const *q, const float *const *k, int64_t dim, float scale, float (*dots)[4]) {
  const DF d;
  VF sum[4][4];
  HWY_UNROLL(4)
  for (int r = 0; r < 4; r++) sum[r][0] = sum[r][1] = sum[r][2] = sum[r][3] = hn::Zero(d);
  int64_t c = 0;
  for (; c + kLanes <= dim; c += kLanes) {
    const VF k0 = hn::LoadU(d, k[0] + c), k1 = hn::LoadU(d, k[1] + c), k2 = hn::LoadU(d, k[2] + c),
             k3 = hn::LoadU(d, k[3] + c);
    HWY_UNROLL(4)
    for (int r = 0; r < 4; r++) {
      const VF a = hn::LoadU(d, q[r] + c);
      sum[r][0] = hn::MulAdd(a, k0, sum[r][0]);
      sum[r][1] = hn::MulAdd(a, k1, sum[r][1]);
      sum[r][2] = hn::MulAdd(a, k2, sum[r][2]);
      sum[r][3] = hn::MulAdd(a, k3, sum[r][3]);
    }
  }
  HWY_UNROLL(4)
  for (int r = 0; r < 4; r++) store_sums(d, sum[r][0], sum[r][1], sum[r][2], sum[r][3], scale, dots[r]);
  for (; c < dim; c++)
    for (int r = 0; r < 4; r++)
      for (int j = 0; j < 4; j++) dots[r][j] += scale * q[r][c] * k[j][c];
}

void score_rows_of(const ScoreRows &rows, float *const *logits) {
  const GateVectors &gate = *rows.gate;
  const Sequence &s = *rows.sequence;
  const auto scale = static_cast<float>(gate.scale);
  const int64_t k_head = rows.head * gate.k_heads / gate.q_heads, causal = rows.causal(rows.rows - 1);
  const float *q[kScoreRows];
  for (int64_t r = 0; r < kScoreRows; r++)
    q[r] = gate.q + ((s.q_row + rows.first + HWY_MIN(r, rows.rows - 1)) * gate.q_heads + rows.head) * gate.dim;
  for (int64_t j = 0; j < causal; j += 4) {
    const float *k[4];
    for (int64_t i = 0; i < 4; i++)
      k[i] = gate.k + ((s.k_row + HWY_MIN(j + i, causal - 1)) * gate.k_heads + k_head) * gate.dim;
    const int64_t columns = HWY_MIN(4, causal - j);
    for (int64_t r = 0; r < rows.rows; r += 4) {
      float dots[4][4];
      dots_4x4(q + r, k, gate.dim, scale, dots);
      for (int64_t i = 0; i < HWY_MIN(4, rows.rows - r); i++)
        for (int64_t c = 0; c < columns; c++) logits[r + i][j + c] = dots[i][c];
    }
  }
}

// p = softmax(x) if the sum, which is returned, is an ordinary number; else p is garbage.
float softmax_of(const float *x, int64_t n, float *p) {
  const DF d;
  VF top = hn::Set(d, -std::numeric_limits<float>::infinity());
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) top = hn::Max(top, hn::LoadU(d, x + j));
  float max = hn::GetLane(hn::MaxOfLanes(d, top));
  for (; j < n; j++) max = x[j] > max ? x[j] : max;

  const VF m = hn::Set(d, max), log2e = hn::Set(d, 1.4426950408889634f);
  VF sums = hn::Zero(d);
  for (j = 0; j + kLanes <= n; j += kLanes) {
    const VF e = exp2_nonpositive(d, hn::Mul(hn::Sub(hn::LoadU(d, x + j), m), log2e));
    hn::StoreU(e, d, p + j);
    sums = hn::Add(sums, e);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, sums));
  for (; j < n; j++) sum += p[j] = hn::GetLane(exp2_nonpositive(d, hn::Set(d, (x[j] - max) * 1.4426950408889634f)));
  const VF total = hn::Set(d, sum);
  for (j = 0; j + kLanes <= n; j += kLanes) hn::StoreU(hn::Div(hn::LoadU(d, p + j), total), d, p + j);
  for (; j < n; j++) p[j] /= sum;
  return sum;
}

}  // namespace
}  // namespace seer::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace seer::cpu {
namespace {
HWY_EXPORT(score_rows_of);
HWY_EXPORT(softmax_of);
}  // namespace

void score_rows(const ScoreRows &rows, float *const *logits) { HWY_DYNAMIC_DISPATCH(score_rows_of)(rows, logits); }

void softmax_blocks(const float *x, int64_t n, float smallest, float *p) {
  const float sum = HWY_DYNAMIC_DISPATCH(softmax_of)(x, n, p);
  const bool ordinary = sum >= 1.0f && sum <= std::numeric_limits<float>::max();  // no NaN, no +Inf
  // Below 2^-126 the fast exponential is 0.
  if (ordinary && (smallest > 1e-30f || std::find(p, p + n, 0.0f) == p + n)) return;
  std::copy_n(x, n, p);
  softmax_row(p, n);
}

void score_simd(Workers &workers, const ScoreArgs &args) {
  simd_prepare();
  const float outside = args.softmax ? 0.0f : -std::numeric_limits<float>::infinity();
  int64_t longest = 0;
  for (const Sequence &s : args.sequences) longest = std::max(longest, s.k_blocks(args.block));
  std::vector<std::vector<float>> space(static_cast<size_t>(workers.pool.size()));

  for_score_rows(workers, args.sequences, args.block, args.gate.q_heads,
                 [&](const Sequence &s, int64_t head, int64_t first, int64_t count, int worker) {
                   std::vector<float> &logits = space[static_cast<size_t>(worker)];
                   logits.resize(static_cast<size_t>(kScoreRows * longest));
                   const ScoreRows rows{&args.gate, &s, args.block, head, first, count};
                   float *row[kScoreRows] = {};
                   for (int64_t r = 0; r < count; r++) row[r] = logits.data() + r * longest;
                   score_rows(rows, row);
                   for (int64_t r = 0; r < count; r++) {
                     float *to = args.scores.at(s.batch, head, s.mask_row + first + r);
                     const int64_t causal = rows.causal(r);
                     if (args.softmax)
                       softmax_blocks(row[r], causal, 0.0f, to);
                     else
                       std::copy_n(row[r], causal, to);
                     std::fill(to + causal, to + args.cols, outside);
                   }
                 });
  workers.exec.step(1);
}

}  // namespace seer::cpu
#endif
