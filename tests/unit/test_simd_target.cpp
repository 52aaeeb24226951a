// Every instruction set this machine has, one after the other, against the reference.
#include "cpu/simd_target.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace seer::cpu {
namespace {

// Restores the machine's best at the end of a test.
struct BestAgain {
  ~BestAgain() { simd_limit(nullptr); }
};

// Values of no pattern, all bf16 numbers, so that every dtype holds them.
float value(int64_t i) { return static_cast<float>((i * 7919) % 129 - 64) / 64.0f; }

// Attention of a chunk whose offset is no multiple of the block, through a mask, with Inf and NaN in the last key and
// value, which only the last row may see.
template <class T>
struct Attention {
  static constexpr int64_t kQ = 150, kK = 213, kHeads = 4, kKvHeads = 2, kDim = 80, kBlock = 64;
  std::vector<T> q, k, v, out;
  std::vector<float> lse;
  std::vector<uint32_t> mask;

  explicit Attention(DType dtype) : dtype_(dtype) {
    for (int64_t i = 0; i < kQ * kHeads * kDim; i++) q.push_back(from_f32<T>(value(i)));
    for (int64_t i = 0; i < kK * kKvHeads * kDim; i++) k.push_back(from_f32<T>(value(3 * i + 1)));
    for (int64_t i = 0; i < kK * kKvHeads * kDim; i++) v.push_back(from_f32<T>(value(5 * i + 2)));
    k[k.size() - 1] = from_f32<T>(std::numeric_limits<float>::quiet_NaN());
    v[v.size() - 1] = from_f32<T>(std::numeric_limits<float>::infinity());
    // Blocks 0, 2 and the diagonal's; head 1 keeps nothing in row 1.
    for (int64_t h = 0; h < kHeads; h++)
      for (int64_t r = 0; r < 3; r++) mask.push_back(h == 1 && r == 1 ? 0u : 0b1101u | 1u << (r + 1));
    out.resize(q.size());
    lse.resize(static_cast<size_t>(kQ * kHeads));
  }

  AttendArgs args(const Sequence &sequence) {
    AttendArgs a;
    a.sequences = {&sequence, 1};
    a.block = kBlock;
    a.q = view(q, kHeads);
    a.k = view(k, kKvHeads);
    a.v = view(v, kKvHeads);
    a.out = view(out, kHeads);
    a.lse.data = lse.data();
    a.lse.stride_head = kQ;
    a.mask.words = mask.data();
    a.mask.stride_head = 3;
    a.mask.stride_row = 1;
    a.scale = 1.0 / std::sqrt(double{kDim});
    return a;
  }

private:
  TokenView view(std::vector<T> &data, int64_t heads) const {
    TokenView x;
    x.data = data.data();
    x.dtype = dtype_;
    x.heads = heads;
    x.dim = kDim;
    x.stride_token = heads * kDim;
    x.stride_head = kDim;
    return x;
  }
  DType dtype_;
};

template <class T>
void compare(DType dtype, double tolerance) {
  Sequence s;
  s.q_len = Attention<T>::kQ;
  s.k_len = s.total_len = Attention<T>::kK;
  ThreadPool pool(2);
  Exec exec;
  Workers workers{pool, exec};
  Attention<T> expected(dtype), found(dtype);
  attend_ref(workers, expected.args(s));
  AttendArgs args = found.args(s);
  std::vector<std::byte> scratch(attend_simd_scratch(args, pool.size()) + 64);
  args.scratch = reinterpret_cast<void *>((reinterpret_cast<uintptr_t>(scratch.data()) + 63) / 64 * 64);
  attend_simd(workers, args);

  double error = 0, norm = 0;
  bool same_kind = true;
  for (size_t i = 0; i < expected.out.size(); i++) {
    const double e = to_f32(expected.out[i]), f = to_f32(found.out[i]);
    same_kind &= std::isfinite(e) == std::isfinite(f);
    if (!std::isfinite(e) || !std::isfinite(f)) continue;
    error += (e - f) * (e - f);
    norm += e * e;
  }
  CHECK(same_kind);
  CHECK(std::sqrt(error / norm) < tolerance);
  for (size_t i = 0; i < expected.lse.size(); i++) {
    if (std::isfinite(expected.lse[i]))
      CHECK(found.lse[i] == doctest::Approx(expected.lse[i]).epsilon(tolerance));
    else
      CHECK(std::isnan(found.lse[i]) == std::isnan(expected.lse[i]));
  }
}

}  // namespace

TEST_CASE("attention is right on every target that is here") {
  const BestAgain best_again;
  int targets = 0;
  std::string last;
  for (const char *name : {"scalar", "sse4", "avx2", "avx512", "amx", "neon"}) {
    simd_limit(name);
    if (simd_target() == last) continue;  // not here
    last = simd_target();
    targets++;
    CAPTURE(last);
    compare<float>(DType::f32, 2e-6);
    compare<f16>(DType::f16, 1e-3);
    compare<bf16>(DType::bf16, simd_amx() ? 6e-3 : 5e-3);
  }
  CHECK(targets > 0);
}

TEST_CASE("a limit is an upper bound; an unknown one is none") {
  const BestAgain best_again;
  simd_limit(nullptr);
  const std::string best = simd_target();
  simd_limit("scalar");
  const std::string lowest = simd_target();
  CHECK(!simd_amx());
  simd_limit("no such thing");
  CHECK(simd_target() == best);
#if defined(__x86_64__)
  simd_limit("avx2");
  CHECK(std::string(simd_target()) != "AMX");
  CHECK(std::string(simd_target()) != "AVX3");
  CHECK(lowest != "AVX2");
#endif
}

}  // namespace seer::cpu
