// attend, reference. A row reads only the keys and values it attends to, so that what is not finite elsewhere cannot
// reach it; what is not finite among its own keys and values gives what f32 arithmetic gives.
#include <cmath>
#include <limits>

#include "kernels.h"
#include "ref.h"

namespace seer::cpu {

void attend_ref(Workers &workers, const AttendArgs &args) {
  constexpr float inf = std::numeric_limits<float>::infinity();
  const int64_t q_heads = args.q.heads, kv_heads = args.k.heads;
  const int64_t dim = args.q.dim, v_dim = args.v.dim;
  std::vector<float> q(static_cast<size_t>(dim)), out(static_cast<size_t>(v_dim));

  for (const Sequence &s : args.sequences) {
    // K and V of all heads as f32, K rotated: [head][token][channel].
    std::vector<float> k(static_cast<size_t>(kv_heads * s.k_len * dim)),
        v(static_cast<size_t>(kv_heads * s.k_len * v_dim));
    for (int64_t h = 0; h < kv_heads && s.q_len > 0; ++h)
      for (int64_t t = 0; t < s.k_len; ++t) {
        float *key = &k[static_cast<size_t>((h * s.k_len + t) * dim)];
        load_row(args.k, s.batch, s.k_begin + t, h, key);
        rotate(key, args.k_rope, t);
        load_row(args.v, s.batch, s.k_begin + t, h, &v[static_cast<size_t>((h * s.k_len + t) * v_dim)]);
      }

    std::vector<int64_t> keys;  // that the row attends to
    std::vector<float> weights;
    for (int64_t r = 0; r < s.q_blocks(args.block); ++r) {
      workers.exec.check_cancelled();
      for (int64_t h = 0; h < q_heads; ++h) {
        const int64_t kv_head = h * kv_heads / q_heads;
        const uint32_t *mask = args.mask.words ? args.mask.row(s.batch, h, s.mask_row + r) : nullptr;
        for (int64_t i = r * args.block; i < std::min((r + 1) * args.block, s.q_len); ++i) {
          load_row(args.q, s.batch, s.q_begin + i, h, q.data());
          rotate(q.data(), args.q_rope, s.offset() + i);

          keys.clear();
          for (int64_t t = 0; t <= s.offset() + i; ++t)
            if (!mask || mask_test(mask, t / args.block)) keys.push_back(t);

          weights.resize(keys.size());
          float max = -inf;
          for (size_t n = 0; n < keys.size(); ++n) {
            const float *key = &k[static_cast<size_t>((kv_head * s.k_len + keys[n]) * dim)];
            float dot = 0.0f;
            for (int64_t d = 0; d < dim; ++d) dot += q[size_t(d)] * key[d];
            weights[n] = dot * static_cast<float>(args.scale);
            if (weights[n] > max) max = weights[n];
          }
          if (max == -inf) max = 0.0f;  // no key, or weight 0 for all of them: -inf - -inf would be NaN
          float sum = 0.0f;
          std::fill(out.begin(), out.end(), 0.0f);
          for (size_t n = 0; n < keys.size(); ++n) {
            const float weight = std::exp(weights[n] - max);
            const float *value = &v[static_cast<size_t>((kv_head * s.k_len + keys[n]) * v_dim)];
            sum += weight;
            for (int64_t d = 0; d < v_dim; ++d) out[size_t(d)] += weight * value[d];
          }
          if (sum == 0.0f)
            std::fill(out.begin(), out.end(), 0.0f);
          else
            for (float &value : out) value /= sum;

          store_row(args.out, s.batch, s.q_begin + i, h, out.data());
          if (args.lse.data) *args.lse.at(s.batch, h, s.q_begin + i) = sum == 0.0f ? -inf : max + std::log(sum);
        }
        workers.exec.step(1);
      }
    }
  }
}

}  // namespace seer::cpu
