// pool, reference. A NaN among the tokens of a block makes max, min and avg of its channel NaN.
#include <cmath>
#include <limits>

#include "kernels.h"
#include "ref.h"

namespace seer::cpu {

void pool_ref(Workers &workers, const PoolArgs &args) {
  const TokenView &x = args.x;
  const bool q = args.side == Side::q;
  std::vector<float> row(static_cast<size_t>(x.dim));

  for (const Sequence &s : args.sequences) {
    const int64_t begin = q ? s.q_begin : s.k_begin, length = q ? s.q_len : s.k_len;
    const int64_t blocks = q ? s.q_blocks(args.block) : s.k_blocks(args.block);
    const int64_t first_position = q ? s.offset() : 0;
    // The first block to pool, and the row of pooled it goes to.
    const int64_t first_block = q ? 0 : s.cached_blocks, first_row = q ? s.q_row : s.k_pool_row;

    for (int64_t b = 0; b < blocks; ++b) {
      workers.exec.check_cancelled();
      const int64_t first = b * args.block, last = std::min(first + args.block, length);

      if (args.rotated.data)
        for (int64_t t = first; t < last; ++t)
          for (int64_t h = 0; h < x.heads; ++h) {
            load_row(x, s.batch, begin + t, h, row.data());
            rotate(row.data(), args.rope, first_position + t);
            store_row(args.rotated, s.batch, begin + t, h, row.data());
          }

      if (args.pooled && b >= first_block)
        for (int64_t h = 0; h < x.heads; ++h) {
          const int64_t pools = pool_count(args.pool_bits);
          float *next = args.pooled + ((first_row + b - first_block) * x.heads + h) * pools * x.dim;
          float *max = args.pool_bits & pool_max ? next : nullptr;
          if (max) next += x.dim;
          float *min = args.pool_bits & pool_min ? next : nullptr;
          if (min) next += x.dim;
          float *avg = args.pool_bits & pool_avg ? next : nullptr;
          if (max) std::fill_n(max, x.dim, -std::numeric_limits<float>::infinity());
          if (min) std::fill_n(min, x.dim, std::numeric_limits<float>::infinity());
          if (avg) std::fill_n(avg, x.dim, 0.0f);
          for (int64_t t = first; t < last; ++t) {
            load_row(x, s.batch, begin + t, h, row.data());
            for (int64_t d = 0; d < x.dim; ++d) {
              const float value = row[size_t(d)];
              if (max && (value > max[d] || std::isnan(value))) max[d] = value;
              if (min && (value < min[d] || std::isnan(value))) min[d] = value;
              if (avg) avg[d] += value;
            }
          }
          if (avg)
            for (int64_t d = 0; d < x.dim; ++d) avg[d] /= static_cast<float>(last - first);
        }
      workers.exec.step(1);
    }
  }
}

}  // namespace seer::cpu
