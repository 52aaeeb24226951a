// project through Highway: a GEMM per head, weights widened to f32 as they are loaded.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/project_simd.cpp"
#include "cpu/simd_target.h"
#include "hwy/foreach_target.h"
// foreach_target first
#include "cpu/simd-inl.h"

#ifndef SEER_CPU_PROJECT_SIMD_ONCE
#define SEER_CPU_PROJECT_SIMD_ONCE
#include <cstring>
#include <vector>

#include "kernels.h"

namespace seer::cpu {
namespace {

constexpr int64_t kRowsPerItem = 64;

// Block rows first .. first + rows - 1 of one head: y = rope(x W).
struct ProjectRows {
  const ProjectArgs *args;
  const float *x;  // stride between rows x_stride
  float *y;        // y_stride
  int64_t x_stride, y_stride, rows, head, position;
};

}  // namespace
}  // namespace seer::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace seer::cpu::HWY_NAMESPACE {
namespace {

// kVectors * kLanes columns of y, of rows row .. row + rows - 1, 1 <= rows <= kRows. w is the first of those columns.
template <int kVectors, class T>
HWY_NOINLINE void project_panel(const ProjectRows &p, int64_t row, int64_t rows, const T *HWY_RESTRICT w,
                                int64_t column) {
  const DF d;
  const int64_t in = p.args->in, out = p.args->out;
  const float *x[kRows];
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; r++) x[r] = p.x + (row + HWY_MIN(r, rows - 1)) * p.x_stride;
  VF sum[kRows][kVectors];
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; r++)
    for (int v = 0; v < kVectors; v++) sum[r][v] = hn::Zero(d);
  for (int64_t i = 0; i < in; i++) {
    VF weight[kVectors];
    for (int v = 0; v < kVectors; v++) weight[v] = load_f32(d, w + i * out + v * kLanes);
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; r++) {
      const VF a = hn::Set(d, x[r][i]);
      for (int v = 0; v < kVectors; v++) sum[r][v] = hn::MulAdd(a, weight[v], sum[r][v]);
    }
  }
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; r++)  // copies of the last row store the same again
    for (int v = 0; v < kVectors; v++)
      hn::StoreU(sum[r][v], d, p.y + (row + HWY_MIN(r, rows - 1)) * p.y_stride + column + v * kLanes);
}

template <class T>
void project_head(const ProjectRows &p) {
  const int64_t in = p.args->in, out = p.args->out;
  const T *w = static_cast<const T *>(p.args->weight.data) + p.head * in * out;
  int64_t c = 0;
  for (; c + 2 * kLanes <= out; c += 2 * kLanes)
    for (int64_t r = 0; r < p.rows; r += kRows) project_panel<2>(p, r, HWY_MIN(kRows, p.rows - r), w + c, c);
  for (; c + kLanes <= out; c += kLanes)
    for (int64_t r = 0; r < p.rows; r += kRows) project_panel<1>(p, r, HWY_MIN(kRows, p.rows - r), w + c, c);
  for (; c < out; c++)
    for (int64_t r = 0; r < p.rows; r++) {
      float sum = 0;
      for (int64_t i = 0; i < in; i++) sum += p.x[r * p.x_stride + i] * to_f32(w[i * out + c]);
      p.y[r * p.y_stride + c] = sum;
    }
}

void project_rows(const ProjectRows &p) {
  const ProjectArgs &args = *p.args;
  if (args.weight.present())
    dispatch_float(args.weight.dtype, [&](auto tag) { project_head<decltype(tag)>(p); });
  else
    for (int64_t r = 0; r < p.rows; r++)
      std::memcpy(p.y + r * p.y_stride, p.x + r * p.x_stride, static_cast<size_t>(args.out) * sizeof(float));
  if (!args.rope.inv_freq) return;
  for (int64_t r = 0; r < p.rows; r++) {
    const int64_t at = (p.position + r) * args.rope.half;
    rotate_row(args.rope.cos + at, args.rope.sin + at, args.rope.half, p.y + r * p.y_stride);
  }
}

}  // namespace
}  // namespace seer::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace seer::cpu {

HWY_EXPORT(project_rows);

void project_simd(Workers &workers, const ProjectArgs &args) {
  simd_prepare();
  const bool q = args.side == Side::q;
  std::vector<ProjectRows> items;
  for (const Sequence &s : args.sequences) {
    const int64_t blocks = q ? s.q_blocks(args.block) : s.k_blocks(args.block) - s.cached_blocks;
    const int64_t position = q ? s.offset() / args.block : s.cached_blocks;  // in blocks
    const int64_t x_row = q ? s.q_row : s.k_pool_row, y_row = q ? s.q_row : s.k_row + s.cached_blocks;
    for (int64_t h = 0; h < args.gate_heads; h++)
      for (int64_t b = 0; b < blocks; b += kRowsPerItem) {
        ProjectRows p;
        p.args = &args;
        p.x_stride = args.pooled_heads * args.in;
        p.y_stride = args.gate_heads * args.out;
        p.x = args.pooled + (x_row + b) * p.x_stride + h * args.pooled_heads / args.gate_heads * args.in;
        p.y = args.gate + (y_row + b) * p.y_stride + h * args.out;
        p.rows = std::min(kRowsPerItem, blocks - b);
        p.head = h;
        p.position = position + b;
        items.push_back(p);
      }
  }
  workers.pool.parallel_for(static_cast<int64_t>(items.size()), [&](int64_t i, int) {
    workers.exec.check_cancelled();
    HWY_DYNAMIC_DISPATCH(project_rows)(items[static_cast<size_t>(i)]);
  });
  workers.exec.step(1);
}

}  // namespace seer::cpu
#endif
