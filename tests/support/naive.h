// The stages straight from the formulas, in any precision: double for the truth, float (and rounding to the inputs'
// dtype where a kernel for small dtypes would round) for the error that a naive kernel makes. Slow, host memory only.
// Results are flat: sequence by sequence, then in the order of the comment at each function.
#pragma once
#include <cmath>
#include <limits>
#include <vector>

#include "stages.h"

namespace seer::test::naive {

inline float value_of(const TokenView &x, int64_t batch, int64_t token, int64_t head, int64_t d) {
  return dispatch_float(x.dtype, [&](auto tag) { return to_f32(x.at<const decltype(tag)>(batch, token, head)[d]); });
}

template <class Real>
Real rounded(Real x, DType to) {
  if (to == DType::none) return x;
  return static_cast<Real>(
      dispatch_float(to, [&](auto tag) { return to_f32(from_f32<decltype(tag)>(static_cast<float>(x))); }));
}

// The angles from inv_freq, not from the tables.
template <class Real>
void rotate(std::vector<Real> &x, const RopeView &rope, double position) {
  if (!rope.inv_freq) return;
  for (int64_t d = 0; d < rope.half; ++d) {
    const double angle = position * double{rope.inv_freq[d]};
    const auto c = static_cast<Real>(std::cos(angle) * rope.attention_scaling);
    const auto s = static_cast<Real>(std::sin(angle) * rope.attention_scaling);
    const Real a = x[size_t(d)], b = x[size_t(d + rope.half)];
    x[size_t(d)] = a * c - b * s;
    x[size_t(d + rope.half)] = b * c + a * s;
  }
}

// [block][head][pooling][channel]
template <class Real>
std::vector<double> pool(const PoolArgs &args) {
  std::vector<double> out;
  const bool q = args.side == Side::q;
  for (const Sequence &s : args.sequences) {
    const int64_t begin = q ? s.q_begin : s.k_begin, length = q ? s.q_len : s.k_len;
    for (int64_t b = q ? 0 : s.cached_blocks; b * args.block < length; ++b)
      for (int64_t h = 0; h < args.x.heads; ++h)
        for (uint32_t pooling : {pool_max, pool_min, pool_avg}) {
          if (!(args.pool_bits & pooling)) continue;
          for (int64_t d = 0; d < args.x.dim; ++d) {
            const int64_t first = b * args.block, last = std::min(first + args.block, length);
            Real sum = 0, best = value_of(args.x, s.batch, begin + first, h, d);
            bool nan = false;
            for (int64_t t = first; t < last; ++t) {
              const Real x = value_of(args.x, s.batch, begin + t, h, d);
              nan |= std::isnan(x);
              sum += x;
              if (pooling == pool_max ? x > best : x < best) best = x;
            }
            if (pooling == pool_avg) best = sum / static_cast<Real>(last - first);
            out.push_back(nan ? std::nan("") : static_cast<double>(best));
          }
        }
  }
  return out;
}

// [token][head][channel]
template <class Real>
std::vector<double> rotated(const PoolArgs &args) {
  std::vector<double> out;
  const bool q = args.side == Side::q;
  std::vector<Real> x(static_cast<size_t>(args.x.dim));
  for (const Sequence &s : args.sequences)
    for (int64_t t = 0; t < (q ? s.q_len : s.k_len); ++t)
      for (int64_t h = 0; h < args.x.heads; ++h) {
        for (int64_t d = 0; d < args.x.dim; ++d)
          x[size_t(d)] = value_of(args.x, s.batch, (q ? s.q_begin : s.k_begin) + t, h, d);
        rotate(x, args.rope, static_cast<double>((q ? s.offset() : 0) + t));
        for (Real value : x) out.push_back(static_cast<double>(rounded(value, args.rotated.dtype)));
      }
  return out;
}

// [block][head][channel]
template <class Real>
std::vector<double> project(const ProjectArgs &args) {
  std::vector<double> out;
  const bool q = args.side == Side::q;
  std::vector<Real> y(static_cast<size_t>(args.out));
  for (const Sequence &s : args.sequences) {
    const int64_t blocks = q ? s.q_blocks(args.block) : s.k_blocks(args.block) - s.cached_blocks;
    const int64_t first_token = q ? s.offset() : s.cached_blocks * args.block;
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t h = 0; h < args.gate_heads; ++h) {
        const int64_t row = (q ? s.q_row : s.k_pool_row) + b;
        const float *x = args.pooled + (row * args.pooled_heads + h * args.pooled_heads / args.gate_heads) * args.in;
        for (int64_t o = 0; o < args.out; ++o) {
          Real sum = 0;
          if (!args.weight.present()) sum = x[o];
          for (int64_t i = 0; args.weight.present() && i < args.in; ++i)
            sum += static_cast<Real>(x[i]) * static_cast<Real>(dispatch_float(args.weight.dtype, [&](auto tag) {
                     const auto *w = static_cast<const decltype(tag) *>(args.weight.data);
                     return to_f32(w[(h * args.in + i) * args.out + o]);
                   }));
          y[size_t(o)] = sum;
        }
        rotate(y, args.rope, static_cast<double>(first_token + b * args.block));
        for (Real value : y) out.push_back(static_cast<double>(value));
      }
  }
  return out;
}

template <class Real>
std::vector<Real> logits_of_row(const GateVectors &gate, const Sequence &s, int64_t h, int64_t r, int64_t causal) {
  std::vector<Real> logits;
  for (int64_t j = 0; j < causal; ++j) {
    Real dot = 0;
    for (int64_t d = 0; d < gate.dim; ++d)
      dot += static_cast<Real>(gate.q[((s.q_row + r) * gate.q_heads + h) * gate.dim + d]) *
             static_cast<Real>(gate.k[((s.k_row + j) * gate.k_heads + h * gate.k_heads / gate.q_heads) * gate.dim + d]);
    logits.push_back(dot * static_cast<Real>(gate.scale));
  }
  return logits;
}

template <class Real>
void softmax(std::vector<Real> &x) {
  const Real inf = std::numeric_limits<Real>::infinity();
  Real max = -inf, sum = 0;
  for (Real &value : x) {
    if (std::isnan(value)) value = -inf;
    max = std::max(max, value);
  }
  for (Real &value : x) {
    value = value == -inf ? 0 : value == inf ? 1 : std::exp(value - max);
    sum += value;
  }
  if (sum > 0)
    for (Real &value : x) value /= sum;
}

// [head][block row][column below args.cols]
template <class Real>
std::vector<double> score(const ScoreArgs &args) {
  std::vector<double> out;
  for (const Sequence &s : args.sequences)
    for (int64_t h = 0; h < args.gate.q_heads; ++h)
      for (int64_t r = 0; r < s.q_blocks(args.block); ++r) {
        const int64_t causal = causal_blocks(r, s.q_len, s.offset(), args.block);
        std::vector<Real> row = logits_of_row<Real>(args.gate, s, h, r, causal);
        if (args.softmax) softmax(row);
        row.resize(static_cast<size_t>(args.cols), args.softmax ? 0 : -std::numeric_limits<Real>::infinity());
        for (Real value : row) out.push_back(static_cast<double>(value));
      }
  return out;
}

struct Attended {
  std::vector<double> out;  // [token][head][channel]
  std::vector<double> lse;  // [token][head]
};

// round: what rotated q and k, the weights and the output are rounded to; none = nothing is.
template <class Real>
Attended attend(const AttendArgs &args, DType round) {
  Attended result;
  const Real inf = std::numeric_limits<Real>::infinity();
  const int64_t group = args.q.heads / args.k.heads;
  const auto load = [&](const TokenView &view, const Sequence &s, int64_t token, int64_t head, const RopeView &rope,
                        int64_t position) {
    std::vector<Real> x(static_cast<size_t>(view.dim));
    for (int64_t d = 0; d < view.dim; ++d) x[size_t(d)] = value_of(view, s.batch, token, head, d);
    rotate(x, rope, static_cast<double>(position));
    for (Real &value : x) value = rounded(value, round);
    return x;
  };
  for (const Sequence &s : args.sequences) {
    std::vector<std::vector<Real>> keys;  // [token][head]
    for (int64_t t = 0; t < s.k_len; ++t)
      for (int64_t h = 0; h < args.k.heads; ++h) keys.push_back(load(args.k, s, s.k_begin + t, h, args.k_rope, t));
    for (int64_t i = 0; i < s.q_len; ++i)
      for (int64_t h = 0; h < args.q.heads; ++h) {
        const std::vector<Real> q = load(args.q, s, s.q_begin + i, h, args.q_rope, s.offset() + i);
        std::vector<Real> logits;
        std::vector<int64_t> tokens;
        Real max = -inf;
        for (int64_t t = 0; t <= s.offset() + i; ++t) {
          if (args.mask.words && !mask_test(args.mask.row(s.batch, h, s.mask_row + i / args.block), t / args.block))
            continue;
          const std::vector<Real> &k = keys[size_t(t * args.k.heads + h / group)];
          Real dot = 0;
          for (size_t d = 0; d < q.size(); ++d) dot += q[d] * k[d];
          logits.push_back(dot * static_cast<Real>(args.scale));
          tokens.push_back(t);
          if (logits.back() > max) max = logits.back();
        }
        if (max == -inf) max = 0;
        Real sum = 0;
        std::vector<Real> out(static_cast<size_t>(args.v.dim), 0);
        for (size_t n = 0; n < tokens.size(); ++n) {
          const Real weight = std::exp(logits[n] - max);
          sum += weight;
          for (int64_t d = 0; d < args.v.dim; ++d)
            out[size_t(d)] += rounded(weight, round) *
                              static_cast<Real>(value_of(args.v, s.batch, s.k_begin + tokens[n], h / group, d));
        }
        for (Real value : out) result.out.push_back(sum == 0 ? 0.0 : static_cast<double>(rounded(value / sum, round)));
        result.lse.push_back(static_cast<double>(sum == 0 ? -inf : max + std::log(sum)));
      }
  }
  return result;
}

}  // namespace seer::test::naive
