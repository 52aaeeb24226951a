// attend in f32 arithmetic through Highway, for every dtype.
//
// Keys are packed transposed in panels of two vectors, so that q k^T is an outer-product GEMM with kRows x 2 vectors of
// scores in registers and no reduction across lanes; values are packed in panels of two vectors of channels, so that p
// v is the same kernel turned round. Scores of a chunk of kept blocks, their probabilities and the output tile stay in
// L2.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attend_simd.cpp"
#include "cpu/simd_target.h"
#include "hwy/foreach_target.h"
// foreach_target first
#include "cpu/simd-inl.h"

#ifndef SEER_CPU_ATTEND_SIMD_ONCE
#define SEER_CPU_ATTEND_SIMD_ONCE
#include <cmath>
#include <cstring>
#include <limits>

#include "../checked.h"
#include "attend_amx.h"
#include "attend_tiles.h"

namespace seer::cpu {
namespace {
// Floats between rows of q, scores and outputs of a tile: a constant keeps the rows' addresses in instructions, and 17
// cache lines spread the rows over all cache sets.
constexpr int64_t kStride = kMaxTileDim + 16;
constexpr int64_t kPaddedRows = 72;  // kTileRows, rounded up to any target's kRows
// Keys of kept blocks between two updates of the running softmax.
constexpr int64_t kChunk = 256;
static_assert(kChunk <= kMaxTileDim);

struct Scratch {
  float q[kPaddedRows * kStride];
  float scores[kPaddedRows * kStride];  // then probabilities
  float out[kPaddedRows * kStride];
  float max[kPaddedRows], sum[kPaddedRows], rescale[kPaddedRows];
  int64_t columns[kPaddedRows];  // of the chunk's scores that the row sees: always a prefix
  float row[kMaxTileDim];
};
}  // namespace
}  // namespace seer::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace seer::cpu::HWY_NAMESPACE {
namespace {

static_assert(kPaddedRows >= (kTileRows + kRows - 1) / kRows * kRows);
constexpr int64_t kPanel = 2 * kLanes;
static_assert(32 % kPanel == 0);

int64_t padded_dim(int64_t dim) { return (dim + kLanes - 1) / kLanes * kLanes; }

// scores[r][0 .. kPanel) = sum over d of q[r][d] keys[d][0 .. kPanel).
HWY_NOINLINE void score_panel(const float *HWY_RESTRICT q, const float *HWY_RESTRICT keys, int64_t dim,
                              float *HWY_RESTRICT scores) {
  const DF d;
  VF sum[kRows][2];
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; r++) sum[r][0] = sum[r][1] = hn::Zero(d);
  for (int64_t i = 0; i < dim; i++) {
    const VF k0 = hn::Load(d, keys + i * kPanel), k1 = hn::Load(d, keys + i * kPanel + kLanes);
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; r++) {
      const VF a = hn::Set(d, q[r * kStride + i]);
      sum[r][0] = hn::MulAdd(a, k0, sum[r][0]);
      sum[r][1] = hn::MulAdd(a, k1, sum[r][1]);
    }
  }
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; r++) {
    hn::Store(sum[r][0], d, scores + r * kStride);
    hn::Store(sum[r][1], d, scores + r * kStride + kLanes);
  }
}

// Blocks of values of a chunk: column c of the probabilities belongs to key c % block of blocks[c / block].
struct ValueBlocks {
  const float *block[kChunk / 32];
  int64_t block_keys;
};

// out[r][0 .. vectors * kLanes) = rescale[r] * out[r] + sum over the first `columns` of p[r][c] values[c].
// `offset` finds the panel within a packed block.
template <int kR, int kVectors>
HWY_NOINLINE void value_panel(const float *HWY_RESTRICT p, const ValueBlocks &values, int64_t offset, int64_t columns,
                              bool first, const float *HWY_RESTRICT rescale, float *HWY_RESTRICT out) {
  const DF d;
  VF sum[kR][kVectors];
  HWY_UNROLL(8)
  for (int r = 0; r < kR; r++) {
    const VF factor = hn::Set(d, rescale[r]);
    for (int v = 0; v < kVectors; v++)
      sum[r][v] = first ? hn::Zero(d) : hn::Mul(factor, hn::Load(d, out + r * kStride + v * kLanes));
  }
  for (int64_t b = 0, begin = 0; begin < columns; b++, begin += values.block_keys) {
    const float *HWY_RESTRICT panel = values.block[b] + offset;
    const int64_t keys = HWY_MIN(values.block_keys, columns - begin);
    for (int64_t i = 0; i < keys; i++) {
      VF value[kVectors];
      for (int v = 0; v < kVectors; v++) value[v] = hn::Load(d, panel + (i * kVectors + v) * kLanes);
      HWY_UNROLL(8)
      for (int r = 0; r < kR; r++) {
        const VF a = hn::Set(d, p[r * kStride + begin + i]);
        for (int v = 0; v < kVectors; v++) sum[r][v] = hn::MulAdd(a, value[v], sum[r][v]);
      }
    }
  }
  HWY_UNROLL(8)
  for (int r = 0; r < kR; r++)
    for (int v = 0; v < kVectors; v++) hn::Store(sum[r][v], d, out + r * kStride + v * kLanes);
}

template <int kR>
void value_rows(const float *p, const ValueBlocks &values, int64_t dim, int64_t columns, bool first,
                const float *rescale, float *out) {
  for (int64_t c = 0; c < padded_dim(dim); c += kPanel) {
    const int64_t offset = c * values.block_keys;
    if (c + kPanel <= padded_dim(dim))
      value_panel<kR, 2>(p, values, offset, columns, first, rescale, out + c);
    else
      value_panel<kR, 1>(p, values, offset, columns, first, rescale, out + c);
  }
}

// Turns the first n scores into probabilities 2^(score - max), the rest up to `columns` into 0; updates the row's
// running maximum and sum and gives the factor for what was summed before.
void softmax_row(float *HWY_RESTRICT scores, int64_t n, int64_t columns, float &max, float &sum, float &rescale) {
  const DF d;
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const int64_t even = (n + kLanes - 1) / kLanes * kLanes;
  if (even > n) {
    float *tail = scores + even - kLanes;
    hn::Store(
        hn::IfThenElse(hn::FirstN(d, static_cast<size_t>(n + kLanes - even)), hn::Load(d, tail), hn::Set(d, -kInf)), d,
        tail);
  }
  VF max0 = hn::Set(d, max), max1 = max0;
  int64_t i = 0;
  for (; i + 2 * kLanes <= even; i += 2 * kLanes) {
    max0 = hn::Max(max0, hn::Load(d, scores + i));
    max1 = hn::Max(max1, hn::Load(d, scores + i + kLanes));
  }
  if (i < even) max0 = hn::Max(max0, hn::Load(d, scores + i));
  const float top = hn::GetLane(hn::MaxOfLanes(d, hn::Max(max0, max1)));
  const float base = top == -kInf ? 0.0f : top;  // nothing seen yet: any finite base gives zeros
  rescale = max == top ? 1.0f : std::exp2(max - base);
  max = top;

  const VF b = hn::Set(d, base);
  VF sum0 = hn::Zero(d), sum1 = hn::Zero(d);
  for (i = 0; i + 2 * kLanes <= even; i += 2 * kLanes) {
    const VF p0 = exp2_nonpositive(d, hn::Sub(hn::Load(d, scores + i), b));
    const VF p1 = exp2_nonpositive(d, hn::Sub(hn::Load(d, scores + i + kLanes), b));
    hn::Store(p0, d, scores + i);
    hn::Store(p1, d, scores + i + kLanes);
    sum0 = hn::Add(sum0, p0);
    sum1 = hn::Add(sum1, p1);
  }
  if (i < even) {
    const VF p0 = exp2_nonpositive(d, hn::Sub(hn::Load(d, scores + i), b));
    hn::Store(p0, d, scores + i);
    sum0 = hn::Add(sum0, p0);
  }
  sum = sum * rescale + hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
  if (even < columns) std::memset(scores + even, 0, static_cast<size_t>(columns - even) * sizeof(float));
}

// One chunk: kept blocks first .. first + count - 1 of the tile.
void attend_chunk(const AttendTile &tile, int64_t first, int64_t count, Scratch &s) {
  const int64_t block = tile.args->block, dim = tile.args->q.dim, padded_rows = (tile.rows + kRows - 1) / kRows * kRows;
  const size_t block_bytes = static_cast<size_t>(block * (dim + padded_dim(dim))) * sizeof(float);

  const float *keys[kChunk / 32];
  ValueBlocks values;
  values.block_keys = block;
  bool finite[kChunk / 32];
  for (int64_t b = 0; b < count; b++) {
    const int32_t j = tile.kept[first + b];
    keys[b] = reinterpret_cast<const float *>(tile.packed + static_cast<size_t>(j) * block_bytes);
    values.block[b] = keys[b] + block * dim;
    finite[b] = tile.finite[j];
  }
  for (int64_t r = 0; r < padded_rows; r++) {
    int64_t columns = 0;
    if (r < tile.rows)
      for (int64_t b = 0; b < count; b++)
        columns += std::clamp<int64_t>(tile.keys_seen(r) - tile.kept[first + b] * block, 0, block);
    s.columns[r] = columns;
  }
  // Columns of a group of rows: those of its last real row.
  const auto group_columns = [&](int64_t r) { return s.columns[HWY_MIN(r + kRows, tile.rows) - 1]; };

  for (int64_t b = 0; b < count; b++) {
    for (int64_t c = 0; c < block; c += kPanel) {
      const int64_t column = b * block + c;
      for (int64_t r = 0; r < padded_rows; r += kRows)
        if (column < group_columns(r))
          score_panel(s.q + r * kStride, keys[b] + c * dim, dim, s.scores + r * kStride + column);
    }
  }
  for (int64_t r = 0; r < padded_rows; r++) {
    const int64_t columns = group_columns(r / kRows * kRows);
    softmax_row(s.scores + r * kStride, s.columns[r], columns, s.max[r], s.sum[r], s.rescale[r]);
  }
  for (int64_t r = 0; r < padded_rows; r += kRows) {
    const int64_t columns = group_columns(r);
    // 0 * Inf: where a block holds Inf or NaN, rows that see only part of it must not multiply by the rest.
    bool alone = false;
    for (int64_t b = 0; b < count; b++) alone |= !finite[b] && s.columns[r] < HWY_MIN((b + 1) * block, columns);
    if (!alone) {
      value_rows<kRows>(s.scores + r * kStride, values, dim, columns, first == 0, s.rescale + r, s.out + r * kStride);
      continue;
    }
    for (int64_t i = r; i < r + kRows; i++)
      value_rows<1>(s.scores + i * kStride, values, dim, s.columns[i], first == 0, s.rescale + i, s.out + i * kStride);
  }
}

template <class T>
void attend_tile(const AttendTile &tile, std::byte *scratch) {
  const AttendArgs &args = *tile.args;
  const Sequence &seq = *tile.sequence;
  const int64_t dim = args.q.dim, padded_rows = (tile.rows + kRows - 1) / kRows * kRows;
  Scratch &s = *reinterpret_cast<Scratch *>(scratch);

  // Scores are wanted in units of log2 e.
  const auto scale = static_cast<float>(args.scale * 1.4426950408889634);
  for (int64_t r = 0; r < padded_rows; r++) {
    float *q = s.q + r * kStride;
    s.max[r] = -std::numeric_limits<float>::infinity();
    s.sum[r] = 0;
    if (r >= tile.rows) {
      std::memset(q, 0, static_cast<size_t>(dim) * sizeof(float));
      continue;
    }
    widen_row(args.q.at<const T>(seq.batch, seq.q_begin + tile.row + r, tile.head), dim, q);
    if (args.q_rope.inv_freq) {
      const int64_t at = (seq.offset() + tile.row + r) * args.q_rope.half;
      rotate_row(args.q_rope.cos + at, args.q_rope.sin + at, args.q_rope.half, q);
    }
    narrow_row(q, scale, dim, q);
  }
  const int64_t per_chunk = kChunk / args.block;
  for (int64_t first = 0; first < tile.kept_count; first += per_chunk)
    attend_chunk(tile, first, HWY_MIN(per_chunk, tile.kept_count - first), s);

  for (int64_t r = 0; r < tile.rows; r++) {
    const int64_t token = seq.q_begin + tile.row + r;
    T *out = args.out.at<T>(seq.batch, token, tile.head);
    const bool nothing = s.sum[r] == 0;
    if (nothing) {
      for (int64_t i = 0; i < dim; i++) out[i] = from_f32<T>(0.0f);
    } else {
      narrow_row(s.out + r * kStride, 1.0f / s.sum[r], dim, out);
    }
    if (args.lse.data)
      *args.lse.at(seq.batch, tile.head, token) =
          nothing ? -std::numeric_limits<float>::infinity()
                  : static_cast<float>((double{s.max[r]} + std::log2(double{s.sum[r]})) * 0.6931471805599453);
  }
}

template <class T>
bool pack_block(const AttendArgs &args, const Sequence &seq, int64_t kv_head, int64_t j, std::byte *packed) {
  const int64_t dim = args.q.dim, block = args.block, begin = j * block;
  const int64_t keys = HWY_MIN(block, seq.k_len - begin);
  const DF d;
  auto *k = reinterpret_cast<float *>(packed);
  float *v = k + block * dim;
  HWY_ALIGN float row[kMaxTileDim + HWY_LANES(float)];
  VF check = hn::Zero(d);  // x - x is 0 for finite x
  const int64_t wide = padded_dim(dim);
  std::memset(row, 0, sizeof row);
  for (int64_t i = 0; i < block; i++) {
    if (i < keys) {
      widen_row(args.k.at<const T>(seq.batch, seq.k_begin + begin + i, kv_head), dim, row);
      if (args.k_rope.inv_freq) {
        const int64_t at = (begin + i) * args.k_rope.half;
        rotate_row(args.k_rope.cos + at, args.k_rope.sin + at, args.k_rope.half, row);
      }
    } else {
      std::memset(row, 0, sizeof row);
    }
    float *column = k + i / kPanel * kPanel * dim + i % kPanel;
    for (int64_t c = 0; c < dim; c++) column[c * kPanel] = row[c];
  }
  std::memset(row, 0, sizeof row);
  for (int64_t i = 0; i < block; i++) {
    if (i < keys)
      widen_row(args.v.at<const T>(seq.batch, seq.k_begin + begin + i, kv_head), dim, row);
    else
      std::memset(row, 0, sizeof row);
    for (int64_t c = 0; c < wide; c += kLanes) {
      const VF x = hn::Load(d, row + c);
      check = hn::Add(check, hn::Sub(x, x));
      const int64_t panel = c / kPanel * kPanel, width = HWY_MIN(kPanel, wide - panel);
      hn::Store(x, d, v + panel * block + i * width + (c - panel));
    }
  }
  const float sum = hn::GetLane(hn::SumOfLanes(d, check));
  return sum == 0.0f;
}

AttendKernel kernel(const AttendArgs &args) {
  AttendKernel k;
  k.block_bytes = static_cast<size_t>(args.block * (args.q.dim + padded_dim(args.q.dim))) * sizeof(float);
  k.scratch_bytes = (sizeof(Scratch) + 63) / 64 * 64;
  dispatch_float(args.q.dtype, [&](auto tag) {
    using T = decltype(tag);
    k.pack = pack_block<T>;
    k.tile = attend_tile<T>;
  });
  return k;
}

}  // namespace
}  // namespace seer::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace seer::cpu {

HWY_EXPORT(kernel);

namespace {

// Without a tile function: shapes that only the reference computes.
AttendKernel choose_kernel(const AttendArgs &args) {
  simd_prepare();
  if (args.q.dim > kMaxTileDim || args.v.dim != args.q.dim || args.block > kMaxBlock || args.block % 32 != 0) return {};
  if (args.q.dtype == DType::bf16 && simd_amx()) return attend_amx_kernel(args);
  return HWY_DYNAMIC_DISPATCH(kernel)(args);
}

}  // namespace

uint64_t attend_simd_scratch(const AttendArgs &args, int workers) {
  const AttendKernel kernel = choose_kernel(args);
  return kernel.tile ? attend_tiles_scratch(args, kernel, workers) : 0;
}

void attend_simd(Workers &workers, const AttendArgs &args) {
  const AttendKernel kernel = choose_kernel(args);
  if (kernel.tile)
    attend_tiles(workers, args, kernel);
  else
    attend_ref(workers, args);
}

}  // namespace seer::cpu
#endif
