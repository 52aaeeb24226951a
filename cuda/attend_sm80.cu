// attend on tensor cores from Ampere on: block-sparse causal attention, forward, for the chips before Hopper, and on
// Hopper for what its own kernel does not take.
//
// A block of threads works on kAttendRows query rows of one head and walks the key tiles that they keep. K and V tiles
// come through a ring of three slots in the order K0 - K1 V0 K2 V1 K3 V2 ...; the phases of the loop take one each:
//   phase K(i + 1)   S(i + 1) = Q K(i + 1)^T, beside the exponentials of S(i);  asks for K(i + 2)
//   phase V(i)       O += P(i) V(i), beside the maximum of S(i + 1);            asks for V(i + 1)
// Each begins with one barrier, after which its slot is full and that of the phase before is free; two loads are always
// under way. The products of a phase do not wait for the softmax beside them, so that two warps a scheduler, which is
// what the registers of thirty-two rows a warp leave room for, keep the tensor cores as busy as more would.
//
// Rows see exactly what the masks let them see: tiles that a warp does not keep are left out of its products, and where
// the causal mask cuts a tile whose V holds Inf or NaN, O takes it key by key (values_seen).
#include <climits>
#include <cmath>

#include "attend_walk.cuh"
#include "sm80.cuh"

namespace seer::cuda {
namespace {

using namespace seer::sm80;

template <class Type_, int kDim_, int kWarps_, int kTiles_, int kKeys_, bool kQInRegisters_, int kBlocks_>
struct Config {
  using Type = Type_;
  static constexpr int kDim = kDim_;  // channels; those past the tensors' are zeros
  static constexpr int kWarps = kWarps_;
  static constexpr int kTiles = kTiles_;  // of 16 rows, of a warp
  static constexpr int kKeys = kKeys_;    // of a tile
  static constexpr bool kQInRegisters = kQInRegisters_;
  static constexpr int kBlocks = kBlocks_;  // of threads that a multiprocessor is to hold
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kWarpRows = 16 * kTiles;
  static_assert(kWarps * kWarpRows == kAttendRows);
  static constexpr int kRowBytes = 2 * kDim;
  static constexpr int kSlotBytes = kKeys * kRowBytes;
  static constexpr int kShared = kAttendRows * kRowBytes + 3 * kSlotBytes;
  static constexpr int kKeysLog2 = kKeys == 64 ? 6 : kKeys == 32 ? 5 : 4;
  static_assert(kKeys == 1 << kKeysLog2);
  // Rows of 16-byte chunks, swizzled so that eight rows of one column lie in different banks: chunk c of row r is at
  // c ^ (r >> kSwizzleShift) % kSwizzle.
  static constexpr int kSwizzle = kDim % 64 == 0 ? 8 : 4;
  static constexpr int kSwizzleShift = kSwizzle == 8 ? 0 : 1;
  static_assert(kDim % (8 * kSwizzle) == 0);
};

// What the rows of a warp see of a tile: the position of its first row, counted from the tile's first key. Row r sees
// the keys up to that plus r.
constexpr int kUnseen = INT_MIN;      // nothing
constexpr int kNoTile = INT_MIN + 1;  // there is none

template <class C>
struct Attend {
  using Type = typename C::Type;
  static constexpr int kKeyTiles = C::kKeys / 8, kSteps = C::kDim / 16;
  using Scores = float[C::kTiles][kKeyTiles][4];
  using Probs = uint32_t[C::kTiles][C::kKeys / 16][4];
  using Output = float[C::kTiles][C::kDim / 8][4];

  const AttendParams80 &p;
  const Work &work;
  const int warp, lane;
  // Offset of the lane's row of the matrices of a 16x16 tile; for Q and V matrices 1 and 3 are the lower ones, for K
  // the right ones.
  uint32_t at, k_at;
  uint32_t q_smem, ring;
  uint32_t slot = 0;  // of this phase, in bytes
  uint32_t load_at;   // where the thread's first chunk of a tile goes
  int load_row, load_column;
  uint32_t q[C::kQInRegisters ? kSteps : 1][C::kTiles][4];
  float scale;
  float base[C::kTiles][2], sum[C::kTiles][2];  // scaled maximum; sum of this thread's columns alone

  // --- Loads. kLanes threads share a row; the swizzle is then the same for all rows of a thread.
  static constexpr int kLanes = C::kSwizzle, kRowStep = C::kThreads / kLanes;

  __device__ __forceinline__ void init(uint32_t smem) {
    const int row = lane & 15, turn = (row >> C::kSwizzleShift) & (C::kSwizzle - 1);
    at = row * C::kRowBytes + ((lane >> 4) ^ turn) * 16;
    const int key = (lane & 7) + (lane >> 4) * 8;
    k_at = key * C::kRowBytes + ((lane >> 3 & 1) ^ (key >> C::kSwizzleShift & (C::kSwizzle - 1))) * 16;
    q_smem = smem + warp * C::kWarpRows * C::kRowBytes;
    ring = smem + kAttendRows * C::kRowBytes;
    load_row = threadIdx.x / kLanes;
    load_column = threadIdx.x % kLanes;
    load_at = load_row * C::kRowBytes + (load_column ^ ((load_row >> C::kSwizzleShift) & (C::kSwizzle - 1))) * 16;
    scale = fabsf(p.scale_log2);
    if (scale < 1e-30f) scale = 1e-30f;  // -inf * 0 would be no mask
#pragma unroll
    for (int m = 0; m < C::kTiles; ++m)
#pragma unroll
      for (int r = 0; r < 2; ++r) base[m][r] = kLowest, sum[m][r] = 0.f;
  }
  // Rows of which `rows` exist, if `issue`; `from`: that of this thread's first chunk.
  template <int kCount>
  __device__ __forceinline__ void load(bool issue, uint32_t smem, const Type *from, int64_t stride, int rows) const {
#pragma unroll
    for (int i = 0; i < kCount / kRowStep; ++i) {
#pragma unroll
      for (int c = 0; c < C::kDim / 8 / kLanes; ++c)
        copy_async(issue, smem + load_at + i * kRowStep * C::kRowBytes + c * kLanes * 16, from + c * kLanes * 8,
                   load_row + i * kRowStep < rows && (load_column + c * kLanes) * 8 < p.dim);
      from += kRowStep * stride;
    }
  }
  __device__ __forceinline__ void load_tile(bool issue, uint32_t to, const Type *from, int64_t stride, int tile) const {
    load<C::kKeys>(issue, ring + to, from + int64_t{tile} * C::kKeys * stride, stride,
                   work.seq.k_len - tile * C::kKeys);
  }
  __device__ __forceinline__ uint32_t freed_slot() const {
    return slot == 0 ? 2 * C::kSlotBytes : slot - C::kSlotBytes;
  }
  __device__ __forceinline__ void advance() { slot = slot == 2 * C::kSlotBytes ? 0 : slot + C::kSlotBytes; }

  // Column i of 16x16 tiles, of the row of tiles whose first one's matrices are at `from`.
  __device__ __forceinline__ static uint32_t column(uint32_t from, int i) {
    return (from ^ i % (C::kSwizzle / 2) * 32) + i / (C::kSwizzle / 2) * C::kSwizzle * 16;
  }
  __device__ __forceinline__ void load_q() {
#pragma unroll
    for (int i = 0; i < kSteps; ++i)
#pragma unroll
      for (int m = 0; m < C::kTiles; ++m)
        load_matrices(q[C::kQInRegisters ? i : 0][m], column(q_smem + at, i) + m * 16 * C::kRowBytes);
  }

  // --- Products and softmax

  // Scores become exponents, relative to the running maximum.
  __device__ __forceinline__ void exponents(Scores &x, const Scores &s) const {
#pragma unroll
    for (int m = 0; m < C::kTiles; ++m)
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) x[m][n][e] = fmaf(s[m][n][e], scale, -base[m][e >> 1]);
  }
  // Part `i` of kSteps of the exponentials of x.
  __device__ __forceinline__ void exponentials(int i, const Scores &x, Probs &probs) {
    constexpr int kUnits = C::kTiles * kKeyTiles;
#pragma unroll
    for (int u = i * kUnits / kSteps; u < (i + 1) * kUnits / kSteps; ++u) {
      const int m = u % C::kTiles, n = u / C::kTiles;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float y = exp2_approx(x[m][n][2 * r]), z = exp2_approx(x[m][n][2 * r + 1]);
        sum[m][r] += y + z;
        probs[m][n / 2][n % 2 * 2 + r] = pack(Type{}, y, z);
      }
    }
  }
  // S of the tile in this phase's slot, and among its products the exponentials of x and what `beside` does: the tensor
  // core should be at work before anything else is.
  template <class Beside>
  __device__ __forceinline__ void scores(Scores &s, const Scores &x, Probs &probs, Beside beside) {
    const uint32_t k = ring + slot + k_at;
#pragma unroll
    for (int m = 0; m < C::kTiles; ++m)
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) s[m][n][e] = 0.f;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      if (!C::kQInRegisters) {
#pragma unroll
        for (int m = 0; m < C::kTiles; ++m) load_matrices(q[0][m], column(q_smem + at, i) + m * 16 * C::kRowBytes);
      }
#pragma unroll
      for (int n = 0; n < kKeyTiles / 2; ++n) {
        uint32_t b[4];
        load_matrices(b, column(k, i) + n * 16 * C::kRowBytes);
#pragma unroll
        for (int m = 0; m < C::kTiles; ++m) {
          mma(Type{}, s[m][2 * n], q[C::kQInRegisters ? i : 0][m], b[0], b[1]);
          mma(Type{}, s[m][2 * n + 1], q[C::kQInRegisters ? i : 0][m], b[2], b[3]);
        }
      }
      if (i == 0) beside();
      exponentials(i, x, probs);
    }
  }
  template <class Beside>
  __device__ __forceinline__ void values(Output &o, const Probs &probs, Beside beside) const {
    const uint32_t v = ring + slot + at;
#pragma unroll
    for (int k = 0; k < C::kKeys / 16; ++k)
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        uint32_t b[4];
        load_matrices_transposed(b, column(v, i) + k * 16 * C::kRowBytes);
#pragma unroll
        for (int m = 0; m < C::kTiles; ++m) {
          mma(Type{}, o[m][2 * i], probs[m][k], b[0], b[1]);
          mma(Type{}, o[m][2 * i + 1], probs[m][k], b[2], b[3]);
        }
        if (k == 0 && i == 0) beside();
      }
  }
  // Whether V of this phase's slot holds anything that is not finite: 0 times that is not 0.
  __device__ __forceinline__ bool poisoned() const {
    uint32_t bad = 0;
#pragma unroll 4
    for (int i = lane * 16; i < C::kSlotBytes; i += 512) {
      uint32_t x[4];
      load_words(x, ring + slot + i);
#pragma unroll
      for (int j = 0; j < 4; ++j) bad |= not_finite(Type{}, x[j]);
    }
    return __any_sync(~0u, bad != 0);
  }
  // O += P V as values() does it, but one key after the other and only for the rows that see it.
  __device__ __forceinline__ void values_seen(Output &o, const Probs &probs, int seen) const {
#pragma unroll 1
    for (int key = 0; key < C::kKeys; ++key) {
      float weight[C::kTiles][2];
#pragma unroll
      for (int m = 0; m < C::kTiles; ++m)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          uint32_t pair = 0;
#pragma unroll
          for (int n = 0; n < kKeyTiles; ++n) choose(pair, n == key / 8, probs[m][n / 2][n % 2 * 2 + r]);
          pair = __shfl_sync(~0u, pair, (lane & ~3) + key % 8 / 2);
          weight[m][r] = unpack_low(Type{}, key % 2 == 0 ? pair : pair >> 16);
          if (key > seen + 16 * m + 8 * r + (lane >> 2)) weight[m][r] = -1.f;
        }
      const uint32_t row = ring + slot + key * C::kRowBytes + (lane & 3) * 4;
      const int turn = (key >> C::kSwizzleShift) & (C::kSwizzle - 1);
#pragma unroll
      for (int n = 0; n < C::kDim / 8; ++n) {
        const uint32_t v = load_word(row + (n ^ turn) * 16);
        const float low = unpack_low(Type{}, v), high = unpack_low(Type{}, v >> 16);
#pragma unroll
        for (int m = 0; m < C::kTiles; ++m)
#pragma unroll
          for (int r = 0; r < 2; ++r)
            if (!(weight[m][r] < 0.f)) {
              o[m][n][2 * r] = fmaf(weight[m][r], low, o[m][n][2 * r]);
              o[m][n][2 * r + 1] = fmaf(weight[m][r], high, o[m][n][2 * r + 1]);
            }
      }
    }
  }
  // Leaves what the warp's rows see of a tile, and returns that; `mine`: their block mask keeps it.
  __device__ __forceinline__ int mask(Scores &s, int tile, bool mine) const {
    const int seen = mine ? work.offset + work.first + warp * C::kWarpRows - tile * C::kKeys : kUnseen;
    if (seen >= C::kKeys - 1) return seen;
    const int row = (lane >> 2) + seen, column = (lane & 3) * 2;
#pragma unroll
    for (int m = 0; m < C::kTiles; ++m)
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (column + 8 * n + (e & 1) > row + 16 * m + 8 * (e >> 1)) s[m][n][e] = -INFINITY;
    return seen > -C::kWarpRows ? seen : kUnseen;
  }
  // The largest of this thread's scores of a row.
  __device__ __forceinline__ static float highest(const Scores &s, int m, int r) {
    float x = fmaxf(s[m][0][2 * r], s[m][0][2 * r + 1]);
#pragma unroll
    for (int n = 1; n < kKeyTiles; ++n) x = fmaxf(x, fmaxf(s[m][n][2 * r], s[m][n][2 * r + 1]));
    return x;
  }
  // Whether the running maximum of some row of the warp has to move. It may lag by kSlack: most tiles then do not move
  // it, and one vote replaces the reduction over columns.
  __device__ __forceinline__ bool beyond(const Scores &s) const {
    bool any = false;
#pragma unroll
    for (int m = 0; m < C::kTiles; ++m)
#pragma unroll
      for (int r = 0; r < 2; ++r) any |= fmaf(highest(s, m, r), scale, -base[m][r]) > kSlack;
    return __any_sync(~0u, any);
  }
  __device__ __forceinline__ void raise(const Scores &s, Output &o) {
#pragma unroll
    for (int m = 0; m < C::kTiles; ++m)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float x = highest(s, m, r);
        x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
        x = fmaxf(x, __shfl_xor_sync(~0u, x, 2));
        x = fmaxf(x * scale, base[m][r]);
        const float factor = exp2_approx(base[m][r] - x);
        base[m][r] = x;
        sum[m][r] *= factor;
#pragma unroll
        for (int n = 0; n < C::kDim / 8; ++n) o[m][n][2 * r] *= factor, o[m][n][2 * r + 1] *= factor;
      }
  }

  // --- The rows' tiles

  template <class W>
  __device__ __forceinline__ void run(W &walk, Output &o) {
    const Type *k = static_cast<const Type *>(p.k) + work.seq.batch * p.k_batch + work.kv_head * p.k_head +
                    (int64_t{work.seq.k_begin} + load_row) * p.k_token + load_column * 8;
    const Type *v = static_cast<const Type *>(p.v) + work.seq.batch * p.v_batch + work.kv_head * p.v_head +
                    (int64_t{work.seq.k_begin} + load_row) * p.v_token + load_column * 8;
    bool mine = false;
    int next = walk.next(mine);
    if (next < 0) return;
    {
      const Type *from = static_cast<const Type *>(p.q) + work.seq.batch * p.q_batch + work.head * p.q_head +
                         (int64_t{work.seq.q_begin} + work.first + load_row) * p.q_token + load_column * 8;
      load<kAttendRows>(true, ring - kAttendRows * C::kRowBytes, from, p.q_token, work.seq.q_len - work.first);
    }
    load_tile(true, 0, k, p.k_token, next);
    copy_commit();
    // The first tile has none before it: its place in the ring stays empty, and K of the second is asked for here.
    bool after_mine = false;
    int after = walk.next(after_mine);
    load_tile(after >= 0, 2 * C::kSlotBytes, k, p.k_token, after);
    copy_commit();
    copy_wait<1>();
    if (p.scale_log2 < 0.f) negate_q();
    __syncthreads();
    if (p.coarse != nullptr) {
      rotate_q();
      __syncthreads();
    }
    if (C::kQInRegisters) load_q();
    Scores x, s;
    Probs probs;
#pragma unroll
    for (int m = 0; m < C::kTiles; ++m)
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) x[m][n][e] = -INFINITY;
    // As a turn begins, x are the exponents of a tile of which `seen` is seen, K of tile `next` is in this phase's
    // slot, and `after` comes after it.
    int seen = kNoTile;
    for (;;) {
      copy_wait<1>();
      __syncthreads();
      int next_seen = kUnseen;
      if (next >= 0) {
        scores(s, x, probs, [&] {
          load_tile(seen != kNoTile && after >= 0, freed_slot(), k, p.k_token, after);
          copy_commit();
        });
        next_seen = mask(s, next, mine);
      } else {
        copy_commit();
#pragma unroll
        for (int i = 0; i < kSteps; ++i) exponentials(i, x, probs);
      }
      advance();
      copy_wait<1>();
      __syncthreads();
      const auto load_v = [&] {
        load_tile(next >= 0, freed_slot(), v, p.v_token, next);
        copy_commit();
      };
      const bool moved = next >= 0 && beyond(s);
      if (seen <= kNoTile) {
        load_v();
      } else if (seen < C::kKeys - 1 && poisoned()) {
        load_v();
        values_seen(o, probs, seen);
      } else {
        values(o, probs, load_v);
      }
      advance();
      if (next < 0) return;
      if (moved) raise(s, o);
      exponents(x, s);
      seen = next_seen;
      next = after;
      mine = after_mine;
      after = walk.next(after_mine);
    }
  }
  // RoPE on Q, two pairs of channels at a time; a rotated q is of q's type.
  __device__ __forceinline__ void rotate_q() const {
    const uint32_t smem = ring - kAttendRows * C::kRowBytes;
    const int words = p.dim / 4;  // of half the channels
#pragma unroll 1
    for (int row = warp; row < kAttendRows; row += C::kWarps) {
      const int turned = (row >> C::kSwizzleShift) & (C::kSwizzle - 1);
      const auto place = [&](int word) {
        return smem + row * C::kRowBytes + ((word >> 2) ^ turned) * 16 + (word & 3) * 4;
      };
#pragma unroll 1
      for (int i = lane; i < words; i += 32) {
        const uint32_t low = place(i), high = place(words + i);
        const uint32_t a = load_word(low), b = load_word(high);
        const float2 t = turn_of(p, work, work.first + row, 2 * i), u = turn_of(p, work, work.first + row, 2 * i + 1);
        const float2 x = unpack(Type{}, a), y = unpack(Type{}, b);
        store_word(low, pack(Type{}, x.x * t.x - y.x * t.y, x.y * u.x - y.y * u.y));
        store_word(high, pack(Type{}, y.x * t.x + x.x * t.y, y.y * u.x + x.y * u.y));
      }
    }
  }
  // A negative scale: the signs of what this thread has loaded of Q.
  __device__ __forceinline__ void negate_q() const {
#pragma unroll
    for (int i = 0; i < kAttendRows / kRowStep; ++i)
#pragma unroll
      for (int c = 0; c < C::kDim / 8 / kLanes; ++c) {
        const uint32_t x = ring - kAttendRows * C::kRowBytes + load_at + i * kRowStep * C::kRowBytes + c * kLanes * 16;
        uint32_t word[4];
        load_words(word, x);
#pragma unroll
        for (uint32_t &w : word) w ^= 0x80008000u;
        store_words(x, word);
      }
  }

  // --- Output straight from registers, 16 bytes a thread.

  __device__ __forceinline__ void store(const Work &work, const Output &o) const {
#pragma unroll
    for (int m = 0; m < C::kTiles; ++m)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = work.first + warp * C::kWarpRows + 16 * m + 8 * r + (lane >> 2);
        const bool inside = row < work.seq.q_len;
        float all = sum[m][r];
        all += __shfl_xor_sync(~0u, all, 1);
        all += __shfl_xor_sync(~0u, all, 2);
        const float factor = all == 0.f ? 0.f : 1.f / all;
        const int64_t token = int64_t{work.seq.q_begin} + row;
        Type *out = static_cast<Type *>(p.out) + work.seq.batch * p.out_batch + work.head * p.out_head +
                    token * p.out_token + (lane & 3) * 8;
#pragma unroll
        for (int c = 0; c < C::kDim / 32; ++c) {
          uint32_t w[4];
#pragma unroll
          for (int i = 0; i < 4; ++i)
            w[i] = pack(Type{}, o[m][4 * c + i][2 * r] * factor, o[m][4 * c + i][2 * r + 1] * factor);
          transpose_quad(w, lane);
          if (inside && 32 * c + (lane & 3) * 8 < p.dim)
            __stcs(reinterpret_cast<uint4 *>(out + 32 * c), make_uint4(w[0], w[1], w[2], w[3]));
        }
        if (p.lse != nullptr && inside && (lane & 3) == 0)
          p.lse[work.seq.batch * p.lse_batch + work.head * p.lse_head + token * p.lse_token] =
              all == 0.f ? -INFINITY : (base[m][r] + log2f(all)) * kLn2;
      }
  }
};

template <class C>
__device__ __forceinline__ void attend(const AttendParams80 &p) {
  extern __shared__ __align__(128) uint8_t raw[];
  const Work work = find_work(p, blockIdx.x);
  Attend<C> rows{p, work, __shfl_sync(~0u, static_cast<int>(threadIdx.x / 32), 0), static_cast<int>(threadIdx.x % 32)};
  typename Attend<C>::Output o;
#pragma unroll
  for (int m = 0; m < C::kTiles; ++m)
#pragma unroll
    for (int n = 0; n < C::kDim / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) o[m][n][e] = 0.f;
  rows.init(smem_address(raw));
  Walk<C::kKeysLog2, C::kWarpRows> walk(p, work);
  rows.run(walk, o);
  rows.store(find_work_again(p), o);
}

}  // namespace

#define SEER_ATTEND(name, ...)                                                                  \
  using name##_config = Config<__VA_ARGS__>;                                                    \
  extern "C" __global__ void __launch_bounds__(name##_config::kThreads, name##_config::kBlocks) \
      name(const __grid_constant__ AttendParams80 p) {                                          \
    attend<name##_config>(p);                                                                   \
  }                                                                                             \
  extern "C" __constant__ int name##_threads = name##_config::kThreads;                         \
  extern "C" __constant__ int name##_shared = name##_config::kShared;

// Sixteen rows a warp read K and V from shared memory twice as often as thirty-two, which A100 and Hopper cannot
// afford. The others have a half or a quarter of their tensor cores' rate and less shared memory: there, twice as many
// warps with Q in registers hide more. With 256 channels thirty-two rows of O are too many registers everywhere.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 870 || __CUDA_ARCH__ == 890)
#define SEER_ATTEND_DIMS(type, Type)                                  \
  SEER_ATTEND(attend_sm80_##type##_64, Type, 64, 4, 1, 32, true, 4)   \
  SEER_ATTEND(attend_sm80_##type##_96, Type, 96, 4, 1, 32, true, 3)   \
  SEER_ATTEND(attend_sm80_##type##_128, Type, 128, 4, 1, 32, true, 2) \
  SEER_ATTEND(attend_sm80_##type##_256, Type, 256, 4, 1, 32, false, 1)
#else
#define SEER_ATTEND_DIMS(type, Type)                                   \
  SEER_ATTEND(attend_sm80_##type##_64, Type, 64, 2, 2, 32, true, 4)    \
  SEER_ATTEND(attend_sm80_##type##_96, Type, 96, 2, 2, 32, false, 4)   \
  SEER_ATTEND(attend_sm80_##type##_128, Type, 128, 2, 2, 32, false, 4) \
  SEER_ATTEND(attend_sm80_##type##_256, Type, 256, 4, 1, 32, false, 2)
#endif

SEER_ATTEND_DIMS(bf16, __nv_bfloat16)
SEER_ATTEND_DIMS(f16, __half)

}  // namespace seer::cuda
