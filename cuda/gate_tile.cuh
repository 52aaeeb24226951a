// Logits of a tile of gate vectors, kRows block rows by kScoreCols key blocks, on tensor cores with the accuracy of
// f32.
//
// A gate vector becomes two vectors of f16 that add up to it (22 bits) after its row was scaled by a power of two to a
// largest element of 2^14 .. 2^15; three of their four products are summed in f32, the fourth is below its rounding.
// Threads keep the next tile's vectors in registers while the tensor cores work on this one's. Rows that hold what is
// not finite, or products that f16 cannot hold, are computed anew with f32 instructions: rare, and right.
#pragma once
#include <cmath>

#include "gate_mma.cuh"
#include "launch_gate.h"

namespace seer::cuda {

constexpr int kRowBytes = kScoreDim * 2;

// Bytes from the start of a tile of vectors to 16 bytes of one, swizzled.
__device__ __forceinline__ uint32_t vector_place(int row, int chunk) {
  return row * kRowBytes + ((chunk ^ (row & 7)) * 16);
}

// kM: tiles of 16 rows of a warp, which has 32 columns; kRowWarps x 2 warps. kAny: any number of channels; else a
// multiple of 4, at most kScoreDim, and vectors aligned to 16 bytes.
template <int kM, int kRowWarps, bool kAny>
struct Tile {
  static constexpr int kRows = kM * kRowWarps * 16, kWarps = kRowWarps * 2, kThreads = kWarps * 32;
  static constexpr int kLoads = kScoreCols / kWarps;  // vectors of K that a warp loads

  const ScoreParams &p;
  int thread, warp, lane, row_warp, col_warp;
  const float *q, *k;      // of the first row; of key block 0
  int q_stride, k_stride;  // elements; the vectors of a sequence are fewer than 2^31
  int keys;                // that exist
  char *q_tile, *k_tile;
  float *q_scale, *k_scale;
  float4 next[kLoads];

  // Shared memory, in order: Q, K, their scales, 16 bytes a row for the caller, a flag, the stash.
  __device__ __forceinline__ Tile(const ScoreParams &params, char *shared) : p(params) {
    thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    row_warp = warp / 2, col_warp = warp % 2;
    q_tile = shared;
    k_tile = q_tile + kRows * kScoreDim * 4;
    q_scale = reinterpret_cast<float *>(k_tile + kScoreCols * kScoreDim * 4);
    k_scale = q_scale + kRows;
  }
  __device__ __forceinline__ void *row_memory() const { return k_scale + kScoreCols; }
  __device__ __forceinline__ int *odd_flag() const {
    return reinterpret_cast<int *>(static_cast<char *>(row_memory()) + kRows * 16);
  }
  __device__ __forceinline__ float *stash() const { return reinterpret_cast<float *>(odd_flag() + 4); }

  // q_row, k_row: of the tile's first row and of key block 0.
  __device__ __forceinline__ void place(int64_t q_row, int64_t k_row, int head, int key_blocks) {
    keys = key_blocks;
    q_stride = p.q_heads * p.dim, k_stride = p.k_heads * p.dim;
    q = p.q + q_row * q_stride + head * p.dim;
    k = p.k + k_row * k_stride + head * p.k_heads / p.q_heads * p.dim;
  }

  // Four channels of a vector, 0 beyond its end.
  __device__ __forceinline__ float4 load(const float *vector, int channel) const {
    float4 v = make_float4(0.f, 0.f, 0.f, 0.f);
    if constexpr (!kAny) {
      if (channel < p.dim) v = __ldg(reinterpret_cast<const float4 *>(vector + channel));
    } else {
      if (channel < p.dim) v.x = __ldg(vector + channel);
      if (channel + 1 < p.dim) v.y = __ldg(vector + channel + 1);
      if (channel + 2 < p.dim) v.z = __ldg(vector + channel + 2);
      if (channel + 3 < p.dim) v.w = __ldg(vector + channel + 3);
    }
    return v;
  }

  // A warp's vector, scaled and split, into row `row` of a tile of `rows`.
  __device__ __forceinline__ void store(char *tile, int rows, float *scale, int row, const float4 &v) const {
    const uint32_t most = max(max(__float_as_uint(v.x) << 1, __float_as_uint(v.y) << 1),
                              max(__float_as_uint(v.z) << 1, __float_as_uint(v.w) << 1));
    const int exponent = int(__reduce_max_sync(~0u, most) >> 24);  // biased; 255: not finite
    const int up = min(14 + 127 - exponent, 126);
    const float factor = __uint_as_float(uint32_t(up + 127) << 23);
    const float2 a = make_float2(v.x * factor, v.y * factor), b = make_float2(v.z * factor, v.w * factor);
    const __half2 high_a = __float22half2_rn(a), high_b = __float22half2_rn(b);
    const float2 back_a = __half22float2(high_a), back_b = __half22float2(high_b);
    const __half2 low_a = __floats2half2_rn(a.x - back_a.x, a.y - back_a.y);
    const __half2 low_b = __floats2half2_rn(b.x - back_b.x, b.y - back_b.y);
    char *to = tile + vector_place(row, lane / 2) + lane % 2 * 8;
    *reinterpret_cast<uint2 *>(to) =
        make_uint2(reinterpret_cast<const uint32_t &>(high_a), reinterpret_cast<const uint32_t &>(high_b));
    *reinterpret_cast<uint2 *>(to + rows * kRowBytes) =
        make_uint2(reinterpret_cast<const uint32_t &>(low_a), reinterpret_cast<const uint32_t &>(low_b));
    if (lane == 0) {
      scale[row] = exponent == 255 ? NAN : __uint_as_float(uint32_t(127 - up) << 23);
      if (exponent == 255) *odd_flag() = 1;
    }
  }

  __device__ __forceinline__ void store_q(int rows, int from) const {
#pragma unroll 4
    for (int row = warp; row < kRows; row += kWarps) {
      store(q_tile, kRows, q_scale, row, load(q + min(row, rows - 1) * q_stride, from + lane * 4));
    }
  }
  // Of tile of columns `t`, channels from `from` on.
  __device__ __forceinline__ void load_k(int t, int from) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int col = min(t * kScoreCols + warp + i * kWarps, keys - 1);  // what is beyond is not looked at
      next[i] = load(k + col * k_stride, from + lane * 4);
    }
  }
  __device__ __forceinline__ void store_k() const {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) store(k_tile, kScoreCols, k_scale, warp + i * kWarps, next[i]);
  }

  // sum = products of what is in shared memory. steps: of 16 channels.
  __device__ __forceinline__ void multiply(float (&sum)[kM][4][4], int steps) const {
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[m][n][i] = 0.f;
    const uint32_t q_at = smem_address(q_tile), k_at = smem_address(k_tile);
    const int q_row = row_warp * kM * 16 + lane % 16, k_row = col_warp * 32 + lane % 8 + lane / 16 * 8;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      uint32_t a[2][kM][4];  // [high, low]
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int m = 0; m < kM; ++m)
          load_matrices(a[half][m],
                        q_at + half * kRows * kRowBytes + vector_place(q_row + m * 16, step * 2 + lane / 16));
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t b[2][4];
#pragma unroll
        for (int n = 0; n < 2; ++n)
          load_matrices(b[n],
                        k_at + half * kScoreCols * kRowBytes + vector_place(k_row + n * 16, step * 2 + lane / 8 % 2));
#pragma unroll
        for (int other = 0; other < 2 - half; ++other)  // not the product of both low parts
#pragma unroll
          for (int m = 0; m < kM; ++m)
#pragma unroll
            for (int n = 0; n < 4; ++n)
              mma(__half{}, sum[m][n], a[other][m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
      }
    }
  }

  // Row of a thread's element (m, side) in the tile, column of element (n, i) in it.
  __device__ __forceinline__ int row_of(int m, int side) const {
    return (row_warp * kM + m) * 16 + side * 8 + lane / 4;
  }
  __device__ __forceinline__ int col_of(int n, int i) const { return col_warp * 32 + n * 8 + lane % 4 * 2 + i; }

  // x = scale * <q, k> of tile of columns t, whose vectors are in `next` (not kAny); then loads those of tile
  // `after`, if >= 0. NaN stays NaN. Begins and ends without a barrier: it has its own.
  __device__ __forceinline__ void logits(float (&x)[kM][4][4], int t, int after, int rows, float scale) {
    if constexpr (kAny) {
#pragma unroll
      for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int n = 0; n < 4; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) x[m][n][i] = 0.f;
      for (int from = 0; from < p.dim; from += kScoreDim) {
        __syncthreads();
        store_q(rows, from);
        load_k(t, from);
        store_k();
        __syncthreads();
        float sum[kM][4][4];
        multiply(sum, min(kScoreDim, p.dim - from + 15) / 16);
        rescale(sum, scale);
#pragma unroll
        for (int m = 0; m < kM; ++m)
#pragma unroll
          for (int n = 0; n < 4; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) x[m][n][i] += sum[m][n][i];
      }
    } else {
      __syncthreads();  // the tile before is no longer read
      store_k();
      __syncthreads();
      if (after >= 0) load_k(after, 0);
      multiply(x, (p.dim + 15) / 16);
      rescale(x, scale);
    }
    if (*odd_flag()) repair(x, t, rows, scale);
  }

private:
  __device__ __forceinline__ void rescale(float (&x)[kM][4][4], float scale) const {
    float by_row[kM][2];
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int side = 0; side < 2; ++side) by_row[m][side] = q_scale[row_of(m, side)] * scale;
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const float2 by_col = *reinterpret_cast<const float2 *>(k_scale + col_of(n, 0));
#pragma unroll
      for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) x[m][n][i] *= (i % 2 ? by_col.y : by_col.x) * by_row[m][i / 2];
    }
  }
  // One code for all elements, for it is hardly ever run, and a call would cost its callers registers.
  __device__ __forceinline__ void repair(float (&x)[kM][4][4], int t, int rows, float scale) const {
#pragma unroll 1
    for (int e = 0; e < kM * 16; ++e) {
      float v = 0.f;
#pragma unroll
      for (int i = 0; i < kM * 16; ++i)
        if (i == e) v = x[i / 16][i / 4 % 4][i % 4];
      const int row = row_of(e / 16, e / 2 % 2), col = t * kScoreCols + col_of(e / 4 % 4, e % 2);
      if (v == v || row >= rows || col >= keys) continue;
      const float *a = q + row * q_stride, *b = k + col * k_stride;
      v = 0.f;
#pragma unroll 1
      for (int d = 0; d < p.dim; ++d) v = fmaf(a[d], b[d], v);
      v *= scale;
#pragma unroll
      for (int i = 0; i < kM * 16; ++i)
        if (i == e) x[i / 16][i / 4 % 4][i % 4] = v;
    }
  }
};

}  // namespace seer::cuda
