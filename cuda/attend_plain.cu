// attend without tensor cores: any element type, any size and alignment that the others do not take, in f32 arithmetic
// throughout; every chip from Ampere on. Block-sparse, causal, forward.
//
// A block of threads works on kRows query rows of one head: threads of 16 rows by 8 columns, each with 4 rows. Tiles of
// K and of V take turns in one buffer of shared memory, as f32; while one is in use, the next is on its way to
// registers. A row's scores stay within eight lanes: its softmax needs shuffles alone, and its weights pass to the
// product with V through shared memory without a barrier.
//
// Weights of keys that a row must not see are kNever, and their products left out: what is not finite there does not
// reach the row, as in the reference (src/cpu/attend_ref.cpp).
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>

#include "attend_walk.cuh"

namespace seer::cuda {
namespace {

constexpr int kThreads = 128, kColumns = 8;
constexpr int kRows = kAttendRows;
constexpr int kOwnRows = kRows / (kThreads / kColumns);  // of a thread
constexpr float kNever = -1.f;

template <class Type_, int kDim_, int kKeys_, bool kAhead_, int kBlocks_>
struct Config {
  using Type = Type_;
  static constexpr int kDim = kDim_;        // channels; those past the tensors' are zeros
  static constexpr int kKeys = kKeys_;      // of a tile
  static constexpr bool kAhead = kAhead_;   // tiles are read before their place is free
  static constexpr int kBlocks = kBlocks_;  // of threads that a multiprocessor is to hold
  static constexpr int kKeysLog2 = kKeys == 32 ? 5 : 4;
  static_assert(kKeys == 1 << kKeysLog2);
  // Floats from row to row: eight rows of 16 bytes lie in different banks.
  static constexpr int kPitch = kDim + 4, kWeightPitch = kKeys + 4;
  static constexpr int kShared = 4 * ((kRows + kKeys) * kPitch + kRows * kWeightPitch);
};

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ void narrow(float x, float &y) { y = x; }
__device__ __forceinline__ void narrow(float x, __nv_bfloat16 &y) { y = __float2bfloat16_rn(x); }
__device__ __forceinline__ void narrow(float x, __half &y) { y = __float2half_rn(x); }

__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ void multiply_add(float4 &o, float x, const float4 &v) {
  o.x = fmaf(x, v.x, o.x);
  o.y = fmaf(x, v.y, o.y);
  o.z = fmaf(x, v.z, o.z);
  o.w = fmaf(x, v.w, o.w);
}

// kCount rows of a tensor on their way to shared memory: this thread's share. Rows that are `whole`, aligned to 16
// bytes and their channels full vectors, may wait in registers; others are read only when their place is free.
template <class C, int kCount>
struct Load {
  using Type = typename C::Type;
  static constexpr int kVector = 16 / sizeof(Type);  // elements
  static constexpr int kLanes = C::kDim / kVector, kStep = kThreads / kLanes;
  const bool whole;
  const int dim;
  const Type *from;
  int64_t stride;
  int rows;  // that exist
  uint4 raw[kCount / kStep];

  __device__ __forceinline__ Load(bool whole, int dim) : whole(whole), dim(dim) {}

  __device__ __forceinline__ void fetch(const Type *from_, int64_t stride_, int rows_) {
    from = from_;
    stride = stride_;
    rows = rows_;
    if (C::kAhead && whole) read();
  }
  // `place` says where a row goes.
  template <class Place>
  __device__ __forceinline__ void put(float *to, Place place) {
    if (whole) {
      if (!C::kAhead) read();
      const int row = threadIdx.x / kLanes, column = threadIdx.x % kLanes * kVector;
#pragma unroll
      for (int i = 0; i < kCount / kStep; ++i) {
        float *at = to + place(row + i * kStep) * C::kPitch + column;
        const Type *x = reinterpret_cast<const Type *>(&raw[i]);
#pragma unroll
        for (int e = 0; e < kVector; e += 4)
          *reinterpret_cast<float4 *>(at + e) =
              make_float4(widen(x[e]), widen(x[e + 1]), widen(x[e + 2]), widen(x[e + 3]));
      }
    } else {
#pragma unroll 8
      for (int i = 0; i < kCount * C::kDim / kThreads; ++i) {
        const int at = i * kThreads + threadIdx.x, row = at / C::kDim, column = at % C::kDim;
        to[place(row) * C::kPitch + column] = row < rows && column < dim ? widen(from[row * stride + column]) : 0.f;
      }
    }
  }

private:
  __device__ __forceinline__ void read() {
    const int row = threadIdx.x / kLanes, column = threadIdx.x % kLanes * kVector;
    const Type *at = from + row * stride + column;
#pragma unroll
    for (int i = 0; i < kCount / kStep; ++i) {
      raw[i] = make_uint4(0, 0, 0, 0);
      if (row + i * kStep < rows && column < dim) raw[i] = __ldg(reinterpret_cast<const uint4 *>(at));
      at += kStep * stride;
    }
  }
};

// Row r of Q and of the weights, where a thread's rows are kThreads / kColumns apart: its neighbours' then lie in other
// banks.
__device__ __forceinline__ int spread(int r) { return r % kOwnRows * (kThreads / kColumns) + r / kOwnRows; }

__device__ __forceinline__ bool aligned(const void *data, int64_t batch, int64_t token, int64_t head, int size) {
  return ((reinterpret_cast<uintptr_t>(data) | (batch | token | head) * size) & 15) == 0;
}

template <class C>
struct Attend {
  using Type = typename C::Type;
  static constexpr int kOwnKeys = C::kKeys / kColumns, kVectors = C::kDim / 4 / kColumns;
  using Scores = float[kOwnRows][kOwnKeys];
  using Output = float4[kOwnRows][kVectors];

  const AttendParams80 &p;
  const float *q, *tile;  // shared
  float *weights;         // shared
  const int row_thread, column_thread;
  float base[kOwnRows], sum[kOwnRows];  // scaled maximum; sum of this thread's columns alone

  // Row i of the thread's has its Q, or weights, at i * kThreads / kColumns rows from here.
  __device__ __forceinline__ void scores(Scores &s) const {
#pragma unroll
    for (int i = 0; i < kOwnRows; ++i)
#pragma unroll
      for (int j = 0; j < kOwnKeys; ++j) s[i][j] = 0.f;
#pragma unroll 2
    for (int d = 0; d < C::kDim; d += 4) {
      float4 a[kOwnRows], b[kOwnKeys];
#pragma unroll
      for (int i = 0; i < kOwnRows; ++i)
        a[i] = *reinterpret_cast<const float4 *>(q + (i * (kThreads / kColumns) + row_thread) * C::kPitch + d);
#pragma unroll
      for (int j = 0; j < kOwnKeys; ++j)
        b[j] = *reinterpret_cast<const float4 *>(tile + (j * kColumns + column_thread) * C::kPitch + d);
#pragma unroll
      for (int i = 0; i < kOwnRows; ++i)
#pragma unroll
        for (int j = 0; j < kOwnKeys; ++j) {
          s[i][j] = fmaf(a[i].x, b[j].x, s[i][j]);
          s[i][j] = fmaf(a[i].y, b[j].y, s[i][j]);
          s[i][j] = fmaf(a[i].z, b[j].z, s[i][j]);
          s[i][j] = fmaf(a[i].w, b[j].w, s[i][j]);
        }
    }
  }
  // Scores become weights in shared memory, O follows the running maximum. Key j is seen by the rows from j + `ahead`
  // on, counted from the thread's first.
  __device__ __forceinline__ void softmax(Scores &s, Output &o, bool masked, int ahead) {
    const float scale = p.scale_log2;
    float high[kOwnRows];
    bool beyond = false;
#pragma unroll
    for (int i = 0; i < kOwnRows; ++i) {
      high[i] = -INFINITY;
#pragma unroll
      for (int j = 0; j < kOwnKeys; ++j) {
        s[i][j] *= scale;
        if (masked && ahead + j * kColumns + column_thread > i) s[i][j] = -INFINITY;
        high[i] = fmaxf(high[i], s[i][j]);
      }
      beyond |= high[i] > base[i];
    }
    if (__any_sync(~0u, beyond)) {
#pragma unroll
      for (int i = 0; i < kOwnRows; ++i) {
#pragma unroll
        for (int lane = 1; lane < kColumns; lane *= 2) high[i] = fmaxf(high[i], __shfl_xor_sync(~0u, high[i], lane));
        high[i] = fmaxf(high[i], base[i]);
        const float factor = exp2_approx(base[i] - high[i]);
        base[i] = high[i];
        sum[i] *= factor;
#pragma unroll
        for (int n = 0; n < kVectors; ++n)
          o[i][n].x *= factor, o[i][n].y *= factor, o[i][n].z *= factor, o[i][n].w *= factor;
      }
    }
    __syncwarp();  // the weights before have been read
#pragma unroll
    for (int i = 0; i < kOwnRows; ++i)
#pragma unroll
      for (int j = 0; j < kOwnKeys; ++j) {
        float weight = exp2_approx(s[i][j] - base[i]);
        const bool never = masked && ahead + j * kColumns + column_thread > i;
        if (!never) sum[i] += weight;
        weights[(i * (kThreads / kColumns) + row_thread) * C::kWeightPitch + j * kColumns + column_thread] =
            never ? kNever : weight;
      }
    __syncwarp();
  }
  template <bool kMasked>
  __device__ __forceinline__ void values(Output &o) const {
#pragma unroll 1
    for (int k = 0; k < C::kKeys; k += 4) {
      float4 w[kOwnRows];
#pragma unroll
      for (int i = 0; i < kOwnRows; ++i)
        w[i] =
            *reinterpret_cast<const float4 *>(weights + (i * (kThreads / kColumns) + row_thread) * C::kWeightPitch + k);
#pragma unroll
      for (int e = 0; e < 4; ++e)
#pragma unroll
        for (int n = 0; n < kVectors; ++n) {
          const float4 v =
              *reinterpret_cast<const float4 *>(tile + (k + e) * C::kPitch + (n * kColumns + column_thread) * 4);
#pragma unroll
          for (int i = 0; i < kOwnRows; ++i) {
            const float x = e == 0 ? w[i].x : e == 1 ? w[i].y : e == 2 ? w[i].z : w[i].w;
            if (!kMasked || x != kNever) multiply_add(o[i][n], x, v);
          }
        }
    }
  }
  __device__ __forceinline__ void store(const Work &work, const Output &o) const {
    constexpr int kSize = sizeof(Type);
    const bool whole = p.dim % (16 / kSize) == 0 && aligned(p.out, p.out_batch, p.out_token, p.out_head, kSize);
#pragma unroll
    for (int i = 0; i < kOwnRows; ++i) {
      float all = sum[i];
#pragma unroll
      for (int lane = 1; lane < kColumns; lane *= 2) all += __shfl_xor_sync(~0u, all, lane);
      const int row_at = work.first + row_thread * kOwnRows + i;
      if (row_at >= work.seq.q_len) continue;
      const float factor = all == 0.f ? 0.f : 1.f / all;
      const int64_t token = int64_t{work.seq.q_begin} + row_at;
      Type *out =
          static_cast<Type *>(p.out) + work.seq.batch * p.out_batch + work.head * p.out_head + token * p.out_token;
#pragma unroll
      for (int n = 0; n < kVectors; ++n) {
        const int column = (n * kColumns + column_thread) * 4;
        struct alignas(4 * kSize) Four {
          Type x[4];
        } four;
        narrow(o[i][n].x * factor, four.x[0]);
        narrow(o[i][n].y * factor, four.x[1]);
        narrow(o[i][n].z * factor, four.x[2]);
        narrow(o[i][n].w * factor, four.x[3]);
        if (whole) {
          if (column < p.dim) *reinterpret_cast<Four *>(out + column) = four;
        } else {
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (column + e < p.dim) out[column + e] = four.x[e];
        }
      }
      if (p.lse != nullptr && column_thread == 0)
        p.lse[work.seq.batch * p.lse_batch + work.head * p.lse_head + token * p.lse_token] =
            all == 0.f ? -INFINITY : (base[i] + log2f(all)) * kLn2;
    }
  }
};

// RoPE on Q; a rotated q is of q's type.
template <class Type>
__device__ __forceinline__ void rotate(const AttendParams80 &p, const Work &work, float *q, int pitch) {
  const int half = p.dim / 2;
#pragma unroll 1
  for (int row = threadIdx.x / 32; row < kRows; row += kThreads / 32)
#pragma unroll 1
    for (int i = threadIdx.x % 32; i < half; i += 32) {
      float *low = q + spread(row) * pitch + i, *high = low + half;
      const float2 turn = turn_of(p, work, work.first + row, i);
      Type a, b;
      narrow(*low * turn.x - *high * turn.y, a);
      narrow(*high * turn.x + *low * turn.y, b);
      *low = widen(a);
      *high = widen(b);
    }
}

template <class C>
__device__ __forceinline__ void attend(const AttendParams80 &p) {
  using Type = typename C::Type;
  extern __shared__ __align__(16) float shared[];
  float *q = shared, *tile = shared + kRows * C::kPitch, *weights = tile + C::kKeys * C::kPitch;
  const Work work = find_work(p, blockIdx.x);
  const int row_thread = threadIdx.x / kColumns, column_thread = threadIdx.x % kColumns;
  const int own_first = row_thread * kOwnRows;          // the thread's rows, of the block's
  const int warp_first = threadIdx.x / 32 * kRows / 4;  // the warp's

  Walk<C::kKeysLog2, kRows / 4> walk(p, work);
  constexpr int kSize = sizeof(Type);
  const bool channels = p.dim % (16 / kSize) == 0;
  const Type *k = static_cast<const Type *>(p.k) + work.seq.batch * p.k_batch + work.kv_head * p.k_head +
                  int64_t{work.seq.k_begin} * p.k_token;
  const Type *v = static_cast<const Type *>(p.v) + work.seq.batch * p.v_batch + work.kv_head * p.v_head +
                  int64_t{work.seq.k_begin} * p.v_token;
  {
    const Type *from = static_cast<const Type *>(p.q) + work.seq.batch * p.q_batch + work.head * p.q_head +
                       (int64_t{work.seq.q_begin} + work.first) * p.q_token;
    const bool whole = channels && aligned(p.q, p.q_batch, p.q_token, p.q_head, kSize);
    constexpr int kPart = C::kKeys;
#pragma unroll 1
    for (int r = 0; r < kRows; r += kPart) {
      Load<C, kPart> load(whole, p.dim);
      load.fetch(from + r * p.q_token, p.q_token, work.seq.q_len - work.first - r);
      load.put(q, [r](int i) { return spread(r + i); });
    }
    if (p.coarse != nullptr) {
      __syncthreads();
      rotate<Type>(p, work, q, C::kPitch);
    }
  }

  Attend<C> rows{p, q, tile, weights, row_thread, column_thread};
  typename Attend<C>::Output o;
#pragma unroll
  for (int i = 0; i < kOwnRows; ++i) {
    rows.base[i] = kLowest;
    rows.sum[i] = 0.f;
#pragma unroll
    for (int n = 0; n < Attend<C>::kVectors; ++n) o[i][n] = make_float4(0.f, 0.f, 0.f, 0.f);
  }
  const auto in_order = [](int i) { return i; };
  const auto fetch = [&](Load<C, C::kKeys> &load, const Type *from, int64_t stride, int at) {
    const int key = at * C::kKeys;
    load.fetch(from + key * stride, stride, work.seq.k_len - key);
  };
  Load<C, C::kKeys> load(channels && aligned(p.k, p.k_batch, p.k_token, p.k_head, kSize) &&
                             aligned(p.v, p.v_batch, p.v_token, p.v_head, kSize),
                         p.dim);
  bool mine;
  int at = walk.next(mine);
  if (at >= 0) fetch(load, k, p.k_token, at);
  while (at >= 0) {
    const int ahead = at * C::kKeys - work.offset - work.first;  // of the block's first row
    const bool active = mine && ahead < warp_first + kRows / 4;
    const bool masked = ahead + C::kKeys - 1 > warp_first;
    __syncthreads();
    load.put(tile, in_order);
    __syncthreads();
    fetch(load, v, p.v_token, at);
    if (active) {
      typename Attend<C>::Scores s;
      rows.scores(s);
      rows.softmax(s, o, masked, ahead - own_first);
    }
    __syncthreads();
    load.put(tile, in_order);
    __syncthreads();
    bool next_mine;
    at = walk.next(next_mine);
    if (at >= 0) fetch(load, k, p.k_token, at);
    if (active) {
      if (masked)
        rows.template values<true>(o);
      else
        rows.template values<false>(o);
    }
    mine = next_mine;
  }

  rows.store(find_work_again(p), o);
}

}  // namespace

#define SEER_ATTEND(name, ...)                                                   \
  using name##_config = Config<__VA_ARGS__>;                                     \
  extern "C" __global__ void __launch_bounds__(kThreads, name##_config::kBlocks) \
      name(const __grid_constant__ AttendParams80 p) {                           \
    attend<name##_config>(p);                                                    \
  }                                                                              \
  extern "C" __constant__ int name##_threads = kThreads;                         \
  extern "C" __constant__ int name##_shared = name##_config::kShared;

SEER_ATTEND(attend_plain_f32_64, float, 64, 32, true, 3)
SEER_ATTEND(attend_plain_f32_128, float, 128, 32, true, 2)
SEER_ATTEND(attend_plain_f32_256, float, 256, 16, false, 2)
SEER_ATTEND(attend_plain_bf16_64, __nv_bfloat16, 64, 32, true, 3)
SEER_ATTEND(attend_plain_bf16_128, __nv_bfloat16, 128, 32, true, 2)
SEER_ATTEND(attend_plain_bf16_256, __nv_bfloat16, 256, 16, true, 2)
SEER_ATTEND(attend_plain_f16_64, __half, 64, 32, true, 3)
SEER_ATTEND(attend_plain_f16_128, __half, 128, 32, true, 2)
SEER_ATTEND(attend_plain_f16_256, __half, 256, 16, true, 2)

}  // namespace seer::cuda
