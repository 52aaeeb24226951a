// pool through Highway: one pass over the tokens in memory order, four at a time, the statistics of a block in L1.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/pool_simd.cpp"
#include "cpu/simd_target.h"
#include "hwy/foreach_target.h"
// foreach_target first
#include "cpu/simd-inl.h"

#ifndef SEER_CPU_POOL_SIMD_ONCE
#define SEER_CPU_POOL_SIMD_ONCE
#include <cmath>
#include <vector>

#include "kernels.h"

namespace seer::cpu {
namespace {

// The statistics of a block and head; max and min null: not wanted. sum becomes the average in the end.
struct PoolRow {
  float *max, *min, *sum;
};

}  // namespace
}  // namespace seer::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace seer::cpu::HWY_NAMESPACE {
namespace {

// Adds kTokens tokens, `stride` apart, to a head's statistics, or starts them.
template <bool kExtremes, int kTokens, class T>
HWY_INLINE void add_tokens(const T *HWY_RESTRICT x, int64_t stride, int64_t dim, bool start, PoolRow row) {
  const DF d;
  int64_t c = 0;
  for (; c + kLanes <= dim; c += kLanes) {
    VF value = load_f32(d, x + c);
    VF max = value, min = value, sum = value;
    HWY_UNROLL(4)
    for (int t = 1; t < kTokens; t++) {
      value = load_f32(d, x + t * stride + c);
      sum = hn::Add(sum, value);
      if (kExtremes) {
        max = hn::Max(max, value);
        min = hn::Min(min, value);
      }
    }
    if (!start) {
      sum = hn::Add(sum, hn::LoadU(d, row.sum + c));
      if (kExtremes) {
        max = hn::Max(max, hn::LoadU(d, row.max + c));
        min = hn::Min(min, hn::LoadU(d, row.min + c));
      }
    }
    hn::StoreU(sum, d, row.sum + c);
    if (kExtremes) {
      hn::StoreU(max, d, row.max + c);
      hn::StoreU(min, d, row.min + c);
    }
  }
  for (; c < dim; c++)
    for (int t = 0; t < kTokens; t++) {
      const float value = to_f32(x[t * stride + c]);
      const bool first = start && t == 0;
      row.sum[c] = first ? value : row.sum[c] + value;
      if (kExtremes) {
        if (first || value > row.max[c]) row.max[c] = value;
        if (first || value < row.min[c]) row.min[c] = value;
      }
    }
}

template <bool kExtremes, class T>
void pool_tokens(const TokenView &x, int64_t batch, int64_t begin, int64_t count, const PoolRow *rows) {
  for (int64_t t = 0; t < count; t += 4)
    for (int64_t h = 0; h < x.heads; h++) {
      const T *from = x.at<const T>(batch, begin + t, h);
      if (t + 4 <= count)
        add_tokens<kExtremes, 4>(from, x.stride_token, x.dim, t == 0, rows[h]);
      else
        for (int64_t i = 0; i < count - t; i++)
          add_tokens<kExtremes, 1>(from + i * x.stride_token, x.stride_token, x.dim, t + i == 0, rows[h]);
    }
}

void pool_block(const TokenView &x, int64_t batch, int64_t begin, int64_t count, bool extremes, const PoolRow *rows) {
  dispatch_float(x.dtype, [&](auto tag) {
    using T = decltype(tag);
    if (extremes)
      pool_tokens<true, T>(x, batch, begin, count, rows);
    else
      pool_tokens<false, T>(x, batch, begin, count, rows);
  });
}

}  // namespace
}  // namespace seer::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace seer::cpu {
namespace {

HWY_EXPORT(pool_block);

// A NaN among the tokens makes max and min NaN, which vector instructions do not promise. The sum shows where that may
// be.
template <class T>
void spread_nan(const TokenView &x, int64_t batch, int64_t begin, int64_t count, int64_t head, PoolRow row) {
  for (int64_t t = 0; t < count; t++) {
    const T *from = x.at<const T>(batch, begin + t, head);
    for (int64_t c = 0; c < x.dim; c++) {
      const float value = to_f32(from[c]);
      if (std::isnan(value)) row.max[c] = row.min[c] = value;
    }
  }
}

}  // namespace

void pool_simd(Workers &workers, const PoolArgs &args) {
  if (args.rotated.data) return pool_ref(workers, args);  // attend_simd rotates by itself
  if (!args.pooled) return;
  simd_prepare();
  const TokenView &x = args.x;
  const bool q = args.side == Side::q, extremes = (args.pool_bits & (pool_max | pool_min)) != 0;
  const int64_t pools = pool_count(args.pool_bits);
  const auto dim = static_cast<size_t>(x.dim);

  struct Part {
    const Sequence *sequence;
    int64_t first_item;
  };
  std::vector<Part> parts;
  int64_t items = 0;
  for (const Sequence &s : args.sequences) {
    const int64_t blocks = q ? s.q_blocks(args.block) : s.k_blocks(args.block) - s.cached_blocks;
    if (blocks <= 0) continue;
    parts.push_back({&s, items});
    items += blocks;
  }
  struct Space {
    std::vector<PoolRow> rows;
    std::vector<float> unwanted;  // [head][statistic][channel], computed on the way
  };
  std::vector<Space> spaces(static_cast<size_t>(workers.pool.size()));
  for (Space &space : spaces) {
    space.rows.resize(static_cast<size_t>(x.heads));
    space.unwanted.resize(3 * dim * static_cast<size_t>(x.heads));
  }

  workers.pool.parallel_for(items, [&](int64_t i, int worker) {
    workers.exec.check_cancelled();
    const Part &part = *(std::upper_bound(parts.begin(), parts.end(), i,
                                          [](int64_t item, const Part &p) { return item < p.first_item; }) -
                         1);
    const Sequence &s = *part.sequence;
    Space &space = spaces[static_cast<size_t>(worker)];
    const int64_t b = i - part.first_item, block = b + (q ? 0 : s.cached_blocks);
    const int64_t begin = block * args.block, end = std::min(begin + args.block, q ? s.q_len : s.k_len);
    const int64_t first = (q ? s.q_begin : s.k_begin) + begin, count = end - begin;
    for (int64_t h = 0; h < x.heads; h++) {
      float *next = args.pooled + (((q ? s.q_row : s.k_pool_row) + b) * x.heads + h) * pools * x.dim;
      const auto take = [&](uint32_t bit, size_t spare) {
        if (!(args.pool_bits & bit)) return space.unwanted.data() + (3 * static_cast<size_t>(h) + spare) * dim;
        float *at = next;
        next += x.dim;
        return at;
      };
      PoolRow &row = space.rows[static_cast<size_t>(h)];
      row.max = take(pool_max, 0);
      row.min = take(pool_min, 1);
      row.sum = take(pool_avg, 2);
    }
    HWY_DYNAMIC_DISPATCH(pool_block)(x, s.batch, first, count, extremes, space.rows.data());
    for (int64_t h = 0; h < x.heads; h++) {
      const PoolRow &row = space.rows[static_cast<size_t>(h)];
      bool nan = false;
      for (size_t c = 0; c < dim; c++) {
        nan |= std::isnan(row.sum[c]);
        row.sum[c] /= static_cast<float>(count);
      }
      if (nan && extremes)
        dispatch_float(x.dtype, [&](auto tag) { spread_nan<decltype(tag)>(x, s.batch, first, count, h, row); });
    }
  });
  workers.exec.step(1);
}

}  // namespace seer::cpu
#endif
