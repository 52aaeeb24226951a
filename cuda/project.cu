// project, sm_80 and up: gate = rope(pooled W), a matrix for each head, on tensor cores with the accuracy of f32.
//
// Pooled values are split into three bf16 that add up to them (24 bits), matrices into one (bf16), two (f16) or three
// (f32); of their products those above f32's rounding are added, 3, 5 or 6. A block of threads takes kProjectRows rows
// of a head. A warp has 16 rows of a quarter of the channels, half of them from either end of the pairs that RoPE
// turns.
#include <type_traits>

#include "gate_mma.cuh"
#include "launch_gate.h"

namespace seer::cuda {
namespace {

constexpr int kIn = 64;    // channels of `in` at a time
constexpr int kTerms = 3;  // of a pooled value

template <class Weight>
constexpr int weight_terms = sizeof(Weight) == 4 ? 3 : 2;
template <>
constexpr int weight_terms<__nv_bfloat16> = 1;

static_assert(project_shared(128, 2) == (2 * kProjectRows * kTerms + 128 * 2) * kIn * 2);

// Bytes from the start of a tile to 16 bytes of a row; rows of kChunks of them, swizzled so that eight rows of a matrix
// lie in different banks.
template <int kChunks>
__device__ __forceinline__ uint32_t place(int row, int chunk) {
  return (row * kChunks + (chunk ^ (row & 7))) * 16;
}

// Eight elements of a matrix.
template <class Weight>
struct Eight {
  static constexpr int kWords = sizeof(Weight) / 2;
  uint4 raw[kWords];
  __device__ __forceinline__ void load(const Weight *p) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) raw[i] = __ldg(reinterpret_cast<const uint4 *>(p) + i);
  }
  __device__ __forceinline__ void zero() {
#pragma unroll
    for (int i = 0; i < kWords; ++i) raw[i] = make_uint4(0, 0, 0, 0);
  }
  __device__ __forceinline__ void store(char *to, int stride) const {
    if constexpr (weight_terms<Weight> == 1) {
      *reinterpret_cast<uint4 *>(to) = raw[0];
    } else {
      constexpr int kCount = weight_terms<Weight>;
      const Weight *x = reinterpret_cast<const Weight *>(raw);
      uint32_t term[4][kCount];
#pragma unroll
      for (int i = 0; i < 4; ++i) split(widen(x[2 * i]), widen(x[2 * i + 1]), term[i]);
#pragma unroll
      for (int t = 0; t < kCount; ++t)
        *reinterpret_cast<uint4 *>(to + t * stride) = make_uint4(term[0][t], term[1][t], term[2][t], term[3][t]);
    }
  }
};

template <class Weight, int kOut>
__device__ __forceinline__ void project(const ProjectParams &p) {
  constexpr int kColWarps = 4, kN = kOut / (8 * kColWarps);  // n-tiles of a warp: kN / 2 from either half
  constexpr int kW = weight_terms<Weight>, kOutChunks = kOut / 8;
  constexpr int kPooledBytes = kProjectRows * kIn * 2, kWeightBytes = kOut * kIn * 2;  // of a term
  constexpr int kLoads = kProjectRows * kIn / 4 / kProjectThreads, kWeightLoads = kOut * kIn / 8 / kProjectThreads;
  extern __shared__ __align__(128) char shared[];
  // Matrices of bf16 need no splitting: they come by cp.async, some tiles ahead.
  constexpr bool kAhead = kW == 1;
  constexpr int kTiles = kAhead ? kProjectAhead : 1;
  char *const pooled_tiles = shared, *const weight_tiles = shared + 2 * kTerms * kPooledBytes;

  const int item = blockIdx.x / p.gate_heads, head = blockIdx.x % p.gate_heads;
  const ProjectSequence seq = find_sequence(p.sequence, p.only, p.sequences, item);
  const int first = (item - seq.first_item) * kProjectRows, rows = min(kProjectRows, seq.blocks - first);
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int pooled_head = head * p.pooled_heads / p.gate_heads;
  const int64_t row_stride = int64_t{p.pooled_heads} * p.in;
  const float *pooled = p.pooled + int64_t{seq.pooled_row + first} * row_stride + int64_t{pooled_head} * p.in;
  const Weight *weight = static_cast<const Weight *>(p.weight) + int64_t{head} * p.in * kOut;

  float4 x[kLoads];
  Eight<Weight> w[kAhead ? 1 : kWeightLoads];
  const auto fetch_weight = [&](int tile) {
    if (tile * kIn < p.in) {
#pragma unroll
      for (int i = 0; i < kWeightLoads; ++i) {
        const int at = thread + i * kProjectThreads, row = tile * kIn + at / kOutChunks;
        const uint32_t to = smem_address(weight_tiles) + tile % kTiles * kWeightBytes +
                            place<kOutChunks>(at / kOutChunks, at % kOutChunks);
        copy_async(to, weight + int64_t{min(row, p.in - 1)} * kOut + at % kOutChunks * 8, row < p.in);
      }
    }
    copy_commit();
  };
  const auto load_weight = [&](int from) {
#pragma unroll
    for (int i = 0; i < (kAhead ? 0 : kWeightLoads); ++i) {
      const int at = thread + i * kProjectThreads, row = from + at / kOutChunks;
      if (row < p.in)
        w[i].load(weight + int64_t{row} * kOut + at % kOutChunks * 8);
      else
        w[i].zero();
    }
  };
  const auto load_pooled = [&](int from) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int at = thread + i * kProjectThreads, row = at / (kIn / 4), column = from + at % (kIn / 4) * 4;
      x[i] = row < rows && column < p.in ? *reinterpret_cast<const float4 *>(pooled + row * row_stride + column)
                                         : make_float4(0.f, 0.f, 0.f, 0.f);
    }
  };

  // Weights are nobody's output: they may come before the kernel that pools has ended.
  if constexpr (kAhead) {
#pragma unroll
    for (int i = 0; i < kTiles - 1; ++i) fetch_weight(i);
  } else {
    load_weight(0);
  }
  wait_for_previous();
  let_next_start();
  load_pooled(0);

  float sum[kN][4] = {};
  const int row_warp = warp / kColWarps, col_warp = warp % kColWarps;
  for (int from = 0, tile = 0; from < p.in; from += kIn, ++tile) {
    char *const pooled_tile = pooled_tiles + tile % 2 * kTerms * kPooledBytes;
    char *const weight_tile = weight_tiles + tile % kTiles * kWeightBytes;
    const uint32_t pooled_at = smem_address(pooled_tile), weight_at = smem_address(weight_tile);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int at = thread + i * kProjectThreads, row = at / (kIn / 4), quad = at % (kIn / 4);
      uint32_t low[kTerms], high[kTerms];
      split(x[i].x, x[i].y, low);
      split(x[i].z, x[i].w, high);
      char *to = pooled_tile + place<kIn / 8>(row, quad / 2) + quad % 2 * 8;
#pragma unroll
      for (int t = 0; t < kTerms; ++t) *reinterpret_cast<uint2 *>(to + t * kPooledBytes) = make_uint2(low[t], high[t]);
    }
#pragma unroll
    for (int i = 0; i < (kAhead ? 0 : kWeightLoads); ++i) {
      const int at = thread + i * kProjectThreads;
      w[i].store(weight_tile + place<kOutChunks>(at / kOutChunks, at % kOutChunks), kWeightBytes);
    }
    if constexpr (kAhead) copy_wait<kTiles - 2>();
    __syncthreads();
    if (from + kIn < p.in) {
      load_pooled(from + kIn);
      load_weight(from + kIn);
    }
    if constexpr (kAhead) fetch_weight(tile + kTiles - 1);  // to the place of the tile before
    // Tensor cores truncate as they add: only a few products at a time, which are then added by rounding.
    float part[kN][4] = {};
#pragma unroll
    for (int step = 0; step < kIn / 16; ++step) {
      uint32_t a[kTerms][4];
#pragma unroll
      for (int t = 0; t < kTerms; ++t)
        load_matrices(a[t],
                      pooled_at + t * kPooledBytes + place<kIn / 8>(row_warp * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
      for (int t = 0; t < kW; ++t) {
        uint32_t b[kN / 2][4];
#pragma unroll
        for (int i = 0; i < kN / 2; ++i) {
          // Two n-tiles: neighbours of one half, or one of either half.
          const int half = kN == 4 ? i : lane / 16, next = kN == 4 ? lane / 16 : 0;
          const int chunk = half * (kOutChunks / 2) + col_warp * (kN / 2) + next;
          load_matrices_transposed(b[i],
                                   weight_at + t * kWeightBytes + place<kOutChunks>(step * 16 + lane % 16, chunk));
        }
#pragma unroll
        for (int u = 0; u < kTerms - t; ++u)
#pragma unroll
          for (int i = 0; i < kN; ++i)
            mma(__nv_bfloat16{}, part[i], a[u], b[i / 2][i % 2 * 2], b[i / 2][i % 2 * 2 + 1]);
      }
    }
#pragma unroll
    for (int i = 0; i < kN; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[i][e] += part[i][e];
    if constexpr (!kAhead) __syncthreads();
  }

#pragma unroll
  for (int side = 0; side < 2; ++side) {
    const int row = row_warp * 16 + lane / 4 + side * 8;
    if (row >= rows) continue;
    float *to = p.gate + (int64_t{seq.gate_row + first + row} * p.gate_heads + head) * kOut;
    const int position = seq.position + first + row;
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) {
      const int column = (col_warp * (kN / 2) + i) * 8 + lane % 4 * 2;
      float2 low = make_float2(sum[i][2 * side], sum[i][2 * side + 1]);
      float2 high = make_float2(sum[i + kN / 2][2 * side], sum[i + kN / 2][2 * side + 1]);
      if (p.coarse != nullptr) {
        const float2 a = turn_of(p.coarse, p.fine, position, kOut / 2, column),
                     b = turn_of(p.coarse, p.fine, position, kOut / 2, column + 1);
        rotate(a, low.x, high.x);
        rotate(b, low.y, high.y);
      }
      *reinterpret_cast<float2 *>(to + column) = low;
      *reinterpret_cast<float2 *>(to + column + kOut / 2) = high;
    }
  }
}

// Any sizes; with Weight void no matrix. A thread makes a pair of channels of a row.
template <class Weight>
__device__ __forceinline__ void project_any(const ProjectParams &p) {
  const int item = blockIdx.x / p.gate_heads, head = blockIdx.x % p.gate_heads;
  const ProjectSequence seq = find_sequence(p.sequence, p.only, p.sequences, item);
  const int first = (item - seq.first_item) * kProjectRows, rows = min(kProjectRows, seq.blocks - first);
  const int pooled_head = head * p.pooled_heads / p.gate_heads, half = p.out / 2, lanes = (p.out + 1) / 2;
  wait_for_previous();
  let_next_start();
  for (int i = threadIdx.x; i < rows * lanes; i += kProjectThreads) {
    const int row = first + i / lanes, column = i % lanes;
    // An odd number of channels has a last one that is nobody's partner; without rotation any split will do.
    const bool pair = column < half;
    const int other = pair ? column + half : p.out - 1, one = pair ? column : p.out - 1;
    const float *x = p.pooled + (int64_t{seq.pooled_row + row} * p.pooled_heads + pooled_head) * p.in;
    float low = 0.f, high = 0.f;
    if constexpr (std::is_void_v<Weight>) {
      low = x[one], high = x[other];
    } else {
      const Weight *w = static_cast<const Weight *>(p.weight) + int64_t{head} * p.in * p.out;
      for (int j = 0; j < p.in; ++j, w += p.out) {
        low = fmaf(x[j], widen(w[one]), low);
        high = fmaf(x[j], widen(w[other]), high);
      }
    }
    float *to = p.gate + (int64_t{seq.gate_row + row} * p.gate_heads + head) * p.out;
    if (p.coarse != nullptr && pair) rotate(turn_of(p.coarse, p.fine, seq.position + row, half, column), low, high);
    to[one] = low;
    to[other] = high;
  }
}

}  // namespace

#define SEER_PROJECT(name, Weight, kOut)                                                                        \
  extern "C" __global__ void __launch_bounds__(kProjectThreads) name(const __grid_constant__ ProjectParams p) { \
    project<Weight, kOut>(p);                                                                                   \
  }
SEER_PROJECT(project_bf16_128, __nv_bfloat16, 128)
SEER_PROJECT(project_bf16_64, __nv_bfloat16, 64)
SEER_PROJECT(project_f16_128, __half, 128)
SEER_PROJECT(project_f16_64, __half, 64)
SEER_PROJECT(project_f32_128, float, 128)
SEER_PROJECT(project_f32_64, float, 64)

#define SEER_PROJECT_ANY(name, Weight)                                                                          \
  extern "C" __global__ void __launch_bounds__(kProjectThreads) name(const __grid_constant__ ProjectParams p) { \
    project_any<Weight>(p);                                                                                     \
  }
SEER_PROJECT_ANY(project_any_bf16, __nv_bfloat16)
SEER_PROJECT_ANY(project_any_f16, __half)
SEER_PROJECT_ANY(project_any_f32, float)
SEER_PROJECT_ANY(project_none, void)

}  // namespace seer::cuda
