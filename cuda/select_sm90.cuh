// What the kernels of select for Hopper share: values as two bf16, and rows that tensor cores cannot compute.
#pragma once
#include <cmath>

#include "gate_mma.cuh"
#include "sm90.cuh"

namespace seer::cuda {

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLowest = -3e38f;  // stands for the maximum of nothing

// Two values as pairs of bf16: high + low.
__device__ __forceinline__ void split(float x, float y, uint32_t &high, uint32_t &low) {
  high = sm90::pack(__nv_bfloat16{}, x, y);
  low = sm90::pack(__nv_bfloat16{}, x - __uint_as_float(high << 16), y - __uint_as_float(high & 0xffff0000u));
}

// d (+)= a b, 64 x 16 times 16 x 128, b K-major in shared memory. Of 64 columns wgmma would wait for a.
__device__ __forceinline__ void wgmma_rows(float (&d)[64], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,"
      "%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,"
      "%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, {%64,%65,%66,%67}, %68, p, 1, 1, 0;\n}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
        "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),
        "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),
        "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]),
        "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]),
        "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]),
        "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]),
        "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
}

// The first `count` words of a row that tensor cores cannot compute: a warp's lanes take its columns in turn.
__device__ inline void select_odd_row(const ScoreParams &p, const float *q, const float *k, int k_stride, int causal,
                                      uint32_t *words, int count, bool &empty, unsigned &kept) {
  const int lane = threadIdx.x % 32;
  const auto logit = [&](int j) {
    float sum = 0.f;
#pragma unroll 1
    for (int d = 0; d < p.dim; ++d) sum = fmaf(q[d], k[j * int64_t{k_stride} + d], sum);
    sum *= p.scale;
    return sum == sum ? fminf(sum, 3e38f) : -INFINITY;
  };
  float most = kLowest, total = 0.f;
#pragma unroll 1
  for (int j = lane; j < causal; j += 32) most = fmaxf(most, logit(j));
#pragma unroll
  for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
#pragma unroll 1
  for (int j = lane; j < causal; j += 32) total += sm90::exp2_approx((logit(j) - most) * kLog2e);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(~0u, total, step);
  const float cut = log2f(total) + p.threshold;
  empty = true;
#pragma unroll 1
  for (int from = 0; from < causal; from += 32) {
    const float x = from + lane < causal ? logit(from + lane) : -INFINITY;
    const uint32_t found = __ballot_sync(~0u, (x - most) * kLog2e > cut), left = causal - from;
    uint32_t word = found;
    if (from == 0 && (p.flags & kSelectFirst)) word |= 1u;
    if ((p.flags & kSelectDiagonal) && left <= 32) word |= 1u << (left - 1);
    empty &= word == 0;
    if (left <= 32 && empty) word |= 1u << (left - 1);
    kept += __popc(word);
    if (lane == 0) words[from / 32] = word;
  }
#pragma unroll 1
  for (int word = (causal + 31) / 32 + lane; word < count; word += 32) words[word] = 0u;
}

}  // namespace seer::cuda
